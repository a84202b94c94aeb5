"""What learning and scoring a universal perturbation return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnirobust.core.threat_models import Bounds, clamped


@dataclass(frozen=True)
class UniversalPerturbation:
    """A perturbation learned for a data set.

    Attributes:
        delta: (*S), feasible.
        weights: the final weights of the domains, (K,).
        axes: the factors whose product the domains are, row-major: models, transforms, and classes or images.
        bounds: range of the data, as the threat model has it.
        history: one row an epoch: epoch (from 1), loss and fooled, means over the images as they went by, and
            worst_loss, the largest mean of a domain. Towards a class, fooled leaves out images of which a model says it
            as they are.
        gradient_evaluations: input gradients taken, one for each image, model, transformation and sample.
        settings: the resolved settings, ready for JSON.
        notes: what a reader of these numbers must know, one sentence each; empty if nothing.
    """

    delta: Tensor
    weights: Tensor
    axes: dict[str, tuple[str, ...]]
    bounds: Bounds
    history: tuple[Mapping[str, float], ...]
    gradient_evaluations: int
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()

    def apply(self, x: Tensor) -> Tensor:
        """Return clip(x + delta) for images (N, *S)."""
        return clamped(x + self.delta.to(x), self.bounds)

    def marginal(self, axis: str) -> Tensor:
        """Return the weights summed over all factors but ``axis``, (n,).

        Raises:
            ValueError: if ``axis`` is none of ``axes``.
        """
        if axis not in self.axes:
            raise ValueError(f"axis must be one of {', '.join(self.axes)}, got {axis!r}")
        grid = self.weights.view([len(members) for members in self.axes.values()])
        others = [i for i, name in enumerate(self.axes) if name != axis]
        return grid.sum(others) if others else grid


@dataclass(frozen=True)
class UniversalScore:
    """How one perturbation fares on images.

    Attributes:
        success: the share of draws on which an image is fooled, (N, P), P = models x transformations, row-major; 0 or
            1 where nothing is random.
        y: labels, (N,).
        names: of the P pairs.
        notes: what a reader of these numbers must know, one sentence each; empty if nothing.
        already: of a targeted score, whether the model says the class to reach of the image as it is, (N, P) bool: all
            means leave these out, which are won for nothing. None for an untargeted one.
    """

    success: Tensor
    y: Tensor
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    already: Tensor | None = None

    @property
    def counted(self) -> Tensor:
        """Which images under which pair the means are taken over, (N, P) bool."""
        return torch.ones_like(self.success, dtype=torch.bool) if self.already is None else ~self.already

    @property
    def asr(self) -> float:
        """The mean success over images, models and transformations."""
        counted = self.success[self.counted]
        return float(counted.mean()) if counted.numel() else 0.0

    @property
    def by_class(self) -> dict[int, float]:
        """The mean success on the images of each class that occurs among those counted."""
        found = {int(c): self.success[self.y == c][self.counted[self.y == c]] for c in self.y.unique()}
        return {c: float(success.mean()) for c, success in found.items() if success.numel()}

    @property
    def worst_class(self) -> float:
        """The success on the class that resists most; 0 without images."""
        return min(self.by_class.values(), default=0.0)

    @property
    def by_pair(self) -> dict[str, float]:
        """The mean success under each model and transformation; NaN where none is counted."""
        if self.already is None:
            return dict(zip(self.names, self.success.mean(0).tolist(), strict=True))
        means = (self.success * self.counted).sum(0) / self.counted.sum(0)
        return dict(zip(self.names, means.tolist(), strict=True))
