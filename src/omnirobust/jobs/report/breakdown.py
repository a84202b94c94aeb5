"""How the members of each factor fare: models, transformations, and the classes of images that share perturbations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Any

import torch

from omnirobust.jobs.records import AttackRecord

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
        measured: what is counted beside it, likewise: target success, or agreement; empty if nothing is.
        weight: mean weight under the last attack, summed over the other factors; None where it says nothing.
        interval: the 95 % confidence interval of the weight over problems; None where there is none.
    """

    name: str
    clean: float
    accuracies: tuple[float, ...]
    weight: float | None
    interval: tuple[float, float] | None = None
    measured: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Breakdown:
    """The members of one factor, "model", "transformation" or "class"; ``reach``: of an attack that is targeted."""

    kind: str
    members: tuple[Member, ...]
    reach: bool = False

    @property
    def hardest(self) -> Member | None:
        """The member on which the last attack succeeds least, ties by weight; None if all are alike."""

        def kept(member: Member) -> float:
            rate = (member.measured or member.accuracies)[-1]
            return 0.0 if rate is None else -rate if self.reach else rate

        ranks = [(kept(m), m.weight or 0.0) for m in self.members]
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
        rates: (R, M), in [0, 1]: accuracy, or what is counted beside it; None where nothing counts.
    """

    models: list[str]
    transforms: list[str]
    rates: list[list[float | None]]


def pairs(record: AttackRecord) -> Pairs | None:
    """Return how every pair of model and transformation fares; None unless there are several of both."""
    M, R = len(record.models), len(record.transforms)
    if M < 2 or R < 2:
        return None
    of_domains = record.metrics["attacks"][record.attacks[-1]][record.measure or "accuracy"].values()
    rates = torch.tensor([nan if rate is None else rate for rate in of_domains]).view(M, R, -1).nanmean(2)
    return Pairs(record.models, record.transforms, [[None if r != r else r for r in row] for row in rates.T.tolist()])


def _of_axis(record: AttackRecord, axis: str) -> Breakdown:
    found = [a["by"][axis] for a in record.metrics["attacks"].values()]
    return _breakdown(record, _KINDS[axis], record.metrics["clean_by"][axis], found)


def _of_classes(record: AttackRecord) -> Breakdown:
    found = [a["by_class"] for a in record.metrics["attacks"].values()]
    return _breakdown(record, "class", record.metrics["clean_by"]["classes"], found)


def _breakdown(
    record: AttackRecord, kind: str, clean: Mapping[str, float], found: Sequence[Mapping[str, Mapping[str, Any]]]
) -> Breakdown:
    """Return the members of a factor, of which each attack of the run has found something: see ``jobs.rates``."""
    members = [
        Member(
            name,
            accuracy,
            tuple(of[name]["accuracy"] for of in found),
            found[-1][name]["weight"],
            tuple(found[-1][name].get("weight_interval", ())) or None,
            () if record.measure is None else tuple(of[name][record.measure] for of in found),
        )
        for name, accuracy in clean.items()
    ]
    return Breakdown(kind, _told(members), record.target is not None)


def _told(members: list[Member]) -> tuple[Member, ...]:
    """Leave out weights that are all alike: of the average, and of classes where each group has but one."""
    weights = [m.weight or 0.0 for m in members]
    alike = max(weights) - min(weights) < _ALIKE
    return tuple(replace(m, weight=None) for m in members) if alike else tuple(members)
