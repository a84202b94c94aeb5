"""A direction that needs no tuning: momentum, step halving on stagnation, and the best iterate to come back to.

The Auto-PGD idea carried to the min-max setting. What stagnates here is the worst loss, max_k F_k, of each problem: the
weighted loss cannot be compared between steps, since the weights move.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf

import torch
from torch import Tensor

from omnirobust._types import Evaluation
from omnirobust.directions import Stepper, balanced_gradient, unit_l2, weighted_gradient
from omnirobust.threat_models import FeasibleSet


@dataclass(frozen=True)
class Adaptive:
    """Steepest descent of the norm with momentum, its step halved for each problem whose worst loss stagnates.

    With g the weighted gradient and u its steepest direction (sign for linf, unit l2 for l2 and l1):

        z = proj(delta_t - s u),   delta_{t+1} = proj(delta_t + a (z - delta_t) + (1 - a) (delta_t - delta_{t-1}))

    At checkpoints, a problem whose worst loss fell in fewer than ``rho`` of the steps since the last one, or found no
    new best since, halves s and goes back to its best iterate. For l0 the move is ``_Thresholded``.

    Args:
        balance: scale every domain's gradient to unit l2 norm before it is weighted, so that w alone says how much each
            counts, whatever the scale of its model's logits.
        momentum: 1 - a, in [0, 1).
        first_step: s at the start, in units of eps (for l0, of the data range), > 0.
        rho: in (0, 1].
        window: share of the steps before the first checkpoint, in (0, 1]; later windows shrink to a quarter of it.
        memory: for l0 only, in (0, 1]: see ``_Thresholded``.

    Reference: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", 2020.
    """

    balance: bool = True
    momentum: float = 0.25
    first_step: float | None = None
    rho: float = 0.75
    window: float = 0.22
    memory: float = 0.9

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("momentum", self.momentum, 0.0, 1.0 - 1e-9),
            ("rho", self.rho, 1e-9, 1.0),
            ("window", self.window, 1e-9, 1.0),
            ("memory", self.memory, 1e-9, 1.0),
            ("first_step", 1.0 if self.first_step is None else self.first_step, 1e-12, inf),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {value}")

    def mix(self, weights: Tensor, grads: tuple[Tensor, ...]) -> Tensor:
        """Return the weighted gradient, balanced if so set, (B, *S)."""
        return balanced_gradient(weights, grads) if self.balance else weighted_gradient(weights, grads)

    def start(self, feasible: FeasibleSet, step_size: float | None, steps: int) -> Stepper:
        """Return the stepper; ``step_size``, if given, is the first step in units of the input."""
        if feasible.p == 0:
            return _Thresholded(self, step_size)
        return _Descent(self, step_size, steps)


def checkpoints(steps: int, window: float) -> list[int]:
    """Return the steps at which stagnation is judged: windows of a share of ``steps`` that shrink to a quarter."""
    at, share, marks = 0.0, window, []
    while at < 1.0:
        at += share
        share = max(share - 0.03, window / 4)
        marks.append(min(ceil(at * steps - 1e-9), steps))
    return sorted(set(marks))


class _Descent:
    """Momentum and halving for l1, l2 and linf."""

    def __init__(self, setting: Adaptive, step_size: float | None, steps: int) -> None:
        self._setting, self._given = setting, step_size
        self._marks = checkpoints(steps, setting.window)
        self._last_mark = 0
        self._begun = False

    def step(self, t: int, delta: Tensor, weights: Tensor, evaluation: Evaluation, feasible: FeasibleSet) -> Tensor:
        assert evaluation.grads is not None
        grad = self._setting.mix(weights, evaluation.grads)
        worst = evaluation.losses.amax(dim=1)
        if not self._begun:
            self._begin(delta, grad, worst, feasible)
        else:
            self._learn(delta, grad, worst)
            if t - 1 in self._marks:
                delta, grad = self._judge(t - 1, delta, grad)
        size = _like(self._size, grad)
        shape = torch.sign(grad) if feasible.p == inf else unit_l2(grad)
        target = feasible.project(delta.addcmul(shape, size, value=-1))
        a = 1.0 if t == 1 else 1.0 - self._setting.momentum
        moved = target if a == 1.0 else delta + a * (target - delta) + (1 - a) * (delta - self._previous)
        self._previous = delta
        return target if a == 1.0 else feasible.project(moved)

    def _begin(self, delta: Tensor, grad: Tensor, worst: Tensor, feasible: FeasibleSet) -> None:
        first = self._setting.first_step or 1.0
        self._size = feasible.radius() * first if self._given is None else torch.full_like(worst, self._given)
        self._size = self._size.to(worst)
        self._previous, self._best, self._best_grad = delta, delta.clone(), grad.clone()
        self._best_worst, self._last_worst, self._mark_worst = worst, worst, worst
        self._falls = torch.zeros_like(worst)
        self._halved = torch.zeros_like(worst, dtype=torch.bool)
        self._begun = True

    def _learn(self, delta: Tensor, grad: Tensor, worst: Tensor) -> None:
        better = worst < self._best_worst
        self._best_worst = torch.where(better, worst, self._best_worst)
        self._best = torch.where(_like(better, delta), delta, self._best)
        self._best_grad = torch.where(_like(better, grad), grad, self._best_grad)
        self._falls += worst < self._last_worst
        self._last_worst = worst

    def _judge(self, mark: int, delta: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        window = mark - self._last_mark
        stuck = (self._falls < self._setting.rho * window) | (~self._halved & (self._best_worst >= self._mark_worst))
        self._size = torch.where(stuck, self._size / 2, self._size)
        self._halved, self._last_mark = stuck, mark
        self._mark_worst, self._falls = self._best_worst, torch.zeros_like(self._falls)
        back = _like(stuck, delta)
        delta, grad = torch.where(back, self._best, delta), torch.where(back, self._best_grad, grad)
        self._previous = torch.where(back, self._best, self._previous)
        return delta, grad

    def select(self, rows: Tensor) -> None:
        """Keep the problems that ``rows`` lists."""
        if self._begun:
            for name in ("_size", "_previous", "_best", "_best_grad", "_best_worst", "_last_worst", "_mark_worst",
                         "_falls", "_halved"):  # fmt: skip
                setattr(self, name, getattr(self, name)[rows])


class _Thresholded:
    """Descent of a dense iterate u whose projection is delta: l0's set is a union of subspaces, and to leave one of them
    a coordinate must be able to save up.

        u_{t+1} = clip(m u_t + (1 - m) delta_t - s g / ||g||_inf),   delta_{t+1} = proj(u_{t+1})

    ``m`` is the memory: at 0 it is plain projected descent, where a coordinate that does not make the cut at once is
    forgotten; at 1 nothing is ever forgotten, and delta_t hardly moves.
    """

    def __init__(self, setting: Adaptive, step_size: float | None) -> None:
        self._size, self._memory = step_size or setting.first_step or 0.3, setting.memory
        self._mix = setting.mix
        self._dense: Tensor | None = None

    def step(self, t: int, delta: Tensor, weights: Tensor, evaluation: Evaluation, feasible: FeasibleSet) -> Tensor:
        assert evaluation.grads is not None
        grad = self._mix(weights, evaluation.grads)
        largest = grad.abs().flatten(1).amax(dim=1).clamp_min(torch.finfo(grad.dtype).tiny)
        dense = delta if self._dense is None else torch.lerp(delta, self._dense, self._memory)
        dense = dense.addcdiv(grad, _like(largest, grad), value=-self._size)
        self._dense = dense.clamp_(feasible.lower, feasible.upper)
        return feasible.project(self._dense)

    def select(self, rows: Tensor) -> None:
        """Keep the problems that ``rows`` lists."""
        if self._dense is not None:
            self._dense = self._dense[rows]


def _like(per_row: Tensor, tensor: Tensor) -> Tensor:
    """View (B,) so that it broadcasts over ``tensor`` (B, *S)."""
    return per_row.view((-1,) + (1,) * (tensor.ndim - 1))
