"""A model's own preprocessing as a module in front of it, so that attacks see images in [0, 1] of any size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate, repeat
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

Interpolation: TypeAlias = Literal["nearest", "bilinear", "bicubic"]

SLACK = 1e-5
"""How far beyond [0, 1] a resized image may lie: white resized is 1 give or take rounding, and keeps its gradients."""


@dataclass(frozen=True)
class Preprocessing:
    """How a model wants its images.

    Attributes:
        mean: subtracted from each channel of images in [0, 1].
        std: divides each channel then, > 0.
        size: (height, width) that the model takes; None for any.
        resize: what images of another size are resized to before the centre of ``size`` is cut out of them: (height,
            width), or one number for the shorter side; None to take them as they are.
        interpolation: of the resizing, as Pillow does it; bilinear and bicubic are antialiased.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None = None
    resize: tuple[int, int] | int | None = None
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(f"std must have one value for each of mean, {len(self.mean)}, got {len(self.std)}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be > 0, got {min(self.std)}")
        if self.interpolation not in ("nearest", "bilinear", "bicubic"):
            raise ValueError(f"interpolation must be nearest, bilinear or bicubic, got {self.interpolation!r}")
        sides = [*(self.size or ()), *([self.resize] if isinstance(self.resize, int) else self.resize or ())]
        if min(sides, default=1) < 1:
            raise ValueError(f"size and resize must be >= 1 pixel, got {min(sides)}")


class Preprocessed(nn.Module):
    """A classifier of images in [0, 1] of any size: resize, cut, (x - mean) / std, then the model.

    Gradients flow through all of it; they are zero where bicubic resizing overshoots the range, which Pillow cuts off.
    The model is given what Pillow makes of the same pixels, up to its rounding twice to whole levels of 255. Images
    that have the model's size already are only normalised. Grey images are repeated for models of several channels.

    Args:
        model: maps preprocessed images to logits, or to an object with ``.logits``.
        preprocessing: what it expects.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model = model
        self.preprocessing = preprocessing
        self.register_buffer("mean", torch.tensor(preprocessing.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(preprocessing.std)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images (B, C, H, W), (B, classes)."""
        output = self.model(self.prepare(x))
        return getattr(output, "logits", output)

    def prepare(self, x: Tensor) -> Tensor:
        """Return what the model is given for images (B, C, H, W) in [0, 1].

        Raises:
            ValueError: if the images have neither one channel nor those of the model.
        """
        channels = len(self.mean)
        if x.ndim != 4 or x.shape[1] not in (1, channels):
            raise ValueError(f"x must be images (B, {channels} or 1, height, width), got {tuple(x.shape)}")
        sized = self._sized(x).expand(-1, channels, -1, -1)
        return (sized - self.mean.to(x.dtype)) / self.std.to(x.dtype)

    def _sized(self, x: Tensor) -> Tensor:
        wanted = self.preprocessing
        if wanted.resize is None or tuple(x.shape[2:]) == wanted.size:
            return x
        height, width = _goal(tuple(x.shape[2:]), wanted.resize)
        x = _resampled(x, height, width, wanted.interpolation)
        if wanted.size is None:
            return x
        top, left = (round((there - kept) / 2) for there, kept in zip((height, width), wanted.size, strict=True))
        return x[:, :, top : top + wanted.size[0], left : left + wanted.size[1]]


def _resampled(x: Tensor, height: int, width: int, interpolation: Interpolation) -> Tensor:
    """Resize images (B, C, H, W) in [0, 1] as Pillow does, with the gradients of what is computed.

    Pillow resizes rows, then columns, and after each rounds to whole pixels of 0 to 255: bicubic overshoot is cut off
    twice, and clamping once at the end differs by several levels at sharp edges. Its rounding is left out: a rounded
    image has no gradients.
    """
    if interpolation == "nearest":
        rows, columns = (_nearest_pixels(*sides) for sides in zip(x.shape[2:], (height, width), strict=True))
        return x[:, :, rows][:, :, :, columns]
    for size in ((x.shape[2], width), (height, width)):
        if size != tuple(x.shape[2:]):
            x = interpolate(x, size, mode=interpolation, antialias=True)
            if interpolation == "bicubic":
                x = x.clamp(-SLACK, 1 + SLACK)
    return x


