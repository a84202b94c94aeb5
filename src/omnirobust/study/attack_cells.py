"""Cells that attack: everything that decides the numbers of one attack on one set of models.

What the domains are beside the models, the images of a group or transformations of one image, is the cell's task. A new
kind of task is one more of these, and a branch where ``attack_runner`` prepares images and labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias

from omnirobust.attacks.presets import AttackSettings
from omnirobust.core.arguments import NORMS, Norm, check_count
from omnirobust.core.choices import Precision
from omnirobust.core.threat_models import Clip
from omnirobust.core.weights import Fixed
from omnirobust.domains.groups import GroupBy
from omnirobust.domains.transforms import ImageTransform
from omnirobust.study.protocol import AnyCell, Span, WorkHook, Workplace
from omnirobust.study.store import LATER, Measured, join, plain
from omnirobust.zoo.chunks import Chunk

CHUNK = 200
"""Images attacked together and kept in one file: what a kill can lose at most."""

Labels: TypeAlias = Literal["predicted", "true", "released"]


@dataclass(frozen=True)
class Universal:
    """One perturbation for each group of K images, problem (6).

    The whole test split is divided, and the first groups are taken: more images add groups and change none.

    Attributes:
        size: K, >= 1.
        by: "random", or "class": a group holds images of one class.
        clip: "image": every image is clamped to the data range on its own; "intersection": the perturbation keeps all
            of them inside.
        classes: only groups of these classes; empty: of all.
    """

    size: int
    by: GroupBy = "random"
    clip: Clip = "image"
    classes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_count("size", self.size, whole=False)
        if self.classes and self.by != "class":
            raise ValueError(f"classes must be empty for groups at random, got {self.classes}")

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the domains: the places in a group."""
        return tuple(str(place + 1) for place in range(self.size))


@dataclass(frozen=True)
class Transformed:
    """One perturbation for each image that withstands K transformations, problem (7).

    Attributes:
        transforms: name and transformation, K of them.
        samples: draws of each random transformation at every step of the attack, >= 1.
        draws: fresh draws on all of which an image must be fooled to count, >= 1. The paper's tables judge one.
    """

    transforms: tuple[tuple[str, ImageTransform], ...]
    samples: int = 1
    draws: int = 1

    def __post_init__(self) -> None:
        if not self.transforms:
            raise ValueError("transforms must name at least one transformation, got none")
        check_count("samples", self.samples, whole=False)
        check_count("draws", self.draws, whole=False)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the domains: the transformations."""
        return tuple(name for name, _ in self.transforms)

    @property
    def size(self) -> int:
        """How many images a problem takes."""
        return 1


@dataclass(frozen=True)
class Distortion:
    """The least distortion, in the norm of the cell, that fools the model on each image of a group by itself.

    Attributes:
        groups: which images, in which order; its ``clip`` does not matter.
    """

    groups: Universal

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns: the places in a group."""
        return self.groups.columns

    @property
    def size(self) -> int:
        """How many images a group holds."""
        return self.groups.size


Task: TypeAlias = Universal | Transformed | Distortion


@dataclass(frozen=True)
class MeanWeightsOf:
    """A rule that another cell decides: the mean over its images of the weights it ends with, held fixed."""

    cell: Cell


