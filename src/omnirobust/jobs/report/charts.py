"""The plots of one attack: success of every iterate, and how the weights spread."""

from __future__ import annotations

import re
from dataclasses import dataclass

from markupsafe import Markup
from torch import Tensor

from omnirobust.jobs.records import AttackRecord
from omnirobust.jobs.report.figures import AXES, success_per_iteration, weights_per_iteration
from omnirobust.jobs.report.text import percent, unit

_PIXELS = 1.5
"""Pixels a point of a plot."""

_RANKS = 8
"""Lines a plot can hold of images ranked by weight."""


@dataclass(frozen=True)
class Chart:
    """A plot and what is said below it."""

    svg: Markup
    caption: str

    @property
    def width(self) -> int:
        """How wide it may become on the page, in pixels: letters are then about as large as those of the text."""
        box = re.search(r'viewBox="0 0 ([\d.]+) ', self.svg)
        assert box is not None
        return round(float(box.group(1)) * _PIXELS)


def charts(record: AttackRecord) -> list[Chart]:
    """Draw success for every attack and factor, then the last attack's weights for every factor."""
    drawn = [_success(record, name, axis) for axis in _axes(record) for name in record.attacks]
    last = record.attacks[-1]
    if f"{last}.rows.weights" in record.history and last != "average":
        drawn += [_weights(record, last, axis) for axis in record.axes]
    return drawn


def _axes(record: AttackRecord) -> list[str]:
    """Return the factors whose members are worth a line each: places in a group only where there is nothing else."""
    named = [axis for axis in record.axes if axis != "examples"]
    return named or list(record.axes)


def _success(record: AttackRecord, name: str, axis: str) -> Chart:
    history, norm = record.history, record.config["attack"]["norm"]
    all_fooled = history[f"{name}.best_all_fooled"]
    members, noun = _members(record, axis)
    best = history.get(f"{name}.best_fooled")  # runs of the first versions have what each iterate fools alone
    fooled = _others_away(record, history[f"{name}.fooled"] if best is None else best, axis).mean(-1)
    fooled = fooled if axis != "examples" else fooled.mean(-1, keepdim=True)
    so_far = best is not None and record.config["attack"]["keep"] == "best"
    kept = "the best iterate so far" if so_far else "each iterate"
    label = (
        f"{norm}, {name}: success rate of {kept}, a line for each {noun} and one for all at once, "
        f"which ends at {percent(float(all_fooled[-1]))} %"
    )
    by = "" if len(_axes(record)) == 1 else f", by {noun}"
    by += ", on the draws of each step" if record.metrics["draws"] > 1 else ""
    svg = success_per_iteration(fooled, all_fooled, members, label=label, hues=AXES[axis])
    return Chart(Markup(svg), f"Success of {kept}: {name}{by}")


def _members(record: AttackRecord, axis: str) -> tuple[list[str], str]:
    if axis == "examples":
        return ["an image"], "mean over images"
    return record.axes[axis], {"models": "model", "transforms": "transformation"}[axis]


def _weights(record: AttackRecord, name: str, axis: str) -> Chart:
    norm, noun = record.config["attack"]["norm"], unit(record)
    weights = _others_away(record, record.history[f"{name}.rows.weights"], axis).sum(-1)
    members, ranked = record.axes[axis], ""
    if axis == "examples":
        weights, members = _ranked(weights)
        ranked = ", images ranked by it"
    medians = ", ".join(f"{m} {w:.2f}" for m, w in zip(members, weights[-1].median(0).values.tolist(), strict=True))
    label = (
        f"{norm}, {name}: box plot of the weights over the {noun}s per iteration{ranked}; medians at the end: {medians}"
    )
    svg = weights_per_iteration(weights, members, label=label, hues=AXES[axis])
    of = {"models": "", "transforms": " of transformations", "examples": f" of a group's images{ranked}"}[axis]
    of = " of models" if axis == "models" and len(record.axes) > 1 else of
    caption = f"Weights{of} over the {noun}s: {name}. Boxes: quartiles; whiskers: 5th to 95th percentile"
    return Chart(Markup(svg), caption)


def _others_away(record: AttackRecord, values: Tensor, axis: str) -> Tensor:
    """Shape (..., K) into (..., n, everything else), n the members of ``axis``."""
    sizes = [len(members) for members in record.axes.values()]
    number = list(record.axes).index(axis)
    grid = values.unflatten(-1, sizes)
    return (
        grid.movedim(values.ndim - 1 + number, values.ndim - 1).flatten(values.ndim)
        if len(sizes) > 1
        else grid.unsqueeze(-1)
    )


def _ranked(weights: Tensor) -> tuple[Tensor, list[str]]:
    """Sort weights (T+1, N, E) within each group, heaviest first, and name some of the ranks."""
    E = weights.shape[-1]
    ranks = sorted({round(i * (E - 1) / (min(E, _RANKS) - 1)) for i in range(min(E, _RANKS))}) if E > 1 else [0]
    return weights.sort(-1, descending=True).values[..., ranks], [_ordinal(rank + 1) for rank in ranks]


def _ordinal(number: int) -> str:
    if number == 1:
        return "heaviest"
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
