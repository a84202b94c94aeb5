"""Gradient attacks on one model, made to be run one after the other: each on the inputs that still stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from omnirobust.attacks.recipes import attack_ensemble
from omnirobust.core.adaptive import Adaptive, RadiusSchedule
from omnirobust.core.arguments import check_count
from omnirobust.core.directions import Direction
from omnirobust.core.draws import Start, row_generator
from omnirobust.core.threat_models import ThreatModel, width_of
from omnirobust.domains import losses
from omnirobust.domains.classifier import Model, Precision, Probed
from omnirobust.domains.losses import Loss
from omnirobust.domains.outputs import rows_named
from omnirobust.evaluation.threats import of_rows

Attempt: TypeAlias = Callable[[Tensor], Tensor]
"""From the indices of inputs (n,) int64 to perturbations of them (n, *S)."""

Run: TypeAlias = tuple[str, Attempt]
"""What the report calls it, and the attempt."""

_ADAPTIVE = Adaptive()

_STREAMS = 10_000
"""Restart numbers of evaluations begin here, so that their noise is not that of a single attack with restarts."""


@dataclass(frozen=True)
class Problem:
    """One model under one threat, and how much an attack may spend.

    Attributes:
        model: maps (n, *S) to logits (n, C).
        x: inputs, (B, *S).
        y: labels, (B,) int64.
        rivals: the wrong classes of every input, the likeliest first, (B, C - 1) int64.
        threat: what the attacker may do.
        steps: T of every run.
        restarts: runs of every gradient attack, for each of its targets.
        seed: keys the noise.
        precision: of the models during gradient attacks.
        first_row: global row of the first input.
        probed: the model with what a probe found of it, if one did.
        samples: draws of a random model a step.
        draws: draws of a random model on which perturbations are compared.
        tell: takes what a reader of the result must know.
        masked: by attack, on how many inputs it began without any gradient; filled in by gradient attacks.
    """

    model: Model
    x: Tensor
    y: Tensor
    rivals: Tensor
    threat: ThreatModel
    steps: int
    restarts: int
    seed: int
    precision: Precision
    first_row: int = 0
    probed: Probed | None = None
    samples: int = 1
    draws: int = 10
    tell: Callable[[str], None] = field(default=lambda text: None, repr=False, compare=False)
    masked: Counter[str] = field(default_factory=Counter, repr=False, compare=False)

    @property
    def random(self) -> bool:
        """Whether the model is known to be random."""
        return self.probed is not None and self.probed.random


@runtime_checkable
class EvaluationAttack(Protocol):
    """What ``evaluate_robustness`` can run."""

    @property
    def name(self) -> str:
        """What the report calls it."""
        ...

    def fits(self, threat: ThreatModel, classes: int) -> bool:
        """Say whether this attack exists under ``threat`` for so many classes."""
        ...

    def runs(self, problem: Problem) -> Iterator[Run]:
        """Yield its runs; each is called on the inputs that stand then."""
        ...


@dataclass(frozen=True)
class GradientAttack:
    """Descent on one loss, from one start, perhaps towards one rival class after the other.

    Attributes:
        name: what the report calls it.
        loss: per-example attack loss, low = fooled.
        start: "zero" or "normal", of the first restart; later ones start from noise.
        targets: 0 to leave the label; n to go to each of the n likeliest wrong classes in turn.
        wide: begin in a larger ball and shrink it, as ``WIDE`` says: the best iterate in a larger ball, projected, is
            the start in the next.
        direction: how the perturbation moves.
        classes: the fewest classes that the loss is defined for.
    """

    name: str
    loss: Loss
    start: Start = "zero"
    targets: int = 0
    wide: bool = False
    direction: Direction = _ADAPTIVE
    classes: int = 2

    def __post_init__(self) -> None:
        if not callable(self.loss):
            raise ValueError(f"loss must be a function of logits and labels, got {self.loss!r}")
        if self.start not in ("zero", "normal"):
            raise ValueError(f"start must be 'zero' or 'normal', got {self.start!r}")
        check_count("targets", self.targets, 0)

    def fits(self, threat: ThreatModel, classes: int) -> bool:
        """Say whether there are classes enough for the loss."""
        return classes >= self.classes

    def runs(self, problem: Problem) -> Iterator[Run]:
        """Yield one run for every target and restart."""
        for target in range(min(self.targets, problem.rivals.shape[1])) if self.targets else (None,):
            for restart in range(problem.restarts):
                yield self._run(problem, target, restart)

    def _run(self, problem: Problem, target: int | None, restart: int) -> Run:
        # the same noise whatever the other attacks are and however many restarts follow
        stream = _STREAMS + restart + 1000 * (0 if target is None else target + 1)
        goal = problem.y if target is None else problem.rivals[:, target]
        noisy = restart > 0 or self.start == "normal"

        def attempt(rows: Tensor) -> Tensor:
            first = problem.first_row + int(rows[0])
            with rows_named(lambda row: problem.first_row + int(rows[row - first])):
                return descended(rows)

        def descended(rows: Tensor) -> Tensor:
            x, threat = problem.x[rows], of_rows(problem.threat, rows, problem.x)
            first = delta = (
                _noise(x, problem.seed, stream, rows + problem.first_row, threat) if noisy else torch.zeros_like(x)
            )
            for factor, steps in (WIDE[threat.name] if self.wide else _STRAIGHT).phases(problem.steps):
                if not steps and factor != 1:  # in the ball itself even no steps end: what lies outside must not count
                    continue
                found = attack_ensemble(
                    {"model": problem.probed or problem.model}, x, goal[rows],
                    replace(threat, eps=threat.eps * factor), steps=steps, loss=self.loss, direction=self.direction,
                    targeted=target is not None, keep="best", stop_when_fooled=factor == 1, init=delta,
                    precision=problem.precision, samples=problem.samples, draws=problem.draws,
                    seed=problem.seed + stream, first_row=problem.first_row + int(rows[0]),
                )  # fmt: skip
                if delta is first:
                    problem.masked[self.name] += round(float(found.zero_gradient[0]) * len(rows))
                delta = found.delta
            return delta

        return self.name, attempt


_STRAIGHT = RadiusSchedule(())
_WIDER = RadiusSchedule(((1.5, 0.3), (1.2, 0.3)))

WIDE = {"l0": _WIDER, "l1": RadiusSchedule(((3.0, 0.3), (2.0, 0.3))), "l2": _WIDER, "linf": _WIDER}
"""By norm, the radii that a wide run passes through: for l1 those of Croce and Hein, "Mind the box", 2021; for the
others what left the fewest images of MNIST standing under linf."""

STRONG: tuple[GradientAttack, ...] = (
    GradientAttack("margin", losses.relative_margin),
    GradientAttack("cross-entropy", losses.neg_cross_entropy, start="normal", wide=True),
    GradientAttack("dlr", losses.dlr, start="normal", wide=True, classes=3),
    GradientAttack("wide margin", losses.relative_margin, start="normal", wide=True),
    GradientAttack("targeted", losses.relative_margin, wide=True, targets=9, classes=3),
)
"""The default: losses that fail on different models, then each of the nine likeliest wrong classes."""


def _noise(like: Tensor, seed: int, stream: int, rows: Tensor, threat: ThreatModel) -> Tensor:
    """Draw a normal start for each of ``rows``, keyed by its own number, so that those that left change nothing.

    Its deviation is the width of the range: projected, it lies anywhere on the ball.
    """
    drawn = [torch.randn(like.shape[1:], generator=row_generator(seed, stream, row)) for row in rows.tolist()]
    return torch.stack(drawn).to(like) * width_of(threat, like)
