"""Trained models and what was measured of them, on disk: a killed training goes on, a finished one is not repeated."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from omnirobust import data as image_data
from omnirobust.data import ImageData
from omnirobust.paper.judging import judge_images
from omnirobust.paper.training_budgets import Judging, Training
from omnirobust.stores import Chunk
from omnirobust.study.machines import note_machine
from omnirobust.study.store import CellFolder, fingerprint, joined, key_of
from omnirobust.training import fit
from omnirobust.zoo.architectures import build, seeded_build

LoadImages = Callable[[str, int | None], ImageData]
"""Split ("train" or "test") and a limit to images."""

CHUNK = 1000
"""Test images judged together and kept in one file."""

STRONG_CHUNK = 250
"""The same for the strong evaluation, which takes longer."""


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        model: in eval mode.
        history: one row an epoch, as ``FitResult.history``.
        weights: the weights that each training image had last, (N, K); (0, 0) where there are none.
        seconds: of training.
    """

    model: nn.Module
    history: tuple[Mapping[str, float], ...]
    weights: Tensor
    seconds: float


def mnist(split: str, limit: int | None) -> ImageData:
    """Load MNIST."""
    return image_data.load("mnist", split, limit=limit)


class TrainingLaboratory:
    """Trains and judges, and keeps both in a folder of cells.

    Args:
        cells: the folder.
        load_images: where images come from.
        device: where models run.
    """

    def __init__(self, cells: str | Path, load_images: LoadImages = mnist, device: torch.device | str = "cpu") -> None:
        self._cells, self._load = Path(cells), load_images
        self._device = torch.device(device)
        self._images: dict[str, ImageData] = {}
        self._trained: dict[Training, Trained] = {}

    def train(self, training: Training, on_epoch: Callable[[], None] = lambda: None) -> Trained:
        """Return the trained model; one that was begun goes on, one that is there is read.

        Raises:
            ValueError: if the data has fewer images than are asked for.
            TrainingDivergedError: if a loss is not finite.
        """
        folder, effort = self._folder(training), training.effort
        known = self.trained(training)
        if known is not None:
            rmtree(folder.path / "fit", ignore_errors=True)  # of a process that was killed as it ended
            return known
        folder.note()
        note_machine(self._cells, self._device)
        images = self._split("train")
        if (effort.images or 0) + effort.holdout > len(images):
            raise ValueError(f"images and holdout must be at most {len(images)} together, got {effort}")
        model = _initial(training, images.shape, len(images.classes)).to(self._device)
        kept = len(images) - effort.holdout if effort.images is None else effort.images
        held = (images.x[-effort.holdout :], images.y[-effort.holdout :]) if effort.holdout else None
        result = fit(
            model,
            (images.x[:kept], images.y[:kept]),
            training.scheme,
            epochs=effort.epochs,
            validation=held,
            out=folder.path / "fit",
            seed=training.seed,
            precision=effort.precision,
            progress=lambda *_: on_epoch(),
        )
        weights = torch.zeros(0, 0) if result.weights is None else result.weights.half()
        folder.store.put("trained", model.state_dict() | {"weights/": weights}, _facts(result.history, images))
        rmtree(folder.path / "fit")
        found = self.trained(training)
        assert found is not None
        return found

    def attempt(self, training: Training, asked: Sequence[tuple[Judging, int]], *, wait: bool = False) -> bool:
        """Train, and measure all that is ``asked`` of the model, unless another process is at it; say whether it was.

        The lock is one of the operating system: it goes with the process that holds it, however that ends.

        Args:
            training: the training.
            asked: what to measure of its model, on how many images each.
            wait: for the other process, and then see what it has left to do.
        """
        file = self._folder(training).lock
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(file).acquire(timeout=-1 if wait else 0):
                self.train(training)
                for judging, images in asked:
                    self.judge(judging, images)
        except Timeout:
            return False
        return True

    def trained(self, training: Training) -> Trained | None:
        """Return the trained model if its training has ended."""
        if training not in self._trained:
            if (read := self._folder(training).store.get("trained")) is None:
                return None
            tensors, facts = read
            weights = tensors.pop("weights/")
            model = _initial(training, facts["shape"], facts["classes"])
            model.load_state_dict(tensors)
            rows = tuple(facts["history"])
            took = sum(row["seconds"] for row in rows)
            self._trained[training] = Trained(model.eval().to(self._device), rows, weights.float(), took)
        return self._trained[training]

    def judge(self, judging: Judging, images: int) -> dict[str, Tensor]:
        """Return what is measured of a model on the first test images, by name, (images, ...) each.

        The model is trained if it is not.
        """
        model = self.train(judging.training).model
        folder, parts = self._judged(judging, model), []
        for begin, end in _spans(judging, images):
            found = folder.rows(begin, end)
            if found is None:
                began = time.monotonic()
                test = self._split("test")
                x, y = (t[begin:end].to(self._device) for t in (test.x, test.y))
                learn = self._split("train") if judging.how == "universal" else None
                tensors = judge_images(model, judging, x, y, begin, learn)
                folder.put(begin, end, tensors, {"seconds": time.monotonic() - began})
                found = Chunk(tensors, {})
            parts.append(found.tensors)
        return joined(parts)

    def recall(self, judging: Judging, images: int) -> dict[str, Tensor] | None:
        """Return as much of the first ``images`` test images as was measured, without computing; None of nothing."""
        trained = self.trained(judging.training)
        if trained is None:
            return None
        folder = self._judged(judging, trained.model)
        found = takewhile(bool, (folder.rows(begin, end) for begin, end in _spans(judging, images)))
        parts = [part.tensors for part in found if part is not None]
        return joined(parts) if parts else None

    def _split(self, split: str) -> ImageData:
        if split not in self._images:
            self._images[split] = self._load(split, None)
        return self._images[split]

    def _folder(self, training: Training) -> CellFolder:
        return self._cell(describe(training))

    def _judged(self, judging: Judging, model: nn.Module) -> CellFolder:
        return self._cell(describe(judging) | {"model": fingerprint(model)}, describe(judging))

    def _cell(self, settings: dict[str, Any], noted: dict[str, Any] | None = None) -> CellFolder:
        return CellFolder(self._cells, key_of(settings), settings if noted is None else noted)


def describe(cell: Training | Judging) -> dict[str, Any]:
    """Return the settings of a cell as plain values; those of a training name its scheme in full."""
    if isinstance(cell, Judging):
        own = {"how": cell.how, "norm": cell.norm, "eps": cell.eps, "steps": cell.steps}
        return own | {"training": describe(cell.training)}
    own = {"arch": cell.arch, "opt": cell.opt, "eps_l2": cell.eps_l2, "seed": cell.seed}
    return own | {"effort": asdict(cell.effort), "scheme": cell.scheme.fingerprint()}


def _spans(judging: Judging, images: int) -> list[tuple[int, int]]:
    # one universal perturbation is learned for all images
    chunk = {"strong": STRONG_CHUNK, "universal": max(images, 1)}.get(judging.how, CHUNK)
    return [(begin, min(begin + chunk, images)) for begin in range(0, images, chunk)]


def _initial(training: Training, shape: Sequence[int], classes: int) -> nn.Module:
    channels, height, width = shape
    return seeded_build(training.seed, partial(build, training.arch, (channels, height, width), classes))


def _facts(history: Sequence[Mapping[str, float]], images: ImageData) -> dict[str, Any]:
    return {"history": [dict(row) for row in history], "shape": list(images.shape), "classes": len(images.classes)}
