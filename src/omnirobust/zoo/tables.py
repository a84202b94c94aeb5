"""Data that are no pictures: tables from parquet, a column a feature; signals and spectra as tensors; files of values.

Nothing that these files hold is run: parquet, safetensors, npy and npz without pickles, and csv.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from omnirobust._files import from_home
from omnirobust.domains.groups import stratified

ENDINGS = (".parquet", ".safetensors", ".npz")
"""Of names of data that are such files; ``{split}`` in a name stands for the split."""

_MOST_CLASSES = 2**20
"""Each has a name in memory: identifiers that are taken for classes would need all there is."""

_LABELS = ("label", "class", "target", "y")
"""What the column of the classes is looked for as, where nobody names it."""


def is_table(name: str) -> bool:
    """Say whether data are a file of their own."""
    return name.endswith(ENDINGS)


def table_file(name: str, split: str) -> Path:
    """Return the file of a split.

    Raises:
        ValueError: if there is no such file, or another split than "test" is asked of data that have one file alone.
    """
    if split != "test" and "{split}" not in name:
        raise ValueError(f"data must have {{split}} in the name of its files to have a split {split!r}, got {name}")
    file = from_home(name.replace("{split}", split))
    if not file.is_file():
        raise ValueError(f"name (--data) must be the path of a file, got {file}, and there is no such file")
    return file


def read_table(name: str, split: str, label: str | None) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Read inputs (N, *S) float32, class indices (N,) int64, and the names of the classes.

    Args:
        name: FILE.parquet, every column but that of the classes a feature, in their order, numbers without gaps; or
            FILE.safetensors or FILE.npz with the tensors or arrays x (N, *S) and y (N,).
        split: that stands for ``{split}`` in the name.
        label: the column of the classes; None for the only one that is called label, class, target or y.

    Raises:
        ValueError: if there is no such file, or it does not hold that.
    """
    file = table_file(name, split)
    return _parquet(file, label) if name.endswith(".parquet") else _tensors(file, label)


def ordered(y: Tensor) -> tuple[Tensor, bool]:
    """Return the order in which rows are taken, and whether it is theirs: not where they lie sorted by class."""
    changes = int((y[1:] != y[:-1]).sum())
    if len(y) > 1 and 0 < changes == len(y.unique()) - 1 < len(y) - 1:
        return stratified(y, 0), False
    return torch.arange(len(y)), True


def feature_names(name: str, label: str | None) -> tuple[str, ...]:
    """Return the features of a parquet table, without reading it; none of other data."""
    if not name.endswith(".parquet"):
        return ()
    from pyarrow import parquet

    files = [from_home(name.replace("{split}", split)) for split in ("test", "train")]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        return ()
    columns = parquet.read_schema(found).names
    return tuple(column for column in columns if column != _label_of(columns, label, found))


def _label_of(columns: Sequence[str], label: str | None, file: Path) -> str:
    found = [label] if label is not None else [c for c in columns if c.lower() in _LABELS]
    if len(found) != 1 or found[0] not in columns:
        raise ValueError(
            f"label must name the column of the classes of {file.name}, one of {', '.join(columns)}, "
            f"got {label or found}"
        )
    return found[0]


def _parquet(file: Path, label: str | None) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    from pyarrow import ArrowException, parquet, types

    try:
        table = parquet.read_table(file)
    except (ArrowException, OSError) as error:
        raise ValueError(f"name (--data) must be a parquet table, got {file}: {str(error).splitlines()[0]}") from error
    of_class, features = _label_of(table.column_names, label, file), []
    for column in table.column_names:
        if column == of_class:
            continue
        kind, values = table.schema.field(column).type, table.column(column)
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)) or values.null_count:
            held = f"{values.null_count} gaps" if values.null_count else str(kind)
            raise ValueError(
                f"columns of {file.name} must hold numbers without gaps, got {held} in {column!r}: write kinds as one "
                "column of 0 and 1 each"
            )
        features.append(values.to_numpy().astype(np.float64))
    if not features or not table.num_rows:
        raise ValueError(f"name (--data) must be a table with rows and features, got {table.shape} in {file}")
    y, classes = _classes(table.column(of_class).to_pylist(), of_class, file)
    return torch.from_numpy(np.stack(features, 1)).float(), y, classes


