"""Sets as the Hugging Face hub lays them out, a folder here or an id on the hub: found, opened and decoded once."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from omnirobust._files import cache_dir, replacing
from omnirobust.zoo.decoding import Reading, decoded
from omnirobust.zoo.folders import PictureFolder, parquet_files, picture_folder, too_deep
from omnirobust.zoo.listed import ListedPictures, listed_pictures, tables
from omnirobust.zoo.pictures import SUFFIXES, resized

if TYPE_CHECKING:
    from datasets import Dataset

DATA_SUFFIXES = {".parquet", ".arrow", ".tar", ".zip", *SUFFIXES}
"""Files that make a folder worth handing to `datasets`."""

_T = TypeVar("_T")

READER = 3
"""Counts the ways in which this package has read pictures: what an earlier one decoded is decoded again."""


class DataUnavailableError(RuntimeError):
    """A data set is neither on this machine nor to be had from the hub."""


@dataclass(frozen=True)
class Source:
    """A set as the hub lays it out: pictures in folders of classes, a table of pictures, parquet files.

    Attributes:
        path: a folder on this machine, or an id on the hub.
        config: the configuration of the set; None for its only one.
        folder: whether ``path`` is a folder.
    """

    path: str
    config: str | None = None
    folder: bool = False

    def decoded(self, split: str, reading: Reading) -> Path:
        """Return the safetensors file of the decoded images and labels, made on first use.

        A folder may hold it already, as SPLIT.safetensors, in place of encoded images.
        """
        ready = Path(self.path) / f"{split}.safetensors"
        if self.folder and ready.is_file():
            return self._ready(ready, split, reading)
        pictures = self.pictures(split)
        if reading.labelled and isinstance(pictures, PictureFolder) and not pictures.classes:
            raise ValueError(
                f"{self.path} must have classes, got none in {split}: pictures lie in no folder of a class. A folder "
                f"called {split} is read as a split, and the folders in it as classes: {split}/CLASS/PICTURE"
            )
        dataset = None if self.folder else self.open(split)
        if isinstance(pictures, ListedPictures):
            files, told = [pictures.table, *pictures.files], [pictures.note]
        elif pictures is not None:
            files, told = pictures.files, [*pictures.classes, pictures.note]
        else:
            files = _data_files(self.path) if dataset is None else [Path(f["filename"]) for f in dataset.cache_files]
            told = []
        file = self._kept(split, reading, files, told)
        if not file.exists():
            _decode(self.open(split) if dataset is None else dataset, file, self, split, reading, pictures)
        return file

    def _ready(self, ready: Path, split: str, reading: Reading) -> Path:
        if reading.label is not None:
            raise ValueError(f"label must be left out for {ready}, which has one kind of labels, got {reading.label!r}")
        if reading.resize is None:
            return ready
        file = self._kept(split, reading, [ready], [])
        if not file.exists():
            try:
                with safe_open(ready, framework="pt") as stored:
                    facts, tensors = stored.metadata(), {n: stored.get_tensor(n) for n in ("images", "labels")}
            except SafetensorError as error:
                raise DataUnavailableError(f"The images {ready} are damaged: {error}") from error
            every = [np.stack([resized(channel.numpy(), reading.resize) for channel in x]) for x in tensors["images"]]
            _write(file, torch.from_numpy(np.stack(every)), tensors["labels"], facts)
        return file

    def _kept(self, split: str, reading: Reading, files: Sequence[Path], told: Sequence[str]) -> Path:
        return cache_dir() / "data" / f"{_key(self, split, files, [READER, astuple(reading), *told])}.safetensors"

    def pictures(self, split: str) -> ListedPictures | PictureFolder | None:
        """Find the pictures of a folder that holds no encoded images of the split: those of a table, or by folders."""
        root = Path(self.path)
        if not self.folder or _saved(root) or parquet_files(root, split):
            return None
        return listed_pictures(root, split) or picture_folder(root, split)

    def open(self, split: str) -> Dataset:
        """Open one split through `datasets`, without its progress bars."""
        pictures = self.pictures(split)
        if isinstance(pictures, ListedPictures):
            return pictures.dataset()
        if pictures is not None:
            return _dataset_of(pictures)
        return self._told(lambda: self._loaded(split))

    def _loaded(self, split: str) -> Dataset:
        import datasets

        if self.folder and _saved(Path(self.path)):
            found = datasets.load_from_disk(self.path)
            by_name = found if isinstance(found, datasets.DatasetDict) else {str(found.split or "train"): found}
            if split not in by_name:
                raise ValueError(f"Unknown split {split!r}. Should be one of {list(by_name)}.")
            return by_name[split]
        if self.folder and (files := parquet_files(Path(self.path), split)):
            return datasets.load_dataset("parquet", data_files=[escape(str(file)) for file in files], split="train")
        return datasets.load_dataset(self.path, self.config, split=split)

    def values(self, column: str, split: str) -> set[Any]:
        """Return what occurs in a column in any split, so that all of them have the same classes."""
        parts = self._told(lambda: self._columns(column, split))
        return set().union(*(part.unique().to_pylist() for part in parts)) - {None}

    def _columns(self, column: str, split: str) -> list[Any]:
        import datasets
        from pyarrow.parquet import read_schema, read_table

        root = Path(self.path)
        saved = self.folder and _saved(root)
        if self.folder and not saved and (files := parquet_files(root)):
            return [read_table(f, columns=[column])[column] for f in files if column in read_schema(f).names]
        if self.folder and not saved and (listed := tables(root, split)):
            return [rows[column] for _, rows in listed.values() if column in rows.column_names]
        found = datasets.load_from_disk(self.path) if saved else datasets.load_dataset(self.path, self.config)
        splits = found.values() if isinstance(found, dict) else [found]
        return [split.data.column(column) for split in splits if column in split.column_names]

    def _told(self, call: Callable[[], _T]) -> _T:
        """Call what uses `datasets`, quietly, and say in one sentence what it raises."""
        from datasets.exceptions import DatasetsError

        try:
            with _quiet(), _offline(not self.folder and not _reachable()):
                return call()
        except (OSError, DatasetsError) as error:
            raise DataUnavailableError(_unavailable(self, error)) from error
        except ValueError as error:
            for name in ("split", "config"):
                if name in str(error).lower():
                    raise ValueError(f"{name} must be one that {self.path} has: {_sentence(error)}") from error
            raise DataUnavailableError(_unavailable(self, error)) from error
        except Exception as error:  # its readers raise many kinds on files of other shapes, StopIteration among them
            raise DataUnavailableError(_unavailable(self, error)) from error


def _saved(root: Path) -> bool:
    """Say whether a folder is what ``save_to_disk`` writes."""
    return (root / "dataset_dict.json").is_file() or (root / "state.json").is_file()


def _dataset_of(pictures: PictureFolder) -> Dataset:
    import datasets

    columns: dict[str, list[Any]] = {"image": list(map(str, pictures.files))}
    features: dict[str, Any] = {"image": datasets.Image()}
    if pictures.classes:
        columns["label"], features["label"] = pictures.labels, datasets.ClassLabel(names=pictures.classes)
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def _data_files(folder: str) -> list[Path]:
    """List the data files of a folder, at most three levels down as the hub's layouts go."""
    levels = ("*", "*/*", "*/*/*")
    files = sorted(
        file for level in levels for file in Path(folder).glob(level) if file.suffix.lower() in DATA_SUFFIXES
    )
    if not files:
        why = too_deep(Path(folder)) or ": no parquet files, no images"
        raise DataUnavailableError(f"The folder {folder} holds no data set{why}. See docs/data.md for the layouts.")
    return files


