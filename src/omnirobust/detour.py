"""A detour through a larger ball, for problems that plain descent leaves standing at the border of their own."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from omnirobust._types import Evaluation
from omnirobust.adaptive import Adaptive, Descent
from omnirobust.directions import Stepper
from omnirobust.threat_models import FeasibleSet

_FEWEST = 20
"""A run of fewer steps has none to spare: it goes straight."""


@dataclass(frozen=True)
class RadiusSchedule:
    """The radii of the balls that a run passes through on its way to the threat model's own.

    Attributes:
        outer: radius in units of eps and share of the steps, of each ball before the last, whose radius is 1.
    """

    outer: tuple[tuple[float, float], ...]

    def phases(self, steps: int) -> list[tuple[float, int]]:
        """Return every radius with its steps; the last one has those that are left."""
        before = [(radius, round(share * steps)) for radius, share in self.outer]
        return [*before, (1.0, steps - sum(each for _, each in before))]


@dataclass(frozen=True)
class Detour:
    """The adaptive direction, with some of the steps spent in a ball ``radius`` times as large.

    Three legs: in the ball of the threat model, where most problems end; from the best iterate there in the larger
    ball, where what stood in the way can be walked around; and from the best iterate there, projected, in the threat
    model's ball again. Every leg begins with the full step. Iterates outside the ball cost evaluations like any
    other, but ``solve`` never returns one nor counts what it fools; its history repeats the last one inside.

    For l0, whose coordinates can trade places anyway, and in runs of fewer than 20 steps, this is the direction itself.

    Args:
        direction: of every leg.
        radius: of the larger ball, in units of eps, > 1.
        begin: share of the steps before the detour, in (0, 1).
        share: share of the steps outside, in (0, 1); with ``begin`` less than 1.

    Raises:
        ValueError: if an argument lies outside its range.

    Reference: descent through shrinking balls is of Croce and Hein, "Mind the box: l1-APGD for sparse adversarial
    attacks on image classifiers", 2021, for single models; the first leg in the ball itself is ours.
    """

    direction: Adaptive = field(default_factory=Adaptive)
    radius: float = 2.0
    begin: float = 0.2
    share: float = 0.16

    def __post_init__(self) -> None:
        if not self.radius > 1:
            raise ValueError(f"radius must be > 1, in units of eps, got {self.radius}")
        for name, value in (("begin", self.begin), ("share", self.share)):
            if not 0 < value < 1:
                raise ValueError(f"{name} must lie in (0, 1), got {value}")
        if not self.begin + self.share < 1:
            raise ValueError(f"begin and share must sum to less than 1, got {self.begin} and {self.share}")

    @property
    def schedule(self) -> RadiusSchedule:
        """The radii in order: that of the threat model, the larger one, and again that of the threat model."""
        return RadiusSchedule(((1.0, self.begin), (self.radius, self.share)))

    def start(self, feasible: FeasibleSet, step_size: float | None, steps: int) -> Stepper:
        """Return the stepper; ``step_size`` is the first step of every leg, as for the direction itself."""
        if feasible.p == 0 or steps < _FEWEST:
            return self.direction.start(feasible, step_size, steps)
        return _Legs(self, step_size, steps)


class _Legs:
    """One descent after the other, each in its ball from the best iterate of the one before."""

    def __init__(self, setting: Detour, step_size: float | None, steps: int) -> None:
        self._direction, self._given = setting.direction, step_size
        self._legs = setting.schedule.phases(steps)
        self._leg, self._begun, self._end = 0, 0, self._legs[0][1]
        self._descent = Descent(self._direction, step_size, self._end)

    @property
    def outside(self) -> bool:
        """Whether the perturbation of the last step may lie outside the ball."""
        return self._legs[self._leg][0] > 1

    def step(self, t: int, delta: Tensor, weights: Tensor, evaluation: Evaluation, feasible: FeasibleSet) -> Tensor:
        last = self._legs[self._leg][0]
        if t <= self._end:
            return self._descent.step(t - self._begun, delta, weights, evaluation, _ball(feasible, last))
        best, grad, worst = self._descent.best(delta, weights, evaluation)
        self._leg += 1
        radius, steps = self._legs[self._leg]
        # A smaller ball need not hold the best iterate: its leg begins once the projected one has been evaluated.
        inwards = radius < last
        self._begun, self._end = t - 1 + inwards, t - 1 + steps
        self._descent = Descent(self._direction, self._given, steps - inwards)
        ball = _ball(feasible, radius)
        return ball.project(best) if inwards else self._descent.begin(best, grad, worst, ball)

    def select(self, rows: Tensor) -> None:
        """Keep the problems that ``rows`` lists."""
        self._descent.select(rows)


def _ball(feasible: FeasibleSet, radius: float) -> FeasibleSet:
    return feasible if radius == 1 else feasible.scaled(radius)
