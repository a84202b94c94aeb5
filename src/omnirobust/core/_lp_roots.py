"""The two root searches behind the l1 and l2 projections, on rows: (R, n) points, (R, 1) radii.

The ``fast_*`` functions run in the working dtype over buffers that fit a cache, and say which rows they have solved
to its rounding. The few rows that are left (huge, tiny or badly conditioned ones) go to ``_lp_exact``.

What shapes the fast code: on a CPU, comparisons that give bool tensors, sums of bools, ``torch.where`` and sorts cost
five to a hundred times as much as arithmetic. Comparing in place (``x.lt_(y)``) gives 0 and 1 as floats at the
price of arithmetic.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
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


_SHARE = 65_536
"""Coordinates that one pass handles for each thread: the arrays of a pass then fit its second-level cache."""


class Tolerance(NamedTuple):
    """Relative tolerances of one dtype.

    Attributes:
        solved: distance of a row's norm (l2: its square) from the radius at which it counts as solved.
        inside: excess over the radius at which a row counts as inside. Above ``solved``, so that projecting a
            projection changes nothing.
        probe: how far from its root a row is evaluated once more: the error in the result that is certainly avoided.
        small, large: radii outside this range, squared, may underflow or overflow.
    """

    solved: float
    inside: float
    probe: float
    small: float
    large: float


TOLERANCES = {
    torch.float32: Tolerance(4e-7, 8e-7, 4e-6, 1e-12, 1e12),
    torch.float64: Tolerance(2e-14, 4e-14, 1e-11, 1e-100, 1e100),
}


class Scratch(NamedTuple):
    """Three buffers (R, n) that every chunk of rows reuses."""

    first: Tensor
    second: Tensor
    third: Tensor

    def rows(self, count: int) -> Scratch:
        """Return views of the first ``count`` rows."""
        return Scratch(*(buffer[:count] for buffer in self))


def solve_rows(a: Tensor, p: float, eps: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Project rows (B, n) onto l1 or l2 balls of radii (B, 1), as many rows at a time as the caches hold."""
    rows, n = a.shape
    size = rows if a.device.type != "cpu" else min(rows, max(1, _SHARE * max(2, torch.get_num_threads()) // n))
    scratch = Scratch(*(a.new_empty(size if p == 1 else 0, n) for _ in range(3)))
    out = torch.empty_like(a)
    for start in range(0, rows, size):
        part = slice(start, min(start + size, rows))
        points, radius, low, high, found = a[part], eps[part], lower[part], upper[part], out[part]
        if p == 1:
            solved = fast_l1(points, radius, low, high, scratch.rows(points.shape[0]), found)
        else:
            solved = fast_l2(points, radius, low, high, found)
        if not bool(solved.all()):
            left = (~solved).nonzero()[:, 0]
            found[left] = _solve_exactly(points[left], p, radius[left], low[left], high[left])
    return out


def _solve_exactly(a: Tensor, p: float, eps: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    d, low, high = a.double(), lower.double(), upper.double()
    exact = exact_l1 if p == 1 else exact_l2
    magnitude = exact(d.abs(), torch.where(d > 0, high, -low), eps.double())
    return toward_zero(torch.clamp(torch.copysign(magnitude, d), low, high), a.dtype)


def fast_l2(a: Tensor, eps: Tensor, lower: Tensor, upper: Tensor, out: Tensor) -> Tensor:
    """Solve (22), d = clip(s a), on t = s^2; write d to ``out`` and return the solved rows, (R, 1).

    g(t) = ||clip(sqrt(t) a)||^2 is concave, increasing, piecewise linear and 0 at 0. From t = eps^2 / ||a||^2, where
    g(t) <= eps^2, the secants, first through 0, climb monotonically; 3 to 5 evaluations suffice. Every evaluation is
    three passes over ``out``: a slope would cost as much as an evaluation, and another buffer its page faults.
    """
    tol, on_cpu = TOLERANCES[a.dtype], a.device.type == "cpu"
    # one number a row: on a processor NumPy calls cost a quarter of torch's, and round alike
    xp: Any = np if on_cpu else torch
    own = (lambda column: column.numpy()) if on_cpu else (lambda column: column)
    radius, total, one = own(eps), own(_square_sum(a)), own(eps.new_ones(1))
    with np.errstate(all="ignore"):
        target = radius * radius
        # A quarter of the tolerance is left for the rounding of t + gap / slope.
        close = 0.75 * tol.solved * target
        t = xp.where(total > target * (1 + tol.inside), target / total, one)
        move, last, slope = t, 0 * t, total
        step = 0
        while True:
            scale = torch.as_tensor(t).sqrt()  # as rounded as ever: that of NumPy differs in the last place
            reached = own(_square_sum(torch.clamp(torch.mul(a, scale, out=out), lower, upper, out=out)))
            gap = target - reached
            # Nearer points would give the rounding of the sums.
            slope = xp.where(abs(move) > 1e-4 * t, (reached - last) / move, slope)
            move = xp.minimum(t + gap / slope, one) - t
            unsolved = (abs(move) * slope) > close
            if step == 15 or not bool(unsolved.any()):
                break
            t, last = xp.where(unsolved, t + move, t), reached
            step += 1
        solved = (abs(gap) <= tol.solved * target) | ((t == 1) & (gap > 0))
        # Where almost all of the norm sits on the box, the root is sensitive to rounding in the sums.
        solved &= ((20 * t * slope >= target) | (t == 1)) & _usable(radius, tol)
    return torch.as_tensor(solved)


def _square_sum(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=1, keepdim=True).square_()


def fast_l1(a: Tensor, eps: Tensor, lower: Tensor, upper: Tensor, scratch: Scratch, out: Tensor) -> Tensor:
    """Solve (21), |d| = min(max(|a| - lam, 0), b); write d to ``out`` and return the solved rows, (R, 1).

    Newton inside a bracket until the norms are within 0.1 %, then Newton on the re-centred |a| - lam, in which the
    rounding of lam no longer counts.
    """
    tol, (m, b, moved) = TOLERANCES[a.dtype], scratch
    _caps(a, eps, lower, upper, b).abs_()
    torch.abs(a, out=m)
    total = torch.minimum(m, b, out=out).sum(1, keepdim=True)
    outside = (total > eps * (1 + tol.inside)).to(a.dtype)
    gap = _approach(m, b, eps, outside, moved, out)
    step = 0
    while True:
        solved = gap.abs() <= tol.solved * eps
        if step == 7 or bool(solved.all()):
            break
        active = torch.eq(moved, out, out=m).sum(1, keepdim=True)
        moved.sub_(gap / active.clamp_min(1))
        gap = _excess(moved, b, eps, outside, out)
        step += 1
    torch.copysign(out, a, out=out)
    # With few active coordinates, the rounding of a large sum falls on each of them: one small step must cross the
    # radius. Rows that count as inside may take twice the step, so that a projected row is left alone.
    side = torch.where(gap < 0, -1, 1)
    moved.sub_(side * (2 - outside) * tol.probe * (eps / a.shape[1]).clamp_min(1))
    beyond = torch.minimum(moved, b, out=m).clamp_min_(0).sum(1, keepdim=True) - eps
    crossed = beyond * side <= -tol.solved * eps
    return solved & (crossed | (total <= eps * (1 - 2 * tol.solved))) & _usable(eps, tol)


def _approach(m: Tensor, b: Tensor, eps: Tensor, outside: Tensor, moved: Tensor, out: Tensor) -> Tensor:
    """Bring every row's norm within 0.1 % of the radius; leave |a| - lam in ``moved`` and return the excess."""
    low, high = torch.zeros_like(eps), m.amax(1, keepdim=True) * outside
    lam = low
    step = 0
    while True:
        gap = _excess(torch.sub(m, lam, out=moved), b, eps, outside, out)
        if step == 11 or bool((gap.abs() <= 1e-3 * eps).all()):
            break
        active = moved.eq_(out).sum(1, keepdim=True)
        above = gap > 0
        low, high = torch.where(above, lam, low), torch.where(above, high, lam)
        # Newton on the logarithm: the norm falls off like an exponential, or faster, as lam grows.
        newton = lam + (gap + eps) * torch.log1p(gap / eps) / active.clamp_min(1)
        lam = torch.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
        step += 1
    return gap


def _excess(moved: Tensor, b: Tensor, eps: Tensor, outside: Tensor, out: Tensor) -> Tensor:
    """Write min(max(moved, 0), b) to ``out`` and return its sum less the radius, 0 for rows that start inside."""
    return (torch.minimum(moved, b, out=out).clamp_min_(0).sum(1, keepdim=True) - eps) * outside


def _caps(a: Tensor, eps: Tensor, lower: Tensor, upper: Tensor, out: Tensor) -> Tensor:
    """Write the bound on the side of ``a``, with its sign, no further out than twice the radius."""
    return torch.clamp(torch.copysign(2 * eps, a, out=out), lower, upper, out=out)


def _usable(eps: Any, tol: Tolerance) -> Any:
    return ((eps > tol.small) & (eps < tol.large)) | (eps == 0)
