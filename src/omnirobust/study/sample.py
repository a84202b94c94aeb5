"""Measurements over seeds and images, their differences in pairs, and intervals that know of both."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from omnirobust.evaluation import Interval

PRIOR = 4
"""Degrees of freedom that a spread between seeds which is known beforehand is worth."""


@dataclass(frozen=True)
class Sample:
    """A number for each seed and image; sums and differences are taken in pairs, where both have been measured.

    Attributes:
        seeds: of the trainings, S of them.
        values: (S, N), of the same first N images.
    """

    seeds: tuple[int, ...]
    values: Tensor

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or len(self.values) != len(self.seeds):
            raise ValueError(f"values must have shape ({len(self.seeds)}, N), got {tuple(self.values.shape)}")

    @classmethod
    def of(cls, found: dict[int, Tensor]) -> Sample:
        """Join what was measured for each seed (N,), on the images that all have; a KeyError if there is none."""
        if not found:
            raise KeyError("nothing measured")
        shared = min(len(values) for values in found.values())
        return cls(tuple(found), torch.stack([values[:shared].double() for values in found.values()]))

    def on(self, seeds: Collection[int]) -> Sample:
        """Keep some of the seeds; a KeyError if none is left."""
        return Sample.of({seed: row for seed, row in zip(self.seeds, self.values, strict=True) if seed in seeds})

    def __add__(self, other: Sample | float) -> Sample:
        """Add in pairs."""
        if not isinstance(other, Sample):
            return Sample(self.seeds, self.values + other)
        shared = min(self.images, other.images)
        both = [seed for seed in self.seeds if seed in other.seeds]
        if not both:
            raise KeyError("no seed was measured for both")
        one, two = (s.values[[s.seeds.index(seed) for seed in both], :shared] for s in (self, other))
        return Sample(tuple(both), one + two)

    def __sub__(self, other: Sample | float) -> Sample:
        """Subtract in pairs."""
        return self + other * -1.0

    def __mul__(self, factor: float) -> Sample:
        """Scale."""
        return Sample(self.seeds, self.values * factor)

    def __rmul__(self, factor: float) -> Sample:
        """Scale."""
        return self * factor

    def both(self, other: Sample) -> Sample:
        """Multiply in pairs: of indicators, whether both hold."""
        total = self + other
        return Sample(total.seeds, (total.values >= 2).double())

    @property
    def images(self) -> int:
        """N."""
        return self.values.shape[1]

    @property
    def mean(self) -> float:
        """The mean over seeds and images."""
        return float(self.values.mean())

    def interval(self, level: float = 0.95, between: float | None = None) -> Interval:
        """Return the mean with its confidence interval over images and, where there are several, over seeds.

            mean +- t_v sqrt(a + b),   a = var_seeds(mean over images) / S,   b = var_images(mean over seeds) / N

        with v of Welch and Satterthwaite, (a + b)^2 / (a^2 / (S - 1) + b^2 / (N - 1)). What images add to a is counted
        twice, to the safe side, and b is at least 1 / N^2. Of one seed the interval says nothing of training anew,
        unless ``between`` says how much seeds differ; of one image (a number that belongs to a training as a whole)
        nothing of other images; of one of each it is unbounded.

        Args:
            level: of confidence, in (0, 1).
            between: the standard deviation s_0 between seeds that is known beforehand, worth v_0 = ``PRIOR`` seeds:
                var_seeds becomes (v_0 s_0^2 + (S - 1) var_seeds) / (v_0 + S - 1), with as many degrees of freedom. Few
                seeds that happen to agree, or not, then weigh little. None: the seeds at hand speak for themselves.

        Reference: Smyth 2004, "Linear models and empirical Bayes methods", for the moderated variance.
        """
        seeds, images = self.values.shape
        variance, free = float(self.values.mean(1).var()) if seeds > 1 else 0.0, seeds - 1
        if between is not None:
            variance = (PRIOR * between**2 + free * variance) / (PRIOR + free)
            free += PRIOR
        of_seeds = variance / seeds
        # where all images agree, as if one of them did not by 1: a few images prove no certainty
        of_images = max(float(self.values.mean(0).var()), 1 / images) / images if images > 1 else 0.0
        if seeds == images == 1:
            return Interval(self.mean, -np.inf, np.inf)
        total = of_seeds + of_images
        if total == 0:
            return Interval(self.mean, self.mean, self.mean)
        freedom = total**2 / max(of_seeds**2 / max(free, 1) + of_images**2 / max(images - 1, 1), 1e-300)
        half = float(stdtrit(freedom, (1 + level) / 2)) * total**0.5
        return Interval(self.mean, self.mean - half, self.mean + half)
