"""Image data by name: embedded digits, MNIST, CIFAR-10, any set of the hub or of a folder laid out likewise."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from omnirobust._files import from_home, nearest
from omnirobust.domains.groups import stratified
from omnirobust.zoo import tables
from omnirobust.zoo.decoding import Reading
from omnirobust.zoo.hub import DataUnavailableError, Source
from omnirobust.zoo.pictures import as_floats, resized

__all__ = ["HUB_IDS", "DataUnavailableError", "ImageData", "load"]

HUB_IDS: dict[str, str] = {"mnist": "ylecun/mnist", "cifar10": "uoft-cs/cifar10"}
"""Names known without a prefix, and where the hub keeps them."""

DIGITS_TRAIN = 1297
"""Of the 1,797 embedded digits these many are for training, the other 500 for testing."""

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)

JPEG_NOTE = "re-encoded as JPEG"

CHOICE_SEED = 0

CHOICE = f"stratified by class, seed {CHOICE_SEED}"
"""What a run says of images that were chosen so."""


@dataclass(frozen=True)
class ImageData:
    """Labelled images, or other inputs: rows of a table (N, D), signals (N, channels, length).

    Attributes:
        x: images, (N, channels, height, width) float32 in [0, 1]; of other inputs (N, *S) float32 in any range.
        y: class indices, (N,) int64.
        name: what the set was asked for as.
        split: "train", "test" or another split of the set.
        classes: the names of the classes, in the order of their indices.
        note: what a reader of numbers on this data must know; empty if nothing.
        choice: how the images were chosen from the set; empty if they are in its order.
        rows: their numbers in the split, (N,) int64, where they were chosen so; None where they are in its order.
    """

    x: Tensor
    y: Tensor
    name: str
    split: str
    classes: tuple[str, ...]
    note: str = ""
    choice: str = ""
    rows: Tensor | None = None

    def __post_init__(self) -> None:
        if self.x.ndim < 2 or self.x.dtype != torch.float32:
            raise ValueError(f"x must be float32 of shape (N, *S), got {self.x.dtype} {tuple(self.x.shape)}")
        if self.y.shape != self.x.shape[:1] or self.y.dtype != torch.int64:
            raise ValueError(f"y must be int64 of shape ({len(self.x)},), got {self.y.dtype} {tuple(self.y.shape)}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input: (channels, height, width) of an image."""
        return tuple(self.x.shape[1:])

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the classes that no image is of."""
        present = set(self.y.unique().tolist())
        return tuple(name for number, name in enumerate(self.classes) if number not in present)

    def part(self, index: slice | Tensor) -> ImageData:
        """Return some of the images."""
        return replace(self, x=self.x[index], y=self.y[index], rows=None if self.rows is None else self.rows[index])

    def __len__(self) -> int:
        return len(self.x)


def load(
    name: str,
    split: str = "test",
    limit: int | None = None,
    start: int = 0,
    root: str | Path | None = None,
    *,
    label: str | None = None,
    resize: tuple[int, int] | None = None,
    labelled: bool = True,
    in_order: bool = False,
) -> ImageData:
    """Load labelled images by name.

    Args:
        name: a file FILE.parquet, a table with a column a feature and one of classes, or FILE.safetensors or FILE.npz,
            tensors x and y, see ``tables.read_table``, perhaps with {split} in its name; or
            "digits" (embedded, 8x8 grey), "mnist", "cifar10", "hub:ORG/NAME" or "hub:ORG/NAME:CONFIG" for a set on
            the Hugging Face hub, or the path of a folder of images, which is looked for in ``root`` first unless it
            is absolute or begins with a dot.
        split: "train", "test" or another split that the set has.
        limit: how many images to keep, counted from ``start``; None keeps the rest.
        start: index of the first image kept.
        root: folder that holds ``name`` as a folder of images; by default $OMNIROBUST_DATA. Sets that are not
            there come from the hub.
        label: the column of the classes, where there are several, as in CIFAR-100.
        resize: (height, width) that all images are resized to, by Pillow's bilinear filter; None to take them as they
            are, which must be of one size then.
        labelled: False takes a set without classes as well, and rows without one; their ``y`` is -1.
        in_order: True takes the images in the order of the set even where they lie sorted by class.

    Returns:
        The images, in the order of the set. Where they lie sorted by class, as a folder of pictures does, they come in
        one fixed shuffled order, in which every part has the classes in the shares of the whole (see ``stratified``),
        and ``start`` and ``limit`` count in it. The embedded digits, "mnist" and "cifar10" keep their order.

    Raises:
        ValueError: for an unknown name, split or label, a negative ``start`` or ``limit``, a set without one image and
            one label column, an image that cannot be read, or a row without a class.
        DataUnavailableError: if the set is neither on this machine nor to be had from the hub.

    Cost: the first load of a set decodes all its images (60,000 of MNIST in about 5 s); they are kept decoded in
    the cache folder.
    """
    if start < 0:
        raise ValueError(f"start must be >= 0, got {start}")
    if limit is not None and limit < 0:
        raise ValueError(f"limit must be >= 0 or None, got {limit}")
    if resize is not None and (len(resize) != 2 or min(resize) < 1):
        raise ValueError(f"resize must be (height, width), both >= 1, got {resize}")
    reading = Reading(label, resize, labelled)
    if name == "digits":
        return _digits(split, start, limit, reading)
    if tables.is_table(name):
        return _table(name, start, limit, split, reading, in_order=in_order)
    return _read(_find(name, root).decoded(split, reading), name, split, start, limit, labelled, in_order)


def _stop(start: int, limit: int | None) -> int | None:
    return None if limit is None else start + limit


def _table(name: str, start: int, limit: int | None, split: str, reading: Reading, *, in_order: bool) -> ImageData:
    if reading.resize is not None:
        raise ValueError(f"resize must be left out for data that are no images, got {reading.resize}")
    x, y, classes = tables.read_table(name, split, reading.label)
    order, theirs = (torch.arange(len(y)), True) if in_order else tables.ordered(y)
    rows = order[start : _stop(start, limit)]
    return ImageData(x[rows], y[rows], name, split, classes, "", "" if theirs else CHOICE, None if theirs else rows)


@cache
def _all_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the embedded digits, (1797, 64) from 0 to 16, and their labels: read once, from a text of numbers."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return np.asarray(images), np.asarray(labels)


def _digits(split: str, start: int, limit: int | None, reading: Reading) -> ImageData:
    if reading.label is not None:
        raise ValueError(f"label must be left out for digits, got {reading.label!r}")
    if split not in ("train", "test"):
        raise ValueError(f"split must be train or test for digits, got {split!r}")
    images, labels = _all_digits()
    # The set is ordered by writer: a fixed shuffle spreads them over both splits.
    order = np.random.RandomState(0).permutation(len(images))
    order = order[:DIGITS_TRAIN] if split == "train" else order[DIGITS_TRAIN:]
    order = order[start : _stop(start, limit)]
    pixels = images[order].astype(np.float32).reshape(-1, 8, 8) / 16
    if reading.resize is not None:
        pixels = np.array([resized(each, reading.resize) for each in pixels], np.float32).reshape(-1, *reading.resize)
    x = torch.from_numpy(pixels[:, None])
    return ImageData(x, torch.from_numpy(labels[order].astype(np.int64)), "digits", split, tuple("0123456789"))


def _find(name: str, root: str | Path | None) -> Source:
    if name.startswith("hub:"):
        path, _, config = name.removeprefix("hub:").partition(":")
        if not _HUB_ID.fullmatch(path):  # anything else would be taken for a path, and whole disks be searched
            raise ValueError(f"name must be hub:ORG/NAME or hub:ORG/NAME:CONFIG for a set on the hub, got {name!r}")
        return Source(path, config or None)
    if name.startswith((".", "~")) or Path(name).is_absolute():  # a path of the caller's, wherever sets lie
        if not from_home(name).is_dir():
            why = "and there is no such folder"
            if from_home(name).exists():
                why = f"which is a file; files that are read end in {' or '.join(tables.ENDINGS)}"
            raise ValueError(f"name (--data) must be the path of a folder of images, got {name!r}, {why}")
        return Source(str(from_home(name)), folder=True)
    root = root if root is not None else os.environ.get("OMNIROBUST_DATA")
    if name and root is not None and (Path(root) / name).is_dir():
        return Source(str(Path(root) / name), folder=True)
    if name in HUB_IDS:
        return Source(HUB_IDS[name])
    if name and Path(name).is_dir():
        return Source(name, folder=True)
    known = ", ".join(
        [
            "digits",
            *HUB_IDS,
            "hub:ORG/NAME",
            *(f"FILE{ending}" for ending in tables.ENDINGS),
            "the path of a folder of images",
        ]
    )
    places = [] if root is None else [f.name for f in Path(root).glob("*") if f.is_dir()]
    hint = nearest(name, ["digits", *HUB_IDS, *places])
    raise ValueError(f"name (--data) must be one of {known}, got {name!r}{hint}")


def _read(
    file: Path, name: str, split: str, start: int, limit: int | None, labelled: bool, in_order: bool
) -> ImageData:
    try:
        with safe_open(file, framework="pt") as stored:
            facts, labels = stored.metadata(), stored.get_tensor("labels")
            classes = tuple(json.loads(facts["classes"]))
            if labelled:
                _check_labels(labels, classes, name, split)
            chosen = not in_order and _needs_choice(labels, facts, name)
            order = stratified(labels, CHOICE_SEED) if chosen else torch.arange(len(labels))
            rows = order[start : _stop(start, limit)]
            images = _rows(stored, rows, in_order=not chosen)
    except SafetensorError as error:
        raise RuntimeError(f"The cached images {file} are damaged: delete the file and load {name} again.") from error
    notes = [JPEG_NOTE if name == "cifar10" and json.loads(facts["jpeg"]) else "", facts.get("note", "")]
    told = "; ".join(filter(None, notes))
    x, y = as_floats(images), labels[rows]
    return ImageData(x, y, name, split, classes, told, CHOICE if chosen else "", rows if chosen else None)


def _rows(stored: Any, rows: Tensor, in_order: bool) -> Tensor:
    """Read some rows of the images, none but those."""
    images = stored.get_slice("images")
    if len(rows) == images.get_shape()[0]:
        whole = stored.get_tensor("images")
        return whole if in_order else whole[rows]
    if in_order or not len(rows):
        return images[int(rows[0]) : int(rows[-1]) + 1] if len(rows) else images[:0]
    return torch.cat([images[row : row + 1] for row in rows.tolist()])


def _check_labels(labels: Tensor, classes: Sequence[str], name: str, split: str) -> None:
    wrong = ((labels < 0) | (labels >= len(classes))).nonzero()
    if not len(wrong):
        return
    if len(wrong) == len(labels) and not classes:
        raise ValueError(f"{name} must have classes, got none in {split}")
    row = int(wrong[0])
    raise ValueError(
        f"{name} must have a class in every row of {split}, got none in row {row} (label {int(labels[row])} or missing)"
    )


def _needs_choice(labels: Tensor, facts: Mapping[str, str], name: str) -> bool:
    """Say whether rows lie sorted by class: those of folders, one class after the other, or in long stretches of one.

    Shuffled neighbours differ in class with probability 1 - sum p^2, for the shares p; stretches make it under half.
    """
    if name in HUB_IDS:
        return False
    if json.loads(facts.get("folder", "false")):
        return True
    counts = labels.unique(return_counts=True)[1].double()
    changes, pairs = int((labels[1:] != labels[:-1]).sum()), max(len(labels) - 1, 0)
    expected = pairs * (1 - float((counts / len(labels)).square().sum()))
    return 0 < changes == len(counts) - 1 < pairs or 2 * changes < expected
