"""The examples a report shows: which ones, and what is said of each."""

from __future__ import annotations

from dataclasses import dataclass

from omnirobust.jobs.record import AttackRecord
from omnirobust.report.figures import colour
from omnirobust.report.images import picture, signed_picture


@dataclass(frozen=True)
class Verdict:
    """What one model says of one attacked image."""

    model: str
    before: int
    after: int
    fooled: bool
    weight: float
    colour: str


@dataclass(frozen=True)
class Example:
    """One image: clean, perturbation, attacked, with every model's verdict."""

    row: int
    label: int
    note: str
    clean: str
    delta: str
    adversarial: str
    largest: float
    changed: int
    verdicts: tuple[Verdict, ...]


def examples(record: AttackRecord, count: int) -> list[Example]:
    """Choose and describe up to ``count`` examples of the last attack of a run."""
    return [_example(record, row, note) for row, note in _choose(record, count)]


def _choose(record: AttackRecord, count: int) -> list[tuple[int, str]]:
    """Choose rows: half those that this attack alone wins, a few that resist, the rest that both win."""
    table = record.examples
    ours, other = record.attacks[-1], record.attacks[0]
    kinds: dict[str, list[int]] = {"alone": [], "resists": [], "both": []}
    for row, (won, other_won) in enumerate(zip(table[f"{ours}.fooled_all"], table[f"{other}.fooled_all"], strict=True)):
        kinds["resists" if not won else "both" if other_won else "alone"].append(row)
    notes = {
        "alone": f"{ours} fools every model, {other} does not",
        "both": "every model fooled" if ours == other else f"{ours} and {other} both fool every model",
        "resists": f"some model resists {ours}",
    }
    picked = [(row, "alone") for row in kinds["alone"][: count // 2]]
    picked += [(row, "resists") for row in kinds["resists"][: max(count // 6, 1)]]
    rest = [(row, kind) for kind in ("both", "alone", "resists") for row in kinds[kind] if (row, kind) not in picked]
    picked += rest[: count - len(picked)]
    order = list(notes)
    return [(row, notes[kind]) for row, kind in sorted(picked, key=lambda p: (order.index(p[1]), p[0]))]


def _example(record: AttackRecord, row: int, note: str) -> Example:
    saved, attack = record.perturbations, record.attacks[-1]
    bounds = tuple(record.config["attack"]["bounds"])
    delta = saved[f"{attack}.delta"][row]
    return Example(
        row=record.config["data"]["start"] + row,
        label=record.examples["label"][row],
        note=note,
        clean=picture(saved["clean"][row], bounds),
        delta=signed_picture(delta),
        adversarial=picture(saved[f"{attack}.adversarial"][row], bounds),
        largest=float(delta.abs().max()),
        changed=int((delta != 0).sum()),
        verdicts=tuple(_verdict(record, attack, row, k, model) for k, model in enumerate(record.models)),
    )


def _verdict(record: AttackRecord, attack: str, row: int, k: int, model: str) -> Verdict:
    table = record.examples
    return Verdict(
        model=model,
        before=table[f"clean.predicted.{model}"][row],
        after=table[f"{attack}.predicted.{model}"][row],
        fooled=table[f"{attack}.fooled.{model}"][row],
        weight=table[f"{attack}.weight.{model}"][row],
        colour=colour(k),
    )
