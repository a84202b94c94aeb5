"""What is kept of cells: one folder a cell, one file a part, so that a killed run goes on where it was.

Beside them lies a note for each kind of machine that measured any.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omnirobust._files import replacing
from omnirobust.jobs.differences import version_of
from omnirobust.study.protocol import Span
from omnirobust.zoo.chunks import Chunk, ChunkStore
from omnirobust.zoo.own_code import is_own, source_digest
from omnirobust.zoo.states import state_of

LATER: dict[str, Callable[[int], Tensor]] = {"distortion": lambda n: torch.empty(n, 0)}
"""Fields of ``Measured`` that came later, and what stands in their place of N images measured before. One that is not
here makes all that was measured count as missing."""


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

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Measured:
        """Return what a part holds, one from before there were all fields with ``LATER``.

        Raises:
            TypeError: if the tensors are others.
        """
        n = len(tensors["fooled"])
        return cls(**({name: made(n) for name, made in LATER.items()} | dict(tensors)))

    @classmethod
    def alone(cls, fooled: Tensor, labels: Tensor, distortion: Tensor | None = None) -> Measured:
        """Return who is fooled (N, J), by which labels (N, J), without what only an attack on groups has."""
        N, J = fooled.shape
        path, weights = torch.zeros(N, 0, J), torch.zeros(N, J, dtype=None if distortion is None else distortion.dtype)
        found = {"fooled": fooled, "any_iterate": fooled.all(1), "weights": weights, "labels": labels.contiguous()}
        found |= {"fooled_path": path.bool(), "weights_path": path.half()}
        return cls.of(found if distortion is None else found | {"distortion": distortion})

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
    """What is kept of one cell on disk.

    Args:
        root: folder of all cells.
        settings: what tells the cell from others: its key is their hash, and they are written beside it for the reader.
    """

    def __init__(self, root: Path, settings: Mapping[str, Any]) -> None:
        key = key_of(settings)
        self.path = root / key
        self.lock = root / ".locks" / key  # apart, so that the folder appears with its first result
        self.store = ChunkStore(self.path, undigested=True)
        self._settings = settings

    def part(self, span: Span) -> Chunk | None:
        """Return a part if it was measured; a damaged file counts as missing."""
        return self.store.get(span.file)

    def complete(self, spans: Sequence[Span]) -> bool:
        """Say whether there is a file, damaged or not, for each of ``spans``."""
        return all(self.store.file(span.file).is_file() for span in spans)

    def put(self, span: Span, part: Chunk) -> None:
        """Write a part, whole or not at all."""
        self.note()
        self.store.put(span.file, part.tensors, part.facts)

    def note(self) -> None:
        """Write beside the parts what the key stands for."""
        described = self.path / "settings.json"
        if not described.is_file():
            with replacing(described) as half:
                half.write_text(json.dumps(self._settings, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    def seconds(self) -> float:
        """Return the wall-clock time that all parts took, as each file says."""
        parts = [self.store.get(file.stem) for file in sorted(self.path.glob("*.safetensors"))]
        return sum(float(part.facts.get("seconds", 0)) for part in parts if part is not None)


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


def plain(value: Any) -> Any:
    """Return settings as plain values: dataclasses by name and fields, functions by name, tensors as lists.

    What comes from the user's own code has a digest of its source too.
    """
    if isinstance(value, Tensor):
        return [float(v) for v in value.flatten().double()]
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, partial):
        return {"name": plain(value.func), "args": plain(value.args), "keywords": plain(value.keywords)}
    # Names without modules: files may move between rooms, and nothing is measured again.
    if hasattr(value, "__qualname__"):
        return f"{value.__qualname__}, source {source_digest(value)}" if is_own(value) else value.__qualname__
    own = is_own(type(value))
    source = {"source": source_digest(type(value))} if own else {}
    if is_dataclass(value):
        return {"name": type(value).__name__} | {f.name: plain(getattr(value, f.name)) for f in fields(value)} | source
    if own:
        return {"name": type(value).__name__} | {name: plain(v) for name, v in vars(value).items()} | source
    return repr(value) if callable(value) else value


def note_machine(cells: str | Path, device: torch.device | str = "cpu") -> None:
    """Remember beside the cells that this machine measured some of them."""
    text = machine(device)
    # one file a kind of machine, called by its content: many processes may write it, and none has to read first
    file = Path(cells) / "machines" / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        # another process of the same number, on another machine, may be writing the same note
        with suppress(FileNotFoundError), replacing(file) as half:
            half.write_text(json.dumps({"machine": text}) + "\n", encoding="utf-8")


def machines(cells: str | Path) -> tuple[str, ...]:
    """Return every machine that measured cells of a folder; one whose note is damaged is left out."""
    found: list[str] = []
    for file in sorted((Path(cells) / "machines").glob("*.json")):
        try:
            found.append(str(json.loads(file.read_text(encoding="utf-8"))["machine"]))
        except (OSError, ValueError, KeyError, TypeError):  # a note is for the reader: no number depends on it
            continue
    return tuple(found)


def machine(device: torch.device | str = "cpu") -> str:
    """Say what this machine is, without its name."""
    where = torch.device(device)
    chip = torch.cuda.get_device_name(where) if where.type == "cuda" else "no accelerator"
    return (
        f"{platform.system()}, {platform.machine()}, {os.cpu_count()} processor cores, {chip}; Python "
        f"{platform.python_version()}, torch {torch.__version__}, omnirobust {version_of('omnirobust')}"
    )