def _tensors(file: Path, label: str | None) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    try:
        held = _arrays(file) if file.suffix == ".npz" else load_file(file)
    except (SafetensorError, OSError, EOFError, TypeError, ValueError, BadZipFile) as error:
        told = f"name (--data) must be a {file.suffix.removeprefix('.')} file of numbers, got {file}: {error}"
        raise ValueError(told) from error
    of_class = label or "y"
    if "x" not in held or of_class not in held or held["x"].ndim < 2 or held["x"].shape[:1] != held[of_class].shape:
        shapes = {name: tuple(value.shape) for name, value in held.items()}
        raise ValueError(f"name (--data) must hold tensors x (N, *S) and {of_class} (N,), got {shapes} in {file}")
    if not held["x"].numel():
        raise ValueError(f"name (--data) must hold one row or more, got x {tuple(held['x'].shape)} in {file}")
    y, classes = _classes(held[of_class].tolist(), of_class, file)
    return held["x"].float(), y, classes


def _arrays(file: Path) -> dict[str, Tensor]:
    with file.open("rb") as stream, np.lib.npyio.NpzFile(stream) as held:
        return {name: torch.from_numpy(held[name]) for name in held.files}


def _classes(values: list[Any], column: str, file: Path) -> tuple[Tensor, tuple[str, ...]]:
    """Return indices and names of classes: whole numbers from 0 on are the indices, others are numbered in order."""
    if any(value is None for value in values):
        raise ValueError(f"label must be there in every row of {file.name}, got none in row {values.index(None)}")
    plain = [int(v) if isinstance(v, bool) or (isinstance(v, float) and v.is_integer()) else v for v in values]
    if all(isinstance(value, int) and value >= 0 for value in plain):
        if max(plain) >= _MOST_CLASSES:
            raise ValueError(
                f"label must be numbers of classes below {_MOST_CLASSES:,}, got {max(plain)} in {column!r} of {file}: "
                "is it a column of something else?"
            )
        y = torch.tensor(plain, dtype=torch.int64)
        return y, tuple(map(str, range(int(y.max()) + 1)))
    texts = [value for value in plain if isinstance(value, str)]
    if len(texts) < len(plain):
        others = [value for value in plain if not isinstance(value, str)]
        misfit = next((value for value in others if not isinstance(value, int) or value < 0), others[0])
        raise ValueError(f"label must be whole numbers from 0 on, or texts, got {misfit!r} in {column!r} of {file}")
    names = sorted(set(texts))
    return torch.tensor([names.index(value) for value in texts]), tuple(names)


def read_values(text: str, argument: str, features: Sequence[str] = ()) -> list[Tensor]:
    """Read a file of one value a feature, row by row: one row for a scale or a mask, two for the ends of a range.

    Args:
        text: FILE.csv, whose first line may name the features; FILE.npy, one array, the rows its first axis where
            there are two; FILE.safetensors, one tensor likewise, or two called lower and upper.
        argument: what messages call it.
        features: names of the data's, which those of the file must be, in any order; none where they have none.

    Raises:
        ValueError: if there is no such file, or it holds something else.
    """
    file = from_home(text)
    if not file.is_file() or file.suffix not in (".csv", ".npy", ".safetensors"):
        raise ValueError(f"{argument} must be a number, or a file .csv, .npy or .safetensors that exists, got {text!r}")
    try:
        if file.suffix == ".csv":
            return _csv_rows(file, argument, features)
        if file.suffix == ".npy":
            return [_array(file)]
        tensors = load_file(file)
        return [tensors["lower"], tensors["upper"]] if set(tensors) == {"lower", "upper"} else list(tensors.values())
    except (SafetensorError, OSError, EOFError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"{argument} must be a file of numbers, got {text!r}: {error}") from error


def _array(file: Path) -> Tensor:
    try:
        with file.open("rb") as stream:  # this reader takes no objects unless it is told to
            return torch.from_numpy(np.lib.format.read_array(stream))
    except ValueError as error:  # what only a pickle could say
        raise TypeError(str(error).partition(".")[0]) from error


def _csv_rows(file: Path, argument: str, features: Sequence[str]) -> list[Tensor]:
    with file.open(newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.reader(lines) if row]
    names = rows.pop(0) if rows and not all(map(_is_number, rows[0])) else None
    numbers = all(map(_is_number, (value for row in rows for value in row)))
    if not rows or not numbers or len({len(row) for row in (*rows, *([names] if names else []))}) > 1:
        raise ValueError(f"{argument} must be lines of as many numbers each, below at most one of names, got {file}")
    values = torch.tensor([[float(value) for value in row] for row in rows], dtype=torch.float64)
    if names is not None and features:
        names = [name.strip() for name in names]
        if sorted(names) != sorted(features):
            odd = sorted(set(names) ^ set(features))
            raise ValueError(f"{argument} must name the features of the data, got {file.name}, which differs in {odd}")
        values = values[:, [names.index(feature) for feature in features]]
    return list(values)


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False
