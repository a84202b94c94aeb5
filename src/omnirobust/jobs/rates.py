"""Rates of a finished attack: of every domain, of every member of a factor, of every class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from omnirobust.attacks.results import AttackResult
from omnirobust.core.history import HistoryRows
from omnirobust.evaluation.explain import rank
from omnirobust.jobs.setting import Setting


def right(result: AttackResult) -> Tensor:
    """Return the share of draws on which each domain gives the label of the data, (B, K) float64."""
    return 1 - result.success.double() if result.right is None else result.right.double()


def kept(setting: Setting, result: AttackResult) -> Tensor:
    """Return what ``setting.measure`` counts, (B, K): what reaches the target, or keeps the clean prediction."""
    return result.success.double() if setting.targeted else 1 - result.success.double()


def measured(setting: Setting, result: AttackResult) -> dict[str, float | None]:
    """Return the rate of ``setting.measure`` on each domain, over what is counted; None where nothing is."""
    counted = result.counted.double()
    rates = (kept(setting, result) * counted).sum(0) / counted.sum(0)
    return {name: None if rate != rate else rate for name, rate in named(rates, result.names).items()}


def shares(values: Tensor, like: AttackResult, axis: str, counted: Tensor | None = None) -> dict[str, float | None]:
    """Average values of all domains (B, K) over problems and over all factors but one: for each of its members.

    Only what is ``counted`` (B, K) goes in; None for a member of which nothing is.
    """
    weights = torch.ones_like(values, dtype=torch.float64) if counted is None else counted.double()
    number = 1 + list(like.axes).index(axis)

    def total(of: Tensor) -> Tensor:
        grid = of.double().unflatten(1, tuple(len(members) for members in like.axes.values()))
        return grid.movedim(number, 0).flatten(1).sum(1)

    rates = total(values * weights) / total(weights)
    return {name: None if rate != rate else rate for name, rate in zip(like.axes[axis], rates.tolist(), strict=True)}


def by_member(setting: Setting, result: AttackResult, axis: str) -> dict[str, dict[str, Any]]:
    """Return accuracy and marginal weight, with its interval over problems, of every member of a factor."""
    weights = {ranked.name: ranked.weight for ranked in rank(result, axis)}
    accuracy = shares(right(result), result, axis)
    others = shares(kept(setting, result), result, axis, result.counted)
    return {
        member: {
            "accuracy": accuracy[member],
            **({} if setting.measure is None else {setting.measure: others[member]}),
            "weight": weights[member].estimate,
            "weight_interval": [weights[member].low, weights[member].high],
        }
        for member in result.axes[axis]
    }


def by_class(setting: Setting, result: AttackResult) -> dict[str, dict[str, float | None]]:
    """Return accuracy, mean weight and number of the images of every class."""
    weights = by_image(setting, result.weights.double()).sum(1)
    accuracy = by_image(setting, right(result)).mean(1)
    counted = by_image(setting, result.counted.double())
    won = by_image(setting, kept(setting, result)) * counted

    def rate(rows: Tensor) -> float | None:
        return float(won[rows].sum() / total) if (total := counted[rows].sum()) else None

    return {
        name: {
            "accuracy": float(accuracy[rows].mean()),
            **({} if setting.measure is None else {setting.measure: rate(rows)}),
            "weight": float(weights[rows].mean()),
            "images": int(rows.sum()),
        }
        for name, rows in classes_of(setting).items()
    }


def classes_of(setting: Setting) -> dict[str, Tensor]:
    """Return which images are of each class that occurs, (N,) bool by name."""
    labels = setting.images.y
    return {setting.images.classes[label]: labels == label for label in labels.unique().tolist()}


def by_image(setting: Setting, values: Tensor) -> Tensor:
    """Shape values of all domains (B, K) into a row for each image, (N, K / E)."""
    return values.unflatten(1, (-1, setting.E)).transpose(1, 2).flatten(0, 1)


def mean_success(result: AttackResult) -> Tensor:
    """Return the mean success over the domains of each problem that count, (B,)."""
    counted = result.counted.double()
    return (result.success * counted).sum(1) / counted.sum(1).clamp(min=1)


def so_far(result: AttackResult, rows: HistoryRows) -> dict[str, Tensor]:
    """Return success up to every iterate, of what the attack would return there, over what counts.

    Returns:
        ``best_fooled`` (T+1, K) and ``best_all_fooled`` (T+1,): where nothing is random they end at the final rates.
    """
    assert rows.fooled is not None
    fooled = rows.best_fooled() if result.settings["keep"] == "best" else rows.fooled
    counted = result.counted
    every = fooled.all(2)[:, counted.any(1)].double()
    pairs = (fooled & counted).sum(1) / counted.sum(0).clamp(min=1)
    return {"best_fooled": pairs, "best_all_fooled": every.mean(1) if every.shape[1] else every.new_zeros(len(every))}


def named(values: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Return values (n,) by n names."""
    return dict(zip(names, values.tolist(), strict=True))
