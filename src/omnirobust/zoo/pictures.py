"""Pictures to arrays: what Pillow decodes, turned as it is meant to be seen, never scaled by a guess."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

Size = tuple[int, int]
"""(height, width) in pixels."""

SUFFIXES = frozenset({
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm", ".pbm",
    ".pnm", ".tga", ".jp2", ".avif",
})  # fmt: skip
"""Names of files that are taken for pictures."""

_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "TGA", "JPEG2000", "AVIF")
"""What is decoded, whatever a file is called: for others, such as EPS, Pillow runs another program."""

WHITE_8, WHITE_16 = 255, 65535
"""The greatest values of 8 and 16 bits."""

_ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held."""


@dataclass(frozen=True)
class Picture:
    """One decoded picture.

    Attributes:
        pixels: (H, W) or (H, W, 3), uint8 or uint16, the greatest value of which is white.
        jpeg: whether it was stored as JPEG.
        transparent: whether it is meant to be seen through somewhere.
        animated: whether the file holds more pictures than this, its first.
    """

    pixels: np.ndarray
    jpeg: bool = False
    transparent: bool = False
    animated: bool = False


def decode(file: str | Path | BytesIO, resize: Size | None = None) -> Picture:
    """Decode one picture.

    Raises:
        ValueError: with the reason, if it is damaged, beyond Pillow's limit, or of values whose range is not known.
    """
    from PIL import Image, UnidentifiedImageError

    Image.init()
    known = [name for name in _FORMATS if name in Image.OPEN]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of broken EXIF, which stops nothing
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=known) as opened:
                picture = _decoded(opened)
    except UnidentifiedImageError as error:
        raise ValueError("it is of no known format") from error
    except Exception as error:  # decoders raise many kinds on damaged files
        raise ValueError((str(error).strip().splitlines() or [type(error).__name__])[0]) from error
    return picture if resize is None else Picture(
        resized(picture.pixels, resize), picture.jpeg, picture.transparent, picture.animated
    )  # fmt: skip


def _decoded(opened: Image.Image) -> Picture:
    animated = opened.format != "MPO" and getattr(opened, "n_frames", 1) > 1  # a phone's second picture is a preview
    opened.load()
    pixels = _turned(_plain(opened), _orientation(opened))
    return Picture(pixels, opened.format in ("JPEG", "MPO"), _transparent(opened), animated)


def _plain(picture: Image.Image) -> np.ndarray:
    """Return grey or colour values: of palettes what they show, of transparency what lies below."""
    mode = picture.mode
    if mode.startswith("I;16") or (mode == "I" and picture.format == "PPM"):  # which Pillow scales to 16 bits
        return np.asarray(picture).astype(np.uint16)
    if mode in ("I", "F"):
        kind = "32-bit integers" if mode == "I" else "floating-point values"
        raise ValueError(f"it holds {kind}, whose range is not known: save it with 8 or 16 bits a channel")
    return np.asarray(picture.convert("L" if mode in ("1", "L", "LA") else "RGB"))


def _transparent(picture: Image.Image) -> bool:
    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return False
    if picture.mode.startswith("I"):
        return True
    lowest, _ = picture.convert("RGBA").getchannel("A").getextrema()
    return lowest < 255  # pyright: ignore[reportOperatorIssue]


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # readers of EXIF raise many kinds; the pixels are whole
        return 1


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror pixels from how they are stored to how they are seen; values beyond 1 to 8 mean nothing."""
    if orientation in (5, 6, 7, 8):  # 0th row: left, right, right, left side
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def resized(pixels: np.ndarray, size: Size) -> np.ndarray:
    """Return pixels (H, W) or (H, W, 3) of any of our types at another size, by Pillow's bilinear filter."""
    from PIL import Image

    def of(channel: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(channel).resize((size[1], size[0]), Image.Resampling.BILINEAR))

    if pixels.shape[:2] == size:
        return pixels
    pixels = np.ascontiguousarray(pixels)
    if pixels.dtype == np.uint8:
        return of(pixels)
    found = of(pixels.astype(np.float32))  # a mean of its sources: within their range
    return found if pixels.dtype == np.float32 else found.round().astype(pixels.dtype)


def stacked(pictures: Sequence[Picture], name: str) -> Tensor:
    """Return pictures as one tensor (N, C, H, W), uint8, or int32 up to 65535 if one has 16 bits.

    Grey ones among colours are repeated.

    Raises:
        ValueError: if they differ in size, or there are none.
    """
    arrays = [picture.pixels for picture in pictures]
    if len({array.shape[:2] for array in arrays}) != 1:
        raise ValueError(
            f"{name} must have images of one shape, got {sorted({array.shape for array in arrays})[:5]}"
            + (": give resize, (H, W), or --resize H W" if arrays else "")
        )
    deep, colour = any(a.dtype == np.uint16 for a in arrays), any(a.ndim == 3 for a in arrays)
    out = np.empty((len(arrays), 3 if colour else 1, *arrays[0].shape[:2]), np.int32 if deep else np.uint8)
    for place, array in zip(out, arrays, strict=True):
        place[:] = array if array.ndim == 2 else array.transpose(2, 0, 1)
        if deep and array.dtype == np.uint8:
            place *= WHITE_16 // WHITE_8
    return torch.from_numpy(out)


def as_floats(images: Tensor) -> Tensor:
    """Return stacked pictures as float32 in [0, 1]."""
    return images.to(torch.float32).div_(WHITE_8 if images.dtype == torch.uint8 else WHITE_16)


def told(pictures: Sequence[Picture]) -> list[str]:
    """Say what of the pictures was not taken as it is."""
    mixed = any(p.pixels.ndim == 3 for p in pictures)
    counts = {
        "transparent, taken as opaque": sum(p.transparent for p in pictures),
        "of several frames, the first taken": sum(p.animated for p in pictures),
        "grey among coloured ones, repeated for three channels": sum(p.pixels.ndim == 2 for p in pictures) * mixed,
    }
    return [f"{count} {'image' if count == 1 else 'images'} {what}" for what, count in counts.items() if count]
