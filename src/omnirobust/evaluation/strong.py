"""Gradient attacks on one model, made to be run one after the other: each on the inputs that still stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from omnirobust import losses
from omnirobust._models import Model, Precision
from omnirobust.adaptive import Adaptive
from omnirobust.attacks import attack_ensemble
from omnirobust.directions import Direction
from omnirobust.evaluation._threats import of_rows
from omnirobust.losses import Loss
from omnirobust.starts import NORMAL_STD, Start, row_generator
from omnirobust.threat_models import ThreatModel

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
        direction: how the perturbation moves.
        classes: the fewest classes that the loss is defined for.
    """

    name: str
    loss: Loss
    start: Start = "zero"
    targets: int = 0
    direction: Direction = _ADAPTIVE
    classes: int = 2

    def __post_init__(self) -> None:
        if not callable(self.loss):
            raise ValueError(f"loss must be a function of logits and labels, got {self.loss!r}")
        if self.start not in ("zero", "normal"):
            raise ValueError(f"start must be 'zero' or 'normal', got {self.start!r}")
        if not isinstance(self.targets, int) or self.targets < 0:
            raise ValueError(f"targets must be a whole number >= 0, got {self.targets!r}")

    def fits(self, threat: ThreatModel, classes: int) -> bool:
        """Say whether there are classes enough for the loss."""
        return classes >= self.classes

    def runs(self, problem: Problem) -> Iterator[Run]:
        """Yield one run for every target and restart."""
        for target in range(min(self.targets, problem.rivals.shape[1])) if self.targets else (None,):
            for restart in range(problem.restarts):
                yield self._run(problem, target, restart)

    def _run(self, problem: Problem, target: int | None, restart: int) -> Run:
        def run(rows: Tensor) -> Tensor:
            x, threat = problem.x[rows], of_rows(problem.threat, rows)
            goal = problem.y if target is None else problem.rivals[:, target]
            noisy = restart > 0 or self.start == "normal"
            width = threat.bounds[1] - threat.bounds[0]
            found = attack_ensemble(
                {"model": problem.model}, x, goal[rows], threat, steps=problem.steps, loss=self.loss,
                direction=self.direction, targeted=target is not None, keep="best", stop_when_fooled=True,
                init=_noise(x, problem.seed, stream, rows) * width if noisy else "zero", precision=problem.precision,
            )  # fmt: skip
            return found.delta

        # the same noise whatever the other attacks are and however many restarts follow
        stream = _STREAMS + restart + 1000 * (0 if target is None else target + 1)
        return self.name, run


STRONG: tuple[GradientAttack, ...] = (
    GradientAttack("margin", losses.standardised_margin),
    GradientAttack("cross-entropy", losses.neg_cross_entropy, start="normal"),
    GradientAttack("dlr", losses.dlr, start="normal", classes=3),
    GradientAttack("targeted", losses.standardised_margin, targets=9, classes=3),
)
"""The default: three losses that fail on different models, then each of the nine likeliest wrong classes."""


def _noise(like: Tensor, seed: int, stream: int, rows: Tensor) -> Tensor:
    """Draw a normal start for each of ``rows``, keyed by its own number, so that those that left change nothing."""
    drawn = [torch.randn(like.shape[1:], generator=row_generator(seed, stream, row)) for row in rows.tolist()]
    return (torch.stack(drawn) * NORMAL_STD).to(like)
