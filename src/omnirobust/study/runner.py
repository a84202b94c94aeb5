"""Reproduce the paper's tables and figures: measure what is missing, judge every claim, write it all down."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from omnirobust._device import resolved
from omnirobust._files import replacing, sweep
from omnirobust.paper.architectures import NAME as ARCHITECTURES
from omnirobust.paper.architectures import ArchitectureOutcome, networks
from omnirobust.paper.errata import slips
from omnirobust.paper.registry import VARIANTS, experiments
from omnirobust.paper.training_budgets import TRAINING_BUDGETS, TrainingBudget, fewer
from omnirobust.paper.training_figures import draw_training
from omnirobust.paper.training_findings import Findings
from omnirobust.paper.training_outcome import TrainingOutcome
from omnirobust.paper.training_tables import preface, training_markdown
from omnirobust.paper.trainings import training_experiments
from omnirobust.study.figures import PICTURED, draw
from omnirobust.study.laboratory import Laboratory
from omnirobust.study.machines import machines
from omnirobust.study.outcome import Outcome
from omnirobust.study.own import telling, with_own
from omnirobust.study.page import Anything, overview
from omnirobust.study.site import write_site
from omnirobust.study.spec import BUDGETS, Budget, Experiment, Row
from omnirobust.study.tables import markdown, variants_list
from omnirobust.study.training_cells import TrainingLaboratory
from omnirobust.study.training_runner import measure_trainings

ProgressHook: TypeAlias = Callable[[str, int, int], None]
"""Is told the name of an experiment, and how many of its (image, step) pairs are done, of how many; of one on robust
training, how many trainings and measurements."""

_TITLE = "# The paper's experiments, reproduced"
_OWN_TITLE = "# Experiments"
_OWN_NOTES = """\
"any iterate" counts images for which some step fooled every model. A claim is "true" or "false" where the images (or
groups of them) at hand and at least 95 % of their resamples (bootstrap, all rows paired) agree, and "undecided"
otherwise, as it always is on fewer than 100.\
"""
_NOTES = """\
Models are those of the zoo, trained from scratch; the paper's own weights are not public. Every attack takes the same
number of gradient evaluations as the paper's: steps times models, images of a group, or transformations. "any iterate"
counts images for which some step fooled every model, where the paper keeps the last. A claim is "true" or "false" where
the images (or groups of them) at hand and at least 95 % of their resamples (bootstrap, all rows paired) agree, and
"undecided" otherwise, as it always is on fewer than 100. What the paper says of every model is judged on those that
are measured so far, which the last column names; "true" is then true of these. The paper does not print its starting
point: as in its released code it is normal noise of standard deviation 0.1, and zero for groups of images. Of w_clip
the paper prints only a threshold of 40: we read it as a loss that goes flat once a model is fooled by ten logits, kappa
less threshold, beside the reading that the confidence kappa becomes 40.\
"""


@dataclass(frozen=True)
class Reproduction:
    """What ``reproduce`` found and wrote.

    Attributes:
        outcomes: one for each experiment on attacks, in order.
        trainings: one for each experiment on robust training, in order.
        architectures: Table A1; None if it was not asked for.
        page: Markdown file that holds them all.
        site: the same as one HTML file that needs nothing but itself.
        files: every file written.
    """

    outcomes: tuple[Outcome, ...]
    page: Path
    site: Path
    files: tuple[Path, ...]
    trainings: tuple[TrainingOutcome, ...] = ()
    architectures: ArchitectureOutcome | None = None

    @property
    def everything(self) -> tuple[Anything, ...]:
        """All that was asked for, in the order of the page."""
        return (*self.outcomes, *([] if self.architectures is None else [self.architectures]), *self.trainings)


def reproduce(
    names: Iterable[str | Experiment],
    *,
    images: int | None = None,
    budget: str = "quick",
    out: str | Path = "runs/reproduction",
    progress: ProgressHook | None = None,
    variants: Sequence[str] | None = None,
    measure: bool = True,
    cells: str | Path | None = None,
    docs: str | Path | None = None,
    laboratory: Laboratory | None = None,
    training_budget: str | None = None,
    training_laboratory: TrainingLaboratory | None = None,
    device: str = "auto",
) -> Reproduction:
    """Reproduce experiments of the paper.

    Rows that wait for a model of the zoo to be trained are left out, and named with the command that trains it.

    Every attack is kept in ``cells``, in chunks of images: a run that was stopped goes on where it was, a larger
    budget adds to what a smaller one measured, and an attack that two experiments share is made once. Cells know the
    settings and the models' weights, not the code: after changing an attack's code, take another folder. Several
    processes, on one machine or many, may run this on one folder: each measures cells that no other one is at.

    Args:
        names: of experiments, such as "table-1a"; none at all stands for every one of the paper. Of one's own,
            "FILE.py:NAME" or "package.module:NAME" of an ``Experiment``, or itself.
        images: test images for each experiment, >= 1; None for the budget's.
        budget: "smoke" (minutes), "quick" or "paper".
        out: folder for tables (Markdown and JSON) and figures (SVG).
        progress: is told how far each experiment is.
        variants: versions of the attack to measure; None for all.
        measure: False only writes down what the cells hold already.
        cells: folder of the cells; None for ``out``/cells.
        docs: folder that gets a copy too: reproduction.md, under what was written there by hand, and reproduction/.
        laboratory: measures the cells, in place of one over ``cells``, the zoo and its data.
        training_budget: of the experiments on robust training; None for ``budget``. A training of another budget is
            another training: a larger one does not add to a smaller.
        training_laboratory: trains and judges, in place of one over ``cells`` and MNIST.
        device: where laboratories made here compute: "cpu", "cuda", "cuda:N", "mps", or "auto" for cuda where there is
            one. Cells do not say where they were measured: their folder does.

    Returns:
        What came out, and the files.

    Raises:
        ValueError: for an unknown name, budget or variant, ``docs`` that are no folder, or an experiment of one's own
            that does not fit.
        DataUnavailableError: if the images cannot be had.
    """
    given = tuple(names)
    names, own = with_own(given, (*experiments(), ARCHITECTURES, *training_experiments()))
    chosen, limits = _chosen(names, variants, own), _budget(budget, images)
    if docs is not None and Path(docs).exists() and not Path(docs).is_dir():
        raise ValueError(f"docs must be a folder, got {docs}")  # now, not when all is measured
    plan = [(limits.limit(experiment), limits.images(experiment)) for experiment in chosen]
    folder = Path(out)
    kept = folder / "cells" if cells is None else cells
    where = resolved(device)
    sweep(folder)
    lab = laboratory or Laboratory(kept, device=where)
    trained = [e for name, e in training_experiments().items() if not names or name in names]
    findings = Findings(
        training_laboratory or TrainingLaboratory(kept, device=where),
        _training_budget(training_budget or budget, images),
    )
    if measure:
        _measure_all(lab, plan, own, progress)
        measure_trainings(findings.laboratory, trained, findings.budget, progress)
    outcomes = tuple(_recall(lab, experiment, count) for experiment, count in plan)
    built = ArchitectureOutcome(networks()) if not names or ARCHITECTURES in names else None
    judged = tuple(TrainingOutcome(e, findings) for e in trained)
    summary = partial(
        overview, command=_command(_asked(given), budget, images, training_budget), machines=machines(lab.cells)
    )
    written = _write(outcomes, judged, built, folder, summary)
    return written if docs is None else replace(written, files=(*written.files, *publish(written, Path(docs))))


def _asked(given: Sequence[str | Experiment]) -> list[str]:
    return [one.name if isinstance(one, Experiment) else one for one in given]


def _chosen(names: Sequence[str], variants: Sequence[str] | None, own: Mapping[str, Experiment]) -> list[Experiment]:
    known, others = experiments() | dict(own), training_experiments()
    for name in names:
        if name not in (every := (*known, ARCHITECTURES, *others)):
            raise ValueError(f"names must be among {', '.join(every)}, or FILE.py:NAME of your own, got {name!r}")
    asked = [name for name in names if name in known] if names else tuple(known)
    for variant in variants or ():
        if variant not in (every := dict.fromkeys((*VARIANTS, *(v for e in own.values() for v in e.variants)))):
            raise ValueError(f"variants must be among {', '.join(every)}, got {variant!r}")
    chosen = [known[name] for name in dict.fromkeys(asked)]
    if variants is None:
        return chosen
    kept = [replace(e, rows=tuple(row for row in e.rows if row.variant in variants)) for e in chosen]
    return [e for e in kept if e.rows]


_MOST_IMAGES = 100_000
"""More than any set tested on has; of a slip of the pen, the list of chunks alone would fill the memory."""


def _budget(name: str, images: int | None) -> Budget:
    if name not in BUDGETS:
        raise ValueError(f"budget must be one of {', '.join(BUDGETS)}, got {name!r}")
    if images is None:
        return BUDGETS[name]
    if images < 1:
        raise ValueError(f"images must be >= 1, got {images}")
    if images > _MOST_IMAGES:
        raise ValueError(f"images must be <= {_MOST_IMAGES}, got {images}: MNIST and CIFAR-10 have 10000 to test on")
    return replace(BUDGETS[name], table=images, sweep=images, accuracy=images)


def _training_budget(name: str, images: int | None) -> TrainingBudget:
    if name not in TRAINING_BUDGETS:
        raise ValueError(f"training_budget must be one of {', '.join(TRAINING_BUDGETS)}, got {name!r}")
    return TRAINING_BUDGETS[name] if images is None else fewer(TRAINING_BUDGETS[name], images)


def _measure_all(
    lab: Laboratory, plan: Sequence[tuple[Experiment, int]], own: Container[str], progress: ProgressHook | None
) -> None:
    """Measure every cell, those of the first variants of all experiments before those of the next.

    Failures in experiments named in ``own`` are told with their row.
    """
    jobs = [(row, e.name, count) for e, count in plan for row in e.rows if not lab.untrained(row.cell)]
    totals = {name: sum(_pairs(row, count) for row, n, count in jobs if n == name) for _, name, _ in jobs}
    done = dict.fromkeys(totals, 0)
    # Sorting is stable: within a variant the order of experiments and rows stands.
    order = dict.fromkeys((*VARIANTS, *(job[0].variant for job in jobs)))
    left = sorted(jobs, key=lambda job: list(order).index(job[0].variant))
    while left:
        busy = []
        for row, name, count in left:

            def on_steps(n: int, name: str = name) -> None:
                done[name] += n
                if progress is not None:
                    progress(name, min(done[name], totals[name]), totals[name])

            with telling(name, row, on_steps) if name in own else nullcontext():
                if not lab.attempt(row.cell, count, on_steps):
                    busy.append((row, name, count))
        left = _waited(lab, busy)


def _waited(lab: Laboratory, busy: list[tuple[Row, str, int]]) -> list[tuple[Row, str, int]]:
    """Wait for one of the cells that other processes measure, and return all, to be looked at again."""
    if busy:
        row, _, count = busy[0]
        lab.measure(row.cell, count)
    return busy


def _pairs(row: Row, count: int) -> int:
    return row.cell.problems(count) * row.cell.group * max(row.cell.steps, 1)


def _recall(lab: Laboratory, experiment: Experiment, count: int) -> Outcome:
    untrained = tuple(dict.fromkeys(name for row in experiment.rows for name in lab.untrained(row.cell)))
    rows = [row for row in experiment.rows if not lab.untrained(row.cell)]
    found = {(row.variant, row.key): lab.recall(row.cell, count) for row in rows}
    seconds = sum(lab.seconds(row.cell, count) for row in rows)
    measured = {name: m for name, m in found.items() if m is not None}
    pictures = lab.images(rows[0].cell, PICTURED) if experiment.kind == "weights" and measured else None
    return Outcome(experiment, measured, count, seconds, untrained, pictures)


def _write(
    outcomes: Sequence[Outcome],
    trainings: Sequence[TrainingOutcome],
    built: ArchitectureOutcome | None,
    folder: Path,
    summary: Callable[[Sequence[Anything]], str],
) -> Reproduction:
    files: list[Path] = []
    sections: list[str] = []
    for outcome in outcomes:
        drawn = draw(outcome, folder / "figures")
        files += [*drawn, _facts(folder, outcome.experiment.name, outcome)]
        sections.append(markdown(outcome, [f"figures/{file.name}" for file in drawn]))
    if built is not None:
        files.append(_facts(folder, built.name, built))
        sections.append(built.markdown())
    if trainings:
        sections.append(preface(trainings[0].findings.budget))
    for outcome in trainings:
        drawn = draw_training(outcome, folder / "figures")
        files += [*drawn, _facts(folder, outcome.experiment.name, outcome)]
        sections.append(training_markdown(outcome, [f"figures/{file.name}" for file in drawn]))
    occurring = [v for v in VARIANTS if any(v in o.experiment.variants for o in outcomes)]
    own = not (built or trainings) and not any(o.experiment.name in experiments() for o in outcomes)
    notes = [(_OWN_NOTES if own else _NOTES).strip()] if outcomes else []
    notes += ["Versions of the attack:\n\n" + variants_list(occurring)] if occurring else []
    title, end = (_OWN_TITLE, []) if own else (_TITLE, [slips()])
    page, site = folder / "reproduction.md", folder / "report.html"
    found = Reproduction(tuple(outcomes), page, site, (page, site, *files), tuple(trainings), built)
    _text(page, "\n\n".join([title, *notes, summary(found.everything), *sections, *end]))
    write_site(page)
    return found


def _command(names: Sequence[str], budget: str, images: int | None, training_budget: str | None) -> str:
    words = ["omnirobust reproduce", *(names or ["--all"]), f"--budget {budget}"]
    words += [] if images is None else [f"--images {images}"]
    words += [] if training_budget is None else [f"--training-budget {training_budget}"]
    return " ".join(words)


def _facts(folder: Path, name: str, outcome: Outcome | TrainingOutcome | ArchitectureOutcome) -> Path:
    return _text(folder / f"{name}.json", json.dumps(outcome.describe(), indent=1, sort_keys=True) + "\n")


MARK = "<!-- What follows is generated by omnirobust reproduce: edit above this line only. -->"


def publish(reproduction: Reproduction, docs: Path) -> tuple[Path, ...]:
    """Copy the page to ``docs``/reproduction.md and all else to ``docs``/reproduction.

    What stands in the page above the mark is kept; what stands below is replaced.

    Returns:
        The files written.
    """
    page = docs / "reproduction.md"
    head = page.read_text(encoding="utf-8").split(MARK)[0].rstrip() if page.is_file() else ""
    body = reproduction.page.read_text(encoding="utf-8").replace("](figures/", "](reproduction/")
    if head:  # which has a title of its own
        body = body.removeprefix(_TITLE).lstrip()
    copies = [
        _text(docs / "reproduction" / file.name, file.read_text(encoding="utf-8"))
        for file in reproduction.files
        if file not in (reproduction.page, reproduction.site)
    ]
    return (_text(page, "\n\n".join(part for part in (head, MARK, body) if part)), *copies)


def _text(file: Path, text: str) -> Path:
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8")
    return file
