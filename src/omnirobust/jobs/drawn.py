"""What random models say of images, over fresh draws: their clean and transfer accuracy in a job of attacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnirobust.domains.classifier import Probed
from omnirobust.domains.probe import probed
from omnirobust.evaluation.fresh import Judge
from omnirobust.evaluation.metrics import Interval, drawn_interval
from omnirobust.jobs.setting import Setting

DRAWS = 10
"""Draws of a random model that only transfer is measured on, where nobody says how many."""


@dataclass(frozen=True)
class RandomModels:
    """Those models of a job, attacked or not, that are random.

    Attributes:
        models: by name, as a probe found them.
        draws: how many times each is asked.
        seed: of these draws, not the attack's.
        device: where the models are.
    """

    models: Mapping[str, Probed]
    draws: int
    seed: int
    device: torch.device

    @classmethod
    def of(cls, setting: Setting, draws: int) -> RandomModels:
        """Find them among the models of a job, by a few passes over its first images."""
        known = probed(setting.all_models, setting.images.x[:32].to(setting.device))
        options = setting.job.plan.options
        count = draws if draws > 1 else options.get("draws") or DRAWS
        random = {name: model for name, model in known.items() if model.random}
        return cls(random, count, options["seed"] + 1, setting.device)

    def accuracy(self, x: Tensor, y: Tensor, number: int) -> dict[str, Interval]:
        """Return how often each gives the labels ``y`` (N,) of images (N, *S): means over images and fresh draws.

        Args:
            x: images as the models are to see them.
            y: labels.
            number: another one, other draws.
        """
        found = {}
        for name, model in self.models.items():
            judge = Judge(model, self.draws, self.seed).fresh(number)
            missed = judge.asked(x.to(self.device), y.to(self.device), 0)[0] if len(x) else None
            found[name] = Interval(0.0, 0.0, 1.0) if missed is None else drawn_interval(~missed.cpu())
        return found


def mean_rates(found: Mapping[str, Interval], of_one_draw: Mapping[str, float]) -> dict[str, float]:
    """Return rates by name, those of random models means over draws, the others as they are."""
    return {name: found[name].estimate if name in found else rate for name, rate in of_one_draw.items()}


def intervals(key: str, found: Mapping[str, Interval], names: Mapping[str, object]) -> dict[str, Any]:
    """Return the intervals of random models among ``names`` under ``key``; nothing where there are none."""
    told = {name: [value.low, value.high] for name, value in found.items() if name in names}
    return {key: told} if told else {}
