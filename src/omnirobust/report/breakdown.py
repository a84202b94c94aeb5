"""How the members of each factor fare: models, transformations, and the classes of images that share perturbations."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from omnirobust.jobs.record import AttackRecord

_ALIKE = 1e-4
"""Weights that differ by less are alike, but for rounding."""

_KINDS = {"models": "model", "transforms": "transformation"}


@dataclass(frozen=True)
class Member:
    """One model, transformation or class.

    Attributes:
        name: what it is called.
        clean: accuracy before the attack.
        accuracies: accuracy under every attack, in the order of the run.
        weight: mean weight under the last attack, summed over the other factors; None where it says nothing.
        interval: the 95 % confidence interval of the weight over problems; None where there is none.
    """

    name: str
    clean: float
    accuracies: tuple[float, ...]
    weight: float | None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Breakdown:
    """The members of one factor, "model", "transformation" or "class"."""

    kind: str
    members: tuple[Member, ...]

    @property
    def hardest(self) -> Member | None:
        """The member that keeps most accuracy under the last attack, ties by weight; None if all are alike."""
        ranks = [(m.accuracies[-1], m.weight or 0.0) for m in self.members]
        return None if len(set(ranks)) < 2 else self.members[ranks.index(max(ranks))]

    @property
    def heaviest(self) -> Member | None:
        """The member of the largest weight; None where weights say nothing."""
        return None if self.members[0].weight is None else max(self.members, key=lambda m: m.weight or 0.0)


def breakdowns(record: AttackRecord) -> list[Breakdown]:
    """Return one breakdown a factor: models and transformations in use, and classes where images share."""
    found = [_of_axis(record, axis) for axis in record.axes if axis in _KINDS]
    return found if record.groups is None else [*found, _of_classes(record)]


@dataclass(frozen=True)
class Pairs:
    """Every transformation under every model, for the last attack of a product of both.

    Attributes:
        models: M names.
        transforms: R names.
        accuracy: (R, M), in [0, 1].
    """

    models: list[str]
    transforms: list[str]
    accuracy: list[list[float]]


def pairs(record: AttackRecord) -> Pairs | None:
    """Return how every pair of model and transformation fares; None unless there are several of both."""
    M, R = len(record.models), len(record.transforms)
    if M < 2 or R < 2:
        return None
    accuracy = torch.tensor(list(record.metrics["attacks"][record.attacks[-1]]["accuracy"].values()))
    return Pairs(record.models, record.transforms, accuracy.view(M, R, -1).mean(2).T.tolist())


def _of_axis(record: AttackRecord, axis: str) -> Breakdown:
    attacks = list(record.metrics["attacks"].values())
    members = [
        Member(
            name,
            record.metrics["clean_by"][axis][name],
            tuple(a["by"][axis][name]["accuracy"] for a in attacks),
            attacks[-1]["by"][axis][name]["weight"],
            tuple(attacks[-1]["by"][axis][name]["weight_interval"]),
        )
        for name in record.axes[axis]
    ]
    return Breakdown(_KINDS[axis], _told(members))


def _of_classes(record: AttackRecord) -> Breakdown:
    attacks = list(record.metrics["attacks"].values())
    members = [
        Member(
            name,
            clean,
            tuple(a["by_class"][name]["accuracy"] for a in attacks),
            attacks[-1]["by_class"][name]["weight"],
        )
        for name, clean in record.metrics["clean_by"]["classes"].items()
    ]
    return Breakdown("class", _told(members))


def _told(members: list[Member]) -> tuple[Member, ...]:
    """Leave out weights that are all alike: of the average, and of classes where each group has but one."""
    weights = [m.weight or 0.0 for m in members]
    alike = max(weights) - min(weights) < _ALIKE
    return tuple(replace(m, weight=None) for m in members) if alike else tuple(members)
