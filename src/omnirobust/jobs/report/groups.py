"""The groups a report shows where images share a perturbation, and what is said of each image."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from omnirobust.jobs.records import AttackRecord
from omnirobust.jobs.report.gallery import choose
from omnirobust.jobs.report.images import picture, shown_range, signed_picture


@dataclass(frozen=True)
class GroupImage:
    """One image of a group.

    Attributes:
        row: its index in the split.
        label: name of its class.
        clean, adversarial: data URIs.
        said: what the only model says before and after, "7 → 3"; empty with several.
        beaten: how many of its domains are fooled, of ``domains``.
        weight: of the image, summed over its domains.
        share: the weight as a share of the largest of its group, in [0, 1].
    """

    row: int
    label: str
    clean: str
    adversarial: str
    said: str
    beaten: int
    domains: int
    weight: float
    share: float

    @property
    def fooled(self) -> bool:
        """Whether every domain of this image is fooled."""
        return self.beaten == self.domains


@dataclass(frozen=True)
class Group:
    """Images that share a perturbation."""

    number: int
    note: str
    delta: str
    largest: float
    changed: int
    images: tuple[GroupImage, ...]


def shown_groups(record: AttackRecord, count: int) -> list[Group]:
    """Choose and describe up to ``count`` groups of the last attack of a run."""
    return [_group(record, number, note) for number, note in choose(record, count)]


def _group(record: AttackRecord, number: int, note: str) -> Group:
    attack = record.attacks[-1]
    delta = record.perturbations[f"{attack}.delta"][number]
    assert record.groups is not None
    size = record.groups["size"]
    weights = [_weight(record, attack, number * size + e) for e in range(size)]
    return Group(
        number=number,
        note=note,
        delta=signed_picture(delta),
        largest=float(delta.abs().max()),
        changed=int((delta != 0).sum()),
        images=tuple(_image(record, number, e, weight, max(weights)) for e, weight in enumerate(weights)),
    )


def _image(record: AttackRecord, number: int, e: int, weight: float, largest: float) -> GroupImage:
    table, saved, attack = record.examples, record.perturbations, record.attacks[-1]
    bounds, classes = shown_range(record), record.metrics["classes"]
    assert record.groups is not None
    row = number * record.groups["size"] + e
    flags = [table[column][row] for column in _columns(record, attack, "fooled")]
    model = record.models[0]
    before, after = table[f"clean.predicted.{model}"][row], table[f"{attack}.predicted.{model}"][row]
    return GroupImage(
        row=table["image"][row],
        label=classes[table["label"][row]],
        clean=picture(saved["clean"][number, e], bounds),
        adversarial=picture(saved[f"{attack}.adversarial"][number, e], bounds),
        said=f"{classes[before]} → {classes[after]}" if len(flags) == 1 else "",
        beaten=sum(flags),
        domains=len(flags),
        weight=weight,
        share=weight / max(largest, 1e-12),
    )


def _weight(record: AttackRecord, attack: str, row: int) -> float:
    return sum(record.examples[column][row] for column in _columns(record, attack, "weight"))


def _columns(record: AttackRecord, attack: str, what: str) -> list[str]:
    """Return the columns of one image's domains."""
    prefix = f"{attack}.{what}."
    found = [column for column in record.examples if column.startswith(prefix)]
    assert len(found) == prod(len(members) for axis, members in record.axes.items() if axis != "examples")
    return found
