"""What came out of an experiment on robust training: what is there of it, claims judged, and numbers in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from omnirobust.paper.robustness_cells import RobustnessCell
from omnirobust.paper.training_budgets import Arch, Method, Metric, Training
from omnirobust.paper.training_contrasts import TrainingJudgement, judge
from omnirobust.paper.training_findings import Against, Findings
from omnirobust.paper.trainings import TrainingExperiment
from omnirobust.study.protocol import Summary
from omnirobust.study.sample import Sample
from omnirobust.study.tables import NONE

ACCURACIES: dict[str, tuple[Against, ...]] = {
    "table-4": ("clean", "linf", "l2", "max", "avg"),
    "table-a7": ("clean", "linf", "l2", "uni", "avg3"),
    "table-a8": ("clean", "linf", "l2", "max", "avg"),
    "sweep": ("max", "avg"),
    "overlap": (),
    "curves": (),
}
"""Kind of experiment to its columns."""


@dataclass(frozen=True)
class TrainingOutcome:
    """An experiment with what was measured of it.

    Attributes:
        experiment: what was asked.
        findings: what there is.
    """

    experiment: TrainingExperiment
    findings: Findings

    @property
    def summary(self) -> Summary:
        """What is said of it in one line; claims are counted under the first evaluation."""
        done, wanted = self.progress
        there = [self.findings.cache.recall(training, 0) for training, _ in self._work]
        return Summary(
            self.experiment.name,
            self.experiment.title,
            f"{wanted} trainings",
            done,
            wanted,
            sum(trained.seconds for trained in there if trained is not None),
            tuple(j.verdict for j in self.judgements if j.metric == self.metrics[0]),
            len(self.experiment.claims),
            f"evaluation {self.metrics[0]}" if len(self.metrics) > 1 else "",
            "trainings",
        )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The evaluations that claims are judged by."""
        return tuple(metric for metric in self.experiment.metrics if metric in ("pgd", "strong")) or ("pgd",)

    @cached_property
    def progress(self) -> tuple[int, int]:
        """How many trainings are measured whole, and of how many."""
        return sum(self._is_measured(training, asked) for training, asked in self._work), len(self._work)

    @cached_property
    def _work(self) -> list[tuple[Training, tuple[tuple[RobustnessCell, int], ...]]]:
        return list(self.experiment.work(self.findings.budget))

    def _is_measured(self, training: Training, asked: Sequence[tuple[RobustnessCell, int]]) -> bool:
        """Say whether a training and everything that is asked of it are there."""
        cache = self.findings.cache
        if cache.recall(training, 0) is None:
            return False
        found = [cache.recall(cell, images) for cell, images in asked]
        return all(f is not None and len(f["clean"]) == n for f, (_, n) in zip(found, asked, strict=True))

    @property
    def complete(self) -> bool:
        """Whether everything was measured."""
        return self.progress[0] == self.progress[1]

    @property
    def missing(self) -> int:
        """How many trainings are yet to be done or judged."""
        return self.progress[1] - self.progress[0]

    @cached_property
    def judgements(self) -> tuple[TrainingJudgement, ...]:
        """Every claim, judged by every evaluation."""
        return tuple(judge(claim, self.findings, metric) for claim in self.experiment.claims for metric in self.metrics)

    def accuracy(self, row: tuple[Arch, Method, float], against: Against, metric: Metric = "pgd") -> Sample | None:
        """Return a column of a row; None if it was not measured."""
        try:
            return self.findings.accuracy(*row, against, metric)
        except KeyError:
            return None

    def describe(self) -> dict[str, Any]:
        """Return rows and judgements as plain values, for JSON."""
        claims = [
            {
                "claim": j.claim.name,
                "text": j.claim.text,
                "evaluation": j.metric,
                "verdict": j.verdict,
                "seeds": j.seeds,
                "differences": {n: {"estimate": i.estimate, "low": i.low, "high": i.high} for n, i in j.found.items()},
            }
            for j in self.judgements
        ]
        rows = [
            self._describe(row, metric) for row in self.experiment.rows(self.findings.budget) for metric in self.metrics
        ]
        done, wanted = self.progress
        return {
            "experiment": self.experiment.name,
            "title": self.experiment.title,
            "trainings_done": done,
            "trainings_wanted": wanted,
            "complete": self.complete,
            "rows": [row for row in rows if row is not None],
            "claims": claims,
        }

    def _describe(self, row: tuple[Arch, Method, float], metric: Metric) -> dict[str, Any] | None:
        found = {against: self.accuracy(row, against, metric) for against in ACCURACIES[self.experiment.kind]}
        known = {against: sample for against, sample in found.items() if sample is not None}
        if not known:
            return None
        facts: dict[str, Any] = {"network": row[0], "training": row[1], "eps_l2": row[2], "evaluation": metric}
        for against, sample in known.items():
            band = sample.interval()
            facts[against] = {"estimate": band.estimate, "low": band.low, "high": band.high}
            facts |= {"seeds": len(sample.seeds), "images": sample.images}
        return facts


MISSING = "to be measured"

EVALUATIONS: dict[Metric, str] = {"pgd": "{pgd} steps", "strong": "strong"}


def evaluation(outcome: TrainingOutcome, metric: Metric) -> str:
    """Return what an evaluation is called."""
    if outcome.experiment.kind == "curves":
        return "held-out images"
    return EVALUATIONS[metric].format(pgd=outcome.findings.budget.pgd_steps)


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
