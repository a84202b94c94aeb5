"""What the domains of a cell are, beside its models: the images of a group, or transformations of one image.

A new kind of task is one more of these, and a branch where ``trials`` prepares images and labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from omnirobust._types import check_count
from omnirobust.groups import GroupBy
from omnirobust.threat_models import Clip
from omnirobust.transforms import ImageTransform


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
