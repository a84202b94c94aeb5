"""Exact Euclidean projections: the probability simplex, and an lp ball intersected with a box (Proposition 1).

Every lp projection solves, for each row of a batch,

    minimise ||d - a||_2   subject to   ||d||_p <= eps,   lower <= d <= upper,        lower <= 0 <= upper.

Only the bound on the side of a_i can bind, so with m = |a| and b the distance from 0 to that bound the solution is
d = sign(a) * y with 0 <= y <= b, and one number a row remains to be found:

    p = inf   y = min(m, b, eps)
    p = 2     y = min(s m, b)             with s in [0, 1] such that ||y||_2 = eps             (22)
    p = 1     y = min(max(m - lam, 0), b) with lam >= 0 such that ||y||_1 = eps                (21)
    p = 0     y = min(m, b) on the floor(eps) coordinates of largest gain, 0 elsewhere         (23)

unless min(m, b) is inside the ball already. The functions named ``*_unchecked`` are for loops that have checked
their arguments once; they never modify their arguments either.

Low precision (float16, bfloat16) is computed in float32 and rounded towards zero, so that the result stays feasible.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from omnirobust.core._lp_roots import solve_rows
from omnirobust.core._lp_roots import toward_zero as toward_zero
from omnirobust.core.arguments import is_number, norm_name

Bound = Tensor | float


def check_lp_box(p: float, eps: float | Tensor, lower: Bound, upper: Bound, like: Tensor) -> None:
    """Raise a ValueError unless ``p``, ``eps`` and the box fit points shaped as ``like`` (B, *S)."""
    norm_name(p)
    check_floating("a", like)
    if like.ndim < 1:
        raise ValueError("a must have shape (B, *S), got a scalar")
    check_radius_type(eps)
    radius = torch.as_tensor(eps)
    if radius.ndim > 0 and tuple(radius.shape) != (like.shape[0],):
        raise ValueError(f"eps must be a number or have shape ({like.shape[0]},), got {tuple(radius.shape)}")
    if not bool((radius >= 0).all()):
        raise ValueError(f"eps must be >= 0, got {_worst(radius)}")
    _check_bound("lower", lower, -1, like)
    _check_bound("upper", upper, 1, like)


def check_floating(name: str, value: Tensor) -> None:
    """Raise a ValueError unless ``value`` is a floating tensor."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name} must be a floating point tensor, got {kind}")


def check_finite(name: str, value: Tensor) -> None:
    """Raise a ValueError that shows the first value that is not finite."""
    if not bool(torch.isfinite(value).all()):
        bad = value[~torch.isfinite(value)].flatten()[0].item()
        raise ValueError(f"{name} must be finite, got {bad}")


def check_radius_type(eps: object) -> None:
    """Raise a TypeError unless ``eps`` is a number or a tensor of numbers."""
    if not is_number(eps) and not isinstance(eps, Tensor):
        raise TypeError(f"eps must be a number or a tensor, got {eps!r} ({type(eps).__name__})")
    if isinstance(eps, Tensor) and (eps.dtype == torch.bool or eps.is_complex()):
        raise TypeError(f"eps must be a number or a tensor of numbers, got one of {eps.dtype}")


def _check_bound(name: str, bound: Bound, side: int, like: Tensor) -> None:
    """Raise unless the bound lies on its side of 0 and broadcasts to the points; NaN fails the comparison."""
    if not is_number(bound) and not isinstance(bound, Tensor):
        raise TypeError(f"{name} must be a number or a tensor, got {type(bound).__name__}")
    if isinstance(bound, Tensor) and bound.dtype == torch.bool:
        raise TypeError(f"{name} must be a number or a tensor of numbers, got one of {bound.dtype}")
    value = torch.as_tensor(bound)
    try:
        fits = torch.broadcast_shapes(value.shape, like.shape) == like.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"{name} must broadcast to {tuple(like.shape)}, got {tuple(value.shape)}")
    if not bool((value * side >= 0).all()):
        sign = "<=" if side < 0 else ">="
        bad = value[~(value * side >= 0)].flatten()[0].item()
        raise ValueError(f"{name} must be {sign} 0, got {bad}")


def _worst(radius: Tensor) -> float:
    return float(radius[~(radius >= 0)].flatten()[0])


_FEW_DOMAINS = 16
"""Up to this K the simplex projection compares all pairs, which is faster than sorting."""


