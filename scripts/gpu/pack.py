"""Put data sets into a folder small enough to be carried, and take them out again where there is no hub.

A set is a file for each split: the images as they were encoded, one after another, compressed together, which leaves
60,000 small JPEGs a third of their size. ``unpack`` decodes them once, into files that ``omnirobust.data`` reads.
"""

from __future__ import annotations

import json
import lzma
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from omnirobust._files import replacing
from omnirobust.zoo.hub import Source

SETS = {"mnist": "mnist", "cifar10": "cifar10"}
"""Name of a set to the folder in $OMNIROBUST_DATA that holds it in hub layout."""

SPLITS = ("train", "test")
LIMIT = 64 * 2**20
"""Bytes that may be carried in all."""


def pack(root: Path, folder: Path, sets: tuple[str, ...] = tuple(SETS)) -> int:
    """Write every split of ``sets`` as one piece, those that are not there yet; return the size of all in bytes.

    Raises:
        ValueError: if they come to more than ``LIMIT``.
    """
    for name in sets:
        for split in SPLITS:
            piece = folder / f"{name}-{split}.safetensors"
            if not piece.is_file():
                _write(piece, *_encoded(root / SETS[name], split))
    size = sum(piece.stat().st_size for piece in folder.glob("*.safetensors"))
    if size > LIMIT:
        raise ValueError(f"pieces must come to {LIMIT} bytes at most, got {size} in {folder}")
    return size


def unpack(folder: Path, root: Path) -> None:
    """Decode every piece into ``root``, a folder for OMNIROBUST_DATA; what is there already stays.

    Raises:
        ValueError: if there are no pieces.
    """
    pieces = sorted(folder.glob("*-*.safetensors"))
    if not pieces:
        raise ValueError(f"data must be a folder that pack wrote, got {folder}, which holds no pieces")
    for piece in pieces:
        name, _, split = piece.stem.rpartition("-")
        file = root / name / f"{split}.safetensors"
        if not file.is_file():
            _decode(piece, file)


def _encoded(source: Path, split: str) -> tuple[list[bytes], list[int], list[str]]:
    """Return the encoded images of a set in hub layout, their labels, and the names of the classes."""
    from datasets import ClassLabel
    from datasets import Image as Encoded

    found = Source(str(source), folder=True).open(split)
    image = next(key for key, feature in found.features.items() if isinstance(feature, Encoded))
    label = next(key for key, feature in found.features.items() if isinstance(feature, ClassLabel))
    rows = found.cast_column(image, Encoded(decode=False))[image]
    files = [Path(row["path"]).read_bytes() if row["bytes"] is None else row["bytes"] for row in rows]
    return files, list(found[label]), list(found.features[label].names)


def _write(piece: Path, files: list[bytes], labels: list[int], classes: list[str]) -> None:
    tensors = {
        "files": torch.frombuffer(bytearray(lzma.compress(b"".join(files), preset=6)), dtype=torch.uint8),
        "lengths": torch.tensor([len(file) for file in files], dtype=torch.int32),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }
    with replacing(piece) as partial:
        partial.write_bytes(save(tensors, metadata={"classes": json.dumps(classes)}))


def _decode(piece: Path, file: Path) -> None:
    with safe_open(piece, framework="pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in ("files", "lengths", "labels")}
        classes = stored.metadata()["classes"]
    every, ends = lzma.decompress(tensors["files"].numpy().tobytes()), tensors["lengths"].cumsum(0).tolist()
    images = [Image.open(BytesIO(every[begin:end])) for begin, end in zip([0, *ends], ends, strict=False)]
    facts = {"classes": classes, "jpeg": json.dumps(any(image.format == "JPEG" for image in images))}
    decoded = {"images": torch.stack([_pixels(image) for image in images]), "labels": tensors["labels"]}
    with replacing(file) as partial:
        partial.write_bytes(save(decoded, metadata=facts))


def _pixels(image: Image.Image) -> Tensor:
    """Return one image as (C, H, W) uint8."""
    pixels = torch.from_numpy(np.array(image if image.mode == "L" else image.convert("RGB")))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()
