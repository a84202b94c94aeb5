"""The run folder: one job, its settings, its results, and what it takes to go on after an interruption.

Every file is written under another name and then moved into place, so that a kill leaves no half of one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from omnirobust._files import AGAIN, claimed, locked, part_of, replacing, sweep, sweep_siblings
from omnirobust.attacks.store import ResultStore
from omnirobust.jobs.differences import check_same, versions
from omnirobust.zoo.chunks import ChunkStore, read_chunk, write_chunk

CONFIG = "config.json"

OPTIONS = "config.yaml"
"""The file of options from which the command line makes the same run again."""

_LOCK = ".lock"

_BEGUN = re.compile(r"versions\.json|(versions|config)\.json\.\d+\.part")
"""What a kill can leave in an empty folder that was to become that of a run."""

_BEFORE_RESULTS = {"versions.json", "config.json", OPTIONS}
"""What a run folder holds before anything was found."""


@dataclass(frozen=True)
class RunFolder:
    """A folder that belongs to one configuration.

    Attributes:
        path: the folder.
        config: the resolved settings, plain values.
    """

    path: Path
    config: dict[str, Any]

    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, Any]) -> RunFolder:
        """Make the folder, or open it again if it was made for the very same ``config``.

        Raises:
            ValueError: if it was made for another one, or holds other things.
        """
        folder = cls(Path(path), json.loads(json.dumps(config)))
        sweep_siblings(folder.path)
        if not (folder.path / "config.json").exists():
            folder._make()
        check_same(folder.config, cls.open(path).config, folder.path)
        return folder

    def _make(self) -> None:
        """Make the folder under another name and move it into place, so that nobody sees it without its settings.

        An empty folder that is there already may be somebody's working directory: it stays, and is filled.
        """
        there = self.path.exists()
        if there and not (self.path.is_dir() and all(_BEGUN.fullmatch(f.name) for f in self.path.iterdir())):
            raise ValueError(f"out must be a new folder or that of a run, got {self.path}, which holds other things")
        made = self if there else RunFolder(part_of(self.path.with_name(f".{self.path.name}")), self.config)
        try:
            made.path.mkdir(parents=True, exist_ok=True)
            with nullcontext() if there else claimed(made.path):
                made.write_json("versions.json", versions())
                made.write_json("config.json", self.config)
                if not there:
                    made.path.replace(self.path)
        except OSError as error:
            if not (self.path / "config.json").exists():  # else another process was faster
                raise OSError(error.errno, error.strerror, str(self.path)) from error
        finally:
            if not there:
                shutil.rmtree(made.path, ignore_errors=True)

    @contextmanager
    def held(self, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Keep the folder to this process: another that is at work in it is waited for, after a call of ``waiting``.

        The lock is one of the operating system: it goes with the process that holds it, however that ends. It has a
        file while the run has not ended.
        """
        if self.finished and not os.access(self.path, os.W_OK):  # somebody else's run: there is nothing to write
            yield
            return
        with locked(self.file(_LOCK), waiting):
            sweep(self.path)
            try:
                yield
            finally:
                if self.finished:
                    self.file(_LOCK).unlink(missing_ok=True)

    @property
    def finished(self) -> bool:
        """Whether the run has ended."""
        return self.file("metrics.json").exists()

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open the folder of a run.

        Raises:
            FileNotFoundError: if there is no run.
            ValueError: if its configuration is damaged.
        """
        file = Path(path) / "config.json"
        if not file.is_file():
            what = "has no config.json" if Path(path).exists() else "does not exist"
            raise FileNotFoundError(f"run must be the folder of a run, got {path}, which {what}")
        return cls(Path(path), _read_json(file))

    def file(self, name: str) -> Path:
        """Return the path of a file of this run."""
        return self.path / name

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write ``content`` as JSON."""
        with replacing(self.path / name, self.path) as partial:
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of this run.

        Raises:
            FileNotFoundError: if it is not there, so that the run has not ended.
            ValueError: if it is damaged.
        """
        if not (self.path / name).is_file():
            raise FileNotFoundError(f"run must have ended, but {self.path} has no {name} yet: give its command again")
        return _read_json(self.path / name)

    def write_options(self, text: str | None) -> None:
        """Keep, as config.yaml, the options that make this run again; None and what is there already do nothing."""
        if text is not None and not (self.path / OPTIONS).exists():
            with replacing(self.path / OPTIONS, self.path) as partial:
                partial.write_text(text, encoding="utf-8")

    @property
    def command(self) -> str:
        """The command that makes this run again; empty where it was not made on the command line."""
        file = self.path / OPTIONS
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
        return lines[-1].removeprefix(AGAIN) if lines and lines[-1].startswith(AGAIN) else ""

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors as safetensors, with a digest."""
        write_chunk(self.path / name, tensors, {}, self.path)

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """Read a safetensors file of this run.

        Raises:
            ValueError: if it is missing or damaged.
        """
        try:
            return read_chunk(self.path / name, undigested=True).tensors
        except (ValueError, OSError) as error:
            raise ValueError(self._lost(name)) from error

    def write_table(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Write equally long columns as parquet."""
        import pyarrow
        from pyarrow import parquet

        with replacing(self.path / name, self.path) as partial:
            parquet.write_table(pyarrow.table(dict(columns)), partial)

    def read_table(self, name: str) -> dict[str, list[Any]]:
        """Read a parquet file of this run, column by column.

        Raises:
            ValueError: if it is missing or damaged.
        """
        from pyarrow import ArrowException, parquet

        try:
            return parquet.read_table(self.path / name).to_pydict()
        except (ArrowException, OSError) as error:
            raise ValueError(self._lost(name)) from error

    def conclude(self, metrics: Mapping[str, Any], files: Sequence[str]) -> None:
        """Write the metrics, the sign that the run has ended, with digests of the settings and of their ``files``."""
        digests = {name: self._digest(name) for name in (CONFIG, *files)}
        self.write_json("metrics.json", {**metrics, "digests": digests})

    def check_belongs(self, name: str, metrics: Mapping[str, Any]) -> None:
        """Refuse a file that is whole, but not the one that the run wrote with these metrics.

        Raises:
            ValueError: if it is another; earlier versions did not say.
        """
        known = metrics.get("digests", {}).get(name)
        if known is not None and self.file(name).exists() and known != self._digest(name):
            raise ValueError(
                f"The files {self.file(name)} and metrics.json are not of one run, or damaged: delete "
                f"{self.path if name == CONFIG else self.file('metrics.json')} and run the job again."
            )

    def _digest(self, name: str) -> str:
        """Return a digest of a file; of the settings, of all but what the data are called: they have their own."""
        if name == CONFIG:
            data = {key: value for key, value in self.config.get("data", {}).items() if key != "name"}
            text = json.dumps(self.config | {"data": data}, sort_keys=True)
            return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        with self.file(name).open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()[:32]

    def _lost(self, name: str) -> str:
        """Say how a file of results is made again: a job whose metrics are there is not run."""
        first = f"delete {self.file('metrics.json')} and " if self.finished else ""
        return f"The file {self.file(name)} is missing or damaged: {first}run the job again."

    @property
    def parts(self) -> ChunkStore:
        """The store of the finished parts of the job."""
        return ChunkStore(self.path / "parts", within=self.path)

    def store(self, part: str) -> ResultStore:
        """Return the store of the finished batches of one attack of the job."""
        return ResultStore(self.path / "parts" / part, self.path)

    def withdraw(self, *, keep: bool) -> None:
        """Take away what says whose folder this is, where it holds nothing else; ``keep`` the empty folder itself."""
        if not self.path.is_dir() or not {f.name for f in self.path.iterdir()} <= {*_BEFORE_RESULTS, _LOCK}:
            return
        for name in sorted({*_BEFORE_RESULTS, _LOCK}):
            self.file(name).unlink(missing_ok=True)
        if not keep:
            self.path.rmdir()

    def clear_parts(self) -> None:
        """Delete the finished parts of the job, once its results are written; those of earlier trainings, too."""
        for parts in (self.parts.folder, self.file("weights")):
            shutil.rmtree(parts, ignore_errors=True)


def _read_json(file: Path) -> dict[str, Any]:
    what = "its folder" if file.name == "config.json" else "it"  # which says whose folder it is
    damaged = f"The file {file} is damaged: delete {what} and run the job again."
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(damaged) from error
    if not isinstance(content, dict):
        raise ValueError(damaged)
    return content
