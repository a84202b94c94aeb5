"""Transformations that move pixels. All interpolate bilinearly and keep the size of the image.

Cropping, scaling and shifting act along rows and columns apart: out = R x C^T with small interpolation matrices R and
C, one pair an image. They are exact where nothing moves, and their gradients are matrix products, the same on every
run and device.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from omnirobust.domains.transforms.base import Amount, Columns, ImageTransform, check_amount


@dataclass(frozen=True)
class FlipHorizontal(ImageTransform):
    """Mirror left and right: the paper's flh. With p = 0.8, the stochastic form of its Table A5."""

    short: ClassVar[str] = "flh"

    def _change(self, x: Tensor, columns: Columns) -> Tensor:
        return x.flip(3)


@dataclass(frozen=True)
class FlipVertical(ImageTransform):
    """Turn upside down by mirroring: the paper's flv."""

    short: ClassVar[str] = "flv"

    def _change(self, x: Tensor, columns: Columns) -> Tensor:
        return x.flip(2)


@dataclass(frozen=True)
class CentralCrop(ImageTransform):
    """Cut out the centre and resize it to the size of the image: the paper's crop.

    The window is that of ``tf.image.central_crop``: floor(size (1 - ratio) / 2) whole pixels go on either side, 3 of
    32 at ratio 0.8. It is resized with half-pixel centres and no smoothing, as ``tf.image.resize`` of TensorFlow 2,
    ``interpolate(align_corners=False)`` and Pillow's plain bilinear enlargement have it; pixels outside the window do
    not enter.

    Args:
        ratio: share of height and width to keep, in (0, 1].
    """

    short: ClassVar[str] = "crop"
    amounts: ClassVar[tuple[str, ...]] = ("ratio",)

    ratio: Amount = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_amount("ratio", self.ratio, 1e-3, 1.0)

    def _change(self, x: Tensor, columns: Columns) -> Tensor:
        ratio = columns.amount(self.ratio)
        return _resampled(x, *(_window(ratio, size) for size in x.shape[2:]))


@dataclass(frozen=True)
class Scale(ImageTransform):
    """Enlarge or shrink about the centre: above 1 the edges leave the image, below 1 ``fill`` surrounds it.

    Shrinking does not smooth: below about one half, pixels are skipped.

    Args:
        factor: > 0, the same for height and width.
        fill: value around the image.
    """

    short: ClassVar[str] = "scale"
    amounts: ClassVar[tuple[str, ...]] = ("factor",)

    factor: Amount = 0.9
    fill: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_amount("factor", self.factor, 1e-3, 1e3)
        check_amount("fill", self.fill, -inf, inf, ranges=False)

    def _change(self, x: Tensor, columns: Columns) -> Tensor:
        factor = columns.amount(self.factor).unsqueeze(1)
        places = [(size - 1) / 2 + _from_centre(size, x) / factor for size in x.shape[2:]]
        return _resampled(x - self.fill, *places) + self.fill


@dataclass(frozen=True)
class Translate(ImageTransform):
    """Shift by pixels, which need not be whole; ``fill`` enters at the edges.

    Args:
        right: pixels to the right; negative goes left.
        down: pixels downwards; None for as much as to the right, drawn apart from it where that is a range.
        fill: value that enters.
    """

    short: ClassVar[str] = "shift"
    amounts: ClassVar[tuple[str, ...]] = ("right", "downwards")

    right: Amount = 2.0
    down: Amount | None = None
    fill: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_amount("right", self.right, -inf, inf)
        check_amount("down", self.downwards, -inf, inf)
        check_amount("fill", self.fill, -inf, inf, ranges=False)

    @property
    def downwards(self) -> Amount:
        """Pixels downwards."""
        return self.right if self.down is None else self.down

    def _change(self, x: Tensor, columns: Columns) -> Tensor:
        right, down = columns.amount(self.right), columns.amount(self.downwards)
        rows, cols = (torch.arange(size, dtype=x.dtype, device=x.device) for size in x.shape[2:])
        return _resampled(x - self.fill, rows - down.unsqueeze(1), cols - right.unsqueeze(1)) + self.fill


@dataclass(frozen=True)
class Rotate(ImageTransform):
    """Rotate about the centre, clockwise as the paper's rot; what enters at the corners is ``fill``.

    Args:
        degrees: clockwise where positive.
        fill: value that enters.
    """

    short: ClassVar[str] = "rot"
    amounts: ClassVar[tuple[str, ...]] = ("degrees",)

    degrees: Amount = 30.0
    fill: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_amount("degrees", self.degrees, -inf, inf)
        check_amount("fill", self.fill, -inf, inf, ranges=False)

    def _change(self, x: Tensor, columns: Columns) -> Tensor:
        if self.degrees == 0:
            return x
        angle = columns.amount(self.degrees).deg2rad().view(-1, 1, 1)
        down, right = _from_centre(x.shape[2], x).unsqueeze(1), _from_centre(x.shape[3], x)
        # each pixel takes its value from where the rotation brought it from
        rows = angle.cos() * down - angle.sin() * right
        cols = angle.sin() * down + angle.cos() * right
        # grid_sample measures from the centre, in halves of the image
        grid = torch.stack([cols * (2 / x.shape[3]), rows * (2 / x.shape[2])], dim=3)
        sampled = F.grid_sample(x - self.fill, grid.expand(len(x), -1, -1, -1), align_corners=False)
        return sampled + self.fill


def along_axes(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Return R x C^T of every channel.

    Args:
        x: (n, C, H, W).
        rows: R, (n or 1, H, H).
        cols: C, (n or 1, W, W).
    """
    return rows.unsqueeze(1) @ (x @ cols.unsqueeze(1).mT)


def _resampled(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Interpolate ``x`` where ``rows`` (n or 1, H) and ``cols`` (n or 1, W) say, in pixels; 0 lies outside."""
    return along_axes(x, _interpolation(rows, x.shape[2]), _interpolation(cols, x.shape[3]))


def _interpolation(places: Tensor, size: int) -> Tensor:
    """Return the weights max(0, 1 - |place - pixel|) of linear interpolation, (n, out, size)."""
    pixels = torch.arange(size, dtype=places.dtype, device=places.device)
    return (1 - (places.unsqueeze(2) - pixels).abs()).clamp_min(0)


def _window(ratio: Tensor, size: int) -> Tensor:
    """Return the places (n, size) that a central window of whole pixels is resized from."""
    start = ((size - size * ratio) / 2 + 1e-4).floor().unsqueeze(1)  # a hair, for ratios that are not exact in binary
    width = size - 2 * start
    centres = torch.arange(size, dtype=ratio.dtype, device=ratio.device) + 0.5
    within = (centres * (width / size) - 0.5).clamp_min(0).minimum(width - 1)
    return start + within


def _from_centre(size: int, like: Tensor) -> Tensor:
    return torch.arange(size, dtype=like.dtype, device=like.device) - (size - 1) / 2
