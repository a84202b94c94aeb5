"""Transformations that change values and leave pixels where they are."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import ClassVar

from torch import Tensor

from omnirobust.core.draws import normals_from
from omnirobust.domains.transforms.base import Amount, Columns, ImageTransform, check_amount, check_bounds, per_image

_TOE = 1e-4
"""Below this share of the range, gamma correction is a straight line: powers below 1 have infinite slope at 0."""


@dataclass(frozen=True)
class Identity(ImageTransform):
    """Leave images as they are: the paper's ori."""

    short: ClassVar[str] = "ori"

    def _change(self, x: Tensor, columns: Columns) -> Tensor:
        return x


@dataclass(frozen=True)
class Brightness(ImageTransform):
    """Add an amount to every pixel: x + amount, the paper's bri, as ``tf.image.adjust_brightness`` does.

    Without ``bounds`` nothing is clipped, which is what the paper's transformation does with floats: the data range is
    not known here, and saturated pixels would have no gradient. With ``bounds`` pixels saturate, as in a photograph.

    Args:
        amount: what is added, in units of the data; negative darkens.
        bounds: (low, high) to clip to, or None.
    """

    short: ClassVar[str] = "bri"
    amounts: ClassVar[tuple[str, ...]] = ("amount",)

    amount: Amount = 0.1
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_amount("amount", self.amount, -inf, inf)
        if self.bounds is not None:
            check_bounds(self.bounds)

    def _change(self, x: Tensor, columns: Columns) -> Tensor:
        return _clipped(x + per_image(columns.amount(self.amount)), self.bounds)


@dataclass(frozen=True)
class Gamma(ImageTransform):
    """Raise pixels to a power: x^gamma, the paper's gam, as ``tf.image.adjust_gamma`` does.

    On another range than [0, 1], low + (high - low) ((x - low) / (high - low))^gamma. Pixels below the range count as
    its lower end; the lowest ten-thousandth of the range is a straight line, so that gradients stay finite.

    Args:
        gamma: > 0; above 1 darkens.
        bounds: range of the data, (low, high).
    """

    short: ClassVar[str] = "gam"
    amounts: ClassVar[tuple[str, ...]] = ("gamma",)

    gamma: Amount = 1.3
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_amount("gamma", self.gamma, 1e-3, 1e3)
        check_bounds(self.bounds)

    def _change(self, x: Tensor, columns: Columns) -> Tensor:
        low, width = self.bounds[0], self.bounds[1] - self.bounds[0]
        gamma = per_image(columns.amount(self.gamma))
        share = (x - low) / width
        curve = share.clamp_min(_TOE).pow(gamma)
        line = (share.clamp(0, _TOE) - _TOE) * _TOE ** (gamma - 1)  # nothing where the curve holds
        return low + width * (curve + line)


@dataclass(frozen=True)
class Noise(ImageTransform):
    """Add normal noise, drawn for every pixel: x + std n, n ~ N(0, 1). Always random.

    Args:
        std: standard deviation, >= 0, in units of the data.
        bounds: (low, high) to clip to, or None.
    """

    short: ClassVar[str] = "noise"
    amounts: ClassVar[tuple[str, ...]] = ("std",)
    seeds: ClassVar[int] = 2

    std: Amount = 0.05
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_amount("std", self.std, 0.0, inf)
        if self.bounds is not None:
            check_bounds(self.bounds)

    def _change(self, x: Tensor, columns: Columns) -> Tensor:
        noise = normals_from(columns.take(2), x[0].numel() if len(x) else 0).view(x.shape).to(x)
        return _clipped(x + per_image(columns.amount(self.std)) * noise, self.bounds)


def _clipped(x: Tensor, bounds: tuple[float, float] | None) -> Tensor:
    return x if bounds is None else x.clamp(*bounds)
