"""Transformations that lose detail: Gaussian blur, and the compression of JPEG."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, pi
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from omnirobust.domains.transforms.base import Amount, Columns, ImageTransform, check_amount, check_bounds, per_image
from omnirobust.domains.transforms.geometry import along_axes

_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99), *((99,) * 8,) * 4,
)  # fmt: skip
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


@dataclass(frozen=True)
class Blur(ImageTransform):
    """Blur by a Gaussian: every pixel becomes the mean of the image, weighted by exp(-distance^2 / (2 sigma^2)).

    At the edges the weights are those of the pixels that are there: nothing is made up outside the image.

    Args:
        sigma: standard deviation in pixels, >= 0.
    """

    short: ClassVar[str] = "blur"
    amounts: ClassVar[tuple[str, ...]] = ("sigma",)

    sigma: Amount = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_amount("sigma", self.sigma, 0.0, inf)

    def _change(self, x: Tensor, columns: Columns) -> Tensor:
        sigma = columns.amount(self.sigma)
        return along_axes(x, *(_gaussian(sigma, size) for size in x.shape[2:]))


@dataclass(frozen=True)
class Jpeg(ImageTransform):
    """Compress as JPEG does and decompress: round the cosine coefficients of 8 x 8 blocks to the steps of a quality.

    Baseline tables, colours at full resolution (4:4:4), without the final rounding to 8 bits. Values are those of
    real rounding; the gradient is that of the smooth round(c) + (c - round(c))^3. Images of three channels are taken
    for red, green and blue, others are compressed channel by channel as grey. Sides that are no multiple of 8 are
    continued by their last row and column.

    Args:
        quality: in [1, 100]; drawn qualities are rounded to whole ones.
        bounds: range of the data, (low, high), which stands for 0 to 255.

    Reference: the rounding, Shin and Song, "JPEG-resistant adversarial images", 2017.
    """

    short: ClassVar[str] = "jpeg"
    amounts: ClassVar[tuple[str, ...]] = ("quality",)

    quality: Amount = 75.0
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_amount("quality", self.quality, 1.0, 100.0)
        check_bounds(self.bounds)

    def _change(self, x: Tensor, columns: Columns) -> Tensor:
        low, high = self.bounds
        height, width = x.shape[2:]
        levels = (x - low) * (255 / (high - low))
        levels = F.pad(levels, (0, -width % 8, 0, -height % 8), mode="replicate")
        coloured = x.shape[1] == 3
        planes = _mix_channels(levels, levels.new_tensor(_TO_YCC)) if coloured else levels
        planes = _quantised(planes, columns.amount(self.quality).round(), coloured)
        levels = _mix_channels(planes, planes.new_tensor(_TO_YCC).inverse()) if coloured else planes
        return low + levels[:, :, :height, :width].clamp(0, 255) * ((high - low) / 255)


def _gaussian(sigma: Tensor, size: int) -> Tensor:
    """Return the weights of a blur along one axis, (n, size, size), every row summing to 1."""
    pixels = torch.arange(size, dtype=sigma.dtype, device=sigma.device)
    distance = (pixels.unsqueeze(1) - pixels) / sigma.clamp_min(1e-3).view(-1, 1, 1)
    # beyond six sigma weights are below rounding, and further out so small that processors slow down on them
    return (-distance.square() / 2).masked_fill(distance.abs() > 6, -torch.inf).softmax(dim=2)


def _mix_channels(x: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("nchw,dc->ndhw", x, matrix)


def _quantised(planes: Tensor, quality: Tensor, coloured: bool) -> Tensor:
    """Round the block cosine coefficients of ``planes`` (n, C, 8h, 8w) by the tables of ``quality`` (n or 1,)."""
    n, channels, height, width = planes.shape
    others = _CHROMINANCE if coloured else _LUMINANCE
    tables = planes.new_tensor([_LUMINANCE, *[others] * (channels - 1)]).view(channels, 1, 1, 64)
    percent = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    steps = ((tables * percent.view(-1, 1, 1, 1, 1) + 50) / 100).floor().clamp(1, 255)
    # 128, the level that JPEG shifts to 0, is where colour planes already have their 0
    shift = per_image(planes.new_tensor([128.0])) * (_first_channel(channels, planes) if coloured else 1)
    blocks = (planes - shift).view(n, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    cosines = torch.kron(_cosines(planes), _cosines(planes))
    coefficients = _rounded(blocks.reshape(*blocks.shape[:4], 64) @ cosines.mT / steps) * steps
    return (coefficients @ cosines).view(blocks.shape).transpose(3, 4).reshape(planes.shape) + shift


def _first_channel(channels: int, like: Tensor) -> Tensor:
    return (torch.arange(channels, device=like.device) == 0).to(like.dtype).view(1, -1, 1, 1)


def _cosines(like: Tensor) -> Tensor:
    """Return the orthonormal cosine transform of 8 points, (8, 8)."""
    k = torch.arange(8, dtype=like.dtype, device=like.device)
    waves = torch.cos(pi / 8 * k.unsqueeze(1) * (k + 0.5)) / 2
    return torch.cat([waves[:1] / 2**0.5, waves[1:]])


def _rounded(c: Tensor) -> Tensor:
    whole = c.detach().round()
    smooth = whole + (c - whole).pow(3)
    return smooth + (whole - smooth).detach()
