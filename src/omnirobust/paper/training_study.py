"""The experiments on robust training, as the engine sees them: their cells, what came of them, how they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omnirobust.paper.judging import Judging
from omnirobust.paper.training_budgets import TRAINING_BUDGETS, TrainingBudget, fewer
from omnirobust.paper.training_figures import draw_training
from omnirobust.paper.training_findings import Findings
from omnirobust.paper.training_outcome import TrainingOutcome
from omnirobust.paper.training_tables import preface, training_markdown
from omnirobust.paper.trainings import TrainingExperiment, urgency
from omnirobust.study.protocol import Job, Scale, Study, Workplace

_HOWS = ("pgd", "universal", "gradients", "gradients_dpar", "strong")


class TrainingStudy(Study[TrainingOutcome]):
    """An experiment on robust training.

    Args:
        experiment: as declared.
    """

    def __init__(self, experiment: TrainingExperiment) -> None:
        self.experiment, self.name, self.title = experiment, experiment.name, experiment.title

    def jobs(self, scale: Scale) -> list[Job]:
        """Return its trainings, the most urgent first and after all attacks, each with what is measured of it."""
        jobs: list[Job] = []
        for training, asked in self.experiment.work(_budget(scale)):
            rank = (1, *urgency(training))
            cells = [(training, 0), *sorted(asked, key=_order)]
            jobs += [Job(cell, images, rank) for cell, images in cells]
        return jobs

    def recall(self, laboratory: Workplace, scale: Scale) -> TrainingOutcome:
        """Return what was measured."""
        return TrainingOutcome(self.experiment, Findings(laboratory, _budget(scale)))

    def markdown(self, outcome: TrainingOutcome, figures: Sequence[str]) -> str:
        """Return its section."""
        return training_markdown(outcome, figures)

    def draw(self, outcome: TrainingOutcome, folder: Path) -> tuple[Path, ...]:
        """Draw its figure."""
        return draw_training(outcome, folder)

    def preface(self, outcome: TrainingOutcome) -> str:
        """Return what is said once of all experiments on robust training."""
        return preface(outcome.findings.budget)


def _budget(scale: Scale) -> TrainingBudget:
    budget = TRAINING_BUDGETS[scale.training_budget]
    return budget if scale.images is None else fewer(budget, scale.images)


def _order(asked: tuple[Judging, int]) -> int:
    return _HOWS.index(asked[0].how)
