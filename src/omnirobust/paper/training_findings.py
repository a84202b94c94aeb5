"""What was measured of trained models, asked for as the paper's tables name it; nothing is computed here but means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from omnirobust.paper.robustness_cells import cells_of
from omnirobust.paper.training_budgets import (
    WITHOUT_L2,
    Arch,
    Method,
    Metric,
    Training,
    TrainingBudget,
    training_of,
)
from omnirobust.study.protocol import Workplace
from omnirobust.study.sample import Sample
from omnirobust.study.training_cells import Trained

Against: TypeAlias = Literal["clean", "linf", "l2", "max", "avg", "uni", "avg3"]
"""Accuracy: clean; under linf or l2; Acc_adv^max and Acc_adv^avg of the two; under a universal perturbation; the mean
of linf, l2 and that."""


@dataclass(frozen=True)
class Findings:
    """Everything that a folder of cells holds of one budget.

    What was not measured is a KeyError.

    Attributes:
        cache: that measured it.
        budget: says which seeds, images and radii.
    """

    cache: Workplace
    budget: TrainingBudget
    _known: dict[tuple[object, ...], Sample] = field(default_factory=dict, compare=False, repr=False)

    def trainings(self, arch: Arch, method: Method, eps_l2: float) -> list[Training]:
        """Return the trainings of a row, one a seed, done or not."""
        seeds = range(self.budget.seeds_of(arch, method, eps_l2))
        return [training_of(arch, method, eps_l2, seed, self.budget.efforts[arch]) for seed in seeds]

    def accuracy(self, arch: Arch, method: Method, eps_l2: float, against: Against, metric: Metric = "pgd") -> Sample:
        """Return whether each test image is classified right, or for means the share of the attacks that fail on it."""
        match against:
            case "clean":
                return self._judged(arch, method, eps_l2, metric, "linf", "clean")
            case "linf" | "l2":
                return self._judged(arch, method, eps_l2, metric, against, "right")
            case "uni":
                return self._judged(arch, method, eps_l2, "universal", "linf", "right")
            case _:
                linf, l2 = (self.accuracy(arch, method, eps_l2, norm, metric) for norm in ("linf", "l2"))
        if against == "max":
            return linf.both(l2)
        if against == "avg":
            return (linf + l2) * 0.5
        return (linf + l2 + self.accuracy(arch, method, eps_l2, "uni")) * (1 / 3)

    def area(self, arch: Arch, method: Method, metric: Metric = "pgd") -> Sample:
        """Return S, image by image: the area under Acc_adv^max against the l2 radius, over the range of radii."""
        radii = self.budget.grid
        found = [self.accuracy(arch, method, eps, "max", metric) for eps in radii]
        widths = [(b - a) / (radii[-1] - radii[0]) / 2 for a, b in pairwise(radii)]
        total = found[0] * 0.0
        for width, (left, right) in zip(widths, pairwise(found), strict=True):
            total = total + (left + right) * width
        return total

    def cosine(self, arch: Arch, method: Method, eps_l2: float, *, diverse: bool = False) -> Sample:
        """Return the cosine between the input gradients of the linf and the l2 attack, image by image.

        The attacks ascend the regulariser of DPAR too where they are ``diverse``.
        """
        return self._judged(arch, method, eps_l2, "gradients_dpar" if diverse else "gradients", "l2", "cosine")

    def distance(self, arch: Arch, method: Method, eps_l2: float, norm: str, measured_in: str) -> Sample:
        """Return the norm of the perturbation that the attack in ``norm`` ends with, in the other or the same norm."""
        return self._judged(arch, method, eps_l2, "pgd", norm, measured_in)

    def weight(self, arch: Arch, method: Method, eps_l2: float) -> Sample:
        """Return the weight of the l2 attack that each training image had last."""
        return self._trained(arch, method, eps_l2, lambda t: t.weights[:, 1] if t.weights.shape[1] == 2 else None)

    def curve(self, arch: Arch, method: Method, eps_l2: float) -> Sample:
        """Return the robust accuracy (of both threats at once) after every epoch, on held-out images, (S, epochs)."""
        return self._trained(
            arch, method, eps_l2, lambda t: torch.tensor([row["robust"] for row in t.history if "robust" in row])
        )

    def seconds(self, arch: Arch, method: Method, eps_l2: float) -> float:
        """Return how long the trainings of a row took in all, as far as they are done."""
        done = [self.cache.recall(t, 0) for t in self.trainings(arch, method, eps_l2)]
        return sum(found.seconds for found in done if found is not None)

    def _trained(self, arch: Arch, method: Method, eps_l2: float, part: Callable[[Trained], Tensor | None]) -> Sample:
        rows: dict[int, Tensor] = {}
        for training in self.trainings(arch, method, eps_l2):
            found = self.cache.recall(training, 0)
            values = None if found is None else part(found)
            if values is not None and len(values):
                rows[training.seed] = values
        return Sample.of(rows)

    def _judged(self, arch: Arch, method: Method, eps_l2: float, metric: Metric, norm: str, name: str) -> Sample:
        key = (arch, method, 0.0 if norm == "linf" and method in WITHOUT_L2 else eps_l2, metric, norm, name)
        if key not in self._known:
            rows: dict[int, Tensor] = {}
            for training in self.trainings(arch, method, eps_l2):
                (asked,) = (j for j in cells_of(training, metric, eps_l2, self.budget) if j.norm == norm)
                found = self.cache.recall(asked, self.budget.images(arch, metric))
                if found is not None:
                    rows[training.seed] = found[name]
            self._known[key] = Sample.of(rows)
        return self._known[key]
