"""A direction that needs no tuning: momentum, step halving on stagnation, and the best iterate to come back to.

``Detour`` leads it through a larger ball, for problems that plain descent leaves standing at the border of their own.

The Auto-PGD idea carried to the min-max setting. What stagnates here is the worst loss, max_k F_k, of each problem: the
weighted loss cannot be compared between steps, since the weights move.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, inf

import torch
from torch import Tensor

from omnirobust.core.arguments import check_number, is_number
from omnirobust.core.directions import Stepper, balanced_gradient, unit_l2
from omnirobust.core.swaps import Swaps
from omnirobust.core.threat_models import FeasibleSet
from omnirobust.core.types import Evaluation
from omnirobust.core.weights import weighted_gradient

_FEWEST = 20
"""A run of fewer steps has none to spare: it goes straight."""


@dataclass(frozen=True)
class Adaptive:
    """Steepest descent of the norm with momentum, its step halved for each problem whose worst loss stagnates.

    With g the weighted gradient and u its steepest direction (sign for linf, unit l2 for l2 and l1):

        z = proj(delta_t - s u),   delta_{t+1} = proj(delta_t + a (z - delta_t) + (1 - a) (delta_t - delta_{t-1}))

    At checkpoints, a problem whose worst loss fell in fewer than ``rho`` of the steps since the last one, or found no
    new best since, halves s and goes back to its best iterate. For l0 the move is ``Swaps``: coordinates trade places.

    Args:
        balance: scale every domain's gradient to unit l2 norm before it is weighted, so that w alone says how much each
            counts, whatever the scale of its model's logits.
        momentum: 1 - a, in [0, 1).
        first_step: s at the start, in units of eps (for l0, the share of eps that may trade places), > 0.
        rho: in (0, 1].
        window: share of the steps before the first checkpoint, in (0, 1]; later windows shrink to a quarter of it.
        memory: for l0 only, in [0, 1): how much of the mean gradient each step keeps.

    Reference: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", 2020.
    """

    balance: bool = False
    momentum: float = 0.25
    first_step: float | None = None
    rho: float = 0.75
    window: float = 0.22
    memory: float = 0.5

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("momentum", self.momentum, 0.0, 1.0 - 1e-9),
            ("rho", self.rho, 1e-9, 1.0),
            ("window", self.window, 1e-9, 1.0),
            ("memory", self.memory, 0.0, 1.0 - 1e-9),
            ("first_step", 1.0 if self.first_step is None else self.first_step, 1e-12, inf),
        ):
            if not is_number(value) or not low <= value <= high:
                raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {value}")

    def mix(self, weights: Tensor, grads: tuple[Tensor, ...]) -> Tensor:
        """Return the weighted gradient, balanced if so set, (B, *S)."""
        return balanced_gradient(weights, grads) if self.balance else weighted_gradient(weights, grads)

    def start(self, feasible: FeasibleSet, step_size: float | None, steps: int) -> Stepper:
        """Return the stepper; ``step_size``, if given, is the first step: in units of the input, for l0 a share of eps.

        Not given, it is ``first_step`` radii, or the width of the box where that is less.
        """
        if feasible.p == 0:
            return Swaps(self.mix, step_size or self.first_step, self.memory, steps)
        return Descent(self, step_size, steps)


def checkpoints(steps: int, window: float) -> list[int]:
    """Return the steps at which stagnation is judged: windows of a share of ``steps`` that shrink to a quarter."""
    at, share, marks = 0.0, window, []
    while at < 1.0:
        at += share
        share = max(share - 0.03, window / 4)
        marks.append(min(ceil(at * steps - 1e-9), steps))
    return sorted(set(marks))


class Descent:
    """Momentum and halving for l1, l2 and linf."""

    def __init__(self, setting: Adaptive, step_size: float | None, steps: int) -> None:
        self._setting, self._given = setting, step_size
        self._marks = checkpoints(steps, setting.window)
        self._last_mark = 0
        self._begun = False

    def step(self, t: int, delta: Tensor, weights: Tensor, evaluation: Evaluation, feasible: FeasibleSet) -> Tensor:
        """Return the projected perturbation of step ``t`` (1, ..., T) that follows ``delta`` (B, *S)."""
        grad, worst = self._read(weights, evaluation)
        if not self._begun:
            return self.begin(delta, grad, worst, feasible)
        self._learn(delta, grad, worst)
        if t - 1 in self._marks:
            delta, grad = self._judge(t - 1, delta, grad)
        moved = self._target(delta, grad, feasible)
        a = 1.0 - self._setting.momentum
        if a != 1.0:  # in place where nobody else holds the tensor: fresh memory costs more than arithmetic
            moved = (moved - delta).mul_(a).add_(delta).add_((delta - self._previous).mul_(1 - a))
        self._previous = delta
        return feasible.project(moved)

    def begin(self, delta: Tensor, grad: Tensor, worst: Tensor, feasible: FeasibleSet) -> Tensor:
        """Take the first step, from ``delta`` with its gradient (B, *S) and worst loss (B,)."""
        self._begin(delta, grad, worst, feasible)
        return self._target(delta, grad, feasible)

    def best(self, delta: Tensor, weights: Tensor, evaluation: Evaluation) -> tuple[Tensor, Tensor, Tensor]:
        """Return the iterate of lowest worst loss, its gradient and that loss, the one just evaluated included."""
        self._learn(delta, *self._read(weights, evaluation))
        return self._best, self._best_grad, self._best_worst

    def _read(self, weights: Tensor, evaluation: Evaluation) -> tuple[Tensor, Tensor]:
        assert evaluation.grads is not None
        return self._setting.mix(weights, evaluation.grads), evaluation.losses.amax(dim=1)

    def _target(self, delta: Tensor, grad: Tensor, feasible: FeasibleSet) -> Tensor:
        """Return z: where a step without momentum ends."""
        shape = torch.sign(grad) if feasible.p == inf else unit_l2(grad)
        torch.addcmul(delta.to(shape.dtype), shape, self._size.view(self._rows), value=-1, out=shape)
        return feasible.project(shape.to(delta.dtype))

    def _begin(self, delta: Tensor, grad: Tensor, worst: Tensor, feasible: FeasibleSet) -> None:
        first = self._setting.first_step or 1.0
        reach = torch.minimum(feasible.radius(), feasible.norm(feasible.upper - feasible.lower))
        self._size = reach * first if self._given is None else torch.full_like(worst, self._given)
        self._size = self._size.to(worst)
        self._previous, self._best, self._best_grad = delta, delta.clone(), grad.clone()
        self._best_worst, self._last_worst, self._mark_worst = worst, worst, worst
        self._falls = torch.zeros_like(worst)
        self._halved = torch.zeros_like(worst, dtype=torch.bool)
        self._rows = (-1,) + (1,) * (delta.ndim - 1)  # so that (B,) broadcasts over (B, *S)
        self._begun = True

    def _learn(self, delta: Tensor, grad: Tensor, worst: Tensor) -> None:
        better = worst < self._best_worst
        self._best_worst = torch.where(better, worst, self._best_worst)
        rows = better.view(self._rows)
        torch.where(rows, delta, self._best, out=self._best)
        torch.where(rows, grad, self._best_grad, out=self._best_grad)
        self._falls += worst < self._last_worst
        self._last_worst = worst

    def _judge(self, mark: int, delta: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        window = mark - self._last_mark
        stuck = (self._falls < self._setting.rho * window) | (~self._halved & (self._best_worst >= self._mark_worst))
        self._size = torch.where(stuck, self._size / 2, self._size)
        self._halved, self._last_mark = stuck, mark
        self._mark_worst, self._falls = self._best_worst, torch.zeros_like(self._falls)
        back = stuck.view(self._rows)
        delta, grad = torch.where(back, self._best, delta), torch.where(back, self._best_grad, grad)
        self._previous = torch.where(back, self._best, self._previous)
        return delta, grad

    def select(self, rows: Tensor) -> None:
        """Keep the problems that ``rows`` lists."""
        if self._begun:
            for name in ("_size", "_previous", "_best", "_best_grad", "_best_worst", "_last_worst", "_mark_worst",
                         "_falls", "_halved"):  # fmt: skip
                setattr(self, name, getattr(self, name)[rows])


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
        check_number("radius", self.radius, "> 1, in units of eps", lambda radius: radius > 1)
        for name, value in (("begin", self.begin), ("share", self.share)):
            if not is_number(value) or not 0 < value < 1:
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
