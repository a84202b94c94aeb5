"""The cells' cache: one folder a cell, one file a chunk of images, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from omnirobust._files import replacing


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

    def rows(self, index: slice | Tensor) -> Measured:
        """Keep some of the images."""
        return Measured(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def merged(self, changed: Tensor, other: Measured) -> Measured:
        """Return this with the images that ``changed`` (N,) marks taken, in order, from ``other``."""
        merged = {f.name: getattr(self, f.name).clone() for f in fields(self)}
        for name, values in merged.items():
            values[changed] = getattr(other, name)
        return Measured(**merged)


def join(parts: list[Measured]) -> Measured:
    """Join chunks in order."""
    return Measured(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Measured)})


class CellFolder:
    """The chunks of one cell on disk.

    Args:
        root: folder of all cells.
        key: of this one.
        settings: what the key stands for, written beside the chunks for the reader.
    """

    def __init__(self, root: Path, key: str, settings: dict[str, Any]) -> None:
        self._folder = root / key
        self.lock = root / ".locks" / key  # apart, so that the folder appears with its first result
        self._settings = settings

    def get(self, begin: int, end: int) -> Measured | None:
        """Return images ``begin`` to ``end`` if they were measured; a damaged file counts as missing."""
        file = self._file(begin, end)
        if not file.is_file():
            return None
        try:
            with safe_open(file, framework="pt") as stored:
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
                tensors.setdefault("distortion", tensors["weights"].new_empty(len(tensors["weights"]), 0))
                found = Measured(**{f.name: tensors[f.name] for f in fields(Measured)})
        except (SafetensorError, OSError, KeyError):
            return None
        return found if len(found) == end - begin else None

    def complete(self, spans: list[tuple[int, int]]) -> bool:
        """Say whether there is a file, damaged or not, for each of ``spans``."""
        return all(self._file(begin, end).is_file() for begin, end in spans)

    def put(self, begin: int, end: int, measured: Measured, facts: dict[str, Any]) -> None:
        """Write images ``begin`` to ``end``, whole or not at all, with ``facts`` about the run."""
        described = self._folder / "settings.json"
        if not described.is_file():
            with replacing(described) as partial:
                partial.write_text(json.dumps(self._settings, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        with replacing(self._file(begin, end)) as partial:
            tensors = {f.name: getattr(measured, f.name).contiguous() for f in fields(measured)}
            partial.write_bytes(
                save(tensors, metadata={"facts": json.dumps(facts)})
            )  # save_file would make it unreadable for other users

    def seconds(self) -> float:
        """Return the wall-clock time that all chunks took, as each file says."""
        return sum(_seconds(file) for file in sorted(self._folder.glob("rows-*.safetensors")))

    def _file(self, begin: int, end: int) -> Path:
        return self._folder / f"rows-{begin:06d}-{end:06d}.safetensors"


def _seconds(file: Path) -> float:
    try:
        with safe_open(file, framework="pt") as stored:
            return float(json.loads(stored.metadata()["facts"])["seconds"])
    except (SafetensorError, OSError):
        return 0.0


def fingerprint(model: nn.Module) -> str:
    """Return a hash of a model's class, parameters and buffers."""
    digest = hashlib.sha256(type(model).__qualname__.encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
