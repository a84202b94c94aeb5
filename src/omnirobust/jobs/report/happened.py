"""One plain sentence that says what a run came to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omnirobust.jobs.records import AttackRecord, EvaluationRecord, TrainingRecord
from omnirobust.jobs.report.breakdown import breakdowns
from omnirobust.jobs.report.numbers import count, percent, threat_names
from omnirobust.jobs.report.text import goal, unit

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def happened(record: AttackRecord) -> str:
    """Say on how many images the perturbation succeeds, how far the average comes, and what is hardest.

    For instance: "One perturbation fools all four models on 65 of 100 images; averaging reaches 54; D is the hardest."
    """
    total = _counted(record)
    won = {name: round(result["asr_all"] * total) for name, result in record.metrics["attacks"].items()}
    ours, *others = reversed(won)
    left = "" if record.target is None else " that were not in it before"
    subject = "One perturbation" if others or ours != "average" else "One perturbation by the average"
    said = [f"{subject} {_does(record)} on {won[ours]} of {count(total, unit(record))}{left}"]
    said += [
        f"averaging reaches {won[name]}" if name == "average" else f"{name} reaches {won[name]}" for name in others
    ]
    hardest = next((b.hardest for b in breakdowns(record) if b.kind != "class" and b.hardest is not None), None)
    return "; ".join([*said, *([] if hardest is None else [f"{hardest.name} is the hardest"])]) + "."


def judged(record: EvaluationRecord) -> str:
    """Say of how many images something is left under all threats, and which threat takes most.

    For instance: "Of four models b withstands all three threats most often, on 8 of 30 images, a least often, on 1;
    before any attack a to d are right on 29 to 30; linf:0.1 takes most."
    """
    models, images = record.metrics["models"], record.metrics["images"]
    left = {name: found["union"]["estimate"] for name, found in models.items()}
    clean = [found["clean"]["estimate"] for found in models.values()]
    called = threat_names(record.config["threats"])
    under = {1: f"withstands {called[record.threats[0]]}", 2: "withstands both threats"}.get(
        len(record.threats), f"withstands all {_spelled(len(record.threats))} threats"
    )
    most, least = max(left, key=lambda name: left[name]), min(left, key=lambda name: left[name])
    before = f"before any attack {'it is' if len(models) == 1 else 'they are'} right on {_range(clean, images)}"
    if left[most] == left[least]:
        who = most if len(models) == 1 else f"Each of {_spelled(len(models))} models"
        said = [f"{who} {under} on {_share(left[most], images)} of {count(images, 'image')}"]
    else:
        said = [
            f"Of {_spelled(len(models))} models {most} {under} most often, on {_share(left[most], images)} of "
            f"{count(images, 'image')}, {least} least often, on {_share(left[least], images)}"
        ]
    taken = _takes_most(models, record.threats)
    return "; ".join([*said, before, *([] if taken is None else [f"{called[taken]} takes most"])]) + "."


def _takes_most(models: Mapping[str, Any], threats: list[str]) -> str | None:
    """Return the threat under which models are right least often in the mean; None where none is alone in that."""
    rates = {name: sum(found["accuracy"][name]["estimate"] for found in models.values()) for name in threats}
    lowest = [name for name, rate in rates.items() if rate == min(rates.values())]
    return lowest[0] if len(lowest) == 1 < len(threats) else None


def _share(rate: float, images: int) -> str:
    """Write a rate as a number of images; of random models, whose rate is a mean over draws, with two decimals."""
    number = rate * images
    return str(round(number)) if abs(number - round(number)) < 1e-6 else f"{number:.2f}"


def _range(rates: list[float], images: int) -> str:
    low, high = (_share(rate, images) for rate in (min(rates), max(rates)))
    return low if low == high else f"{low} to {high}"


def trained(record: TrainingRecord) -> str:
    """Say what the trained model is worth on test images; on validation images where there are none."""
    if record.evaluation is not None:
        return judged(record.evaluation)
    if (clean := record.metrics.get("clean")) is not None:
        of = count(clean["images"], "test image")
        return f"The trained model is right on {clean['right']} of {of}; no attack judged it."
    row = record.history[record.metrics["kept"] - 1]
    if "validation" not in row:
        return "No test or validation image has judged the trained model."
    robust = f", and on {percent(row['robust'])} % under its training's own attacks" if "robust" in row else ""
    number = count(record.metrics["validation_images"], "validation image")
    return f"The trained model is right on {percent(row['validation'])} % of {number}{robust}; no test image judged it."


def _counted(record: AttackRecord) -> int:
    return record.metrics["perturbations"] if record.target is None else record.target["counted"]


def _does(record: AttackRecord) -> str:
    models, transforms, groups = len(record.models), len(record.transforms), record.groups
    who = _all(models, "model")
    seen = f" under {_all(transforms, 'transformation')}"
    shared = "" if groups is None else f" for {_all(groups['size'], 'image')} of a group"
    verb = "fools" if record.target is None else "brings"
    return f"{verb} {who}{goal(record)}{seen if transforms else ''}{shared}"


def _all(number: int, noun: str) -> str:
    """Name a whole number of things: "the model", "both models", "all three models"."""
    return {1: f"the {noun}", 2: f"both {noun}s"}.get(number, f"all {_spelled(number)} {noun}s")


def _spelled(number: int) -> str:
    return _NUMBERS[number] if number < len(_NUMBERS) else str(number)
