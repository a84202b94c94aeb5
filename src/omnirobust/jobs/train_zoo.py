"""Train the models of the zoo by their recipes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from omnirobust._device import resolved
from omnirobust._files import replacing, sweep
from omnirobust.core.arguments import check_count
from omnirobust.training.accuracy import accuracy
from omnirobust.training.fit import BatchProgress, Progress, fit
from omnirobust.training.schemes import Scheme
from omnirobust.training.state import CHECKPOINT
from omnirobust.zoo.architectures import build, seeded_build
from omnirobust.zoo.cards import Card, fgsm_accuracy, read_card
from omnirobust.zoo.checkpoints import ModelName, folder_of, parse_name, save
from omnirobust.zoo.data import ImageData, load
from omnirobust.zoo.recipes import Recipe, RecipeName, recipe_of

_JUDGED_MEANWHILE = 1000
"""Test images on which a training that goes on is judged: all of them would take as long as a fifth of an epoch."""

_SAVE_EVERY = 5.0
"""Minutes: an epoch of a deep network may take hours."""

_SCHEDULE = "schedule.json"
"""What a training that goes on must not change, while it goes on; then its card has it."""

_AT_ONCE = 50
"""Test images a pass: the graph of a deep network takes up to 40 MB an image."""


def train(
    name: str,
    seed: int | None = None,
    epochs: int | None = None,
    *,
    recipe: RecipeName | None = None,
    cache: str | Path | None = None,
    root: str | Path | None = None,
    resume: bool = True,
    device: str = "auto",
    progress: Progress | None = None,
    on_batch: BatchProgress | None = None,
) -> Card:
    """Train a model of the zoo by a recipe, and write weights and card into the cache.

    Both are written after every epoch, so that the model can be used while it trains; the card says how far it is, and
    how accurate on the first 1,000 test images.
    Killed and called again, it goes on where it was up to five minutes before, to the same parameters.

    Args:
        name: data/letter, such as "mnist/a", perhaps with @seedN.
        seed: of the initial weights, the shuffling and the dropout; None for that of ``name``, which is 0 without one.
        epochs: instead of the recipe's, whose milestones and sides of images stay at their epochs.
        recipe: "paper" for the recipe of the paper's Appendix C.1, "fast" for ours, which takes a tenth of its epochs
            on CIFAR-10, "short" for one of an hour on a processor that has bf16, of cifar10/e, f and h; None for the
            fast one where there is one. The card says which.
        cache: cache folder; None for $OMNIROBUST_CACHE or ~/.cache/omnirobust.
        root: folder of the data, as for ``data.load``.
        resume: False starts anew.
        device: "cpu", "cuda", "cuda:N", "mps", or "auto" for cuda where there is one.
        progress: called after each epoch, as in ``fit``.
        on_batch: called after each batch, as in ``fit``.

    Returns:
        The model's card, accuracies on the test split included.

    Raises:
        ValueError: for an unknown name or recipe, a negative seed, or settings other than those of the training to
            resume.
    """
    parsed = parse_name(name)
    if seed is not None:
        check_count("seed", seed, 0, whole=False)
        parsed = replace(parsed, seed=seed)
    sweep(folder_of(str(parsed), cache))
    kind, settings = recipe_of(parsed.recipe, recipe)
    where = resolved(device)
    settings = _for_this_machine(settings, where)
    if epochs is not None:
        settings = replace(settings, epochs=epochs)
    if resume:
        _check_schedule(settings, folder_of(str(parsed), cache))
    images, test = (load(parsed.data, split, root=root) for split in ("train", "test"))
    _note_schedule(settings, folder_of(str(parsed), cache))
    job = _Job(parsed, kind, settings, test, cache, progress)
    kept = len(images) - settings.holdout
    model = _initial(parsed, images, settings).to(where)
    shown = _Shown(settings)
    seeing = model.register_forward_pre_hook(shown)
    result = fit(
        model,
        (images.x[:kept], images.y[:kept]),
        Scheme("natural"),
        epochs=settings.epochs,
        optimizer=settings.make_optimizer,
        validation=(images.x[kept:], images.y[kept:]) if settings.holdout else None,
        out=folder_of(str(parsed), cache),
        resume=resume,
        seed=parsed.seed,
        batch_size=settings.batch_size,
        lr_factor=shown.lr_factor,
        stop_at=settings.stop_at,
        precision=settings.precision,
        progress=lambda epoch, total, row: job.after_epoch(model, epoch, total, row),
        on_batch=on_batch,
        save_every=_SAVE_EVERY,
    )
    seeing.remove()
    card = job.finish(model, result.epochs, result.history[-1])
    (folder_of(str(parsed), cache) / _SCHEDULE).unlink(missing_ok=True)
    return card


def _for_this_machine(recipe: Recipe, device: torch.device) -> Recipe:
    # A device without bf16 units emulates it, many times slower than fp32. The card says which was used.
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        able = device.type == "cpu" and probe is not None and probe()
    return recipe if able else replace(recipe, precision="fp32")


def _check_schedule(recipe: Recipe, folder: Path) -> None:
    """Refuse to go on with another schedule than the training in ``folder`` has: its checkpoint does not know it."""
    known = _known_schedule(folder)
    if known is None or not (folder / CHECKPOINT).is_file():
        return
    none = _schedule(Recipe(recipe.epochs))  # cards may be older than a name
    for name, now in _schedule(recipe).items():
        then = known.get(name, none[name])
        if then != now:
            raise ValueError(
                f"recipe must have {name} {then} as the training in {folder} had, got {now}; pass resume=False to "
                "start anew"
            )


def _known_schedule(folder: Path) -> Mapping[str, object] | None:
    """Return the schedule of the training in ``folder``, noted as it began or on its card; None before there is any."""
    with suppress(OSError, ValueError):
        known = json.loads((folder / _SCHEDULE).read_text(encoding="utf-8"))
        if isinstance(known, dict):
            return known
    try:
        return read_card(folder / "card.json").recipe
    except (OSError, ValueError):  # none yet, or of a process that was killed as it wrote
        return None


def _note_schedule(recipe: Recipe, folder: Path) -> None:
    """Write the schedule beside the checkpoint, which may be there before the first card."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / _SCHEDULE, folder) as partial_file:
        partial_file.write_text(json.dumps(_schedule(recipe)) + "\n", encoding="utf-8")


