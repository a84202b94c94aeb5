"""``omnirobust demo``, ``report`` and ``reproduce``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omnirobust.cli.arguments import DEVICE, chosen_device
from omnirobust.cli.console import progress_bars, say
from omnirobust.cli.launch import in_processes


def demo(
    out: Annotated[Path | None, typer.Option(help="Run folder; by default one under runs/.")] = None,
    images: Annotated[int, typer.Option(help="How many test images to attack.")] = 200,
) -> None:
    """Train four classifiers of embedded digits, attack all at once in four norms, write a report: about a minute."""
    from omnirobust.cli.tables import show_norms
    from omnirobust.jobs import DemoJob, run_demo
    from omnirobust.jobs.report import build_report

    with progress_bars() as progress:
        records = run_demo(DemoJob(images=images), out, progress)
    show_norms(records)
    folder = records[0].folder.path.parent
    say(f"Results: {folder}", f"Report:  {build_report(folder)}")


def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    other: Annotated[Path | None, typer.Argument(help="Another, to be compared with the first.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Page of a comparison.", show_default="compared-with-FIRST.html in the second folder"),
    ] = None,
) -> None:
    """Write the report of a finished run again, or compare two runs, example by example where they share examples."""
    from omnirobust.jobs.report import build_report

    if other is None:
        if out is not None:
            raise ValueError(f"out must be left out unless two runs are compared, got {out}")
        say(f"Report: {build_report(run)}")
        return
    from omnirobust.cli.tables import show_comparison
    from omnirobust.jobs.report.compare import compare_runs, write_comparison

    compared = compare_runs(run, other)
    for part in compared:
        show_comparison(part)
    page = out if out is not None else other / f"compared-with-{run.resolve().name}.html"
    say(f"Report: {write_comparison(compared, page)}")


def reproduce(
    names: Annotated[
        list[str] | None, typer.Argument(help="Experiments, such as table-1a figure-1; FILE.py:NAME of your own.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All experiments.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="The same as naming experiments without it.")] = None,
    images: Annotated[int | None, typer.Option(help="Images a cell, instead of the budget's.")] = None,
    budget: Annotated[str, typer.Option(help="smoke (minutes), quick or paper.")] = "quick",
    out: Annotated[Path, typer.Option(help="Where cells are kept and tables written.")] = Path("runs/reproduction"),
    docs: Annotated[Path | None, typer.Option(help="Folder that gets a copy of the page and its figures.")] = None,
    measure: Annotated[bool, typer.Option(help="--no-measure only writes down what the cells hold.")] = True,
    training_budget: Annotated[str | None, typer.Option(help="Of robust training, in place of the budget.")] = None,
    device: Annotated[str, DEVICE] = "auto",
    processes: Annotated[int, typer.Option(help="Processes that share the cells on this machine.")] = 1,
) -> None:
    """Measure the paper's tables and figures again, beside the printed values; interrupted, it goes on."""
    chosen = [*(names or ()), *(only or ())]
    if not only and bool(chosen) == everything:
        raise typer.BadParameter("name the experiments to reproduce, or give --all")
    chosen_device(device)
    if measure and processes != 1:
        given = {"images": images, "budget": budget, "out": out, "training-budget": training_budget, "device": device}
        options = [f"--{name}={value}" for name, value in given.items() if value is not None]
        in_processes(["reproduce", *(chosen or ["--all"]), *options], processes)
        measure = False  # all is there: it remains to write it down
    from omnirobust.jobs import shards
    from omnirobust.paper.registry import collection
    from omnirobust.study.page import in_brief
    from omnirobust.study.runner import reproduce as run

    with progress_bars(shown=shards.rank() == 0) as progress:
        found = run(
            chosen, images=images, budget=budget, out=out, progress=progress, docs=docs, measure=measure,
            training_budget=training_budget, device=device, experiments=collection(),
        )  # fmt: skip
    if shards.launched():
        return
    for name in dict.fromkeys(name for outcome in found.outcomes for name in outcome.summary.untrained):
        say(f"To be trained, and then reproduced by the same command: omnirobust zoo train {name}")
    say(*map(in_brief, found.outcomes), f"Results: {found.page}", f"Report:  {found.site}")
