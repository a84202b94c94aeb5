"""What a job attacks: images in their groups, labels, models and transformations, loaded by name."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from omnirobust._device import resolved
from omnirobust.attacks.options import OPTIONS, AttackOptions
from omnirobust.domains.groups import make_groups
from omnirobust.jobs.job import AttackJob
from omnirobust.jobs.names import check_answers, load_attacked, moved, predict
from omnirobust.jobs.transforms import Transform, load_transforms
from omnirobust.zoo.data import ImageData, load
from omnirobust.zoo.sources import Source

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Setting:
    """What the results of a job belong to: B perturbations, each for E images (one, unless images share).

    Attributes:
        job: the settings.
        images: the clean images in the order of their perturbations, N = B E.
        rows: their indices in the split, (N,).
        left_out: images that filled no group.
        models: those attacked, M.
        others: those only scored.
        transforms: those to withstand; None for none.
        clean: class of every clean image by every model attacked, then by the others, (N, M + others).
        device: where the models are; the images, and all that is written, are on the processor.
        missing: names of the classes of the data that no image is of.
    """

    job: AttackJob
    images: ImageData
    rows: Tensor
    left_out: int
    models: dict[str, Source]
    others: dict[str, Source]
    transforms: dict[str, Transform] | None
    clean: Tensor
    device: torch.device = CPU
    missing: tuple[str, ...] = ()

    @property
    def all_models(self) -> dict[str, Source]:
        """Those attacked, then those only scored."""
        return self.models | self.others

    @property
    def shared(self) -> bool:
        """Whether images share a perturbation."""
        return self.job.groups is not None

    @property
    def E(self) -> int:
        """Images a perturbation."""
        return 1 if self.job.groups is None else self.job.groups.size

    @property
    def targeted(self) -> bool:
        """Whether ``y`` are classes to reach."""
        return self.job.target is not None

    @property
    def measure(self) -> str | None:
        """What is counted of each domain beside its accuracy: "target_success", "agreement", or nothing."""
        if self.targeted:
            return "target_success"
        return "agreement" if self.job.labels == "predicted" else None

    @property
    def true_labels(self) -> Tensor | None:
        """The labels of the data, (B,) or (B, E), where ``y`` says something else; else None."""
        return None if self.measure is None else self.arranged(self.images.y)

    @property
    def x(self) -> Tensor:
        """The clean images as the attack takes them: (B, *S), or (B, E, *S) where they share a perturbation."""
        return self.arranged(self.images.x)

    @property
    def y(self) -> Tensor:
        """The attack's labels: (B,) or (B, M); (B, E) or (B, M, 1, E) where images share a perturbation."""
        if self.job.target is not None:
            return torch.full_like(self.arranged(self.images.y), self.job.target)
        if self.job.labels == "true":
            return self.arranged(self.images.y)
        own = self.arranged(self.clean[:, : len(self.models)])
        return own.transpose(1, 2).unsqueeze(2) if self.shared else own

    def arranged(self, values: Tensor) -> Tensor:
        """Shape a tensor of all images, (N, ...), by perturbations: (B, E, ...) where they are shared."""
        return values.unflatten(0, (-1, self.E)) if self.shared else values

    def listed(self, values: Tensor) -> Tensor:
        """Undo ``arranged``."""
        return values.flatten(0, 1) if self.shared else values


def load_setting(job: AttackJob) -> Setting:
    """Load what a job names.

    Raises:
        ValueError: if the data, a model or a transformation does not fit, or no group is full.
        FileNotFoundError: if models of the zoo have not been trained, or a file is missing.
    """
    found = load(
        job.data, job.split, limit=job.images, start=job.start, label=job.label, resize=job.resize,
        labelled=job.labels == "true", in_order=job.images is None and not job.start,
    )  # fmt: skip
    if not len(found):
        raise ValueError(f"start must be an index of the {job.split} split of {job.data}, got {job.start}")
    if job.target is not None and not 0 <= job.target < len(found.classes):
        raise ValueError(f"target must be in [0, {len(found.classes)}), got {job.target}")
    if job.threat_model.mask is not None and job.threat_model.mask.ndim >= found.x.ndim:
        raise ValueError(f"mask must be one for all inputs of a job, got shape {tuple(job.threat_model.mask.shape)}")
    device = resolved(job.device)
    transforms = load_transforms(job.transforms) if job.transforms else None
    models, others = _loaded(job, found, device)
    job, models = _for_boxes(job, models)
    order = _order(job, found)
    images = found.part(order)
    clean = predict(models | others, images.x, device)
    missing = images.missing if bool((images.y >= 0).all()) else ()
    images = labelled(images, clean[:, 0], next(iter(models)))
    if job.target is not None:
        _check_target(job.target, images, clean[:, : len(models)])
    return Setting(
        job, images, order + job.start, len(found) - len(order), models, others, transforms, clean, device, missing
    )


