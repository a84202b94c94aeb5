"""Finished parts of a computation on disk: named tensors and facts, one safetensors file each, with a digest.

A part is there whole or not at all: what is half written, flipped or of another shape counts as missing, so that it is
computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from omnirobust._files import replacing
from omnirobust._states import fill_state, state_of
from omnirobust.history import History, HistoryRows
from omnirobust.results import AttackResult

_DIGEST = "digest"

_EXTRA = "extra"

_HISTORY, _ROWS = "history.", "rows."
"""What precedes the names of tensors that are not fields of the result itself."""


class Chunk(NamedTuple):
    """What one file holds: tensors by name, and facts, plain values."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


@dataclass(frozen=True)
class ChunkStore:
    """Finished parts in a folder, each under a name of its own.

    Attributes:
        folder: where they lie; it appears with the first of them.
        undigested: whether files count that have no digest, from before there were any.
        within: a folder that is not made, but must be there: that of the run whose parts these are.
    """

    folder: Path
    undigested: bool = False
    within: Path | None = None

    def get(self, name: str) -> Chunk | None:
        """Return a part; None if it is not there or damaged."""
        try:
            return read_chunk(self.file(name), undigested=self.undigested)
        except (ValueError, OSError):
            return None

    def put(self, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None) -> None:
        """Keep a part."""
        write_chunk(self.file(name), tensors, facts or {}, self.within)

    def file(self, name: str) -> Path:
        """Return where a part lies."""
        return self.folder / f"{name}.safetensors"


def write_chunk(
    file: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], within: Path | None = None
) -> None:
    """Write tensors as one safetensors file, facts and a digest of both in its metadata."""
    whole = _apart(tensors)
    # All in one entry: safetensors writes several in any order, and equal parts are to be equal files.
    text = json.dumps({**facts, _DIGEST: _digest(whole, json.dumps(facts))})
    with replacing(file, within) as partial:
        # save_file would leave the file unreadable for other users
        partial.write_bytes(save(whole, metadata={"facts": text}))


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors on the processor, each in memory of its own: names that share theirs cannot be written."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in tensors.items():
        plain = value.detach().cpu().contiguous()
        place = plain.untyped_storage().data_ptr()
        found[name] = plain.clone() if place in seen else plain
        seen.add(place)
    return found


def read_chunk(file: Path, *, undigested: bool = False) -> Chunk:
    """Read what ``write_chunk`` wrote; a file without a digest, and perhaps without facts, only where that is allowed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}.")
    try:
        with safe_open(file, framework="pt") as stored:
            metadata = stored.metadata() or {}
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118  (not a mapping)
        facts = dict(json.loads(metadata.get("facts", "{}")))
        known = facts.pop(_DIGEST, metadata.get(_DIGEST))  # earlier versions kept it apart
        if known != _digest(tensors, json.dumps(facts)) and not (known is None and undigested):
            raise ValueError("digest")
        return Chunk(tensors, facts)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"The file {file} is damaged.") from error


def write_model(file: Path, model: nn.Module, within: Path | None = None) -> None:
    """Write the state of a model: every name of its ``state_dict``, and what is no tensor among the facts.

    Raises:
        ValueError: if it holds something that no file can.
    """
    state = state_of(model)
    write_chunk(file, state.tensors, {_EXTRA: state.extra} if state.extra else {}, within)


def read_model(file: Path, model: nn.Module) -> None:
    """Read what ``write_model``, ``safetensors.torch.save_file`` or ``save_model`` wrote into a model.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or of another model.
    """
    found = read_chunk(file, undigested=True)
    try:
        fill_state(model, found.tensors, found.facts.get(_EXTRA, {}))
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"The file {file} is of another model.") from error


def model_fingerprint(model: nn.Module) -> str:
    """Return the fingerprint of a model's state, what is no tensor included."""
    state = state_of(model)
    return _digest(state.tensors, state.text)[:16]


@dataclass(frozen=True)
class ResultStore:
    """Finished batches of one attack, one file each: what ``attack_ensemble(store=...)`` resumes from.

    Attributes:
        folder: where they lie.
        within: see ``ChunkStore``.
    """

    folder: Path
    within: Path | None = None

    def get(self, index: int) -> AttackResult | None:
        """Return the result of batch ``index``; None if it is not there or damaged, so that it is computed again."""
        found = ChunkStore(self.folder).get(f"{index:05d}")
        try:
            return None if found is None else _assemble(*found)
        except (KeyError, TypeError, AttributeError):  # whole, but no result
            return None

    def put(self, index: int, result: AttackResult) -> None:
        """Keep the result of batch ``index``."""
        ChunkStore(self.folder, within=self.within).put(f"{index:05d}", *_taken_apart(result))


def _taken_apart(result: AttackResult) -> Chunk:
    """Return every field of a result and of its history: tensors as tensors, what is plain as facts."""
    tensors: dict[str, Tensor] = {}
    facts: dict[str, Any] = {}
    for prefix, part in (("", result), (_HISTORY, result.history), (_ROWS, result.history.rows)):
        values = {} if part is None else {f.name: getattr(part, f.name) for f in fields(part)}
        tensors |= {prefix + name: value for name, value in values.items() if isinstance(value, Tensor)}
        facts |= {
            name: value for name, value in values.items() if isinstance(value, (str, int, float, tuple, list, dict))
        }
    return Chunk(tensors, facts)


def _assemble(tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> AttackResult:
    """Undo ``_taken_apart`` once JSON has made lists of tuples."""
    own: dict[str, Any] = {}
    of_history: dict[str, Any] = {}
    of_rows: dict[str, Any] = {"fooled": None}
    for key, value in tensors.items():
        prefix, _, name = key.rpartition(".")
        {"": own, _HISTORY: of_history, _ROWS: of_rows}[prefix and f"{prefix}."][name] = value
    rows = HistoryRows(**of_rows) if len(of_rows) > 1 else None
    plain: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in facts.items()}
    plain["axes"] = {axis: tuple(members) for axis, members in facts["axes"].items()}
    return AttackResult(**own, history=History(**of_history, problems=plain.pop("problems"), rows=rows), **plain)


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
