"""Finished parts of a computation on disk: named tensors and facts, one safetensors file each, with a digest.

A part is there whole or not at all: what is half written, flipped or of another shape counts as missing, so that it is
computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from omnirobust._files import replacing
from omnirobust.zoo.states import fill_state, state_of

_DIGEST = "digest"

_EXTRA = "extra"


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
