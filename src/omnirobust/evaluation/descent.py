"""What attacks of an evaluation share: the problem, the protocol, and one descent in a ball, on any of the inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from omnirobust.attacks.recipes import attack_ensemble
from omnirobust.core.adaptive import RadiusSchedule
from omnirobust.core.directions import Direction
from omnirobust.core.draws import row_generator
from omnirobust.core.threat_models import ThreatModel, clamped, width_of
from omnirobust.domains.classifier import Model, Precision, Probed
from omnirobust.domains.losses import Loss
from omnirobust.domains.outputs import rows_named
from omnirobust.evaluation.fresh import Judge
from omnirobust.evaluation.threats import of_rows

Attempt: TypeAlias = Callable[[Tensor], Tensor]
"""From the indices of inputs (n,) int64 to perturbations of them (n, *S)."""

Run: TypeAlias = tuple[str, Attempt]
"""What the report calls it, and the attempt."""

_STREAMS = 10_000
"""Restart numbers of evaluations begin here, so that their noise is not that of a single attack with restarts."""

STRAIGHT = RadiusSchedule(())
_WIDER = RadiusSchedule(((1.5, 0.3), (1.2, 0.3)))

WIDE = {"l0": _WIDER, "l1": RadiusSchedule(((3.0, 0.3), (2.0, 0.3))), "l2": _WIDER, "linf": _WIDER}
"""By norm, the radii that a wide run passes through: for l1 those of Croce and Hein, "Mind the box", 2021; for the
others what left the fewest images of MNIST standing under linf."""


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
        together: how many perturbations an attack that makes several of an input moves at once, >= 1.
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
    together: int = 256
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
class Descent:
    """How to descend: on which loss, in which direction, towards a class or away from one, and what keys the noise."""

    loss: Loss
    direction: Direction
    targeted: bool
    stream: int

    def run(
        self, problem: Problem, rows: Tensor, goal: Tensor, delta: Tensor, factor: float, steps: int
    ) -> tuple[Tensor, float]:
        """Descend in a ball of ``factor`` times the radius, of the threat's own only until the goal is met.

        Args:
            problem: the model, the inputs and the threat.
            rows: indices of inputs, (n,) int64; one may stand there several times.
            goal: for each the class to leave, or to reach, (n,) int64.
            delta: where to begin, (n, *S).
            factor: of the radius, > 0.
            steps: gradients to take.

        Returns:
            The perturbations, (n, *S), and the share of them that began without any gradient.

        Raises:
            GradientMaskingError: if no gradient reaches any of the inputs.
        """
        first, threat = problem.first_row + int(rows[0]), of_rows(problem.threat, rows, problem.x)
        with rows_named(lambda row: problem.first_row + int(rows[row - first])):
            found = attack_ensemble(
                {"model": problem.probed or problem.model}, problem.x[rows], goal,
                replace(threat, eps=threat.eps * factor), steps=steps, loss=self.loss, direction=self.direction,
                targeted=self.targeted, keep="best", stop_when_fooled=factor == 1, init=delta,
                precision=problem.precision, samples=problem.samples, draws=problem.draws,
                seed=problem.seed + self.stream, first_row=first,
            )  # fmt: skip
        return found.delta, float(found.zero_gradient[0])


def stream_of(restart: int, target: int | None) -> int:
    """Return what keys the noise of a run: the same whatever the other attacks are and however many restarts follow."""
    return _STREAMS + restart + 1000 * (0 if target is None else target + 1)


def start_of(problem: Problem, rows: Tensor, stream: int, *, noisy: bool) -> Tensor:
    """Return where a run on ``rows`` begins, (n, *S): zeros, or normal noise.

    Noise is keyed by each row's own number, so that those that left change nothing. Its deviation is the width of the
    range: projected, it lies anywhere on the ball.
    """
    x = problem.x[rows]
    if not noisy:
        return torch.zeros_like(x)
    numbers = (rows + problem.first_row).tolist()
    drawn = [torch.randn(x.shape[1:], generator=row_generator(problem.seed, stream, row)) for row in numbers]
    return torch.stack(drawn).to(x) * width_of(of_rows(problem.threat, rows, problem.x), x)


def seen(problem: Problem, rows: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Say on what share of draws the model is right at perturbations of ``rows``, and by what mean margin, (n,) each.

    Args:
        problem: the model and the inputs.
        rows: indices of inputs, (n,) int64; one may stand there several times.
        delta: (n, *S), of a larger ball perhaps.
    """
    first = int(rows[0])
    judge = Judge(problem.probed or problem.model, problem.draws, problem.seed, problem.first_row)
    with rows_named(lambda row: problem.first_row + int(rows[row - problem.first_row - first])):
        hits, margins = judge.asked(clamped(problem.x[rows] + delta, problem.threat.bounds), problem.y[rows], first)
    return 1 - hits.to(margins.dtype).mean(0), margins.mean(0)
