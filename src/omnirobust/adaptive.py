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

_LAST_SHARE = 0.04
"""The share of eps that may trade places at the last step under l0."""


@dataclass(frozen=True)
class Adaptive:
    """Steepest descent of the norm with momentum, its step halved for each problem whose worst loss stagnates.

    With g the weighted gradient and u its steepest direction (sign for linf, unit l2 for l2 and l1):

        z = proj(delta_t - s u),   delta_{t+1} = proj(delta_t + a (z - delta_t) + (1 - a) (delta_t - delta_{t-1}))

    At checkpoints, a problem whose worst loss fell in fewer than ``rho`` of the steps since the last one, or found no
    new best since, halves s and goes back to its best iterate. For l0 the move is ``_Swaps``: coordinates trade places.

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
            if not low <= value <= high:
                raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {value}")

    def mix(self, weights: Tensor, grads: tuple[Tensor, ...]) -> Tensor:
        """Return the weighted gradient, balanced if so set, (B, *S)."""
        return balanced_gradient(weights, grads) if self.balance else weighted_gradient(weights, grads)

    def start(self, feasible: FeasibleSet, step_size: float | None, steps: int) -> Stepper:
        """Return the stepper; ``step_size``, if given, is the first step: in units of the input, for l0 a share of eps.

        Not given, it is ``first_step`` radii, or the width of the box where that is less.
        """
        if feasible.p == 0:
            return _Swaps(self, step_size, steps)
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
        target = self._target(delta, grad, feasible)
        a = 1.0 - self._setting.momentum
        moved = target if a == 1.0 else delta + a * (target - delta) + (1 - a) * (delta - self._previous)
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
        return feasible.project(delta.addcmul(shape, _like(self._size, grad), value=-1))

    def _begin(self, delta: Tensor, grad: Tensor, worst: Tensor, feasible: FeasibleSet) -> None:
        first = self._setting.first_step or 1.0
        reach = torch.minimum(feasible.radius(), feasible.norm(feasible.upper - feasible.lower))
        self._size = reach * first if self._given is None else torch.full_like(worst, self._given)
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


class _Swaps:
    """Coordinates that trade places: the move for l0, a union of subspaces between which plain descent cannot travel.

    With g the gradient, averaged over steps to steady it, coordinate i is worth |g_i| |e_i| where e_i is the end of its
    box that lowers the loss: what the linearised loss gains by it. Each step lets the most valuable coordinates at rest
    in, straight to e_i: into free places first, then each for the least valuable in use that is worth less than it,
    at most a share of the budget that decays geometrically from ``first_step`` to ``_LAST_SHARE``. Coordinates in use
    move along -g / ||g||_inf, the largest by the width of its box. The result is feasible: there is nothing to project.
    """

    def __init__(self, setting: Adaptive, step_size: float | None, steps: int) -> None:
        self._setting, self._steps = setting, steps
        self._first = step_size or setting.first_step or 0.5
        self._mean: Tensor | None = None

    def step(self, t: int, delta: Tensor, weights: Tensor, evaluation: Evaluation, feasible: FeasibleSet) -> Tensor:
        assert evaluation.grads is not None
        grad = self._setting.mix(weights, evaluation.grads).flatten(1)
        self._mean = grad if self._mean is None else torch.lerp(grad, self._mean, self._setting.memory)
        budget = feasible.radius().clamp(max=grad.shape[1]).floor().long().unsqueeze(1)
        share = 1.0 if t == 1 else self._first * (_LAST_SHARE / self._first) ** ((t - 1) / max(self._steps - 1, 1))
        most = (budget * share).ceil().long()
        lower, upper = feasible.lower.flatten(1), feasible.upper.flatten(1)
        return swap_coordinates(delta.flatten(1), self._mean, lower, upper, budget, most).view_as(delta)

    def select(self, rows: Tensor) -> None:
        """Keep the problems that ``rows`` lists."""
        if self._mean is not None:
            self._mean = self._mean[rows]


def swap_coordinates(delta: Tensor, grad: Tensor, lower: Tensor, upper: Tensor, budget: Tensor, most: Tensor) -> Tensor:
    """Let the most valuable coordinates at rest in, for the least valuable in use; move those in use along -grad.

    Args:
        delta: (B, n), at most ``budget`` non-zeros a row, inside the box.
        grad: (B, n).
        lower: (B, n), <= 0.
        upper: (B, n), >= 0.
        budget: how many non-zeros a row may have, (B, 1) int64.
        most: how many coordinates a row may let in, (B, 1) int64.

    Returns:
        (B, n), at most ``budget`` non-zeros a row, inside the box.
    """
    width = min(int(budget.max()) if len(budget) else 0, delta.shape[1])
    if width == 0:
        return torch.zeros_like(delta)
    end = torch.where(grad < 0, upper, lower)
    worth, used = (grad * end).abs(), delta != 0
    cheap, cheap_at = torch.where(used, worth, torch.inf).topk(width, dim=1, largest=False)
    rich, rich_at = torch.where(used, -torch.inf, worth).topk(width, dim=1)
    place = torch.arange(width, device=delta.device)
    free = budget - used.sum(dim=1, keepdim=True)
    leaver = (place - free).clamp_min(0)  # who makes room for the newcomer of this place, if the place is not free
    price = torch.where(place < free, 0.0, cheap.gather(1, leaver))
    enters = (rich > price) & (place < most)
    leaves = _marked(cheap_at.gather(1, leaver), enters & (place >= free), used)
    comes = _marked(rich_at, enters, used)
    largest = grad.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(grad.dtype).tiny)
    step = grad / largest * (upper - lower)
    moved = torch.where(used & ~leaves, (delta - step).clamp(lower, upper), 0.0)
    return torch.where(comes, end, moved)


def _marked(at: Tensor, flags: Tensor, like: Tensor) -> Tensor:
    """Return (B, n) bool: whether any flag points at the coordinate. Indices may repeat."""
    return torch.zeros_like(like, dtype=torch.uint8).scatter_add_(1, at, flags.to(torch.uint8)) > 0


def _like(per_row: Tensor, tensor: Tensor) -> Tensor:
    """View (B,) so that it broadcasts over ``tensor`` (B, *S)."""
    return per_row.view((-1,) + (1,) * (tensor.ndim - 1))
