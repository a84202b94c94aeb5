"""Attacks in units of their features: u = delta / scale, in which the ball is round, directions point and steps count.

Whoever moves a perturbation hands it over in units of the data, and gets it back so. Between lies ``in_units``: the
set of u, and the gradient in u, which is scale times that in delta.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from omnirobust.core.directions import Direction, Stepper
from omnirobust.core.projections import toward_zero
from omnirobust.core.threat_models import FeasibleSet
from omnirobust.core.types import Evaluation


def start(direction: Direction, feasible: FeasibleSet, step_size: float | None, steps: int) -> Stepper:
    """Return the stepper of a run of ``direction``: one that moves in u where the set has a scale."""
    if feasible.scale is None:
        return direction.start(feasible, step_size, steps)
    return _InUnits(direction.start(in_units(feasible), step_size, steps))


def in_units(feasible: FeasibleSet) -> FeasibleSet:
    """Return the set of u = delta / scale for all delta of a set; itself where there is no scale."""
    if feasible.scale is None:
        return feasible
    ends = (feasible.lower / feasible.scale, feasible.upper / feasible.scale)
    if type(feasible) is FeasibleSet:
        return FeasibleSet(feasible.p, feasible.eps, *ends, checked=True, unit=feasible.unit)
    return _OwnInUnits(feasible.p, feasible.eps, *ends, checked=True, unit=feasible.unit, whole=feasible)


def seen_in_units(evaluation: Evaluation, feasible: FeasibleSet) -> Evaluation:
    """Return an evaluation with its gradients taken in u; itself where there is no scale."""
    if feasible.scale is None or evaluation.grads is None:
        return evaluation
    return replace(evaluation, grads=tuple(g * feasible.scale for g in evaluation.grads))


@dataclass(frozen=True, eq=False)
class _OwnInUnits(FeasibleSet):
    """The set of u for a set of the caller's own, whose projection takes and gives perturbations of the data."""

    whole: FeasibleSet = field(kw_only=True)

    def project(self, delta: Tensor) -> Tensor:
        assert self.whole.scale is not None
        moved = (delta * self.whole.scale).to(self.whole.lower.dtype)
        return self.whole.project(moved) / self.whole.scale

    def select(self, rows: Tensor) -> FeasibleSet:
        return in_units(self.whole.select(rows))

    def scaled(self, factor: float) -> FeasibleSet:
        return in_units(self.whole.scaled(factor))


class _InUnits:
    """A stepper that is handed perturbations in units of the data, and moves them in those of the features."""

    def __init__(self, stepper: Stepper) -> None:
        self._stepper = stepper
        self._of: FeasibleSet | None = None
        self._set: FeasibleSet | None = None

    @property
    def outside(self) -> bool:
        """Whether the perturbation of the last step may lie outside the ball."""
        return bool(getattr(self._stepper, "outside", False))

    def step(self, t: int, delta: Tensor, weights: Tensor, evaluation: Evaluation, feasible: FeasibleSet) -> Tensor:
        """Return the projected perturbation of step ``t`` that follows ``delta`` (B, *S)."""
        scale = feasible.scale
        assert scale is not None
        if self._set is None or self._of is not feasible:
            self._of, self._set = feasible, in_units(feasible)
        u = self._stepper.step(t, delta / scale, weights, seen_in_units(evaluation, feasible), self._set)
        moved = toward_zero(torch.clamp(u * scale, feasible.lower, feasible.upper), delta.dtype)
        # multiplying has rounded: what a set of the caller's own makes exact, whole numbers say, is made so again
        return moved if type(feasible) is FeasibleSet or self.outside else feasible.project(moved)

    def select(self, rows: Tensor) -> None:
        """Keep the problems that ``rows`` lists."""
        self._stepper.select(rows)