@dataclass(frozen=True)
class Cell(AnyCell[Measured]):
    """One attack on one set of models: everything that decides its numbers but the number of images.

    Attributes:
        models: names in the zoo of the models attacked together, K of them, or of one's own as ``zoo.load_model`` takes
            them: "FILE.py:NAME". These must come with the same weights every time.
        norm: of the perturbation.
        eps: its radius, >= 0.
        attack: the weight rule, direction, step size, loss, start and which iterate is kept.
        rule: in place of ``attack.rule`` where another cell decides the weights.
        labels: "predicted", each domain's own on the clean image; "true"; or "released", as the released code has it:
            the attack is to leave its own prediction, success is counted against the true label.
        judges: names of the models whose success is counted; empty: those attacked.
        data: name of the data, whose test split is attacked in order.
        steps: T, >= 0.
        seed: keys the start.
        precision: of the attack; success is always recomputed in fp32.
        task: what the domains are beside the models; None for an ensemble attack, whose domains are the models.
    """

    models: tuple[str, ...]
    norm: Norm
    eps: float
    attack: AttackSettings
    rule: MeanWeightsOf | None = None
    labels: Labels = "predicted"
    judges: tuple[str, ...] = ()
    data: str = "mnist"
    steps: int = 50
    seed: int = 0
    precision: Precision = "fp32"
    task: Task | None = None

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("models must name at least one model, got none")
        if self.norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {self.norm!r}")
        if not self.eps >= 0:
            raise ValueError(f"eps must be >= 0, got {self.eps}")
        if self.labels not in ("predicted", "true", "released"):
            raise ValueError(f"labels must be 'predicted', 'true' or 'released', got {self.labels!r}")
        check_count("steps", self.steps, 0, whole=False)
        if self.task is not None and len(self.judged) > 1:
            raise ValueError(f"models must name one model where there is a task, got {len(self.judged)}")

    @property
    def judged(self) -> tuple[str, ...]:
        """The models whose success is counted."""
        return self.judges or self.models

    @property
    def columns(self) -> tuple[str, ...]:
        """What success is counted for: the letters of the models that judge, or the domains of the task."""
        if self.task is not None:
            return self.task.columns
        letters = tuple(map(_letter, self.judged))
        return letters if len(set(letters)) == len(letters) else self.judged

    @property
    def group(self) -> int:
        """How many images each problem takes."""
        return 1 if self.task is None else self.task.size

    @property
    def takes(self) -> tuple[str, ...]:
        """The models that are attacked, and those that judge."""
        return tuple(dict.fromkeys((*self.models, *self.judged)))

    @property
    def needs(self) -> tuple[Cell, ...]:
        """The cell that decides the weights, if one does."""
        return () if self.rule is None else (self.rule.cell,)

    def most(self, cache: Workplace, images: int) -> int:
        """Return ``images``; of groups of one class as many as there are, since some images are left over."""
        task = self.task.groups if isinstance(self.task, Distortion) else self.task
        if not isinstance(task, Universal) or task.by != "class":
            return images
        there = cache.grouped(self, images)
        return images if there is None else there

    def counts(self, images: int) -> Sequence[int]:
        """Return ``images``, and where another cell decides the weights every smaller whole number of chunks.

        They are its mean over as many images as this one is measured on.
        """
        smaller = range((images - 1) // CHUNK * CHUNK, 0, -CHUNK)
        return [images, *(smaller if self.rule is not None else ())]

    def resolved(self, cache: Workplace, images: int) -> Cell | None:
        """Return this cell with the mean weights of the one that decides them."""
        if self.rule is None:
            return self
        other = self.rule.cell
        seen = cache.recall(other, images)
        if seen is None or len(seen) < other.problems(images):
            return None
        mean = seen.weights.double().mean(0)
        return replace(self, attack=replace(self.attack, rule=Fixed(mean / mean.sum())), rule=None)

    def limited(self, steps: int | None) -> Cell:
        """Return this cell, and the one that decides its weights, with at most so many steps."""
        if steps is None or self.steps <= steps:
            return self
        rule = None if self.rule is None else MeanWeightsOf(self.rule.cell.limited(steps))
        return replace(self, steps=steps, rule=rule)

    def describe(self, cache: Workplace) -> dict[str, Any]:
        """Return all settings, and a hash of the weights of every model."""
        attack = {f.name: plain(getattr(self.attack, f.name)) for f in fields(self.attack)}
        apart = {"attack", "rule", "judges"} | ({"task"} if self.task is None else set())
        own = {f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name not in apart}
        weights = {name: cache.fingerprint(name) for name in self.takes}
        return own | {"judges": list(self.judged), "attack": attack, "weights": weights}

    def spans(self, images: int) -> list[Span]:
        """Return the chunks in problems; groups that begin in a chunk belong to it whole."""
        spans = [Span(self.problems(begin), self.problems(end)) for begin, end in chunks(images)]
        return [span for span in spans if span.begin < span.end]

    def work(self, span: Span) -> int:
        """Return how many (image, step) pairs there are."""
        return (span.end - span.begin) * self.group * max(self.steps, 1)

    def measure(self, span: Span, cache: Workplace, on_work: WorkHook) -> Chunk:
        """Attack the problems of a chunk.

        Problems are independent: where true and predicted labels agree, so does the attack, and it is not run twice.
        """
        alone = self.labels == "predicted" or isinstance(self.task, Distortion)
        known = None if alone else cache.known(replace(self, labels="predicted"), span)
        return cache.attack(self, span, known, on_work)

    def result(self, parts: Sequence[Chunk], cache: Workplace) -> Measured:
        """Join chunks."""
        return join([Measured.of(part.tensors) for part in parts])

    def fits(self, chunk: Chunk, span: Span) -> bool:
        """Say whether a chunk has everything of an attack on that many problems."""
        names = {*LATER, *chunk.tensors}
        return super().fits(chunk, span) and names == {f.name for f in fields(Measured)}


def chunks(images: int) -> list[tuple[int, int]]:
    """Return where the chunks of the first ``images`` images begin and end."""
    return [(begin, min(begin + CHUNK, images)) for begin in range(0, images, CHUNK)]


def _letter(name: str) -> str:
    """Return what columns call a model: the letter of the zoo, or NAME of "FILE.py:NAME"."""
    return name.rpartition(":")[2] if ":" in name else name.split("/")[-1].split("@")[0].upper()
