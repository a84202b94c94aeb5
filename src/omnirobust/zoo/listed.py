"""Pictures that a table beside them lists: metadata.csv, .jsonl or .parquet, as the hub's image folders have it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnirobust.zoo.folders import SPLITS, left_out, visible

if TYPE_CHECKING:
    from datasets import Dataset
    from pyarrow import Table

TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")

FILE_NAME = "file_name"
"""The column of the pictures' paths, below the folder of the table."""


@dataclass(frozen=True)
class ListedPictures:
    """The pictures of one split.

    Attributes:
        files: row by row.
        table: the file that lists them.
        columns: what it says of each beside its file, a pyarrow table.
        note: what was left out; empty if nothing.
    """

    files: list[Path]
    table: Path
    columns: Table
    note: str

    def dataset(self) -> Dataset:
        """Return rows with an image column beside those of the table."""
        import datasets

        names = [name for name in self.columns.column_names if name != "image"]
        found = datasets.Dataset(self.columns.select(names)) if names else datasets.Dataset.from_dict({})
        images = datasets.Dataset.from_dict({"image": list(map(str, self.files))})
        whole = datasets.concatenate_datasets([images, found], axis=1) if names else images
        return whole.cast_column("image", datasets.Image())


def listed_pictures(root: Path, split: str) -> ListedPictures | None:
    """Read the table of a split: SPLIT/metadata.csv, or one for all of them, whose paths begin with SPLIT/.

    Pictures of a table whose paths name no split are all of "train".

    Returns:
        The pictures; None if there is no table.

    Raises:
        ValueError: if there is no such split, or a table cannot be read or lists no file below its folder.
    """
    places = tables(root, split)
    if not places:
        return None
    if split not in places:
        raise ValueError(f"split must be one that {root} has: {', '.join(map(repr, sorted(places)))}, got {split!r}")
    table, rows = places[split]
    files = [_file(table, name, number) for number, name in enumerate(rows[FILE_NAME].to_pylist())]
    below = {file.relative_to(table.parent).parts[0] for file in files}
    top = table.parent / split if below == {split} else table.parent
    note = left_out(top, [*files, table], None)
    return ListedPictures(files, table, rows.drop_columns([FILE_NAME]), note)


def tables(root: Path, wanted: str) -> dict[str, tuple[Path, Table]]:
    """Return the table of every split with its rows of that split, those with a name of their own if one is wanted.

    None where tables lie in folders of classes only.
    """
    own = {folder.name: table for folder in visible(root) if folder.is_dir() and (table := _table(folder))}
    if own and (SPLITS | {wanted}) & set(own):
        return {name: (table, _read(table)) for name, table in own.items()}
    if (table := _table(root)) is None:
        return {}
    rows = _read(table)
    of = [Path(str(name)).parts[0] if name else "" for name in rows[FILE_NAME].to_pylist()]
    if not set(of) <= SPLITS | {wanted}:
        return {"train": (table, rows)}
    return {name: (table, rows.filter([part == name for part in of])) for name in sorted(set(of))}


def _table(folder: Path) -> Path | None:
    return next((folder / name for name in TABLES if (folder / name).is_file()), None)


def _read(table: Path) -> Any:
    """Read a table; empty fields of CSV are missing."""
    from pyarrow import ArrowException, csv, json, parquet

    _check_text(table)
    try:
        if table.suffix == ".csv":
            found = csv.read_csv(
                table, convert_options=csv.ConvertOptions(null_values=[""], strings_can_be_null=True)
            )  # fmt: skip
        else:
            found = json.read_json(table) if table.suffix == ".jsonl" else parquet.read_table(table)
    except (ArrowException, OSError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(f"{table} must be a table of pictures, and cannot be read: {reason}") from error
    if FILE_NAME not in found.column_names:
        raise ValueError(f"{table} must have a column {FILE_NAME}, got {', '.join(found.column_names)}")
    return found


def _check_text(table: Path) -> None:
    """Refuse text that is no UTF-8: its columns would be taken for bytes, which are no classes."""
    if table.suffix == ".parquet":
        return
    content = table.read_bytes()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{table} must be text in UTF-8, and is not in line {line}: save it as UTF-8") from error


def _file(table: Path, name: object, number: int) -> Path:
    """Return the file of a row, which must lie below the folder of the table: it may be a stranger's."""
    if not isinstance(name, str) or not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{table} must name a file below its folder in every row, got {name!r} in row {number}")
    file = table.parent / name
    if not file.is_file():
        raise ValueError(f"{table} must name a file below its folder in every row, and row {number} has no {name}")
    return file
