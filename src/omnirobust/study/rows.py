"""Experiments of rows, as the engine sees them: their cells, what came of them, and how they are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from omnirobust.study.attack_cells import Cell
from omnirobust.study.cell_cache import CellCache
from omnirobust.study.figures import draw
from omnirobust.study.outcome import Outcome
from omnirobust.study.protocol import Job, Scale, Study
from omnirobust.study.spec import BUDGETS, Budget, Experiment, Row
from omnirobust.study.tables import markdown
from omnirobust.study.training_cells import Robustness, TrainingCell


class RowStudy(Study[Outcome]):
    """An experiment of rows.

    Args:
        experiment: as declared.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment, self.name, self.title = experiment, experiment.name, experiment.title

    @property
    def versions(self) -> Mapping[str, str]:
        """What the versions of its attacks mean."""
        return self.experiment.versions

    @property
    def variants(self) -> Sequence[str]:
        """The versions that it has, or may have."""
        return tuple(dict.fromkeys((*self.experiment.versions, *self.experiment.variants)))

    @property
    def occurring(self) -> Sequence[str]:
        """The versions that it has."""
        return self.experiment.variants

    def only(self, variants: Sequence[str]) -> RowStudy | None:
        """Return the experiment with the rows of these versions; None if there are none."""
        kept = tuple(row for row in self.experiment.rows if row.variant in variants)
        return RowStudy(replace(self.experiment, rows=kept)) if kept else None

    def jobs(self, scale: Scale) -> list[Job]:
        """Return its cells, those of the first versions first."""
        experiment, images = self._at(scale)
        jobs, trainings = list[Job](), list[TrainingCell]()
        for row in experiment.rows:
            rank, told = (0, self.variants.index(row.variant)), _told(row)
            # A training is a job of its own: its epochs count as progress, and another process may take the next one.
            if isinstance(row.cell, Robustness) and row.cell.training not in trainings:
                trainings.append(row.cell.training)
                jobs.append(Job(row.cell.training, images, rank, told))
            jobs.append(Job(row.cell, images, rank, told))
        return jobs

    def recall(self, cache: CellCache, scale: Scale) -> Outcome:
        """Return what was measured of the rows whose models are trained."""
        experiment, images = self._at(scale)
        untrained = tuple(dict.fromkeys(name for row in experiment.rows for name in cache.untrained(row.cell)))
        rows = [row for row in experiment.rows if not cache.untrained(row.cell)]
        found = {(row.variant, row.key): cache.recall(row.cell, images) for row in rows}
        measured = {name: m for name, m in found.items() if m is not None}
        trainings = {row.cell.training for row in rows if isinstance(row.cell, Robustness)}
        seconds = sum(cache.seconds(cell, images) for cell in (*(row.cell for row in rows), *trainings))
        shown = cache.pictures(rows[0].attack, experiment.pictures) if experiment.pictures and measured else None
        return Outcome(experiment, measured, images, seconds, untrained, shown)

    def markdown(self, outcome: Outcome, figures: Sequence[str]) -> str:
        """Return its section."""
        return markdown(outcome, figures)

    def draw(self, outcome: Outcome, folder: Path) -> tuple[Path, ...]:
        """Draw its figures."""
        return draw(outcome, folder)

    def _at(self, scale: Scale) -> tuple[Experiment, int]:
        budget = _budget(scale)
        limited = budget.limit(self.experiment)
        return limited, budget.images(limited)


def _budget(scale: Scale) -> Budget:
    budget = BUDGETS[scale.budget]
    if scale.images is None:
        return budget
    return replace(budget, table=scale.images, sweep=scale.images, accuracy=scale.images)


def _told(row: Row) -> str:
    """Return how a row is named where the code of its author fails."""
    rule = ""
    if isinstance(row.cell, Cell) and row.cell.rule is None:
        rule = f" with rule {type(row.cell.attack.rule).__name__}"
    return f"{row.variant!r}, {row.key!r}{rule}"
