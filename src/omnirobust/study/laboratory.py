"""Measure a cell: run its attack on the first N test images, chunk by chunk, and keep what was found."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import TypeAlias

import torch
from filelock import BaseFileLock, FileLock, Timeout
from torch import Tensor, nn

from omnirobust import data as image_data
from omnirobust import zoo
from omnirobust._types import WeightRule
from omnirobust.data import ImageData
from omnirobust.results import AttackResult
from omnirobust.study.attack_bench import CPU, Bench, Trial
from omnirobust.study.attack_cells import Distortion
from omnirobust.study.machines import note_machine
from omnirobust.study.spec import Cell
from omnirobust.study.store import CellFolder, Measured, join
from omnirobust.weights import Fixed

CHUNK = 200
"""Images attacked together and kept in one file: what a kill can lose at most."""

StepHook: TypeAlias = Callable[[int], None]
"""Is told how many (image, step) pairs were just done."""


def _test_images(name: str, limit: int) -> ImageData:
    return image_data.load(name, "test", limit=limit)


def finished_model(name: str) -> nn.Module:
    """Load a model of the zoo whose training is over, or one of one's own as ``zoo.load_model`` takes it.

    Raises:
        ValueError: if there is no such model.
        MissingWeightsError: if it has not been trained, or not to the end: its numbers would soon be those of no model.
    """
    if ":" in name:
        return zoo.load_model(name)
    if not zoo.card(name).finished:
        raise zoo.MissingWeightsError(f"{name} is not trained to the end yet: omnirobust zoo train {name} goes on")
    return zoo.load(name)


class Laboratory:
    """Measures cells and remembers what it measured, in a folder.

    Args:
        cells: folder of the cells' cache.
        load_model: name to model, in eval mode.
        load_images: name of the data and N to its first N test images.
        device: where models run.
    """

    def __init__(
        self,
        cells: str | Path,
        load_model: Callable[[str], nn.Module] = finished_model,
        load_images: Callable[[str, int], ImageData] = _test_images,
        device: torch.device = CPU,
    ) -> None:
        self._cells, self._device = Path(cells), device
        self._bench = Bench(load_model, load_images, device)
        self._locks: dict[Path, BaseFileLock] = {}

    @property
    def cells(self) -> Path:
        """The folder of the cells."""
        return self._cells

    def measure(self, cell: Cell, images: int, on_steps: StepHook = lambda n: None) -> Measured:
        """Return the cell on the first ``images`` test images; only what is not in the cache is computed.

        While another process computes the same cell, this one waits, and takes what was found. The lock is one of the
        operating system: it goes with the process that holds it, however that ends.

        Raises:
            MissingWeightsError: if a model has not been trained.
            DataUnavailableError: if the images cannot be had.
        """
        rule = self._rule(cell, images, compute=True)
        assert rule is not None
        folder, spans = self._folder(cell, rule), _spans(cell, images)
        with nullcontext() if folder.complete(spans) else self._lock(folder):
            return self._measure(cell, rule, folder, spans, images, on_steps)

    def attempt(self, cell: Cell, images: int, on_steps: StepHook = lambda n: None) -> bool:
        """Measure the cell as ``measure`` does, unless another process is at it; say whether that was done."""
        if cell.rule is not None and not self.attempt(cell.rule.cell, images):
            return False
        rule = self._rule(cell, images, compute=True)
        assert rule is not None
        folder = self._folder(cell, rule)
        try:
            with nullcontext() if folder.complete(_spans(cell, images)) else self._lock(folder).acquire(timeout=0):
                self.measure(cell, images, on_steps)
        except Timeout:
            return False
        return True

    def _lock(self, folder: CellFolder) -> BaseFileLock:
        """Return the lock of a cell, always the same object: this process may take it again while it holds it."""
        file = folder.lock
        file.parent.mkdir(parents=True, exist_ok=True)
        return self._locks.setdefault(file, FileLock(file))

    def _measure(
        self, cell: Cell, rule: WeightRule, folder: CellFolder, spans: list[tuple[int, int]], images: int,
        on_steps: StepHook,
    ) -> Measured:  # fmt: skip
        parts: list[Measured] = []
        for begin, end in spans:
            found = folder.get(begin, end)
            if found is None:
                note_machine(self._cells, self._device)
                found = self._run(cell, rule, self._bench.trial(cell, begin, end), on_steps)
            else:
                on_steps((end - begin) * cell.group * max(cell.steps, 1))
            parts.append(found)
        if not parts:
            raise ValueError(f"images must be >= {cell.group}, the size of a group, got {images}")
        return join(parts)

    def recall(self, cell: Cell, images: int) -> Measured | None:
        """Return the cell on as many of the first ``images`` test images as the cache holds, without computing.

        Where another cell decides the weights, they are its mean over as many images as this one was measured on.
        """
        for count in _counts(images, cell.rule is not None):
            rule = self._rule(cell, count, compute=False)
            parts = [] if rule is None else self._cached(self._folder(cell, rule), _spans(cell, count))
            if parts:
                return join(parts)
        return None

    def untrained(self, cell: Cell) -> tuple[str, ...]:
        """Return the models of a cell that have not been trained."""
        return tuple(name for name in dict.fromkeys((*cell.models, *cell.judged)) if not self._bench.trained(name))

    def images(self, cell: Cell, problems: int) -> Tensor:
        """Return the images of the first problems of a cell, as many of ``problems`` as there are."""
        return self._bench.first(cell, problems)

    def seconds(self, cell: Cell, images: int) -> float:
        """Return how long the attacks of a cell took in all; 0 if it has not been measured."""
        rule = self._rule(cell, images, compute=False)
        return 0.0 if rule is None else self._folder(cell, rule).seconds()

    def _cached(self, folder: CellFolder, spans: list[tuple[int, int]]) -> list[Measured]:
        found = takewhile(lambda part: part is not None, (folder.get(begin, end) for begin, end in spans))
        return [part for part in found if part is not None]

    def _rule(self, cell: Cell, images: int, *, compute: bool) -> WeightRule | None:
        """Return the weight rule of the cell, once the cell that decides it is there."""
        if cell.rule is None:
            return cell.attack.rule
        other = cell.rule.cell
        seen = self.measure(other, images) if compute else self.recall(other, images)
        if seen is None or len(seen) < other.problems(images):
            return None
        mean = seen.weights.double().mean(0)
        return Fixed(mean / mean.sum())

    def _folder(self, cell: Cell, rule: WeightRule) -> CellFolder:
        prints = {name: self._bench.fingerprint(name) for name in {*cell.models, *cell.judged}}
        settings = cell.describe(rule) | {"weights": prints}
        return CellFolder(self._cells, cell.key(rule, prints), settings)

    def _run(self, cell: Cell, rule: WeightRule, trial: Trial, on_steps: StepHook) -> Measured:
        began = time.monotonic()
        measured = self._compute(cell, rule, trial, on_steps)
        facts = {"seconds": round(time.monotonic() - began, 3), "torch": torch.__version__}
        self._folder(cell, rule).put(trial.begin, trial.end, measured.tensors, facts)
        return measured

    def _compute(self, cell: Cell, rule: WeightRule, trial: Trial, on_steps: StepHook) -> Measured:
        if isinstance(cell.task, Distortion):
            on_steps(trial.y.numel() * max(cell.steps, 1))
            labels = self._bench.labels(cell, trial, judged=False)
            return _measured_alone(self._bench.distortion(cell, trial), labels)
        # Problems are independent: where true and predicted labels agree, so does the attack, and it is not run twice.
        twin = replace(cell, labels="predicted")
        known = None if cell == twin else self._folder(twin, rule).get(trial.begin, trial.end)
        if known is None:
            return self._attack(cell, rule, trial, torch.ones(len(trial.y), dtype=torch.bool), on_steps)
        changed = (self._bench.labels(cell, trial, judged=True) != known.labels).any(1)
        on_steps(int((~changed).sum()) * cell.group * max(cell.steps, 1))
        return known.merged(changed, self._attack(cell, rule, trial, changed, on_steps)) if changed.any() else known

    def _attack(self, cell: Cell, rule: WeightRule, trial: Trial, rows: Tensor, on_steps: StepHook) -> Measured:
        result = self._bench.attack(cell, rule, trial, rows, _counter(int(rows.sum()) * cell.group, on_steps))
        labels = self._bench.labels(cell, trial, judged=True)[rows]
        return _measured(result, self._bench.fooled(cell, trial, rows, result), labels)


def chunks(images: int) -> list[tuple[int, int]]:
    """Return where the chunks of the first ``images`` images begin and end."""
    return [(begin, min(begin + CHUNK, images)) for begin in range(0, images, CHUNK)]


def _spans(cell: Cell, images: int) -> list[tuple[int, int]]:
    """Return the chunks in problems of the cell; groups that begin in a chunk belong to it whole."""
    spans = [(cell.problems(begin), cell.problems(end)) for begin, end in chunks(images)]
    return [(begin, end) for begin, end in spans if begin < end]


def _counts(images: int, shrinking: bool) -> list[int]:
    """Return how many images to look for: all, and if ``shrinking`` then every smaller whole number of chunks."""
    smaller = range((images - 1) // CHUNK * CHUNK, 0, -CHUNK)
    return [images, *(smaller if shrinking else ())]


def _counter(rows: int, on_steps: StepHook) -> Callable[[int, int], None]:
    seen = 0

    def hook(done: int, total: int) -> None:
        nonlocal seen
        # The attack counts evaluations, one more than its steps.
        if done > 1 or total == 1:
            on_steps((done - max(seen, 1 if total > 1 else 0)) * rows)
        seen = done

    return hook


def _measured(result: AttackResult, fooled: Tensor, labels: Tensor) -> Measured:
    rows = result.history.rows
    assert rows is not None
    assert rows.fooled is not None
    return Measured(
        fooled=fooled,
        any_iterate=rows.fooled.all(2).any(0),
        weights=result.weights.float(),
        fooled_path=rows.fooled.transpose(0, 1).contiguous(),
        weights_path=rows.weights.transpose(0, 1).half().contiguous(),
        labels=labels.contiguous(),
        distortion=result.weights.new_empty(len(labels), 0),
    )


def _measured_alone(distortion: Tensor, labels: Tensor) -> Measured:
    """Return distortions with labels (N, K), and nothing of what only an attack on groups has."""
    none = distortion.new_zeros(len(distortion), 0, distortion.shape[1])
    return Measured(
        fooled=distortion.isfinite(),
        any_iterate=distortion.isfinite().all(1),
        weights=distortion.new_zeros(distortion.shape),
        fooled_path=none.bool(),
        weights_path=none.half(),
        labels=labels.contiguous(),
        distortion=distortion,
    )
