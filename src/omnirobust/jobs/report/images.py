"""Images as data URIs: as they are, or signed perturbations in diverging colours."""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
from PIL import Image
from torch import Tensor

from omnirobust.core.threat_models import Bounds
from omnirobust.jobs.records import AttackRecord

_NEGATIVE, _POSITIVE = np.array([60, 64, 73.0]), np.array([178, 24, 43.0])


def shown_range(record: AttackRecord) -> Bounds:
    """Return the range in which pictures of a run are drawn: its data's, or where features differ that of each."""
    low, high = record.config["attack"]["bounds"]
    if isinstance(low, int | float) and isinstance(high, int | float):
        return low, high
    clean = record.perturbations["clean"]
    clean = clean if record.groups is None else clean.flatten(0, 1)
    return clean.amin(0).double(), clean.amax(0).double()


def _pixels(values: Tensor) -> Tensor:
    """Lay out what is no image, (D,) or (channels, length), as one with a stripe a feature."""
    if values.ndim > 2:
        return values
    rows = values.reshape(1, -1) if values.ndim < 2 else values
    return rows.repeat_interleave(max(1, rows.shape[1] // (8 * len(rows))), 0).unsqueeze(0)


def picture(image: Tensor, bounds: Bounds = (0.0, 1.0)) -> str:
    """Return ``image`` (C, H, W) in ``bounds`` as a PNG data URI: three channels in colour, else the first in grey."""
    low, high = bounds
    shares = (image.double() - low) / (high - low)
    levels = (_pixels(shares).nan_to_num(0.5) * 255).round().clamp(0, 255).numpy().astype(np.uint8)
    return _uri(levels[0] if len(levels) < 3 else levels[:3].transpose(1, 2, 0))


def signed_picture(delta: Tensor) -> str:
    """Return a perturbation (C, H, W) as a PNG data URI: red where it adds light, grey where it takes some, white at 0.

    Colours are scaled to its largest change; several channels are summed up by the largest of them at each pixel.
    """
    values = _pixels(delta.double()).numpy()
    strongest = np.abs(values).argmax(0)[None]
    values = np.take_along_axis(values, strongest, 0)[0]
    share = values / max(np.abs(values).max(), 1e-12)
    ends = np.where(share[..., None] < 0, _NEGATIVE, _POSITIVE)
    return _uri((255 + (ends - 255) * np.abs(share)[..., None]).round().astype(np.uint8))


def _uri(levels: np.ndarray) -> str:
    file = BytesIO()
    Image.fromarray(levels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