def _reachable() -> bool:
    """Tell whether the hub answers, in seconds instead of the half minute that its client takes to give up."""
    from huggingface_hub import constants

    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    address = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=5).close()
    except OSError:
        return False
    return True


@contextmanager
def _quiet() -> Iterator[None]:
    import datasets

    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()


@contextmanager
def _offline(offline: bool) -> Iterator[None]:
    """Have `datasets` and its hub client read their caches only, if ``offline``."""
    from datasets import config
    from huggingface_hub import constants

    before = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before[0] or offline, before[1] or offline
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


@contextmanager
def hub_access() -> Iterator[None]:
    """Let clients of the hub read their caches only if it cannot be reached, rather than try again for a minute."""
    with _offline(not _reachable()):
        yield


def _unavailable(source: Source, error: Exception) -> str:
    if source.folder:
        return f"The folder {source.path} could not be read as a data set: {_sentence(error)}"
    return (
        f"The data set {source.path} is not on this machine and could not be fetched from the Hugging Face hub: check "
        f"its name, connect to the internet, or set OMNIROBUST_DATA to the folder that holds it as a folder."
    )


def _sentence(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _key(source: Source, split: str, files: Sequence[Path], told: Sequence[Any]) -> str:
    stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    text = json.dumps([source.path, source.config, split, stamps, told])
    return f"{Path(source.path).resolve().name}-{split}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _decode(
    dataset: Dataset, file: Path, source: Source, split: str, reading: Reading,
    pictures: ListedPictures | PictureFolder | None,
) -> None:  # fmt: skip
    """Decode a split and write it to ``file``."""
    images, labels, facts = decoded(dataset, reading, source.path, split, lambda column: source.values(column, split))
    facts["note"] = "; ".join(filter(None, [pictures.note if pictures else "", facts["note"]]))
    _write(file, images, labels, facts | {"folder": json.dumps(isinstance(pictures, PictureFolder))})


def _write(file: Path, images: Tensor, labels: Tensor, facts: dict[str, str]) -> None:
    with replacing(file) as partial:
        partial.write_bytes(serialize({"images": images, "labels": labels}, metadata=facts))
