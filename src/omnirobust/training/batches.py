"""Mini-batches from tensors, named data or a loader, the same ones again for the same seed and epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from omnirobust.data import ImageData, load


class Loader(Protocol):
    """What is needed of a DataLoader: batches of (x, y)."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


Data: TypeAlias = "tuple[Tensor, Tensor] | ImageData | Loader | str"
"""Tensors (x, y), images loaded by ``data.load``, a DataLoader, or the name of a set."""


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
        order = torch.arange(len(self.x))
        if self.seed is not None:
            order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(epoch_seed(self.seed, epoch)))
        for rows in order.split(self.batch_size):
            yield self.x[rows], self.y[rows]


@dataclass(frozen=True)
class LoaderBatches:
    """Batches of a user's loader, whose own shuffling draws from torch's global generator."""

    loader: Loader

    def __len__(self) -> int:
        """The number of batches; 0 where the loader streams and cannot tell."""
        try:
            return len(self.loader)  # pyright: ignore[reportArgumentType]
        except TypeError:
            return 0

    def epoch(self, epoch: int) -> Iterable[tuple[Tensor, Tensor]]:
        """Return the batches of one epoch."""
        return self.loader


Batches: TypeAlias = TensorBatches | LoaderBatches


def epoch_seed(seed: int, epoch: int) -> int:
    """Mix ``seed`` and ``epoch`` into one seed, so that a resumed epoch draws what it would have drawn."""
    return (seed * 1_000_003 + epoch * 7_919 + 1) % 2**63


def batches(name: str, data: Data, split: str, batch_size: int, seed: int | None) -> Batches:
    """Turn what the user gave as argument ``name`` into batches; see ``Data`` for what may be given."""
    if isinstance(data, str):
        data = load(data, split)
    if isinstance(data, ImageData):
        data = (data.x, data.y)
    if not isinstance(data, tuple):
        return LoaderBatches(data)
    if len(data) != 2 or not all(isinstance(part, Tensor) for part in data):
        raise ValueError(
            f"{name} must be a pair of tensors (x, y), ImageData, a DataLoader or a name, got {data!r:.80}"
        )
    x, y = data
    if len(x) != len(y) or not len(x):
        raise ValueError(f"{name} must hold as many labels as images, and at least one, got {len(y)} and {len(x)}")
    if y.dtype != torch.int64 or y.ndim != 1 or not x.is_floating_point():
        raise ValueError(
            f"{name} must hold float images and int64 labels (N,), got {x.dtype}, {y.dtype} {tuple(y.shape)}"
        )
    return TensorBatches(x, y, batch_size, seed)
