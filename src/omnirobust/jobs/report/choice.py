"""Which problems of a run a report shows."""

from __future__ import annotations

from omnirobust.jobs.records import AttackRecord
from omnirobust.jobs.report.words import beats, target, whom


def choose(record: AttackRecord, count: int) -> list[tuple[int, str]]:
    """Choose problems (images, or groups that share): half those that the last attack alone wins, a few that resist.

    Returns:
        Up to ``count`` pairs of the problem's number and what is to be said of it.
    """
    ours, other = record.attacks[-1], record.attacks[0]
    apart = in_target(record)
    kinds: dict[str, list[int]] = {"alone": [], "resists": [], "both": []}
    for number, (won, other_won) in enumerate(zip(_won(record, ours), _won(record, other), strict=True)):
        kinds["resists" if not won else "both" if other_won else "alone"].append(number)
    kinds = {kind: [n for n in found if n not in apart] for kind, found in kinds.items()} | {"before": sorted(apart)}
    some = whom(record).replace("every", "some")
    notes = {
        "alone": f"{ours} {beats(record)}, {other} does not",
        "both": f"{ours} {beats(record)}" if ours == other else f"{ours} and {other} both {beats(record, 2)}",
        "resists": f"{some} resists {ours}",
        "before": "" if record.target is None else f"in {target(record)} before the attack",
    }
    picked = [(number, "alone") for number in kinds["alone"][: count // 2]]
    picked += [(number, "resists") for number in kinds["resists"][: max(count // 6, 1)]]
    rest = [
        (n, kind) for kind in ("both", "alone", "resists", "before") for n in kinds[kind] if (n, kind) not in picked
    ]
    picked += rest[: count - len(picked)]
    order = list(notes)
    return [(number, notes[kind]) for number, kind in sorted(picked, key=lambda p: (order.index(p[1]), p[0]))]


def in_target(record: AttackRecord) -> set[int]:
    """Return the problems that do not count: those of which every domain is in the target class already."""
    if record.target is None:
        return set()
    columns = [v for name, v in record.examples.items() if name.startswith(f"{record.attacks[-1]}.already.")]
    size = 1 if record.groups is None else record.groups["size"]
    rows = [all(flags) for flags in zip(*columns, strict=True)]
    return {n for n in range(len(rows) // size) if all(rows[n * size : (n + 1) * size])}


def _won(record: AttackRecord, attack: str) -> list[bool]:
    size = 1 if record.groups is None else record.groups["size"]
    return record.examples[f"{attack}.fooled_all"][::size]
