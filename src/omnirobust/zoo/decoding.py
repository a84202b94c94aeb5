"""Rows of a table to tensors: which column holds the images, which the classes, and what each row is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from omnirobust.zoo.pictures import Picture, Size, decode, stacked, told

if TYPE_CHECKING:
    from datasets import Dataset

MOST_CLASSES = 100_000
"""Whole numbers as large as this are no classes."""

NO_CLASS = -1
"""The label of a row that has none, as in test sets whose labels are kept back."""


@dataclass(frozen=True)
class Reading:
    """How the rows of a set are read.

    Attributes:
        label: the column of the classes; None for its only one.
        resize: (height, width) of all images; None to leave them as they are.
        labelled: whether a set without classes is refused.
    """

    label: str | None = None
    resize: Size | None = None
    labelled: bool = True


def decoded(
    dataset: Dataset, reading: Reading, name: str, split: str, values: Callable[[str], set[Any]]
) -> tuple[Tensor, Tensor, dict[str, str]]:
    """Return images (N, C, H, W) as integers, labels (N,) int64, and facts: "classes", "jpeg", "note".

    Args:
        dataset: the rows.
        reading: what to take of them.
        name: of the set, for messages.
        split: of the rows, for messages.
        values: returns what occurs in a column in all splits.

    Raises:
        ValueError: if columns or images do not fit.
    """
    image, label = _columns(dataset, reading, name)
    labels, classes = _classes(dataset, label, name, values)
    pictures = _pictures(dataset, image, reading.resize, name, split)
    plain = label is not None and not _is_class_label(dataset, label) and label != reading.label
    notes = [f"classes are the values of column {label}"] if plain else []
    facts = {
        "classes": json.dumps(classes),
        "jpeg": json.dumps(any(picture.jpeg for picture in pictures)),
        "note": "; ".join(notes + told(pictures)),
    }
    return stacked(pictures, name), torch.tensor(labels, dtype=torch.int64), facts


def _columns(dataset: Dataset, reading: Reading, name: str) -> tuple[str, str | None]:
    """Return the columns of the images and of the classes; None where there are no classes and none are needed."""
    import datasets

    images = [key for key, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    named = [key for key in dataset.features if _is_class_label(dataset, key)]
    plain = [key for key, feature in dataset.features.items() if _is_plain(feature)]
    if reading.label is not None and reading.label not in named + plain:
        known = ", ".join(named + plain) or "none"
        raise ValueError(f"label must be a column of classes of {name}, which has {known}, got {reading.label!r}")
    labels = [reading.label] if reading.label is not None else named or [k for k in plain if k == "label"] or plain
    if len(images) != 1 or (reading.labelled and not labels):
        floats = [key for key, feature in dataset.features.items() if _is_plain(feature, "float", "double", "half")]
        hint = f": {', '.join(floats)} holds floats, which are no classes, save them as whole numbers" if floats else ""
        raise ValueError(
            f"{name} must have one image column and one class-label column, got images {images} and labels {labels}"
            f"{hint}"
        )
    if reading.labelled and len(labels) > 1:
        raise ValueError(f"label must name one of the columns of classes of {name}, {', '.join(labels)}, got none")
    return images[0], labels[0] if len(labels) == 1 else None


def _is_class_label(dataset: Dataset, column: str) -> bool:
    import datasets

    return isinstance(dataset.features[column], datasets.ClassLabel)


def _is_plain(feature: object, *kinds: str) -> bool:
    """Say whether a column holds plain values of these types: those that may be classes, if none is named."""
    kinds = kinds or ("int", "uint", "string", "large_string", "bool")
    return str(getattr(feature, "dtype", "")).startswith(kinds) and type(feature).__name__ == "Value"


def _classes(
    dataset: Dataset, column: str | None, name: str, values: Callable[[str], set[Any]]
) -> tuple[list[int], list[str]]:
    """Return the class of every row and the names of the classes: names stay in order, whole numbers are themselves."""
    if column is None:
        return [NO_CLASS] * len(dataset), []
    rows = list(dataset[column])
    if _is_class_label(dataset, column):
        names = list(dataset.features[column].names)
        return [NO_CLASS if row is None or not 0 <= row < len(names) else row for row in rows], names
    known = values(column)
    if all(isinstance(value, str) for value in known):
        names = sorted(known)
        index = {value: i for i, value in enumerate(names)}
        return [index.get(row, NO_CLASS) for row in rows], names
    largest = max(map(int, known), default=-1)
    if largest >= MOST_CLASSES:
        raise ValueError(
            f"label must be a column of classes, of numbers below {MOST_CLASSES}, got {largest} in {column}"
        )
    return [NO_CLASS if row is None or row < 0 else int(row) for row in rows], [str(i) for i in range(largest + 1)]


def _pictures(dataset: Dataset, image: str, resize: Size | None, name: str, split: str) -> list[Picture]:
    import datasets

    rows = dataset.cast_column(image, datasets.Image(decode=False))[image]
    return [_picture(row, number, resize, name, split) for number, row in enumerate(rows)]


def _picture(row: dict[str, Any] | None, number: int, resize: Size | None, name: str, split: str) -> Picture:
    content, path = (row or {}).get("bytes"), (row or {}).get("path")
    where = f"row {number} of {split}" if content is not None or path is None else _below(path, name)
    try:
        if content is not None:
            return decode(BytesIO(content), resize)
        if path is None:
            raise ValueError("there is none")
        return decode(path, resize)
    except ValueError as error:
        raise ValueError(f"{name} must have an image that can be read in every row, got {where}: {error}") from error


def _below(path: str, folder: str) -> str:
    return str(Path(path).relative_to(folder)) if Path(path).is_relative_to(folder) else path