def _schedule(recipe: Recipe) -> dict[str, object]:
    """Return what changes from epoch to epoch, as cards have it."""
    return {
        "milestones": list(recipe.milestones), "sides": [list(pair) for pair in recipe.sides], "fall": recipe.fall,
        "flip": recipe.flip,
    }  # fmt: skip


def _initial(name: ModelName, images: ImageData, recipe: Recipe) -> nn.Module:
    model = seeded_build(name.seed, partial(build, name.letter, images.shape, len(images.classes)))
    return model.to(memory_format=torch.channels_last) if recipe.channels_last else model  # pyright: ignore[reportCallIssue]


class _Shown:
    """Shows a network in training the images as the recipe says: as small as it wants in the epoch, some mirrored."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.side: int | None = None

    def lr_factor(self, epoch: int) -> float:
        """Return the recipe's factor; ``fit`` asks for it as each epoch begins, which tells the epoch."""
        self.side = self.recipe.side(epoch)
        return self.recipe.lr_factor(epoch)

    def __call__(self, model: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        """Mirror images (B, C, H, W) and average them over areas; in evaluation mode leave them as they are."""
        (x,) = inputs
        if not model.training:
            return (x,)
        if self.recipe.flip:  # drawn from torch's global generator, which fit sets and keeps, as dropout's are
            mirrored = torch.rand(len(x), 1, 1, 1) < 0.5
            x = torch.where(mirrored.to(x.device), x.flip(-1), x)
        if self.side is None or self.side == x.shape[-1]:
            return (x,)
        return (interpolate(x, (self.side, self.side), mode="area"),)


@dataclass(frozen=True)
class _Job:
    """What the card of a model under training needs beside the model."""

    name: ModelName
    kind: RecipeName
    recipe: Recipe
    test: ImageData
    cache: str | Path | None
    progress: Progress | None

    def after_epoch(self, model: nn.Module, epoch: int, epochs: int, row: Mapping[str, float]) -> None:
        """Write the weights as they are, with a card that says so."""
        save(model, self._card(model, epoch, row, fgsm=None, finished=False), self.cache)
        if self.progress is not None:
            self.progress(epoch, epochs, row)

    def finish(self, model: nn.Module, epochs: int, row: Mapping[str, float]) -> Card:
        """Write the trained weights with their full card."""
        model.eval()
        fgsm = fgsm_accuracy(model, self.test.x, self.test.y, batch_size=_AT_ONCE)
        facts = self._card(model, epochs, row, fgsm=fgsm, finished=True)
        save(model, facts, self.cache)
        return facts

    def _card(
        self, model: nn.Module, epochs: int, row: Mapping[str, float], *, fgsm: float | None, finished: bool
    ) -> Card:
        judged = self.test if finished else self.test.part(slice(_JUDGED_MEANWHILE))
        return Card(
            name=str(self.name),
            architecture=self.name.letter,
            shape=cast("tuple[int, int, int]", self.test.shape),
            classes=len(self.test.classes),
            data=self.name.data,
            data_note=self.test.note,
            recipe={"name": self.kind} | asdict(self.recipe) | _schedule(self.recipe),
            seed=self.name.seed,
            epochs=epochs,
            finished=finished,
            validation_accuracy=row.get("validation"),
            clean_accuracy=accuracy(model, judged, batch_size=_AT_ONCE),
            fgsm_accuracy=fgsm,
            torch_version=torch.__version__,
        )
