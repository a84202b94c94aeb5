"""The l2 projection without a question about values, as a compiler wants it."""

from __future__ import annotations

import torch
from torch import Tensor

from omnirobust.core._lp_roots import TOLERANCES

_ROUNDS = 4
"""Newton steps. Where they leave a row unsolved, a step is taken without compiling."""


def unrolled_l2(a: Tensor, eps: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Project rows (R, n) as ``fast_l2`` does, by a fixed number of Newton steps, which a compiler fuses.

    g(t) = ||clip(sqrt(t) a)||^2 is concave and piecewise linear, so that steps along its tangents climb to the root
    from inside the ball, and are there once they have found its piece.

    Args:
        a: points, (R, n).
        eps: radii, (R, 1).
        low: lower bounds <= 0, (R, n).
        high: upper bounds >= 0, (R, n).

    Returns:
        The projections, (R, n), and which rows are solved to four times the tolerance of ``fast_l2``, (R, 1).
    """
    tol, target, least = TOLERANCES[a.dtype], eps * eps, torch.finfo(a.dtype).tiny
    total = a.square().sum(1, keepdim=True)
    t = torch.where(total > target * (1 + tol.inside), target / total, 1.0)
    for _ in range(_ROUNDS):
        moved = a * t.sqrt()
        end = torch.clamp(moved, low, high)
        gap = (target - end.square().sum(1, keepdim=True)).clamp_min(0)
        slope = torch.where(moved == end, a, 0.0).square().sum(1, keepdim=True)
        t = (t + gap / slope.clamp_min(least)).clamp_max(1)
    end = torch.clamp(a * t.sqrt(), low, high)
    gap = target - end.square().sum(1, keepdim=True)
    return end, (gap.abs() <= 4 * tol.solved * target) | ((t == 1) & (gap > 0))
