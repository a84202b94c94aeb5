"""Notes that keep a reader from taking a number for what it is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omnirobust.evaluation.metrics import is_guessing
from omnirobust.jobs.records import AttackRecord
from omnirobust.jobs.report.numbers import count, percent, radius

_GUESSING = "Before any attack right no more often than guessing would be"

_SHOWN = 12
"""Classes whose numbers a sentence lists."""


def missing(metrics: Mapping[str, Any]) -> list[str]:
    """Name the classes of the data that no image of a run is of."""
    found = []
    for what, names in metrics.get("missing", {}).items():
        others = f" and {len(names) - _SHOWN} others" if len(names) > _SHOWN else ""
        found.append(f"No image {what} is of class {', '.join(names[:_SHOWN])}{others}.")
    return found


def guessing(rates: Mapping[str, float], images: int, classes: Sequence[str]) -> list[str]:
    """Name the models that are right no more often than guessing is, and the order of classes that may explain it."""
    found = [f"{n} {percent(a)} %" for n, a in rates.items() if is_guessing(a, images, len(classes))]
    if not found:
        return []
    if all(name == str(number) for number, name in enumerate(classes)):
        return [f"{_GUESSING}: {', '.join(found)}. Are their classes in the order of the labels?"]
    order = ", ".join(f"{number} {name}" for number, name in enumerate(classes[:_SHOWN]))
    more = ", ..." if len(classes) > _SHOWN else ""
    return [f"{_GUESSING}: {', '.join(found)}. Is this the order of their classes: {order}{more}?"]


def one_class(found: Mapping[str, str]) -> list[str]:
    """Name the models that say the same of every image, and what they say."""
    return [
        f"Model {name} says {said} of every image before any attack: its accuracy is the share of that class, and "
        "nothing that is measured of it speaks of robustness."
        for name, said in found.items()
    ]


def saturated(record: AttackRecord) -> list[str]:
    """Say so where every rule wins everything, or nothing, and name the radius to try: half of it, or twice."""
    attack, rates = record.config["attack"], {r.get("asr_all") for r in record.metrics["attacks"].values()}
    if rates not in ({0.0}, {1.0}):
        return []
    rules = "under every rule" if len(record.attacks) > 1 else f"under {record.attacks[0]}"
    said = f"{record.rate} is {percent(float(rates == {1.0}))} % {rules}: this radius tells nothing apart."
    other = other_radius(attack, wins=rates == {1.0})
    return [said if other is None else f"{said} Try {other[0]}, --eps {other[1]}."]


def other_radius(attack: Mapping[str, Any], *, wins: bool) -> tuple[str, str] | None:
    """Return the radius to try where an attack always ``wins``, or never does: how it is called, and itself."""
    eps, (low, high) = attack["eps"], attack["bounds"]
    wanted = eps / 2 if wins else 2 * eps
    if attack["norm"] == "l0":
        wanted = float(int(wanted))
    if attack["norm"] == "linf" and _is_number(low) and _is_number(high) and wanted >= high - low:
        return None
    if wanted <= 0 or wanted == eps:
        return None
    return "half of it" if wins else "twice as much", radius(wanted)


def _is_number(bound: object) -> bool:
    return isinstance(bound, int | float)


def targets(record: AttackRecord) -> list[str]:
    """Say what was in the target class before the attack: none of it counts as success."""
    target = record.target
    if target is None:
        return []
    images, one = count(record.metrics["images"], "image"), "image" if record.groups is None else "group"
    said = ", ".join(f"{n} by {name}" for name, n in target["said"].items() if n)
    return [
        f"Success is counted over what is not in the target class already: of {images} {_are(target['of_class'])} of "
        f"that class{f', others are taken for it ({said})' if said else ''}; {count(target['counted'], one)} "
        f"{'counts' if target['counted'] == 1 else 'count'}. Accuracy is counted over all, against their labels."
    ]


def _are(number: int) -> str:
    return f"{number} {'is' if number == 1 else 'are'}"


def agreement(record: AttackRecord) -> list[str]:
    """Say what accuracy and agreement are where each model is to leave its own prediction."""
    if record.measure != "agreement":
        return []
    return [
        "Each model was to leave what it said of the clean image. Agreement: how often it still says that; "
        "accuracy: how often it says the label of the data."
    ]
