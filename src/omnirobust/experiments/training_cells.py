"""Trained models and what was measured of them, on disk: a killed training goes on, a finished one is not repeated."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from omnirobust import data as image_data
from omnirobust._files import replacing
from omnirobust.data import ImageData
from omnirobust.experiments.cells import fingerprint
from omnirobust.experiments.machines import note_machine
from omnirobust.experiments.training_judging import judge_images
from omnirobust.experiments.training_spec import Judging, Training
from omnirobust.training import fit
from omnirobust.zoo import build

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
        known = self.trained(training)
        if known is not None:
            return known
        folder, effort = self._folder(training), training.effort
        _note(folder, describe(training))
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
            out=folder / "fit",
            seed=training.seed,
            precision=effort.precision,
            progress=lambda *_: on_epoch(),
        )
        weights = torch.zeros(0, 0) if result.weights is None else result.weights.cpu().half()
        _write(folder / "trained.safetensors", _state(model) | {"weights/": weights}, _facts(result.history, images))
        (folder / "fit" / "checkpoint.pt").unlink(missing_ok=True)
        (folder / "fit").rmdir()
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
        file = self._cells / ".locks" / _key(describe(training))
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
            read = _read(self._folder(training) / "trained.safetensors")
            if read is None:
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
        folder = self._judged(judging, model)
        parts = []
        for begin, end in _spans(judging, images):
            file = folder / f"rows-{begin:06d}-{end:06d}.safetensors"
            read = _read(file)
            if read is None:
                _note(folder, describe(judging))
                began = time.monotonic()
                test = self._split("test")
                x, y = (t[begin:end].to(self._device) for t in (test.x, test.y))
                learn = self._split("train") if judging.how == "universal" else None
                _write(file, judge_images(model, judging, x, y, begin, learn), {"seconds": time.monotonic() - began})
                read = _read(file)
                assert read is not None
            parts.append(read[0])
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def recall(self, judging: Judging, images: int) -> dict[str, Tensor] | None:
        """Return as much of the first ``images`` test images as was measured, without computing; None of nothing."""
        trained = self.trained(judging.training)
        if trained is None:
            return None
        folder, parts = self._judged(judging, trained.model), []
        for begin, end in _spans(judging, images):
            read = _read(folder / f"rows-{begin:06d}-{end:06d}.safetensors")
            if read is None:
                break
            parts.append(read[0])
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else None

    def _split(self, split: str) -> ImageData:
        if split not in self._images:
            self._images[split] = self._load(split, None)
        return self._images[split]

    def _folder(self, training: Training) -> Path:
        return self._cells / _key(describe(training))

    def _judged(self, judging: Judging, model: nn.Module) -> Path:
        return self._cells / _key(describe(judging) | {"model": fingerprint(model)})


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


def _key(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:20]


def _initial(training: Training, shape: Sequence[int], classes: int) -> nn.Module:
    channels, height, width = shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        return build(training.arch, (channels, height, width), classes)


def _facts(history: Sequence[Mapping[str, float]], images: ImageData) -> dict[str, Any]:
    return {"history": [dict(row) for row in history], "shape": list(images.shape), "classes": len(images.classes)}


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}


def _note(folder: Path, settings: dict[str, Any]) -> None:
    with replacing(folder / "settings.json") as partial:
        partial.write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _write(file: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    with replacing(file) as partial:
        partial.write_bytes(
            save({n: t.contiguous() for n, t in tensors.items()}, metadata={"facts": json.dumps(facts)})
        )


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return tensors and facts; None if the file is missing or damaged."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            return tensors, json.loads(stored.metadata()["facts"])
    except (SafetensorError, OSError, KeyError):
        return None
