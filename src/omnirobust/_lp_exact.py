"""The l1 and l2 root searches in float64, for huge, tiny or badly conditioned rows: slower, but at any scale."""

from __future__ import annotations

import torch
from torch import Tensor

_MAX_STEPS = 300


def toward_zero(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert to a narrower dtype without ever increasing a magnitude."""
    narrow = values.to(dtype)
    if dtype.itemsize >= values.dtype.itemsize:
        return narrow
    # One less in the bit pattern is one step towards zero, for either sign.
    grew = narrow.to(values.dtype).abs() > values.abs()
    pattern = torch.int16 if dtype.itemsize == 2 else torch.int32
    return (narrow.view(pattern) - grew.to(pattern)).view(dtype)


def exact_l2(m: Tensor, b: Tensor, eps: Tensor) -> Tensor:
    """Solve (22) in float64 at any scale: y = min(s m, b) for magnitudes m >= 0 and bounds b >= 0.

    In units that make both max m and eps one, squares neither overflow nor vanish where they matter.
    """
    b = torch.minimum(b, 2 * eps)
    free = m * (b > 0)
    unit = free.amax(1, keepdim=True).clamp_min(torch.finfo(m.dtype).tiny)
    alpha, beta = free / unit, torch.where(eps > 0, b / eps, 0)
    within = torch.where(eps > 0, torch.minimum(free, b) / eps, 0).square().sum(1, keepdim=True) <= 1 + 4e-15
    q, c = alpha * alpha, beta * beta
    t = 1 / q.sum(1, keepdim=True).clamp_min(1)  # the sum is at least 1 unless the row is 0
    for _ in range(_MAX_STEPS):
        moved = t * q
        slope = (q * (moved < c)).sum(1, keepdim=True)
        gap = 1 - torch.minimum(moved, c).sum(1, keepdim=True)
        step = torch.where((slope > 0) & (gap > 0) & ~within, gap / slope, 0)
        t = t + step
        if not bool((step > 1e-16 * t).any()):
            break
    return torch.where(within, torch.minimum(m, b), torch.minimum(t.sqrt() * alpha, beta) * eps)


def exact_l1(m: Tensor, b: Tensor, eps: Tensor) -> Tensor:
    """Solve (21) in float64 at any scale: y = min(max(m - lam, 0), b) for magnitudes m >= 0 and bounds b >= 0.

    After each root lam the data are re-centred, m <- m - lam: subtracting nearby numbers is exact, so that the
    next root, a correction of the size of lam's rounding, restores full accuracy however large m is.
    """
    b = torch.minimum(b, 2 * eps)
    y = torch.minimum(m, b)
    within = y.sum(1, keepdim=True) <= eps * (1 + 2e-15)
    moved, low, high = m, torch.zeros_like(eps), m.amax(1, keepdim=True)
    for _ in range(24):
        lam = torch.where(within, 0, _threshold(moved, b, eps, low, high))
        moved = moved - lam
        y = torch.minimum(moved, b).clamp_min(0)
        if bool((within | ((y.sum(1, keepdim=True) - eps).abs() <= 1e-15 * eps)).all()):
            break
        high = 4 * torch.finfo(m.dtype).eps * lam.abs()
        low = -high
    return y


def _threshold(m: Tensor, b: Tensor, eps: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Find lam in [low, high] with sum_i min(max(m_i - lam, 0), b_i) = eps: Newton kept inside a shrinking bracket."""
    lam = low
    for step in range(_MAX_STEPS):
        moved = m - lam
        active = ((moved >= 0) & (moved <= b)).sum(1, keepdim=True)
        gap = torch.minimum(moved, b).clamp_min(0).sum(1, keepdim=True) - eps
        low, high = torch.where(gap >= 0, lam, low), torch.where(gap <= 0, lam, high)
        newton = lam + gap / active
        # Every third step halves the bracket, whatever Newton does: that bounds the number of steps.
        inside = (newton > low) & (newton < high) & (step % 3 != 2)
        following = torch.where(gap == 0, lam, torch.where(inside, newton, low + (high - low) / 2))
        if not bool((following != lam).any()):
            break
        lam = following
    return lam
