"""Measure what experiments ask for and is missing, judge every claim, write it all down."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from omnirobust._device import resolved
from omnirobust._files import replacing, sweep
from omnirobust.study.cell_cache import CellCache
from omnirobust.study.own import telling, with_own
from omnirobust.study.page import overview, write_site
from omnirobust.study.protocol import AnyOutcome, Job, Scale, Study
from omnirobust.study.rows import RowStudy
from omnirobust.study.spec import BUDGETS, Collection, Experiment
from omnirobust.study.store import machines
from omnirobust.study.tables import versions_list

ProgressHook: TypeAlias = Callable[[str, int, int], None]
"""Is told the name of an experiment, and how much of its work is done, of how much: of attacks (image, step) pairs, of
trainings epochs, of what is measured of their models chunks of images."""


@dataclass(frozen=True)
class Reproduction:
    """What ``reproduce`` found and wrote.

    Attributes:
        outcomes: one for each experiment, in order.
        page: Markdown file that holds them all.
        site: the same as one HTML file that needs nothing but itself.
        files: every file written.
    """

    outcomes: tuple[Any, ...]
    page: Path
    site: Path
    files: tuple[Path, ...]


def reproduce(
    names: Iterable[str | Experiment],
    *,
    experiments: Collection | None = None,
    images: int | None = None,
    budget: str = "quick",
    out: str | Path = "runs/reproduction",
    progress: ProgressHook | None = None,
    variants: Sequence[str] | None = None,
    measure: bool = True,
    cells: str | Path | None = None,
    docs: str | Path | None = None,
    cache: CellCache | None = None,
    training_budget: str | None = None,
    device: str = "auto",
) -> Reproduction:
    """Measure experiments, judge their claims and write both down.

    Rows that wait for a model of the zoo to be trained are left out, and named with the command that trains it.

    Every cell is kept in ``cells``, in chunks of images: a run that was stopped goes on where it was, a larger
    budget adds to what a smaller one measured, and a cell that two experiments share is measured once. Cells know the
    settings and the models' weights, not the code: after changing an attack's code, take another folder. Several
    processes, on one machine or many, may run this on one folder: each measures cells that no other one is at.

    Args:
        names: of ``experiments``, such as "table-1a"; none at all stands for every one of them. Of one's own,
            "FILE.py:NAME" or "package.module:NAME" of an ``Experiment``, or itself.
        experiments: those that go by a name, such as the paper's, ``omnirobust.experiments.collection()``.
        images: test images for each experiment, >= 1; None for the budget's.
        budget: "smoke" (minutes), "quick" or "paper".
        out: folder for tables (Markdown and JSON) and figures (SVG).
        progress: is told how far each experiment is.
        variants: versions of the attack to measure; None for all.
        measure: False only writes down what the cells hold already.
        cells: folder of the cells; None for ``out``/cells.
        docs: folder that gets a copy too: reproduction.md, under what was written there by hand, and reproduction/.
        cache: measures the cells, in place of one over ``cells``, the zoo and its data.
        training_budget: of the experiments on robust training; None for ``budget``. A training of another budget is
            another training: a larger one does not add to a smaller.
        device: where a cache made here computes: "cpu", "cuda", "cuda:N", "mps", or "auto" for cuda where there is
            one. Cells do not say where they were measured: their folder does.

    Returns:
        What came out, and the files.

    Raises:
        ValueError: for an unknown name, budget or variant, ``docs`` that are no folder, or an experiment of one's own
            that does not fit.
        DataUnavailableError: if the images cannot be had.
    """
    given, shelf = tuple(names), experiments or Collection()
    asked, own = with_own(given, shelf.members)  # all checks come before anything is measured, which may take days
    chosen = _chosen(asked, variants, shelf.members, own)
    scale = _scale(budget, images, training_budget)
    if docs is not None and Path(docs).exists() and not Path(docs).is_dir():
        raise ValueError(f"docs must be a folder, got {docs}")  # now, not when all is measured
    folder = Path(out)
    where = resolved(device)
    sweep(folder)
    cache = cache or CellCache(folder / "cells" if cells is None else cells, device=where)
    if measure:
        _measure(cache, [(study.name, study.jobs(scale)) for study in chosen], own, progress)
    found = [(study, study.recall(cache, scale)) for study in chosen]
    if not any(study.name in shelf.members for study in chosen):
        shelf = Collection()
    words = [one.name if isinstance(one, Experiment) else one for one in given]
    summary = overview(
        [outcome for _, outcome in found], shelf.counted, _command(words, budget, images, training_budget),
        machines(cache.cells),
    )  # fmt: skip
    written = _write(found, shelf, summary, folder)
    return written if docs is None else replace(written, files=(*written.files, *publish(written, Path(docs))))


def _chosen(
    names: Sequence[str],
    variants: Sequence[str] | None,
    members: Mapping[str, Experiment | Study[Any]],
    own: Mapping[str, Experiment],
) -> list[Study[Any]]:
    known = {name: RowStudy(e) if isinstance(e, Experiment) else e for name, e in {**members, **own}.items()}
    for name in names:
        if name not in known:
            among = f"among {', '.join(known)}, or " if known else ""
            raise ValueError(f"names must be {among}FILE.py:NAME of your own, got {name!r}")
    for variant in variants or ():
        if variant not in (every := dict.fromkeys(v for study in known.values() for v in study.variants)):
            raise ValueError(f"variants must be among {', '.join(every)}, got {variant!r}")
    chosen = [known[name] for name in dict.fromkeys(names or known)]
    kept = chosen if variants is None else [study.only(variants) for study in chosen]
    return [study for study in kept if study is not None]


_MOST_IMAGES = 100_000
"""More than any set tested on has; of a slip of the pen, the list of chunks alone would fill the memory."""


def _scale(budget: str, images: int | None, training_budget: str | None) -> Scale:
    for what, name in (("budget", budget), ("training_budget", training_budget or budget)):
        if name not in BUDGETS:
            raise ValueError(f"{what} must be one of {', '.join(BUDGETS)}, got {name!r}")
    if images is not None and images < 1:
        raise ValueError(f"images must be >= 1, got {images}")
    if images is not None and images > _MOST_IMAGES:
        raise ValueError(f"images must be <= {_MOST_IMAGES}, got {images}: MNIST and CIFAR-10 have 10000 to test on")
    return Scale(budget, images, training_budget or budget)


def _measure(
    cache: CellCache, asked: Sequence[tuple[str, Sequence[Job]]], own: Container[str], progress: ProgressHook | None
) -> None:
    """Measure every cell, those of lower rank first, whichever experiment asks for them.

    Failures in experiments named in ``own`` are told with their row.
    """
    jobs = [
        (name, job._replace(images=job.cell.most(cache, job.images)))
        for name, of_one in asked
        for job in of_one
        if not cache.untrained(job.cell)
    ]
    totals = {name: sum(_work(job) for n, job in jobs if n == name) for name, _ in jobs}
    done = dict.fromkeys(totals, 0)
    # Sorting is stable: within a rank the order of experiments and rows stands.
    left = sorted(jobs, key=lambda one: one[1].rank)
    while left:  # cells that another process is at are passed over, and looked at again when one of them is there
        busy = []
        for name, job in left:

            def on_work(n: int, name: str = name) -> None:
                done[name] += n
                if progress is not None:
                    progress(name, min(done[name], totals[name]), totals[name])

            with telling(name, job.told, on_work) if name in own else nullcontext():
                if not cache.attempt(job.cell, job.images, on_work):
                    busy.append((name, job))
        if busy:  # wait for one of the cells that other processes measure, and look at all again
            cache.measure(busy[0][1].cell, busy[0][1].images)
        left = busy


def _work(job: Job) -> int:
    return sum(job.cell.work(span) for span in job.cell.spans(job.images))


def _write(
    found: Sequence[tuple[Study[Any], AnyOutcome]], shelf: Collection, summary: str, folder: Path
) -> Reproduction:
    files: list[Path] = []
    sections: list[str] = []
    for study, outcome in found:
        drawn = study.draw(outcome, folder / "figures")
        facts = json.dumps(outcome.describe(), indent=1, sort_keys=True) + "\n"
        files += [*drawn, _text(folder / f"{study.name}.json", facts)]
        if (preface := study.preface(outcome)) not in sections:
            sections.append(preface)
        sections.append(study.markdown(outcome, [f"figures/{file.name}" for file in drawn]))
    meanings = {v: meaning for study, _ in found for v, meaning in study.versions.items()}
    occurring = {v for study, _ in found for v in study.occurring}
    versions = {v: meaning for v, meaning in meanings.items() if v in occurring}
    notes = [shelf.notes] if any(isinstance(study, RowStudy) for study, _ in found) else []
    notes += ["Versions of the attack:\n\n" + versions_list(versions)] if versions else []
    page, site = folder / "reproduction.md", folder / "report.html"
    parts = [shelf.title, *notes, summary, *sections, shelf.closing]
    _text(page, "\n\n".join(part for part in parts if part))
    write_site(page)
    return Reproduction(tuple(outcome for _, outcome in found), page, site, (page, site, *files))


def _command(names: Sequence[str], budget: str, images: int | None, training_budget: str | None) -> str:
    words = ["omnirobust reproduce", *(names or ["--all"]), f"--budget {budget}"]
    words += [] if images is None else [f"--images {images}"]
    words += [] if training_budget is None else [f"--training-budget {training_budget}"]
    return " ".join(words)


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
        body = body.partition("\n")[2].lstrip()
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
