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

    def start(self, feasible: FeasibleSet, step_size: float | None, steps: int) -> Stepper:
        """Return the stepper; ``step_size`` is the first step of every leg, as for the direction itself."""
        if feasible.p == 0 or steps < _FEWEST:
            return self.direction.start(feasible, step_size, steps)
        return _Legs(self, step_size, steps)


class _Legs:
    """One descent after the other: inside, outside, inside."""

    def __init__(self, setting: Detour, step_size: float | None, steps: int) -> None:
        self._setting, self._given = setting, step_size
        out = round(setting.begin * steps)
        self._ends = (out, out + round(setting.share * steps), steps)
        self._leg, self._before = 0, 0
        self._descent = Descent(setting.direction, step_size, out)

    @property
    def outside(self) -> bool:
        """Whether the perturbation of the last step may lie outside the ball."""
        return self._leg == 1

    def step(self, t: int, delta: Tensor, weights: Tensor, evaluation: Evaluation, feasible: FeasibleSet) -> Tensor:
        if t > self._ends[self._leg]:
            best, grad, worst = self._descent.best(delta, weights, evaluation)
            self._leg, self._before = self._leg + 1, t - 1
            if self._leg == 2:  # its own evaluation at the projected point is what the last leg begins with
                self._descent, self._before = Descent(self._setting.direction, self._given, self._ends[2] - t), t
                return feasible.project(best)
            self._descent = Descent(self._setting.direction, self._given, self._ends[1] - self._ends[0])
            return self._descent.begin(best, grad, worst, feasible.scaled(self._setting.radius))
        ball = feasible.scaled(self._setting.radius) if self.outside else feasible
        return self._descent.step(t - self._before, delta, weights, evaluation, ball)

    def select(self, rows: Tensor) -> None:
        """Keep the problems that ``rows`` lists."""
        self._descent.select(rows)
