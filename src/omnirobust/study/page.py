"""What was run, at which scale, on which machine: the first table of the page, and lines for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from omnirobust.study.protocol import AnyOutcome, Verdict
from omnirobust.study.tables import NONE, table

TITLE = "What was run"


def overview(found: Sequence[AnyOutcome], note: str, command: str, machines: Sequence[str]) -> str:
    """Return the section.

    Args:
        found: the experiments, in order.
        note: how to read it.
        command: what asks for them.
        machines: what the cells were measured on, a sentence each.
    """
    head = ["experiment", "of", "images, or trainings", "measured", "true", "false", "open", "minutes"]
    parts = [f"## {TITLE}", f"    {command}", note]
    if machines:
        parts.append("Measured on:\n\n" + "\n".join(f"- {machine}" for machine in machines))
    return "\n\n".join([*parts, table(head, [_line(one) for one in found])]) + "\n"


def in_brief(one: AnyOutcome) -> str:
    """Return one line on an experiment: its claims by verdict, counted as in the overview, and how much is measured."""
    seen = one.summary
    counts = Counter(seen.verdicts) or Counter({"not measured": seen.claims})
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in _ORDER if counts[verdict])
    total = counts.total()
    by = f" ({seen.judged_by})" if seen.judged_by else ""
    claims = f"{said} of {total} claim{'s' * (total > 1)}{by}" if total else "no claims"
    part = f", {seen.begun} of them in part" if seen.begun else ""
    return f"{one.name} ({one.title}): {claims}; {seen.done} of {seen.wanted} {seen.what} measured{part}"


_ORDER: tuple[Verdict, ...] = ("true", "false", "undecided", "not measured")


def _line(one: AnyOutcome) -> list[str]:
    seen, counts = one.summary, Counter(one.summary.verdicts)
    judged = [str(counts[verdict]) for verdict in ("true", "false")]
    left = str(counts.total() - counts["true"] - counts["false"])
    minutes = NONE if seen.seconds is None else f"{seen.seconds / 60:.1f}"
    return [one.name, one.title, seen.scale, f"{seen.done} of {seen.wanted}", *judged, left, minutes]
