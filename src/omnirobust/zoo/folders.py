"""What a folder of pictures holds, read by exact names: no part of a name is taken for a split."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from omnirobust.zoo.pictures import SUFFIXES

SPLITS = frozenset({"train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval", "evaluation"})
"""Folders that are taken for splits of one set, all of which have its classes."""


@dataclass(frozen=True)
class PictureFolder:
    """The pictures of one split.

    Attributes:
        files: class by class, by name.
        labels: the class of each; -1 where there are no classes.
        classes: their names, sorted, those of other splits included; none where pictures lie in no folder of a class.
        note: what was left out; empty if nothing.
    """

    files: list[Path]
    labels: list[int]
    classes: list[str]
    note: str


def picture_folder(root: Path, split: str) -> PictureFolder | None:
    """Find the pictures of a split.

    They lie as SPLIT/CLASS/PICTURE, or without splits as CLASS/PICTURE, all of them of "train"; those of no class as
    SPLIT/PICTURE, or PICTURE.

    Returns:
        The pictures; None if there are none.

    Raises:
        ValueError: if there is no such split.
    """
    splits = _splits(root, split)
    if not splits:
        return None
    if split not in splits:
        raise ValueError(f"split must be one that {root} has: {', '.join(map(repr, sorted(splits)))}, got {split!r}")
    classes = {name: _classes(folder) for name, folder in splits.items() if name == split or name in SPLITS}
    names = sorted(set().union(*classes.values()))
    own = [(names.index(name), file) for name, files in sorted(classes[split].items()) for file in files]
    own = own or [(-1, file) for file in _pictures(splits[split])]
    files = [file for _, file in own]
    note = left_out(splits[split], files, 2 if classes[split] else 1)
    return PictureFolder(files, [label for label, _ in own], names, note)


def _splits(root: Path, wanted: str) -> dict[str, Path]:
    """Return the folders of splits by name."""
    folders = [folder for folder in visible(root) if folder.is_dir()]
    holding = {folder.name: folder for folder in folders if _pictures(folder)}
    sorted_ = {folder.name: folder for folder in folders if _classes(folder)}
    if sorted_ and (not holding or (SPLITS | {wanted}) & set(sorted_)):  # else CLASS/PICTURE, and some lie deeper
        return sorted_ | {name: folder for name, folder in holding.items() if name in SPLITS}
    if holding and set(holding) <= SPLITS:
        return holding
    return {"train": root} if holding or _pictures(root) else {}


def visible(folder: Path) -> list[Path]:
    """List what is in a folder and not hidden, by name."""
    return sorted(path for path in folder.iterdir() if not _hidden(path.name))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _pictures(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if path.suffix.lower() in SUFFIXES and path.is_file()]


def _classes(folder: Path) -> dict[str, list[Path]]:
    found = {sub.name: _pictures(sub) for sub in visible(folder) if sub.is_dir()}
    return {name: files for name, files in found.items() if files}


def left_out(top: Path, taken: list[Path], depth: int | None) -> str:
    """Count the files below a folder that are not among those taken, by the reason; without ``depth`` a table lists."""
    kept, counts = set(taken), Counter[str]()
    for file in top.rglob("*"):
        if file in kept or not file.is_file():
            continue
        parts = file.relative_to(top).parts
        if any(map(_hidden, parts)):
            counts["hidden"] += 1
        elif file.suffix.lower() not in SUFFIXES:
            counts["no pictures"] += 1
        elif depth is None:
            counts["not listed"] += 1
        else:
            counts["too deep" if len(parts) > depth else "in no folder of a class"] += 1
    if not counts:
        return ""
    total, why = sum(counts.values()), ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
    return f"{total} {'file' if total == 1 else 'files'} left out: {why}"


def parquet_files(root: Path, split: str | None = None) -> list[Path]:
    """List the parquet files at most three levels down: all, or those called SPLIT, SPLIT-00000-of-00001 or SPLIT/NAME.

    Raises:
        ValueError: if files of a split lie in several folders, as those of several configurations do.
    """
    levels = ("*.parquet", "*/*.parquet", "*/*/*.parquet")
    every = sorted(
        file
        for level in levels
        for file in root.glob(level)
        if not any(map(_hidden, file.relative_to(root).parts)) and file.stem != "metadata"
    )
    if split is None:
        return every
    named = re.compile(rf"{re.escape(split)}([-_.]\d.*)?")
    found = [file for file in every if named.fullmatch(file.stem)]
    found = found or [file for file in every if file.parent.name == split and file.parent != root]
    if len(places := sorted({str(file.parent.relative_to(root)) for file in found})) > 1:
        raise ValueError(f"name must be the folder of one set, got {root} with {split} in {' and '.join(places)}")
    return found


def too_deep(root: Path) -> str:
    """Say how many pictures lie where none are looked for; empty if there are none."""
    found = [f.relative_to(root) for f in root.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file()]
    found = sorted(file for file in found if not any(map(_hidden, file.parts)))
    if not found:
        return ""
    lie = "1 picture lies" if len(found) == 1 else f"{len(found)} pictures lie"
    return f": {lie} deeper than SPLIT/CLASS/PICTURE, {found[0]} first"
