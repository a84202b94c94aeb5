"""The run folder: one job, its settings, its results, and what it takes to go on after an interruption.

Every file is written under another name and then moved into place, so that a kill leaves no half of one.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from omnirobust._files import replacing
from omnirobust.history import History, HistoryRows
from omnirobust.results import AttackResult

_HISTORY = ("losses", "weights", "fooled", "all_fooled", "best_all_fooled")
_ROWS = ("losses", "weights", "fooled", "best")
_RESULT = ("adversarial", "delta", "weights", "losses", "fooled", "zero_gradient")


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
        if (folder.path / "config.json").exists():
            _check_same(folder.config, cls.open(path).config, folder.path)
        elif folder.path.exists() and (not folder.path.is_dir() or any(folder.path.iterdir())):
            raise ValueError(f"out must be a new folder or that of a run, got {path}, which holds other things")
        else:
            folder.path.mkdir(parents=True, exist_ok=True)
            folder.write_json("versions.json", versions())
            folder.write_json("config.json", folder.config)
        return folder

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open the folder of a run.

        Raises:
            FileNotFoundError: if there is no run.
            ValueError: if its configuration is damaged.
        """
        file = Path(path) / "config.json"
        if not file.is_file():
            raise FileNotFoundError(f"run must be the folder of a run, got {path}, which has no config.json")
        return cls(Path(path), _read_json(file))

    def file(self, name: str) -> Path:
        """Return the path of a file of this run."""
        return self.path / name

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write ``content`` as JSON."""
        with replacing(self.path / name) as partial:
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

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors as safetensors."""
        with replacing(self.path / name) as partial:
            save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, partial)

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """Read a safetensors file of this run.

        Raises:
            ValueError: if it is missing or damaged.
        """
        try:
            with safe_open(self.path / name, framework="pt") as stored:
                return {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118  (not a mapping)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"The file {self.path / name} is missing or damaged: run the job again.") from error

    def write_table(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Write equally long columns as parquet."""
        import pyarrow
        from pyarrow import parquet

        with replacing(self.path / name) as partial:
            parquet.write_table(pyarrow.table(dict(columns)), partial)

    def read_table(self, name: str) -> dict[str, list[Any]]:
        """Read a parquet file of this run, column by column."""
        from pyarrow import parquet

        return parquet.read_table(self.path / name).to_pydict()

    def store(self, part: str) -> ResultStore:
        """Return the store of the finished batches of one part of the job."""
        return ResultStore(self.path / "parts" / part)

    def clear_stores(self) -> None:
        """Delete the batches of all parts: for the end of a job, when its results are written."""
        shutil.rmtree(self.path / "parts", ignore_errors=True)


@dataclass(frozen=True)
class ResultStore:
    """Finished batches of one attack, one file each: what ``attack_ensemble(store=...)`` resumes from."""

    folder: Path

    def get(self, index: int) -> AttackResult | None:
        """Return the result of batch ``index``; None if it is not there or damaged, so that it is computed again."""
        try:
            return read_result(self._file(index))
        except (ValueError, OSError):
            return None

    def put(self, index: int, result: AttackResult) -> None:
        """Keep the result of batch ``index``."""
        write_result(self._file(index), result)

    def _file(self, index: int) -> Path:
        return self.folder / f"{index:05d}.safetensors"


def write_result(file: Path, result: AttackResult) -> None:
    """Write a result as one safetensors file, its plain values and a digest in the metadata."""
    tensors = {name: getattr(result, name) for name in _RESULT}
    tensors |= {f"history.{name}": getattr(result.history, name) for name in _HISTORY}
    if (rows := result.history.rows) is not None:
        tensors |= {f"rows.{name}": getattr(rows, name) for name in _ROWS if getattr(rows, name) is not None}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    facts = {
        "names": list(result.names),
        "steps": result.steps,
        "gradient_evaluations": result.gradient_evaluations,
        "problems": result.history.problems,
        "settings": result.settings,
    }
    text = json.dumps(facts)
    with replacing(file) as partial:
        save_file(tensors, partial, metadata={"facts": text, "digest": _digest(tensors, text)})


def read_result(file: Path) -> AttackResult:
    """Read what ``write_result`` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no result {file}.")
    try:
        with safe_open(file, framework="pt") as stored:
            metadata = stored.metadata()
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118  (not a mapping)
        if metadata["digest"] != _digest(tensors, metadata["facts"]):
            raise ValueError("digest")
        return _assemble(tensors, json.loads(metadata["facts"]))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"The result {file} is damaged.") from error


def _assemble(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> AttackResult:
    rows = {key.removeprefix("rows."): value for key, value in tensors.items() if key.startswith("rows.")}
    history = History(
        *(tensors[f"history.{name}"] for name in _HISTORY),
        problems=facts["problems"],
        rows=HistoryRows(rows["losses"], rows["weights"], rows.get("fooled"), rows["best"]) if rows else None,
    )
    return AttackResult(
        adversarial=tensors["adversarial"],
        delta=tensors["delta"],
        weights=tensors["weights"],
        losses=tensors["losses"],
        fooled=tensors["fooled"],
        names=tuple(facts["names"]),
        history=history,
        steps=facts["steps"],
        gradient_evaluations=facts["gradient_evaluations"],
        zero_gradient=tensors["zero_gradient"],
        settings=facts["settings"],
    )


def versions() -> dict[str, Any]:
    """Return what the numbers of a run may depend on beside its settings."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        **{name: version(name) for name in ("omnirobust", "torch", "numpy", "datasets", "safetensors")},
    }


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Return a short hash of named tensors: of weights or images, to tell runs on different ones apart."""
    return _digest(tensors, "")[:16]


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=32)
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"The file {file} is damaged: delete it and run the job again.") from error


def _check_same(wanted: Mapping[str, Any], found: Mapping[str, Any], path: Path) -> None:
    for key in sorted({*wanted, *found}):
        if wanted.get(key) != found.get(key):
            raise ValueError(
                f"out must be a new folder or that of a run with the same settings, got {path}, "
                f"made with {key} {found.get(key)!r}, not {wanted.get(key)!r}"
            )
