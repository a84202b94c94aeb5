"""The experiments on robust training as the engine sees them, and as Markdown: printed beside ours, claims judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from omnirobust.paper.printed_trainings import TABLE_A7, TABLE_A8
from omnirobust.paper.robustness_cells import RobustnessCell
from omnirobust.paper.training_budgets import NAMES, TRAINING_BUDGETS, Effort, Metric, TrainingBudget, fewer
from omnirobust.paper.training_contrasts import BETWEEN, TrainingJudgement, label
from omnirobust.paper.training_figures import curves_table, draw_training, overlap_table, sweep_table
from omnirobust.paper.training_findings import Against, Findings
from omnirobust.paper.training_outcome import (
    ACCURACIES,
    MISSING,
    TrainingOutcome,
    evaluation,
    plain,
    row_of,
    short,
    tried,
)
from omnirobust.paper.trainings import TrainingExperiment, urgency
from omnirobust.study.protocol import Job, Scale, Study, Workplace
from omnirobust.study.sample import PRIOR, Sample
from omnirobust.study.tables import NONE, table

HEADS: dict[Against, str] = {
    "clean": "Acc",
    "linf": "Acc linf",
    "l2": "Acc l2",
    "max": "Acc_adv^max",
    "avg": "Acc_adv^avg",
    "uni": "Acc uni",
    "avg3": "mean of three",
}


_PREFACE = """\
## Robust training

MNIST, linf radius 0.2, l2 radius 2 unless another is said. Adam at a constant 0.001, batches of 128, equal shares of
clean and attacked images, beta = 1/50 and gamma = 4 for min-max, lambda = 0.1 for DPAR, as in the paper, which trains
for 350 epochs. Here:

{efforts}

