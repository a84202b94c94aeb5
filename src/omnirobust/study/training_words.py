"""Numbers and names as the pages on robust training write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from omnirobust.paper.training_budgets import How
from omnirobust.paper.training_outcome import TrainingOutcome
from omnirobust.study.sample import Sample
from omnirobust.study.tables import NONE

MISSING = "to be measured"

EVALUATIONS: dict[How, str] = {"pgd": "{pgd} steps", "strong": "strong"}


def evaluation(outcome: TrainingOutcome, how: How) -> str:
    """Return what an evaluation is called."""
    if outcome.experiment.kind == "curves":
        return "held-out images"
    return EVALUATIONS[how].format(pgd=outcome.findings.budget.pgd_steps)


def tried(measure: Callable[[], Sample]) -> Sample | None:
    """Return what ``measure`` finds; None if that was not measured."""
    try:
        return measure()
    except KeyError:
        return None


def band(sample: Sample | None) -> str:
    """Write a share in percent with its interval."""
    if sample is None:
        return MISSING
    found = sample.interval()
    low, high = max(found.low, 0.0), min(found.high, 1.0)
    return f"{100 * found.estimate:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def row_of(samples: Sequence[Sample | None]) -> list[str]:
    """Return the columns of a row, in which a row that waits says so once."""
    if any(sample is not None for sample in samples):
        return [band(sample) for sample in samples]
    return [MISSING, *([NONE] * (len(samples) - 1))]


def short(sample: Sample | None) -> str:
    """Write a share in percent."""
    return MISSING if sample is None else f"{100 * sample.mean:.1f}"


def plain(sample: Sample | None) -> str:
    """Write a number to three places."""
    return MISSING if sample is None else f"{sample.mean:.3f}"
