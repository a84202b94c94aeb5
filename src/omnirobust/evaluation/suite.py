"""Gradient attacks on one model, made to be run one after the other: each on the inputs that still stand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from omnirobust.core.adaptive import Adaptive
from omnirobust.core.arguments import check_count, check_number
from omnirobust.core.directions import Direction
from omnirobust.core.draws import Start
from omnirobust.core.threat_models import ThreatModel
from omnirobust.domains import losses
from omnirobust.domains.losses import Loss
from omnirobust.evaluation.descent import STRAIGHT, WIDE, Descent, seen, start_of, stream_of
from omnirobust.evaluation.descent import Attempt as Attempt
from omnirobust.evaluation.descent import EvaluationAttack as EvaluationAttack
from omnirobust.evaluation.descent import Problem as Problem
from omnirobust.evaluation.descent import Run as Run
from omnirobust.evaluation.race import Race
from omnirobust.evaluation.threats import of_rows

_ADAPTIVE = Adaptive()


@dataclass(frozen=True)
class GradientAttack:
    """Descent on one loss, from one start, perhaps towards one rival class after the other.

    Attributes:
        name: what the report calls it.
        loss: per-example attack loss, low = fooled.
        start: "zero" or "normal", of the first restart; later ones start from noise.
        targets: 0 to leave the label; n to go to each of the n likeliest wrong classes in turn.
        wide: begin in a larger ball and shrink it, as ``WIDE`` says: the best iterate in a larger ball, projected, is
            the start in the next. What the larger ball leaves standing is given up.
        direction: how the perturbation moves.
        classes: the fewest classes that the loss is defined for.
        share: of the steps of the evaluation, those of a run, rounded up, in (0, 1].
    """

    name: str
    loss: Loss
    start: Start = "zero"
    targets: int = 0
    wide: bool = False
    direction: Direction = _ADAPTIVE
    classes: int = 2
    share: float = 1.0

    def __post_init__(self) -> None:
        if not callable(self.loss):
            raise ValueError(f"loss must be a function of logits and labels, got {self.loss!r}")
        if self.start not in ("zero", "normal"):
            raise ValueError(f"start must be 'zero' or 'normal', got {self.start!r}")
        check_count("targets", self.targets, 0)
        check_number("share", self.share, "in (0, 1]", lambda share: 0 < share <= 1)

    def fits(self, threat: ThreatModel, classes: int) -> bool:
        """Say whether there are classes enough for the loss."""
        return classes >= self.classes

    def runs(self, problem: Problem) -> Iterator[Run]:
        """Yield one run for every target and restart."""
        for target in range(min(self.targets, problem.rivals.shape[1])) if self.targets else (None,):
            for restart in range(problem.restarts):
                yield self._run(problem, target, restart)

    def _run(self, problem: Problem, target: int | None, restart: int) -> Run:
        stream = stream_of(restart, target)
        descent = Descent(self.loss, self.direction, target is not None, stream)
        goal = problem.y if target is None else problem.rivals[:, target]

        def attempt(rows: Tensor) -> Tensor:
            delta = start_of(problem, rows, stream, noisy=restart > 0 or self.start == "normal")
            going, begun = torch.arange(len(rows), device=rows.device), False
            for factor, steps in (WIDE[problem.threat.name] if self.wide else STRAIGHT).phases(
                math.ceil(self.share * problem.steps)
            ):
                if not len(going) or (not steps and factor != 1):  # what lies outside of the ball must not count
                    continue
                live = rows[going]
                delta[going], masked = descent.run(problem, live, goal[live], delta[going], factor, steps)
                problem.masked[self.name] += 0 if begun else round(masked * len(rows))
                begun = True
                if factor > 1:  # a smaller ball is no easier
                    going = going[seen(problem, live, delta[going])[0] < 1]
            return of_rows(problem.threat, rows, problem.x).around(problem.x[rows]).project(delta)

        return self.name, attempt


STRONG: tuple[GradientAttack | Race, ...] = (
    GradientAttack("margin", losses.relative_margin, share=0.4),
    Race("targeted", losses.relative_margin, encores=(losses.dlr, losses.relative_margin)),
    GradientAttack("cross-entropy", losses.neg_cross_entropy, start="normal", wide=True),
    GradientAttack("dlr", losses.dlr, start="normal", wide=True, classes=3, share=0.4),
)
"""The default: losses that fail on different models, and a race of the seven likeliest wrong classes, after which what
stands near its boundary is attacked from noise on two losses."""