def _nearest_pixels(side: int, wanted: int) -> list[int]:
    """Return the pixels, of ``side``, in which the centres of ``wanted`` ones lie; summed up in Pillow's order."""
    step = side / wanted
    return [min(int(centre), side - 1) for centre in accumulate(repeat(step, wanted - 1), initial=step / 2)]


def _goal(sides: tuple[int, ...], resize: tuple[int, int] | int) -> tuple[int, int]:
    if not isinstance(resize, int):
        return resize
    short = min(sides)
    height, width = (resize if side == short else int(resize * side / short) for side in sides)
    return height, width


def preprocessing_of_timm(config: dict[str, Any]) -> Preprocessing:
    """Read what ``timm.data.resolve_model_data_config`` says of a model.

    Raises:
        ValueError: for a way of cutting that is not known here.
    """
    size = tuple(config["input_size"][1:])
    scaled = tuple(math.floor(side / config["crop_pct"]) for side in size)
    if config["crop_mode"] not in ("center", "squash"):
        raise ValueError(f"crop_mode must be center or squash, got {config['crop_mode']!r}")
    # Of images that are as oblong as the model's input, both ways make the same.
    shorter = config["crop_mode"] == "center" and size[0] == size[1]
    return Preprocessing(
        tuple(config["mean"]), tuple(config["std"]), size,  # type: ignore[arg-type]
        scaled[0] if shorter else scaled,  # type: ignore[arg-type]
        _nearest_known(config["interpolation"]),
    )  # fmt: skip


def preprocessing_of_hf(config: dict[str, Any]) -> Preprocessing:
    """Read the settings of an image processor of ``transformers``, as its ``to_dict`` gives them.

    Raises:
        ValueError: if they do not say how large images must be.
    """
    mean, std = _normalisation(config)
    names = {0: "nearest", 2: "bilinear"}
    resample = config.get("resample")
    interpolation = _nearest_known(names.get(2 if resample is None else int(resample), "bicubic"))
    resize = _size_of(config["size"]) if config.get("do_resize") else None
    size = _size_of(config["crop_size"]) if config.get("do_center_crop") else None
    if isinstance(resize, int) and "ConvNext" in str(config.get("image_processor_type")):
        # Below 384 pixels that family cuts out a part; from there on it squashes.
        size, percent = (resize, resize), float(config.get("crop_pct") or 224 / 256)
        resize = int(resize / percent) if resize < 384 else size
    if isinstance(size, int):
        size = (size, size)
    if size is None and isinstance(resize, tuple):
        size = resize
    return Preprocessing(mean, std, size, resize, interpolation)


def _normalisation(config: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Fold rescaling and normalising of pixels 0 to 255 into a mean and a deviation of pixels in [0, 1]."""
    factor = 255 * float(config.get("rescale_factor") or 1 / 255) if config.get("do_rescale", True) else 255.0
    offset = -1.0 if config.get("rescale_offset") else 0.0
    normal = bool(config.get("do_normalize"))
    means = tuple(config["image_mean"]) if normal else (0.0, 0.0, 0.0)
    stds = tuple(config["image_std"]) if normal else (1.0, 1.0, 1.0)
    last = stds if config.get("include_top") and normal else (1.0,) * len(stds)  # EfficientNet divides twice
    return (
        tuple((mean - offset) / factor for mean in means),
        tuple(std * again / factor for std, again in zip(stds, last, strict=True)),
    )


def _size_of(size: Any) -> tuple[int, int] | int:
    if isinstance(size, int):
        return size, size
    if size.get("height") and size.get("width"):
        return int(size["height"]), int(size["width"])
    if size.get("shortest_edge"):
        return int(size["shortest_edge"])
    raise ValueError(f"size must have height and width, or shortest_edge, got {size}")


def _nearest_known(interpolation: str) -> Interpolation:
    """Return the interpolation, or bicubic for those that torch has no gradients of, such as lanczos."""
    return interpolation if interpolation in ("nearest", "bilinear") else "bicubic"  # type: ignore[return-value]
