"""Image data by name: embedded digits, MNIST, CIFAR-10, and any image-classification set in hub layout."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from omnirobust._files import from_home, nearest
from omnirobust._hub import DataUnavailableError, Source

__all__ = ["HUB_IDS", "DataUnavailableError", "ImageData", "load"]

HUB_IDS: dict[str, str] = {"mnist": "ylecun/mnist", "cifar10": "uoft-cs/cifar10"}
"""Names known without a prefix, and where the hub keeps them."""

DIGITS_TRAIN = 1297
"""Of the 1,797 embedded digits these many are for training, the other 500 for testing."""

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)

JPEG_NOTE = "re-encoded as JPEG"


@dataclass(frozen=True)
class ImageData:
    """Labelled images.

    Attributes:
        x: images, (N, channels, height, width) float32 in [0, 1].
        y: class indices, (N,) int64.
        name: what the set was asked for as.
        split: "train", "test" or another split of the set.
        classes: the names of the classes, in the order of their indices.
        note: what a reader of numbers on this data must know; empty if nothing.
    """

    x: Tensor
    y: Tensor
    name: str
    split: str
    classes: tuple[str, ...]
    note: str = ""

    def __post_init__(self) -> None:
        if self.x.ndim != 4 or self.x.dtype != torch.float32:
            raise ValueError(f"x must be float32 of shape (N, C, H, W), got {self.x.dtype} {tuple(self.x.shape)}")
        if self.y.shape != self.x.shape[:1] or self.y.dtype != torch.int64:
            raise ValueError(f"y must be int64 of shape ({len(self.x)},), got {self.y.dtype} {tuple(self.y.shape)}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        channels, height, width = self.x.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.x)


def load(
    name: str, split: str = "test", limit: int | None = None, start: int = 0, root: str | Path | None = None
) -> ImageData:
    """Load labelled images by name.

    Args:
        name: "digits" (embedded, 8x8 grey), "mnist", "cifar10", "hub:ORG/NAME" or "hub:ORG/NAME:CONFIG" for a set on
            the Hugging Face hub, or the path of a folder in hub layout, which is looked for in ``root`` first unless it
            is absolute or begins with a dot.
        split: "train", "test" or another split that the set has.
        limit: how many images to keep, counted from ``start``; None keeps the rest.
        start: index of the first image kept.
        root: folder that holds ``name`` as a folder in hub layout; by default $OMNIROBUST_DATA. Sets that are not
            there come from the hub.

    Returns:
        The images, in the order of the set.

    Raises:
        ValueError: for an unknown name or split, a negative ``start`` or ``limit``, or a set without one image and
            one label column.
        DataUnavailableError: if the set is neither on this machine nor to be had from the hub.

    Cost: the first load of a set decodes all its images (60,000 of MNIST in about 5 s); they are kept decoded in
    the cache folder.
    """
    if start < 0:
        raise ValueError(f"start must be >= 0, got {start}")
    if limit is not None and limit < 0:
        raise ValueError(f"limit must be >= 0 or None, got {limit}")
    if name == "digits":
        return _digits(split, start, limit)
    source = _find(name, root)
    return _read_decoded(source.decoded(split), name, split, start, limit)


def _stop(start: int, limit: int | None) -> int | None:
    return None if limit is None else start + limit


def _digits(split: str, start: int, limit: int | None) -> ImageData:
    from sklearn.datasets import load_digits

    if split not in ("train", "test"):
        raise ValueError(f"split must be train or test for digits, got {split!r}")
    images, labels = load_digits(return_X_y=True)
    # The set is ordered by writer: a fixed shuffle spreads them over both splits.
    order = np.random.RandomState(0).permutation(len(images))
    order = order[:DIGITS_TRAIN] if split == "train" else order[DIGITS_TRAIN:]
    order = order[start : _stop(start, limit)]
    x = torch.from_numpy(images[order].astype(np.float32) / 16).reshape(-1, 1, 8, 8)
    return ImageData(x, torch.from_numpy(labels[order].astype(np.int64)), "digits", split, tuple("0123456789"))


def _find(name: str, root: str | Path | None) -> Source:
    if name.startswith("hub:"):
        path, _, config = name.removeprefix("hub:").partition(":")
        if not _HUB_ID.fullmatch(path):  # anything else would be taken for a path, and whole disks be searched
            raise ValueError(f"name must be hub:ORG/NAME or hub:ORG/NAME:CONFIG for a set on the hub, got {name!r}")
        return Source(path, config or None)
    if name.startswith((".", "~")) or Path(name).is_absolute():  # a path of the caller's, wherever sets lie
        if not from_home(name).is_dir():
            raise ValueError(f"name must be the path of a folder in hub layout, got {name!r}, which is none")
        return Source(str(from_home(name)), folder=True)
    root = root if root is not None else os.environ.get("OMNIROBUST_DATA")
    if name and root is not None and (Path(root) / name).is_dir():
        return Source(str(Path(root) / name), folder=True)
    if name in HUB_IDS:
        return Source(HUB_IDS[name])
    if name and Path(name).is_dir():
        return Source(name, folder=True)
    known = ", ".join(["digits", *HUB_IDS, "hub:ORG/NAME", "the path of a folder in hub layout"])
    places = [] if root is None else [f.name for f in Path(root).glob("*") if f.is_dir()]
    hint = nearest(name, ["digits", *HUB_IDS, *places])
    raise ValueError(f"name must be one of {known}, got {name!r}{hint}")


def _read_decoded(file: Path, name: str, split: str, start: int, limit: int | None) -> ImageData:
    try:
        with safe_open(file, framework="pt") as stored:
            facts = stored.metadata()
            images = stored.get_slice("images")[start : _stop(start, limit)]
            labels = stored.get_slice("labels")[start : _stop(start, limit)]
    except SafetensorError as error:
        raise RuntimeError(f"The cached images {file} are damaged: delete the file and load {name} again.") from error
    note = JPEG_NOTE if name == "cifar10" and json.loads(facts["jpeg"]) else ""
    classes = tuple(json.loads(facts["classes"]))
    return ImageData(images.to(torch.float32).div_(255), labels, name, split, classes, note)
