"""Results on disk, one safetensors file each with a digest, so that a damaged one is noticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from omnirobust._files import replacing
from omnirobust.history import History, HistoryRows
from omnirobust.results import AttackResult

_HISTORY = ("losses", "weights", "fooled", "all_fooled", "best_all_fooled")
_ROWS = ("losses", "weights", "fooled", "best")
_RESULT = ("adversarial", "delta", "weights", "losses", "fooled", "success", "zero_gradient")
_LABELLED = ("right", "already")
"""Of attacks that are told other labels than those that they leave or reach."""


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
    tensors |= {name: value for name in _LABELLED if (value := getattr(result, name)) is not None}
    tensors |= {f"history.{name}": getattr(result.history, name) for name in _HISTORY}
    if (rows := result.history.rows) is not None:
        tensors |= {f"rows.{name}": getattr(rows, name) for name in _ROWS if getattr(rows, name) is not None}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    facts = {
        "names": list(result.names),
        "axes": {axis: list(members) for axis, members in result.axes.items()},
        "draws": result.draws,
        "steps": result.steps,
        "gradient_evaluations": result.gradient_evaluations,
        "problems": result.history.problems,
        "settings": result.settings,
        "notes": list(result.notes),
    }
    text = json.dumps(facts)
    with replacing(file) as partial:
        # save_file would leave the file unreadable for other users
        partial.write_bytes(save(tensors, metadata={"facts": text, "digest": _digest(tensors, text)}))


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
        success=tensors["success"],
        draws=facts["draws"],
        names=tuple(facts["names"]),
        axes={axis: tuple(members) for axis, members in facts["axes"].items()},
        history=history,
        steps=facts["steps"],
        gradient_evaluations=facts["gradient_evaluations"],
        zero_gradient=tensors["zero_gradient"],
        settings=facts["settings"],
        notes=tuple(facts.get("notes", ())),  # files of earlier versions have none
        **{name: tensors[name] for name in _LABELLED if name in tensors},
    )


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
