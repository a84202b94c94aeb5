"""What a projection asks of its arguments, each refusal in one sentence."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

from omnirobust._types import norm_name

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
    """Raise a TypeError unless ``eps`` is a number or a tensor."""
    if isinstance(eps, bool) or not isinstance(eps, (Real, Tensor)):
        raise TypeError(f"eps must be a number or a tensor, got {eps!r} ({type(eps).__name__})")


def _check_bound(name: str, bound: Bound, side: int, like: Tensor) -> None:
    """Raise unless the bound lies on its side of 0 and broadcasts to the points; NaN fails the comparison."""
    if not isinstance(bound, (Real, Tensor)):
        raise TypeError(f"{name} must be a number or a tensor, got {type(bound).__name__}")
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
