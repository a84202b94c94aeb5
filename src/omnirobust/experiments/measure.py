"""Measure a cell: run its attack on the first N test images, chunk by chunk, and keep what was found."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from omnirobust import data as image_data
from omnirobust import losses, zoo
from omnirobust._types import NORMS, WeightRule
from omnirobust.attacks import attack_ensemble
from omnirobust.data import ImageData
from omnirobust.domains import DomainGrid
from omnirobust.experiments.cells import CellFolder, Measured, fingerprint, join
from omnirobust.experiments.spec import Cell
from omnirobust.results import AttackResult
from omnirobust.starts import normal_start
from omnirobust.threat_models import ThreatModel
from omnirobust.weights import Fixed

CHUNK = 200
"""Images attacked together and kept in one file: what a kill can lose at most."""

StepHook: TypeAlias = Callable[[int], None]
"""Is told how many (image, step) pairs were just done."""


def _test_images(name: str, limit: int) -> ImageData:
    return image_data.load(name, "test", limit=limit)


@dataclass(frozen=True)
class _Piece:
    """Consecutive test images, from ``begin`` to ``end``."""

    begin: int
    end: int
    x: Tensor
    y: Tensor


class Laboratory:
    """Measures cells and remembers what it measured, in a folder.

    Args:
        cells: folder of the cells' cache.
        load_model: name to model, in eval mode.
        load_images: name of the data and N to its first N test images.
    """

    def __init__(
        self,
        cells: str | Path,
        load_model: Callable[[str], nn.Module] = zoo.load,
        load_images: Callable[[str, int], ImageData] = _test_images,
    ) -> None:
        self._cells = Path(cells)
        self._load_model, self._load_images = load_model, load_images
        self._models: dict[str, nn.Module] = {}
        self._fingerprints: dict[str, str] = {}
        self._images: dict[str, ImageData] = {}
        self._predictions: dict[tuple[str, int, int], Tensor] = {}

    def measure(self, cell: Cell, images: int, on_steps: StepHook = lambda n: None) -> Measured:
        """Return the cell on the first ``images`` test images; only what is not in the cache is computed.

        Raises:
            MissingWeightsError: if a model has not been trained.
            DataUnavailableError: if the images cannot be had.
        """
        rule = self._rule(cell, images, compute=True)
        assert rule is not None
        folder = self._folder(cell, rule)
        parts: list[Measured] = []
        for begin, end in chunks(images):
            found = folder.get(begin, end)
            if found is None:
                found = self._run(cell, rule, self._piece(cell.data, begin, end), on_steps)
            else:
                on_steps((end - begin) * max(cell.steps, 1))
            parts.append(found)
        return join(parts)

    def recall(self, cell: Cell, images: int) -> Measured | None:
        """Return the cell on as many of the first ``images`` test images as the cache holds, without computing.

        Where another cell decides the weights, they are its mean over as many images as this one was measured on.
        """
        for count in _counts(images, cell.rule is not None):
            rule = self._rule(cell, count, compute=False)
            parts = [] if rule is None else self._cached(self._folder(cell, rule), count)
            if parts:
                return join(parts)
        return None

    def seconds(self, cell: Cell, images: int) -> float:
        """Return how long the attacks of a cell took in all; 0 if it has not been measured."""
        rule = self._rule(cell, images, compute=False)
        return 0.0 if rule is None else self._folder(cell, rule).seconds()

    def _cached(self, folder: CellFolder, images: int) -> list[Measured]:
        parts: list[Measured] = []
        for begin, end in chunks(images):
            found = folder.get(begin, end)
            if found is None:
                break
            parts.append(found)
        return parts

    def _rule(self, cell: Cell, images: int, *, compute: bool) -> WeightRule | None:
        """Return the weight rule of the cell, once the cell that decides it is there."""
        if cell.rule is None:
            return cell.attack.rule
        other = cell.rule.cell
        seen = self.measure(other, images) if compute else self.recall(other, images)
        if seen is None or len(seen) < images:
            return None
        mean = seen.weights.double().mean(0)
        return Fixed(mean / mean.sum())

    def _folder(self, cell: Cell, rule: WeightRule) -> CellFolder:
        prints = {name: self._fingerprint(name) for name in {*cell.models, *cell.judged}}
        settings = cell.describe(rule) | {"weights": prints}
        return CellFolder(self._cells, cell.key(rule, prints), settings)

    def _run(self, cell: Cell, rule: WeightRule, piece: _Piece, on_steps: StepHook) -> Measured:
        began = time.monotonic()
        measured = self._compute(cell, rule, piece, on_steps)
        facts = {"seconds": round(time.monotonic() - began, 3), "torch": torch.__version__}
        self._folder(cell, rule).put(piece.begin, piece.end, measured, facts)
        return measured

    def _compute(self, cell: Cell, rule: WeightRule, piece: _Piece, on_steps: StepHook) -> Measured:
        labels = self._labels(cell, cell.judged, piece)
        # Problems are independent: where true and predicted labels agree, so does the attack, and it is not run twice.
        twin = replace(cell, labels="predicted")
        known = self._folder(twin, rule).get(piece.begin, piece.end) if cell.labels == "true" else None
        if known is None:
            return self._attack(cell, rule, piece, torch.ones(len(piece.y), dtype=torch.bool), on_steps)
        changed = (labels != known.labels).any(1)
        on_steps(int((~changed).sum()) * max(cell.steps, 1))
        return known.merged(changed, self._attack(cell, rule, piece, changed, on_steps)) if changed.any() else known

    def _attack(self, cell: Cell, rule: WeightRule, piece: _Piece, rows: Tensor, on_steps: StepHook) -> Measured:
        x = piece.x[rows]
        attack = cell.attack
        start = torch.zeros_like(piece.x)
        if attack.start == "normal":
            start = normal_start(piece.x, cell.seed, 0, piece.begin)
        result = attack_ensemble(
            {name: self._model(name) for name in cell.models},
            x,
            self._labels(cell, cell.models, piece)[rows],
            ThreatModel(NORMS[cell.norm], cell.eps),
            rule=rule,
            steps=cell.steps,
            step_size=attack.step_size,
            direction=attack.direction,
            loss=attack.loss,
            keep=attack.keep,
            seed=cell.seed,
            precision=cell.precision,
            init=start[rows],
            history="full",
            progress=_counter(len(x), on_steps),
        )
        labels = self._labels(cell, cell.judged, piece)[rows]
        return _measured(result, self._fooled(cell, result, labels), labels)

    def _fooled(self, cell: Cell, result: AttackResult, labels: Tensor) -> Tensor:
        if cell.judged == cell.models:
            return result.fooled
        judges = {name: self._model(name) for name in cell.judged}
        grid = DomainGrid(judges, result.adversarial, labels, loss=losses.margin)
        fooled = grid.evaluate(torch.zeros_like(result.adversarial), grad=False).fooled
        assert fooled is not None
        return fooled

    def _labels(self, cell: Cell, names: tuple[str, ...], piece: _Piece) -> Tensor:
        if cell.labels == "true":
            return piece.y.unsqueeze(1).expand(-1, len(names))
        return torch.stack([self._predicted(name, piece) for name in names], 1)

    def _predicted(self, name: str, piece: _Piece) -> Tensor:
        asked = (name, piece.begin, piece.end)
        if asked not in self._predictions:
            grid = DomainGrid({name: self._model(name)}, piece.x, piece.y, loss=losses.margin)
            self._predictions[asked] = grid.logits(torch.zeros_like(piece.x))[0].argmax(1)
        return self._predictions[asked]

    def _piece(self, name: str, begin: int, end: int) -> _Piece:
        have = self._images.get(name)
        if have is None or len(have) < end:
            have = self._images[name] = self._load_images(name, end)
        if len(have) < end:
            raise ValueError(f"images must be at most {len(have)}, the test images of {name}, got {end}")
        return _Piece(begin, end, have.x[begin:end], have.y[begin:end])

    def _model(self, name: str) -> nn.Module:
        if name not in self._models:
            self._models[name] = self._load_model(name)
        return self._models[name]

    def _fingerprint(self, name: str) -> str:
        if name not in self._fingerprints:
            self._fingerprints[name] = fingerprint(self._model(name))
        return self._fingerprints[name]


def chunks(images: int) -> list[tuple[int, int]]:
    """Return where the chunks of the first ``images`` images begin and end."""
    return [(begin, min(begin + CHUNK, images)) for begin in range(0, images, CHUNK)]


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
    )
