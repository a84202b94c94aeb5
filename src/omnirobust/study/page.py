"""What was run, at which scale, on which machine: the first table of the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from omnirobust.paper.architectures import CLAIMS as NETWORK_CLAIMS
from omnirobust.paper.architectures import ArchitectureOutcome
from omnirobust.paper.training_outcome import TrainingOutcome
from omnirobust.study.claims import Verdict
from omnirobust.study.outcome import Outcome
from omnirobust.study.tables import NONE, table

Anything: TypeAlias = Outcome | ArchitectureOutcome | TrainingOutcome

TITLE = "What was run"

NOTE = """\
Claims are counted once, on the paper's attack where an experiment has several versions, and for robust training under
the attack of the training; "open" is undecided or not yet measured. Minutes are by the wall clock, of attacks that an
experiment asks for, also where another one has them measured; of robust training, of the trainings.\
"""


def overview(found: Sequence[Anything], command: str, machines: Sequence[str]) -> str:
    """Return the section.

    Args:
        found: the experiments, in order.
        command: what asks for them.
        machines: what the cells were measured on, a sentence each.
    """
    head = ["experiment", "of", "images, or trainings", "measured", "true", "false", "open", "minutes"]
    parts = [f"## {TITLE}", f"    {command}", NOTE]
    if machines:
        parts.append("Measured on:\n\n" + "\n".join(f"- {machine}" for machine in machines))
    return "\n\n".join([*parts, table(head, [_line(one) for one in found])]) + "\n"


def in_brief(one: Anything) -> str:
    """Return one line on an experiment: its claims by verdict, counted as in the overview, and how much is measured."""
    counts = Counter(_verdicts(one)) or Counter({"not measured": _unjudged(one)})
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in _ORDER if counts[verdict])
    total = counts.total()
    claims = f"{said} of {total} claim{'s' * (total > 1)}{_judged_by(one)}" if total else "no claims"
    what = "trainings" if isinstance(one, TrainingOutcome) else "rows"
    name, title = _title(one)
    return f"{name} ({title}): {claims}; {_scale(one)[1]} {what} measured{_in_part(one)}"


_ORDER: tuple[Verdict, ...] = ("true", "false", "undecided", "not measured")


def _unjudged(one: Anything) -> int:
    """Return how many claims there are of an experiment of which nothing is measured."""
    return len(NETWORK_CLAIMS if isinstance(one, ArchitectureOutcome) else one.experiment.claims)


def _judged_by(one: Anything) -> str:
    """Say on which version of the attack, or by which evaluation, claims are counted, where there are several."""
    if isinstance(one, ArchitectureOutcome):
        return ""
    if isinstance(one, TrainingOutcome):
        return f" (evaluation {one.hows[0]})" if len(one.hows) > 1 else ""
    return f" (variant {one.variants[0]})" if len(one.experiment.variants) > 1 and one.variants else ""


def _in_part(one: Anything) -> str:
    """Say how many rows have fewer images than they should."""
    begun = one.begun if isinstance(one, Outcome) else 0
    return f", {begun} of them in part" if begun else ""


def _line(one: Anything) -> list[str]:
    scale, measured, minutes = _scale(one)
    counts = Counter(_verdicts(one))
    judged = [str(counts[verdict]) for verdict in ("true", "false")]
    left = str(counts.total() - counts["true"] - counts["false"])
    return [*_title(one), scale, measured, *judged, left, minutes]


def _title(one: Anything) -> tuple[str, str]:
    if isinstance(one, ArchitectureOutcome):
        return one.name, one.title
    return one.experiment.name, one.experiment.title


def _scale(one: Anything) -> tuple[str, str, str]:
    """Return how many images rows have, how many rows have any, and the time that they took."""
    if isinstance(one, ArchitectureOutcome):
        return NONE, f"{len(one.networks)} of {len(one.networks)}", NONE
    if isinstance(one, TrainingOutcome):
        done, wanted = one.progress
        work = one.experiment.work(one.findings.budget)
        there = [one.findings.laboratory.trained(training) for training, _ in work]
        minutes = sum(trained.seconds for trained in there if trained is not None) / 60
        return f"{wanted} trainings", f"{done} of {wanted}", f"{minutes:.1f}"
    rows = one.experiment.rows
    counts = sorted({one.images(row) for row in rows} - {0})
    scale = f"{counts[0]:,} to {counts[-1]:,}" if len(counts) > 1 else f"{counts[0]:,}" if counts else "0"
    return scale, f"{sum(one.images(row) > 0 for row in rows)} of {len(rows)}", f"{one.seconds / 60:.1f}"


def _verdicts(one: Anything) -> Iterable[str]:
    if isinstance(one, ArchitectureOutcome):
        return [one.verdict(claim) for claim in NETWORK_CLAIMS]
    if isinstance(one, TrainingOutcome):
        return [j.verdict for j in one.judgements if j.how == one.hows[0]]
    return [j.verdict for j in one.judgements if j.variant == one.variants[0]]