Two evaluations, both in fp32: "{pgd} steps" is the attack of the training with so many normalised steps up the
cross-entropy from a random start, the last one kept, which is our reading of the paper's; "strong" is
`evaluate_robustness` by default with {strong} steps a run. Intervals are of 95 %, over images and, where there are
several, over seeds; every comparison is paired over both. A claim is "true" if all of its differences lie above zero,
"false" if one of them lies below (at 95 % for all of them together). A few
seeds tell little of how much seeds differ: in claims their variance is averaged with a standard deviation of {between}
points, worth {prior} seeds more (three seeds of the MLP at the quick budget gave 0.4 to 1.9 points under the attack of
the training, 0.7 to 3.8 under the strong one).\
"""


def preface(budget: TrainingBudget) -> str:
    """Return what is said once of all experiments on robust training."""
    efforts = [
        f"- {NAMES[arch]}: {effort.epochs} epochs of {_images(effort)} training images, R = {effort.steps} "
        f"steps, {effort.precision}; {budget.pgd[arch]:,} test images, {budget.strong[arch]:,} under the strong "
        f"evaluation; {_count(budget.seeds[arch])} for Tables 4 and A7 and Figure A4, "
        f"{_count(budget.sweep_seeds)} at other radii."
        for arch, effort in budget.efforts.items()
    ]
    return _PREFACE.format(
        efforts="\n".join(efforts),
        pgd=budget.pgd_steps,
        strong=budget.strong_steps,
        between=f"{100 * BETWEEN:g}",
        prior=PRIOR,
    )


def _images(effort: Effort) -> str:
    return "all" if effort.images is None else f"{effort.images:,}"


def _count(seeds: int) -> str:
    return "one seed" if seeds == 1 else f"{seeds} seeds"


def training_markdown(outcome: TrainingOutcome, figures: Sequence[str] = ()) -> str:
    """Return one experiment as a Markdown section.

    Args:
        outcome: what came out.
        figures: links to its figures.
    """
    experiment, (done, wanted) = outcome.experiment, outcome.progress
    left = "" if outcome.complete else f" **Not complete:** {wanted - done} are {MISSING}."
    parts = [
        f"## {experiment.name}: {experiment.title}",
        f"Rows, one for each training, radius and seed: {wanted}.{left}",
        experiment.note,
        *(f"![{experiment.title}]({link})" for link in figures),
        _TABLES[experiment.kind](outcome),
        f"### {experiment.name}: the paper's claims",
        _claims(outcome),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _claims(outcome: TrainingOutcome) -> str:
    found: dict[str, dict[Metric, TrainingJudgement]] = {}
    for j in outcome.judgements:
        found.setdefault(j.claim.text, {})[j.metric] = j
    names = [evaluation(outcome, metric) for metric in outcome.metrics]
    lines = [
        [
            text,
            *(_verdict(by.get(metric)) for metric in outcome.metrics),
            by[outcome.metrics[0]].shown if by[outcome.metrics[0]].found else NONE,
        ]
        for text, by in found.items()
    ]
    return table(["claim", *names, f"our numbers ({names[0]})"], lines)


def _verdict(found: TrainingJudgement | None) -> str:
    if found is None or found.verdict == "not measured":
        return MISSING
    return f"**{found.verdict}** ({_count(found.seeds)})"


def _table_4(outcome: TrainingOutcome) -> str:
    columns = ACCURACIES["table-4"]
    lines: list[list[str]] = []
    for row in outcome.experiment.rows(outcome.findings.budget):
        printed = TABLE_A8.get(row)
        name = label(row[1])
        if printed is not None:
            lines.append([name, "*printed*", *(f"{value:.2f}" for value in printed), NONE, NONE, NONE])
        for metric in outcome.metrics:
            cells = [outcome.accuracy(row, against, metric) for against in columns]
            found = [tried(partial(outcome.findings.cosine, *row, diverse=diverse)) for diverse in (False, True)]
            cosines = [plain(cosine) for cosine in found] if metric == "pgd" else [NONE, NONE]
            lines.append([name, evaluation(outcome, metric), *row_of(cells), *cosines, _counts(cells)])
    head = ["training", "evaluation", *(HEADS[m] for m in columns), "cosine", "cosine with DPAR", "seeds x images"]
    return "Accuracy in percent.\n\n" + table(head, lines)


def _table_a7(outcome: TrainingOutcome) -> str:
    columns = ACCURACIES["table-a7"]
    lines: list[list[str]] = []
    for row in outcome.experiment.rows(outcome.findings.budget):
        printed = TABLE_A7.get(row[:2])
        if printed is not None:
            lines.append([label(row[1]), "*printed*", *(f"{value:.2f}" for value in printed), NONE])
        for metric in outcome.metrics:
            cells = [outcome.accuracy(row, against, metric) for against in columns]
            lines.append([label(row[1]), evaluation(outcome, metric), *row_of(cells), _counts(cells)])
    head = ["training", "evaluation", *(HEADS[m] for m in columns), "seeds x images"]
    return "Accuracy in percent.\n\n" + table(head, lines)


def _table_a8(outcome: TrainingOutcome) -> str:
    columns = ACCURACIES["table-a8"]
    lines: list[list[str]] = []
    for row in outcome.experiment.rows(outcome.findings.budget):
        printed = TABLE_A8.get(row)
        cells = [outcome.accuracy(row, against) for against in columns]
        beside = [f"{short(cell)} ({NONE if printed is None else f'{printed[i]:.2f}'})" for i, cell in enumerate(cells)]
        lines.append([NAMES[row[0]], f"{row[2]:g}", label(row[1]), *beside, _counts(cells)])
    head = ["network", "l2 radius", "training", *(HEADS[m] for m in columns), "seeds x images"]
    return "Accuracy in percent: ours (printed).\n\n" + table(head, lines)


def _counts(cells: Sequence[Sample | None]) -> str:
    sizes = {(len(cell.seeds), cell.images) for cell in cells if cell is not None}
    return ", ".join(f"{seeds} x {images}" for seeds, images in sorted(sizes)) or NONE


_TABLES: dict[str, Callable[[TrainingOutcome], str]] = {
    "table-4": _table_4,
    "table-a7": _table_a7,
    "table-a8": _table_a8,
    "sweep": sweep_table,
    "overlap": overlap_table,
    "curves": curves_table,
}
"""Kind of experiment to its first table."""


_METRICS = ("pgd", "universal", "gradients", "gradients_dpar", "strong")


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
        for training, asked in self.experiment.work(_budget_at(scale)):
            rank = (1, *urgency(training))
            cells = [(training, 0), *sorted(asked, key=_order)]
            jobs += [Job(cell, images, rank) for cell, images in cells]
        return jobs

    def recall(self, cache: Workplace, scale: Scale) -> TrainingOutcome:
        """Return what was measured."""
        return TrainingOutcome(self.experiment, Findings(cache, _budget_at(scale)))

    def markdown(self, outcome: TrainingOutcome, figures: Sequence[str]) -> str:
        """Return its section."""
        return training_markdown(outcome, figures)

    def draw(self, outcome: TrainingOutcome, folder: Path) -> tuple[Path, ...]:
        """Draw its figure."""
        return draw_training(outcome, folder)

    def preface(self, outcome: TrainingOutcome) -> str:
        """Return what is said once of all experiments on robust training."""
        return preface(outcome.findings.budget)


def _budget_at(scale: Scale) -> TrainingBudget:
    budget = TRAINING_BUDGETS[scale.training_budget]
    return budget if scale.images is None else fewer(budget, scale.images)


def _order(asked: tuple[RobustnessCell, int]) -> int:
    return _METRICS.index(asked[0].metric)
