"""Mini-batches from tensors, named data or a loader, the same ones again for the same seed and epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from omnirobust.core.arguments import repeated
from omnirobust.zoo.data import ImageData, load


class Loader(Protocol):
    """What is needed of a DataLoader: batches of (x, y), or (x, y, rows) with each example's number in its set."""

    def __iter__(self) -> Iterator[Any]: ...


Data: TypeAlias = "tuple[Tensor, Tensor] | ImageData | Loader | str"
"""Tensors (x, y), images loaded by ``data.load``, a DataLoader, or the name of a set."""


@dataclass(frozen=True)
class Batch:
    """One process's share of a mini-batch.

    Attributes:
        x: inputs of the share, (n, *S).
        y: their classes, (n,) int64.
        rows: their numbers, (n,) int64: in the data set if ``known``, else in the order of the epoch.
        known: whether ``rows`` tells the same example again in another epoch.
        all_rows: the numbers of the whole mini-batch, (size,).
        mine: which of the mini-batch the share is, (n,) int64.
        factor: what the mean over the share counts for in the mean over the processes: n times their number over size.
    """

    x: Tensor
    y: Tensor
    rows: Tensor
    known: bool
    all_rows: Tensor
    mine: Tensor
    factor: float

    @property
    def size(self) -> int:
        """Examples of the whole mini-batch."""
        return len(self.all_rows)

    @classmethod
    def whole(cls, x: Tensor, y: Tensor, rows: Tensor, known: bool) -> Batch:
        """Make the share of a process that is alone."""
        return cls(x, y, rows, known, rows, torch.arange(len(x)), 1.0)

    def share(self, rank: int, count: int) -> Batch:
        """Return the share of process ``rank`` of ``count``.

        One that goes without gets an example that counts for nothing, so that it keeps step with the others.
        """
        if count == 1:
            return self
        mine = torch.arange(self.size).tensor_split(count)[rank]
        factor = len(mine) * count / self.size
        mine = mine if len(mine) else torch.zeros(1, dtype=torch.int64)
        return Batch(self.x[mine], self.y[mine], self.rows[mine], self.known, self.all_rows, mine, factor)

    def to(self, device: torch.device) -> Batch:
        """Move inputs and classes to ``device``."""
        return Batch(self.x.to(device), self.y.to(device), self.rows, self.known, self.all_rows, self.mine, self.factor)


@dataclass(frozen=True)
class TensorBatches:
    """Batches of tensors that are held in memory, shuffled anew in each epoch from (seed, epoch)."""

    x: Tensor
    y: Tensor
    batch_size: int
    seed: int | None

    def __len__(self) -> int:
        return math.ceil(len(self.x) / self.batch_size)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of one epoch; in the given order if ``seed`` is None."""
        for batch in self.numbered(epoch):
            yield batch.x, batch.y

    def numbered(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of one epoch with the numbers of their examples."""
        order = torch.arange(len(self.x))
        if self.seed is not None:
            order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(epoch_seed(self.seed, epoch)))
        for rows in order.split(self.batch_size):
            yield Batch.whole(self.x[rows], self.y[rows], rows, known=True)


@dataclass(frozen=True)
class LoaderBatches:
    """Batches of a user's loader, which shuffles by torch's global generator or one of its own: see ``generators``."""

    loader: Loader

    def __len__(self) -> int:
        """The number of batches; 0 where the loader streams and cannot tell."""
        try:
            return len(self.loader)  # pyright: ignore[reportArgumentType]
        except TypeError:
            return 0

    def epoch(self, epoch: int) -> Iterable[tuple[Tensor, Tensor]]:
        """Yield the batches of one epoch."""
        for batch in self.numbered(epoch):
            yield batch.x, batch.y

    def numbered(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of one epoch, numbered by the loader or in their order."""
        seen = 0
        for given in self.loader:
            x, y = _checked(given)
            known = len(given) == 3
            rows = given[2].cpu() if known else torch.arange(seen, seen + len(x))
            seen += len(x)
            yield Batch.whole(x, y, rows, known)


def _checked(given: object) -> tuple[Tensor, Tensor]:
    """Return x and y of what a loader yielded, or say what is wrong with it."""
    parts = given if isinstance(given, tuple | list) and len(given) in (2, 3) else ()
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        raise ValueError(f"data must yield batches (x, y) or (x, y, rows) of tensors, got {_kind(given)}")
    x, y = parts[:2]
    if not x.is_floating_point() or y.dtype != torch.int64 or y.ndim != 1 or len(x) != len(y) or not len(x):
        raise ValueError(
            "data must yield float inputs and as many int64 labels (B,), at least one, got "
            f"{x.dtype} {tuple(x.shape)} and {y.dtype} {tuple(y.shape)}"
        )
    if not bool(x.isfinite().all()):
        raise ValueError("data must yield finite inputs, got NaN or infinity")
    if len(parts) == 3 and (parts[2].dtype != torch.int64 or parts[2].shape != y.shape or bool((parts[2] < 0).any())):
        raise ValueError(
            f"data must yield rows (B,) of int64 >= 0 after inputs and labels, got {parts[2].dtype} "
            f"{tuple(parts[2].shape)}"
        )
    return x, y


def _kind(given: object) -> str:
    if isinstance(given, tuple | list):
        return f"{type(given).__name__} of {', '.join(type(part).__name__ for part in given) or 'nothing'}"
    return type(given).__name__


Batches: TypeAlias = TensorBatches | LoaderBatches

_WANTED = "a pair of tensors (x, y), ImageData, a DataLoader or a name"


def generators(*data: Batches | None) -> list[torch.Generator]:
    """Return the generators that users' loaders shuffle by, each once: their states belong to a checkpoint."""
    found: dict[int, torch.Generator] = {}
    for loader in (each.loader for each in data if isinstance(each, LoaderBatches)):
        sampler, batch_sampler = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
        for owner in (loader, sampler, batch_sampler, getattr(batch_sampler, "sampler", None)):
            generator = getattr(owner, "generator", None)
            if isinstance(generator, torch.Generator):
                found[id(generator)] = generator
    return list(found.values())


def epoch_seed(seed: int, epoch: int) -> int:
    """Mix ``seed`` and ``epoch`` into one seed, so that a resumed epoch draws what it would have drawn."""
    return (seed * 1_000_003 + epoch * 7_919 + 1) % 2**63


def batches(name: str, data: Data, split: str, batch_size: int, seed: int | None) -> Batches:
    """Turn what the user gave as argument ``name`` into batches; see ``Data`` for what may be given."""
    if isinstance(data, str):
        data = load(data, split, in_order=True)
    if isinstance(data, ImageData):
        data = (data.x, data.y)
    if not isinstance(data, tuple):
        if not hasattr(data, "__iter__") and not hasattr(data, "__getitem__"):
            raise ValueError(f"{name} must be {_WANTED}, got {repeated(data)}")
        return LoaderBatches(data)
    if len(data) != 2 or not all(isinstance(part, Tensor) for part in data):
        raise ValueError(f"{name} must be {_WANTED}, got {repeated(data)}")
    x, y = data
    if len(x) != len(y) or not len(x):
        raise ValueError(f"{name} must hold as many labels as images, and at least one, got {len(y)} and {len(x)}")
    if y.dtype != torch.int64 or y.ndim != 1 or not x.is_floating_point():
        raise ValueError(
            f"{name} must hold float images and int64 labels (N,), got {x.dtype}, {y.dtype} {tuple(y.shape)}"
        )
    return TensorBatches(x, y, batch_size, seed)
