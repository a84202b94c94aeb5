"""Coordinates that trade places: how the adaptive direction moves under l0."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from omnirobust.core.threat_models import FeasibleSet
from omnirobust.core.types import Evaluation

_LAST_SHARE = 0.04
"""The share of eps that may trade places at the last step."""


class Swaps:
    """Coordinates that trade places: the move for l0, a union of subspaces between which plain descent cannot travel.

    With g the gradient, averaged over steps to steady it, coordinate i is worth |g_i| |e_i| where e_i is the end of its
    box that lowers the loss: what the linearised loss gains by it. Each step lets the most valuable coordinates at rest
    in, straight to e_i: into free places first, then each for the least valuable in use that is worth less than it,
    at most a share of the budget that decays geometrically from ``first`` to ``_LAST_SHARE``. Coordinates in use
    move along -g / ||g||_inf, the largest by the width of its box. The result is feasible: there is nothing to project.

    Args:
        mix: weighs the gradients of the domains.
        first: share of the budget at the start; 0.5 if None.
        memory: how much of the mean gradient each step keeps, in [0, 1).
        steps: T.
    """

    def __init__(
        self,
        mix: Callable[[Tensor, tuple[Tensor, ...]], Tensor],
        first: float | None,
        memory: float,
        steps: int,
    ) -> None:
        self._mix, self._first, self._memory, self._steps = mix, first or 0.5, memory, steps
        self._mean: Tensor | None = None

    def step(self, t: int, delta: Tensor, weights: Tensor, evaluation: Evaluation, feasible: FeasibleSet) -> Tensor:
        """Return the feasible perturbation of step ``t`` that follows ``delta`` (B, *S)."""
        assert evaluation.grads is not None
        grad = self._mix(weights, evaluation.grads).flatten(1)
        self._mean = grad if self._mean is None else torch.lerp(grad, self._mean, self._memory)
        budget = feasible.radius().clamp(max=grad.shape[1]).floor().long().unsqueeze(1)
        share = 1.0 if t == 1 else self._first * (_LAST_SHARE / self._first) ** ((t - 1) / max(self._steps - 1, 1))
        most = (budget * share).ceil().long()
        lower, upper = feasible.lower.flatten(1), feasible.upper.flatten(1)
        return swap_coordinates(delta.flatten(1), self._mean, lower, upper, budget, most, feasible.channels).view_as(
            delta
        )

    def select(self, rows: Tensor) -> None:
        """Keep the problems that ``rows`` lists."""
        if self._mean is not None:
            self._mean = self._mean[rows]


def swap_coordinates(
    delta: Tensor, grad: Tensor, lower: Tensor, upper: Tensor, budget: Tensor, most: Tensor, channels: int = 1
) -> Tensor:
    """Let the most valuable coordinates at rest in, for the least valuable in use; move those in use along -grad.

    Args:
        delta: (B, n), at most ``budget`` non-zeros a row, inside the box.
        grad: (B, n).
        lower: (B, n), <= 0.
        upper: (B, n), >= 0.
        budget: how many non-zeros a row may have, (B, 1) int64.
        most: how many coordinates a row may let in, (B, 1) int64.
        channels: how many coordinates are one pixel, where a row is (channels, pixels): then pixels are counted,
            weighed by the sum of their coordinates' worth, and trade places as a whole.

    Returns:
        (B, n), at most ``budget`` non-zeros a row, inside the box.
    """
    width = min(int(budget.max()) if len(budget) else 0, delta.shape[1] // channels)
    if width == 0:
        return torch.zeros_like(delta)
    end = torch.where(grad < 0, upper, lower)
    worth, used = (grad * end).abs(), delta != 0
    if channels > 1:
        worth, used = (v.view(len(v), channels, -1) for v in (worth, used))
        worth, used = worth.sum(1), used.any(1)
    cheap, cheap_at = torch.where(used, worth, torch.inf).topk(width, dim=1, largest=False)
    rich, rich_at = torch.where(used, -torch.inf, worth).topk(width, dim=1)
    place = torch.arange(width, device=delta.device)
    free = budget - used.sum(dim=1, keepdim=True)
    leaver = (place - free).clamp_min(0)  # who makes room for the newcomer of this place, if the place is not free
    price = torch.where(place < free, 0.0, cheap.gather(1, leaver))
    enters = (rich > price) & (place < most)
    leaves = _marked(cheap_at.gather(1, leaver), enters & (place >= free), used)
    comes = _marked(rich_at, enters, used)
    if channels > 1:
        used, leaves, comes = (flags.repeat(1, channels) for flags in (used, leaves, comes))
    largest = grad.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(grad.dtype).tiny)
    step = grad / largest * (upper - lower)
    moved = torch.where(used & ~leaves, (delta - step).to(delta.dtype).clamp(lower, upper), 0.0)
    return torch.where(comes, end, moved)


def _marked(at: Tensor, flags: Tensor, like: Tensor) -> Tensor:
    """Return (B, n) bool: whether any flag points at the coordinate. Indices may repeat."""
    return torch.zeros_like(like, dtype=torch.uint8).scatter_add_(1, at, flags.to(torch.uint8)) > 0
