"""Measure what is missing of a cell, recall what is there: any kind of cell, in one process or many."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import takewhile
from pathlib import Path
from shutil import rmtree
from typing import Any, TypeAlias, TypeVar

import torch
from filelock import BaseFileLock, FileLock, Timeout
from torch import Tensor, nn

from omnirobust import zoo
from omnirobust.study.attack_cells import Cell
from omnirobust.study.attack_runner import CPU, AttackRunner
from omnirobust.study.protocol import AnyCell, Span, WorkHook
from omnirobust.study.store import CellFolder, note_machine
from omnirobust.zoo import data as image_data
from omnirobust.zoo.chunks import Chunk
from omnirobust.zoo.data import ImageData

T = TypeVar("T")

LoadImages: TypeAlias = Callable[[str, str, int | None], ImageData]
"""Name of the data, split, and how many of its first images; None for all."""


def finished_model(name: str) -> nn.Module:
    """Load a model of the zoo whose training is over, or one of one's own as ``zoo.load_model`` takes it.

    Raises:
        ValueError: if there is no such model.
        MissingWeightsError: if it has not been trained, or not to the end: its numbers would soon be those of no model.
    """
    if ":" in name:
        found = zoo.load_model(name)
        if not isinstance(found, nn.Module):
            raise ValueError(f"models must have gradients, got {name}, which only answers")
        return found
    if not zoo.card(name).finished:
        raise zoo.MissingWeightsError(f"{name} is not trained to the end yet: omnirobust zoo train {name} goes on")
    return zoo.load(name)


def _load_images(name: str, split: str, limit: int | None) -> ImageData:
    return image_data.load(name, split, limit=limit, in_order=limit is None)


class CellCache:
    """Measures cells and remembers what it measured, in a folder.

    Args:
        cells: folder of what is kept.
        load_model: name to model, in eval mode.
        load_images: name of the data, "train" or "test" and N to its first N images; to all for None.
        device: where models run.
    """

    def __init__(
        self,
        cells: str | Path,
        load_model: Callable[[str], nn.Module] = finished_model,
        load_images: LoadImages = _load_images,
        device: torch.device = CPU,
    ) -> None:
        self.cells, self.device = Path(cells), device
        self._load_images = load_images
        self._runner = AttackRunner(load_model, lambda name, count: self.images(name, "test", count), device)
        self._images: dict[tuple[str, str], tuple[ImageData, bool]] = {}
        self._lasting: dict[AnyCell[Any], Any] = {}
        self._absent: set[str] = set()  # data that could not be had
        self._locks: dict[Path, BaseFileLock] = {}

    def measure(self, cell: AnyCell[T], images: int, on_work: WorkHook = lambda n: None) -> T:
        """Return the cell on the first ``images`` test images; only what is not kept already is computed.

        While another process computes the same cell, this one waits, and takes what was found. The lock is one of the
        operating system: it goes with the process that holds it, however that ends.

        Args:
            cell: what to measure.
            images: how many; of groups of one class fewer may be taken, if some images are left over.
            on_work: is told how much of the cell's work is done, or was done before.

        Raises:
            MissingWeightsError: if a model has not been trained.
            DataUnavailableError: if the images cannot be had.
            ValueError: if there are too few images, or more are asked for than there are.
        """
        images = cell.most(self, images)
        for need in self._missing(cell):  # what decides this one: another's weights, or the model that it judges
            self.measure(need, images)
        ready = cell.resolved(self, images)
        assert ready is not None
        folder, spans = self._folder(ready), ready.spans(images)
        if not spans:
            raise ValueError(f"images must be >= {cell.group}, the size of a group, got {images}")
        whole = folder.complete(spans)
        if not whole:
            self._check(ready, images)
        # Whole cells never change: who only reads them neither waits nor needs the right to write a lock.
        with nullcontext() if whole else self._lock(folder):
            parts = [self._part(ready, span, folder, on_work) for span in spans]
        return self._kept(ready, parts)

    def attempt(self, cell: AnyCell[Any], images: int, on_work: WorkHook = lambda n: None) -> bool:
        """Measure the cell as ``measure`` does, unless another process is at it; say whether that was done."""
        images = cell.most(self, images)
        if not all(self.attempt(need, images) for need in self._missing(cell)):
            return False
        ready = cell.resolved(self, images)
        assert ready is not None
        folder = self._folder(ready)
        try:
            with nullcontext() if folder.complete(ready.spans(images)) else self._lock(folder).acquire(timeout=0):
                self.measure(cell, images, on_work)
        except Timeout:
            return False
        return True

    def recall(self, cell: AnyCell[T], images: int) -> T | None:
        """Return the cell on as many of the first ``images`` test images as were measured, without computing."""
        if cell.lasting and cell in self._lasting:
            return self._lasting[cell]
        for count in cell.counts(images):
            ready = cell.resolved(self, count)
            if ready is not None and (parts := self._recalled(ready, count)):
                return self._kept(ready, parts)
        return None

    def _recalled(self, cell: AnyCell[Any], images: int) -> list[Chunk]:
        """Return what is known of a cell up to the first gap: claims compare rows by their first images."""

        def known(spans: Sequence[Span]) -> list[Chunk]:
            found = takewhile(bool, (self.known(cell, span) for span in spans))
            return [part for part in found if part is not None]

        spans = cell.spans(images)
        parts = known(spans)
        # The last may be shorter. What the data hold is asked for only where that can matter.
        if len(parts) == len(spans) - 1 and self._folder(cell).path.exists():
            return known(cell.spans(cell.most(self, images)))
        return parts

    def known(self, cell: AnyCell[Any], span: Span) -> Chunk | None:
        """Return a part of a cell if it was measured; a damaged one counts as missing."""
        return _fitting(cell, span, self._folder(cell))

    def scratch(self, cell: AnyCell[Any]) -> Path:
        """Return a folder for what a cell has half done; it goes when the cell is kept."""
        folder = self._folder(cell)
        folder.note()
        return folder.path / "fit"

    def attack(self, cell: Cell, span: Span, known: Chunk | None, on_work: WorkHook) -> Chunk:
        """Run an attack cell, see ``AttackRunner.measure``."""
        return self._runner.measure(cell, span, known, on_work)

    def images(self, data: str, split: str, count: int | None = None) -> ImageData:
        """Return a split of a data set: its first ``count`` images or more, or all; each is loaded once."""
        have, whole = self._images.get((data, split), (None, False))
        if have is None or not (whole or (count is not None and len(have) >= count)):
            have = self._load_images(data, split, count)
            self._images[data, split] = have, count is None
        return have

    def grouped(self, cell: Cell, images: int) -> int | None:
        """Return how many of ``images`` a cell's groups hold; None where there are no data, or fewer of them."""
        if cell.data in self._absent:
            return None
        try:
            return self._runner.grouped(cell, images)
        except zoo.DataUnavailableError:
            self._absent.add(cell.data)
            return None

    def pictures(self, cell: Cell, problems: int) -> Tensor:
        """Return the images of the first problems of a cell, as many of ``problems`` as there are."""
        return self._runner.first(cell, problems)

    def fingerprint(self, model: str) -> str:
        """Return a hash of the weights of a model, by name."""
        return self._runner.fingerprint(model)

    def untrained(self, cell: AnyCell[Any]) -> tuple[str, ...]:
        """Return the models that a cell waits for."""
        return tuple(name for name in cell.takes if not self._runner.trained(name))

    def seconds(self, cell: AnyCell[Any], images: int) -> float:
        """Return how long a cell took in all; 0 if it has not been measured."""
        ready = cell.resolved(self, images)
        return 0.0 if ready is None else self._folder(ready).seconds()

    def _check(self, cell: AnyCell[Any], images: int) -> None:
        """Refuse more images than there are before the first is attacked."""
        if isinstance(cell, Cell):
            self._runner.check(cell, images)

    def _missing(self, cell: AnyCell[Any]) -> list[AnyCell[Any]]:
        """Return the cells that one needs, but for those in memory."""
        return [need for need in cell.needs if not need.lasting or need not in self._lasting]

    def _folder(self, cell: AnyCell[Any]) -> CellFolder:
        return CellFolder(self.cells, cell.describe(self))

    def _lock(self, folder: CellFolder) -> BaseFileLock:
        """Return the lock of a cell, always the same object: this process may take it again while it holds it."""
        file = folder.lock
        file.parent.mkdir(parents=True, exist_ok=True)
        return self._locks.setdefault(file, FileLock(file))

    def _part(self, cell: AnyCell[Any], span: Span, folder: CellFolder, on_work: WorkHook) -> Chunk:
        told = 0

        def count(n: int) -> None:
            nonlocal told
            told += n
            on_work(n)

        found = _fitting(cell, span, folder)
        if found is None:
            note_machine(self.cells, self.device)  # before: of a killed cell parts may be kept
            began = time.monotonic()
            part = cell.measure(span, self, count)
            # beside what was measured, not in the key: the same cell on another machine is the same cell
            facts = {"seconds": round(time.monotonic() - began, 3), "torch": torch.__version__}
            found = Chunk(part.tensors, facts | part.facts)
            folder.put(span, found)
        rmtree(folder.path / "fit", ignore_errors=True)  # also of a process that was killed as it ended
        if (left := cell.work(span) - told) > 0:  # what was kept, or stopped early, is work done too
            on_work(left)
        return found

    def _kept(self, cell: AnyCell[T], parts: Sequence[Chunk]) -> T:
        found = cell.result(parts, self)
        if cell.lasting:
            self._lasting[cell] = found
        return found


def _fitting(cell: AnyCell[Any], span: Span, folder: CellFolder) -> Chunk | None:
    found = folder.part(span)
    return found if found is not None and cell.fits(found, span) else None