def project_simplex(v: Tensor) -> Tensor:
    """Project the last axis onto the probability simplex.

        minimise ||w - v||_2   subject to   w >= 0, sum_k w_k = 1;      w = (v - mu)_+                (14)

    Args:
        v: any finite values, (..., K), K >= 1, floating.

    Returns:
        The nearest point of the simplex, (..., K).

    Raises:
        ValueError: if ``v`` is not a floating tensor with K >= 1 finite values in its last axis.
    """
    check_floating("v", v)
    if v.ndim == 0 or v.shape[-1] == 0:
        raise ValueError(f"v must have shape (..., K) with K >= 1, got {tuple(v.shape)}")
    check_finite("v", v)
    return simplex_unchecked(v)


def simplex_unchecked(v: Tensor) -> Tensor:
    """Project as ``project_simplex`` does, without its checks.

    Cost: O(K^2) a row up to K = 16, in a dozen calls; one sort beyond.
    """
    if v.dtype.itemsize < 4:
        return simplex_unchecked(v.float()).to(v.dtype)
    if v.shape[-1] > _FEW_DOMAINS:
        return simplex_by_sorting(v)
    rows = v.detach().reshape(-1, v.shape[-1])
    # Domains first: the operations then run along contiguous rows of B. Arithmetic transposes faster than a copy.
    s = torch.add(rows.t(), 0, out=v.new_empty(rows.shape[1], rows.shape[0]))
    # Values more than 1 below the greatest are never in the support, so that their size need not be kept.
    s = s.sub_(s.amax(0)).clamp_min_(-2)
    # k is in the support when sum_j max(v_j - v_k, 0) < 1; max(v_j, v_k) - v_k saves a pass.
    support = torch.maximum(s.unsqueeze(0), s.unsqueeze(1)).sum(0).sub_(s, alpha=s.shape[0]).lt_(1)
    count = support.sum(0)
    mu = support.mul_(s).sum(0).sub_(1).div_(count)
    weights = rows.new_empty(rows.shape)
    torch.clamp_min(s.sub_(mu), 0, out=weights.t())
    return weights.reshape(v.shape)


def simplex_by_sorting(v: Tensor) -> Tensor:
    """Find mu as the largest of the averages (sum of the j greatest - 1) / j: all others lie below the root."""
    v = v.detach()
    shifted = v - v.amax(-1, keepdim=True)
    ordered = shifted.sort(dim=-1, descending=True).values
    ranks = torch.arange(1, v.shape[-1] + 1, dtype=v.dtype, device=v.device)
    mu = ((ordered.cumsum(-1) - 1) / ranks).amax(-1, keepdim=True)
    return (shifted - mu).clamp_min(0)


def project_lp_box(
    a: Tensor, p: float, eps: float | Tensor, lower: Bound, upper: Bound, *, channels: int = 1
) -> Tensor:
    """Project each row of ``a`` onto the lp ball of radius ``eps`` intersected with a box.

        minimise ||d - a||_2   subject to   ||d||_p <= eps, lower <= d <= upper                      (13), (21) to (23)

    The result is exact up to rounding, not after a fixed number of bisections. For p = 0 the floor(eps) coordinates
    that reduce the distance most are kept; among equal ones the lowest index.

    Args:
        a: points, (B, *S), floating, finite.
        p: 0, 1, 2 or inf.
        eps: radius >= 0, one number or one a row (B,); inf leaves the box alone. For p = 0 a number of coordinates.
        lower: lower bounds <= 0, a number or a tensor that broadcasts to (B, *S); -inf is allowed.
        upper: upper bounds >= 0, likewise.
        channels: for p = 0, how many coordinates are counted as one: channel c of a pixel with every other channel of
            it, where each row is (channels, pixels). A pixel that is kept costs one, and gains what all of its do.

    Returns:
        The nearest feasible points, (B, *S), in the dtype of ``a``. They meet the box exactly and the ball to a
        relative 1e-6. Adding them to an image may still round past the data range by one unit in the last place.

    Raises:
        ValueError: if an argument breaks the conditions above.
        TypeError: if ``eps`` or a bound is neither a number nor a tensor.

    Cost:
        Some 20 to 35 passes over ``a`` for p = 1 and 2; p = 0 needs a selection, and a sort if the counts differ.

    Reference: Proposition 1 and Appendix B.
    """
    check_lp_box(p, eps, lower, upper, a)
    check_finite("a", a)
    if channels != 1 and (p != 0 or channels < 1 or a[:1].numel() % channels):
        raise ValueError(f"channels must be 1 unless p is 0, and divide the row {tuple(a.shape[1:])}, got {channels}")
    return lp_box_unchecked(a, p, eps, lower, upper, channels)


