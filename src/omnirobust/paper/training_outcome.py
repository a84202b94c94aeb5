"""What came out of an experiment on robust training: what is there of it, and its claims judged."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from omnirobust.paper.training_budgets import Arch, How, Opt
from omnirobust.paper.training_contrasts import TrainingJudgement, judge
from omnirobust.paper.training_findings import Findings, Metric
from omnirobust.paper.trainings import TrainingExperiment
from omnirobust.study.sample import Sample
from omnirobust.study.training_runner import is_measured

METRICS: dict[str, tuple[Metric, ...]] = {
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
    def hows(self) -> tuple[How, ...]:
        """The evaluations that claims are judged by."""
        return tuple(how for how in self.experiment.hows if how in ("pgd", "strong")) or ("pgd",)

    @cached_property
    def progress(self) -> tuple[int, int]:
        """How many trainings are measured whole, and of how many."""
        lab, work = self.findings.laboratory, list(self.experiment.work(self.findings.budget))
        return sum(is_measured(lab, training, asked) for training, asked in work), len(work)

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
        return tuple(judge(claim, self.findings, how) for claim in self.experiment.claims for how in self.hows)

    def accuracy(self, row: tuple[Arch, Opt, float], metric: Metric, how: How = "pgd") -> Sample | None:
        """Return a column of a row; None if it was not measured."""
        try:
            return self.findings.accuracy(*row, metric, how)
        except KeyError:
            return None

    def describe(self) -> dict[str, Any]:
        """Return rows and judgements as plain values, for JSON."""
        claims = [
            {
                "claim": j.claim.name,
                "text": j.claim.text,
                "evaluation": j.how,
                "verdict": j.verdict,
                "seeds": j.seeds,
                "differences": {n: {"estimate": i.estimate, "low": i.low, "high": i.high} for n, i in j.found.items()},
            }
            for j in self.judgements
        ]
        rows = [self._describe(row, how) for row in self.experiment.rows(self.findings.budget) for how in self.hows]
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

    def _describe(self, row: tuple[Arch, Opt, float], how: How) -> dict[str, Any] | None:
        found = {metric: self.accuracy(row, metric, how) for metric in METRICS[self.experiment.kind]}
        known = {metric: sample for metric, sample in found.items() if sample is not None}
        if not known:
            return None
        facts: dict[str, Any] = {"network": row[0], "training": row[1], "eps_l2": row[2], "evaluation": how}
        for metric, sample in known.items():
            band = sample.interval()
            facts[metric] = {"estimate": band.estimate, "low": band.low, "high": band.high}
            facts |= {"seeds": len(sample.seeds), "images": sample.images}
        return facts
