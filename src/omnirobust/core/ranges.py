"""What differs from feature to feature: the ends of the data range, the unit of a change, what may change at all.

Threat models whose bounds are two finite numbers, and that have no scale, ask nothing of this file.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, TypeAlias

import torch
from torch import Tensor

from omnirobust.core.arguments import is_number

Bound: TypeAlias = float | Tensor
Bounds: TypeAlias = tuple[Bound, Bound]
"""(lower, upper): numbers, or tensors that broadcast to one input; infinite where there is none."""

_ROUNDING = 1e-6
"""How far inputs may stick out of the range of a feature, in units of its width, or of its finite end."""


def checked_bounds(bounds: Any) -> Bounds:
    """Return (lower, upper) as two numbers, or as two tensors of one dtype.

    Raises:
        TypeError: if they are no numbers and no tensors of numbers.
        ValueError: if one is NaN, or the lower ones are not below the upper ones; tensors may have equal ends.
    """
    for bound in bounds:
        if not is_number(bound) and not (isinstance(bound, Tensor) and _of_numbers(bound)):
            raise TypeError(f"bounds must be two numbers (lo, hi), got {bounds!r}")
    if not any(isinstance(bound, Tensor) for bound in bounds):
        low, high = bounds
        if not low < high or low == math.inf or high == -math.inf:
            raise ValueError(f"bounds must be (lo, hi) with lo < hi, got {tuple(bounds)}")
        return low, high
    low, high = (torch.as_tensor(bound).detach() for bound in bounds)
    dtype = torch.promote_types(torch.promote_types(low.dtype, high.dtype), torch.float32)
    device = low.device if bounds[0] is low or isinstance(bounds[0], Tensor) else high.device
    low, high = low.to(device, dtype), high.to(device, dtype)
    try:
        apart = high - low
    except RuntimeError:
        raise ValueError(
            f"bounds must broadcast to each other, got shapes {(*low.shape,)} and {(*high.shape,)}"
        ) from None
    wrong = ~((apart >= 0) & (low < math.inf) & (high > -math.inf))
    if bool(wrong.any()) or not bool((apart > 0).any()):
        at = _first(wrong if bool(wrong.any()) else wrong.new_ones(wrong.shape))
        ends = [float(end.expand(apart.shape)[at]) for end in (low, high)]
        raise ValueError(f"bounds must be (lo, hi) with lo <= hi everywhere, got {ends[0]:g}, {ends[1]:g} at {at}")
    return low, high


def checked_scale(scale: Any) -> Bound:
    """Return the unit of each feature.

    Raises:
        TypeError: if it is no number and no tensor of numbers.
        ValueError: if it is not finite and > 0 everywhere.
    """
    if not is_number(scale) and not (isinstance(scale, Tensor) and _of_numbers(scale)):
        raise TypeError(f"scale must be a number or a tensor of numbers, got {scale!r}")
    values = torch.as_tensor(scale).detach()
    fits = (values > 0) & (values < math.inf)
    if not bool(fits.all()):
        raise ValueError(f"scale must be finite and > 0, got {float(values[~fits].flatten()[0]):g}")
    return values if isinstance(scale, Tensor) else float(scale)


def _of_numbers(values: Tensor) -> bool:
    return values.dtype != torch.bool and not values.is_complex()


def _first(flags: Tensor) -> tuple[int, ...]:
    return tuple(flags.nonzero()[0].tolist())


def one_input(name: str, value: Bound, like: Tensor) -> Bound:
    """Return a number as it is, a tensor on the device of ``like`` (B, *S) and in float32 at least.

    Raises:
        ValueError: if it does not broadcast to one input, *S.
    """
    if not isinstance(value, Tensor):
        return value
    wanted = like.shape[1:]
    try:
        fits = torch.broadcast_shapes(value.shape, wanted) == wanted
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"{name} must broadcast to one input, {tuple(wanted)}, got shape {tuple(value.shape)}")
    return value.to(like.device, torch.promote_types(like.dtype, torch.float32))


def is_finite(bounds: Bounds) -> bool:
    """Say whether every feature has two ends."""
    return all(math.isfinite(b) if not isinstance(b, Tensor) else bool(b.isfinite().all()) for b in bounds)


def check_within(x: Tensor, bounds: Bounds) -> None:
    """Raise a ValueError that names the first feature of ``x`` (..., *S), finite, that lies outside its bounds."""
    low, high = (torch.as_tensor(b, dtype=x.dtype, device=x.device) for b in bounds)
    size = torch.where(low.isfinite(), low.abs(), 0).maximum(torch.where(high.isfinite(), high.abs(), 0))
    slack = _ROUNDING * torch.where((high - low).isfinite(), torch.maximum(high - low, size), size.clamp_min(1))
    out = (x < low - slack) | (x > high + slack)
    if bool(out.any()):
        at = _first(out)
        ends = [float(end.expand_as(x)[at]) for end in (low, high)]
        raise ValueError(
            f"x must lie in bounds, got {float(x[at]):.4g} at {at}, whose bounds are [{ends[0]:g}, {ends[1]:g}]; "
            "normalisation belongs inside the model, so that eps keeps its meaning"
        )


def widths(bounds: Bounds, scale: Bound | None, eps: float | Tensor, like: Tensor) -> Tensor:
    """Return how wide each feature's range is, for noise; where it has none, ten radii, so that noise fills the ball.

    Args:
        bounds: of the data.
        scale: unit of each feature; None for 1.
        eps: radius, a number or (B,).
        like: (B, *S), whose dtype and device the answer has.

    Returns:
        What broadcasts to (B, *S), finite.
    """
    low, high = (one_input("bounds", b, like) for b in bounds)
    width = torch.as_tensor(high - low, dtype=like.dtype, device=like.device)
    radius = torch.as_tensor(eps, dtype=like.dtype, device=like.device).reshape(-1, *[1] * (like.ndim - 1))
    unit = 1.0 if scale is None else one_input("scale", scale, like)
    return torch.where(width.isfinite(), width, (10 * radius * unit).to(like))


def common_width(bounds: Bounds, scale: Bound | None, axes: str) -> float:
    """Return how wide the range of every feature is in its unit: one number for all.

    Args:
        bounds: of the data.
        scale: unit of each feature; None for 1.
        axes: what wants to know, for the message.

    Raises:
        ValueError: if there is none, for a range has no end, or they differ.
    """
    low, high = (torch.as_tensor(b, dtype=torch.float64).cpu() for b in bounds)
    width = (high - low) / torch.as_tensor(1.0 if scale is None else scale, dtype=torch.float64).cpu()
    least, most = float(width.min()), float(width.max())
    if not most < math.inf or most - least > _ROUNDING * most:
        raise ValueError(
            f"{axes} needs one finite width for the range of all features, since its step sizes are those of data in "
            f"[0, 1], got widths from {least:g} to {most:g} in units of scale: give finite bounds and "
            "scale=upper - lower, or leave the preset out"
        )
    return most


def described(value: Any) -> Any:
    """Return a bound, a scale or a mask as plain values for a record: of a tensor its shape, ends and digest."""
    if not isinstance(value, Tensor):
        return value if value is None or math.isfinite(value) else str(value)
    plain = value.detach().cpu().contiguous()
    told: dict[str, Any] = {"shape": list(plain.shape), "sha256": digest(plain)}
    if plain.dtype != torch.bool and plain.numel():
        told |= {"least": described(float(plain.min())), "most": described(float(plain.max()))}
    return told


def digest(value: Tensor) -> str:
    """Return a hash of a tensor's type, shape and values."""
    plain = value.detach().cpu().contiguous()
    found = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)}".encode())
    found.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:32]


def same(a: Any, b: Any) -> bool:
    """Say whether two bounds, scales or masks are equal: tensors with all that they hold, numbers as numbers."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        if a is None or b is None:
            return False
        a, b = torch.as_tensor(a), torch.as_tensor(b)
        return a.shape == b.shape and bool((a.cpu() == b.cpu()).all())
    return a == b


def in_8_bits(images: Tensor, bounds: Bounds) -> Tensor | None:
    """Return images as they are in a file of 8 bits; None where features differ in their ranges or have none."""
    low, high = bounds
    if isinstance(low, Tensor) or isinstance(high, Tensor) or not high - low < math.inf:
        return None
    return to_levels(images, low, high)


def to_levels(images: Tensor, low: float = 0.0, high: float = 1.0, levels: int = 256) -> Tensor:
    """Round ``images`` in [low, high] to ``levels`` equally spaced values, as saving them in 8 bits does."""
    scale = (levels - 1) / (high - low)
    return ((images - low) * scale).round() / scale + low
