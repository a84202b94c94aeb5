"""One plain sentence that says what an attack came to."""

from __future__ import annotations

from omnirobust.jobs.records import AttackRecord
from omnirobust.report.breakdown import breakdowns
from omnirobust.report.numbers import count
from omnirobust.report.words import goal, unit

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


def _counted(record: AttackRecord) -> int:
    return record.metrics["perturbations"] if record.target is None else record.target["counted"]


def _does(record: AttackRecord) -> str:
    models, transforms, groups = len(record.models), len(record.transforms), record.groups
    who = {1: "the model", 2: "both models"}.get(models, f"all {_spelled(models)} models")
    seen = f" under {'the transformation' if transforms == 1 else f'all {_spelled(transforms)} transformations'}"
    shared = "" if groups is None else f" for all {_spelled(groups['size'])} images of a group"
    verb = "fools" if record.target is None else "brings"
    return f"{verb} {who}{goal(record)}{seen if transforms else ''}{shared}"


def _spelled(number: int) -> str:
    return _NUMBERS[number] if number < len(_NUMBERS) else str(number)