def _loaded(job: AttackJob, found: ImageData, device: torch.device) -> tuple[dict[str, Source], dict[str, Source]]:
    """Return the models attacked and those only scored, on their device, and see that they fit the data."""
    own = job.labels == "predicted"
    models, others = load_attacked(job.models, job.transfer, job.data, found, any_classes=own)
    labels = None if own else found.y if job.target is None else torch.tensor([job.target])
    for argument, names, part in (("models", job.models, models), ("transfer", job.transfer, others)):
        moved(part, device)
        check_answers(dict(zip(names, part.values(), strict=True)), found.x, device, labels, argument)
    return models, others


def _for_boxes(job: AttackJob, models: dict[str, Source]) -> tuple[AttackJob, dict[str, Source]]:
    """Limit the questions that models which only answer are asked, and choose what the job does not say for them."""
    queries = None
    if "omnirobust.domains.blackbox.box" in sys.modules:  # without them nothing of theirs is imported
        from omnirobust.attacks import queries
    boxes = queries.boxes_of(models) if queries else {}
    if not boxes or queries is None:
        if job.queries is not None:
            raise ValueError(f"queries must be left out where every model has gradients, got {job.queries}")
        return job, models
    if job.queries is not None:
        boxes = {name: replace(box, queries=job.queries) for name, box in boxes.items()}
    said = cast(AttackOptions, {k: v for k, v in job.options.items() if v is not None and v != OPTIONS[k].default})
    found = models | boxes
    chosen = queries.options_of(boxes, found, job.threat_model, said, job.plan.task, max(len(job.transforms), 1))
    return replace(job, options={**job.options, **chosen}), found


def _check_target(target: int, images: ImageData, said: Tensor) -> None:
    """Refuse a target that every image is in already: there would be nothing to count."""
    if bool(((images.y == target) | (said == target).all(1)).all()):
        raise ValueError(
            f"target must leave an image to attack, got {target}: all {len(images)} are of that class, or every model "
            "says so before the attack"
        )


def _order(job: AttackJob, images: ImageData) -> Tensor:
    """Return indices of the images to attack, group by group."""
    if job.groups is None:
        return torch.arange(len(images))
    if job.groups.by == "class" and bool((images.y < 0).any()):
        raise ValueError("groups must be by 'random' for images without a class, got 'class'")
    if job.groups.by == "given":
        groups = torch.arange(len(images) - len(images) % job.groups.size).view(-1, job.groups.size)
    else:
        groups = make_groups(images.y, job.groups.size, job.groups.by, job.groups.seed)
    if not len(groups):
        of = "of one class " if job.groups.by == "class" else ""
        most = f", at most {int(images.y.bincount().max())} of one class" if of else ""
        raise ValueError(
            f"images must fill at least one group of {job.groups.size} {of}each, got {len(images)} images{most}"
        )
    return groups.flatten()


def labelled(images: ImageData, said: Tensor, model: str) -> ImageData:
    """Give images without a class the one that the first model sees in them: where each leaves its own, any will do."""
    unknown = images.y < 0
    if not bool(unknown.any()):
        return images
    told = f"{int(unknown.sum())} images have no label: accuracy counts what {model} says of them before the attack"
    classes = images.classes or tuple(str(number) for number in range(int(said.max()) + 1))
    note = "; ".join(filter(None, [images.note, told]))
    return replace(images, y=torch.where(unknown, said, images.y), classes=classes, note=note)
