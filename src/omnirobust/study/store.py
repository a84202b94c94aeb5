"""The cells' cache: one folder a cell, one file a chunk of images, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omnirobust._files import replacing
from omnirobust._states import state_of
from omnirobust.stores import Chunk, ChunkStore


@dataclass(frozen=True)
class Measured:
    """What is kept of an attack on N images.

    Attributes:
        fooled: whether each judge is fooled by the result, (N, J) bool.
        any_iterate: whether some iterate fooled every attacked model at once, (N,) bool.
        weights: domain weights at the kept iterate, (N, K).
        fooled_path: whether each attacked model was fooled at each iterate, (N, T+1, K) bool.
        weights_path: weights at each iterate, (N, T+1, K), in half precision.
        labels: the labels that each judge was to leave, (N, J) int64.
        distortion: the least distortion of every image of a group, (N, K); (N, 0) where it is not what was measured.
    """

    fooled: Tensor
    any_iterate: Tensor
    weights: Tensor
    fooled_path: Tensor
    weights_path: Tensor
    labels: Tensor
    distortion: Tensor

    def __len__(self) -> int:
        return len(self.fooled)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All of it by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def rows(self, index: slice | Tensor) -> Measured:
        """Keep some of the images."""
        return Measured(**{name: value[index] for name, value in self.tensors.items()})

    def merged(self, changed: Tensor, other: Measured) -> Measured:
        """Return this with the images that ``changed`` (N,) marks taken, in order, from ``other``."""
        merged = {name: value.clone() for name, value in self.tensors.items()}
        for name, values in merged.items():
            values[changed] = getattr(other, name)
        return Measured(**merged)


def join(parts: list[Measured]) -> Measured:
    """Join chunks in order."""
    return Measured(**joined([part.tensors for part in parts]))


def joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Join the named tensors of chunks in order."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


class CellFolder:
    """The chunks of one cell on disk, each of some rows: images, or problems.

    Args:
        root: folder of all cells.
        key: of this one.
        settings: what the key stands for, written beside the chunks for the reader.
    """

    def __init__(self, root: Path, key: str, settings: dict[str, Any]) -> None:
        self.path = root / key
        self.lock = root / ".locks" / key  # apart, so that the folder appears with its first result
        self.store = ChunkStore(self.path, undigested=True)
        self._settings = settings

    def rows(self, begin: int, end: int) -> Chunk | None:
        """Return rows ``begin`` to ``end`` if they were measured; a damaged file counts as missing."""
        found = self.store.get(_name(begin, end))
        whole = found is not None and all(len(value) == end - begin for value in found.tensors.values())
        return found if whole else None

    def get(self, begin: int, end: int) -> Measured | None:
        """Return images ``begin`` to ``end`` of an attack if they were measured."""
        if (found := self.rows(begin, end)) is None:
            return None
        tensors = {"distortion": torch.empty(end - begin, 0)} | found.tensors  # chunks from before there was any
        names = {f.name for f in fields(Measured)}
        return Measured(**tensors) if tensors.keys() == names else None

    def complete(self, spans: list[tuple[int, int]]) -> bool:
        """Say whether there is a file, damaged or not, for each of ``spans``."""
        return all(self.store.file(_name(begin, end)).is_file() for begin, end in spans)

    def put(self, begin: int, end: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write rows ``begin`` to ``end``, whole or not at all, with ``facts`` about the run."""
        self.note()
        self.store.put(_name(begin, end), tensors, facts)

    def note(self) -> None:
        """Write beside the chunks what the key stands for."""
        described = self.path / "settings.json"
        if not described.is_file():
            with replacing(described) as partial:
                partial.write_text(json.dumps(self._settings, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    def seconds(self) -> float:
        """Return the wall-clock time that all chunks took, as each file says."""
        chunks = [self.store.get(file.stem) for file in sorted(self.path.glob("rows-*.safetensors"))]
        return sum(float(chunk.facts["seconds"]) for chunk in chunks if chunk is not None)


def _name(begin: int, end: int) -> str:
    return f"rows-{begin:06d}-{end:06d}"


def key_of(settings: Mapping[str, Any]) -> str:
    """Return the key of a cell with these settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:20]


def fingerprint(model: nn.Module) -> str:
    """Return a hash of a model's class, parameters and buffers."""
    digest = hashlib.sha256(type(model).__qualname__.encode())
    state = state_of(model)
    for name, value in sorted(state.tensors.items()):
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    digest.update(state.text.encode())
    return digest.hexdigest()