@torch.no_grad()
def lp_box_unchecked(a: Tensor, p: float, eps: float | Tensor, lower: Bound, upper: Bound, channels: int = 1) -> Tensor:
    """Project as ``project_lp_box`` does, without its checks."""
    if a.dtype in (torch.float16, torch.bfloat16):
        wide = lp_box_unchecked(a.float(), p, _widen(eps), _widen(lower), _widen(upper), channels)
        return toward_zero(wide, a.dtype)
    if a.numel() == 0:
        return a.clone()
    radius = torch.as_tensor(eps, dtype=a.dtype, device=a.device).expand(a.shape[0]).unsqueeze(1)
    flat, low, high = _rows(a, a), _rows(lower, a), _rows(upper, a)
    if p == math.inf:
        found = torch.clamp(flat, torch.maximum(low, -radius), torch.minimum(high, radius))
    elif p == 0:
        found = _keep_largest(flat, torch.clamp(flat, low, high), radius, channels)
    else:
        found = solve_rows(flat, p, radius, low, high)
    return found.reshape(a.shape)


def row_norm(delta: Tensor, p: float) -> Tensor:
    """Return the lp norm of every row of ``delta`` (B, *S), p in {0, 1, 2, inf}, as (B,); 0 counts non-zeros.

    Low precision is measured in float32.
    """
    flat = as_rows(delta)
    flat = flat.float() if flat.dtype.itemsize < 4 else flat
    if flat.numel() == 0:
        return flat.new_zeros(flat.shape[0])
    return torch.linalg.vector_norm(flat, ord=p, dim=1)


def as_rows(values: Tensor) -> Tensor:
    """Lay (B, *S) out as (B, n), empty batches and rows of one number included."""
    return values.unsqueeze(-1).flatten(1)


def _keep_largest(a: Tensor, boxed: Tensor, eps: Tensor, channels: int) -> Tensor:
    """Keep the floor(eps) coordinates whose clipped value gains most; of ``channels``, the pixels that do in sum.

    Coordinate i costs a_i^2 when it is set to 0 and (a_i - c_i)^2 when it is set to its clipped value c_i. The
    sum over a set of kept coordinates is least when it holds the largest differences (23), (35),

        eta_i = a_i^2 - (a_i - c_i)^2 = c_i (2 a_i - c_i) >= 0,

    which is how the text's garbled square roots have to be read: eta_i = a_i^2 inside the box.
    """
    count = eps.clamp(max=a.shape[1] // channels).floor().long()
    x, c = a.double(), boxed.double()
    if a.dtype == torch.float64:
        # A power of two keeps the products from overflowing and changes no order. From float32 they are exact.
        exponent = torch.frexp(x.abs().amax(1, keepdim=True)).exponent
        x, c = torch.ldexp(x, -exponent), torch.ldexp(c, -exponent)
    gain = c * (2 * x - c)
    if channels > 1:
        gain = gain.view(len(gain), channels, -1).sum(1)
    least = _order_statistic(gain, count)
    above, level = gain > least, gain == least
    spare = count - above.sum(1, keepdim=True)
    if bool(((level.sum(1, keepdim=True) > spare) & (least > 0)).any()):
        level &= level.cumsum(1) <= spare
    kept = (above | level) & (count > 0)
    return torch.where(kept if channels == 1 else kept.repeat(1, channels), boxed, 0)


def _order_statistic(gain: Tensor, count: Tensor) -> Tensor:
    """Return the count-th largest gain of every row, (R, 1)."""
    first, n = int(count[0]), gain.shape[1]
    if bool((count == first).all()):
        return gain.kthvalue(n - max(first, 1) + 1, dim=1, keepdim=True).values
    return gain.sort(dim=1, descending=True).values.gather(1, (count - 1).clamp_min(0))


def _rows(values: Bound, a: Tensor) -> Tensor:
    """Lay points or bounds out as one row an example, (B, n)."""
    return as_rows(torch.as_tensor(values).to(a).expand(a.shape))


def _widen(value: Bound) -> Bound:
    return value.float() if isinstance(value, Tensor) else value
