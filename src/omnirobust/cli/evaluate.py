"""``omnirobust evaluate``: robust accuracy of models under several threats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omnirobust.cli import arguments as args
from omnirobust.cli.config import configurable
from omnirobust.cli.console import data_notes, notes, progress_bars, say
from omnirobust.cli.given import Given
from omnirobust.cli.launch import launched
from omnirobust.core.choices import Attacks, Precision, Unit

if TYPE_CHECKING:
    from omnirobust.jobs import EvaluationRecord


@configurable
def evaluate(
    given: Given,
    data: Annotated[str, typer.Option(help=args.DATA)],
    models: Annotated[
        list[str],
        typer.Option(
            "--model", "--models",
            help="Models to judge: a, mnist/a, a@seed1 of the zoo; timm:NAME, hf:ORG/NAME, rb:NAME; FILE.py:NAME, "
            "package:NAME, FILE.safetensors:ARCHITECTURE, FILE.onnx, the FOLDER of a training, or FOLDER:FILE.py:NAME "
            "where its card asks for code; NAME=SOURCE names one.",
        ),
    ],
    threat: Annotated[
        list[str],
        typer.Option(
            help="What attackers may do: linf:0.2 l2:2 l1:10 l0:20, linf:8/255; robustbench:cifar10 for the usual "
            "radii of three norms."
        ),
    ],
    attack: Annotated[
        Attacks, typer.Option(help="Many attacks of ours, or AutoAttack through the package pyautoattack.")
    ] = "default",
    steps: Annotated[int, typer.Option(help="Steps of every run of our attacks.")] = 100,
    restarts: Annotated[int, typer.Option(help="Runs of every attack of ours.")] = 1,
    samples: Annotated[int, typer.Option(help="Draws of a random model a step.")] = 1,
    draws: Annotated[
        int | None, typer.Option(help="Fresh draws on which a random model is judged, 10 if not given.")
    ] = None,
    images: Annotated[int, typer.Option(help="How many images to attack.")] = 200,
    start: Annotated[int, typer.Option(help="Index of the first image.")] = 0,
    split: Annotated[str, typer.Option(help="Split of the data.")] = "test",
    label: Annotated[str | None, args.LABEL] = None,
    resize: Annotated[tuple[int, int] | None, args.RESIZE] = None,
    bounds: Annotated[str | None, args.BOUNDS] = None,
    scale: Annotated[str | None, args.SCALE] = None,
    mask: Annotated[str | None, args.MASK] = None,
    unit: Annotated[Unit, args.UNIT] = "value",
    seed: Annotated[int, typer.Option(help="Seed of noise.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Images attacked together, and saved together.")] = 250,
    precision: Annotated[Precision, typer.Option(help="During our attacks.")] = "fp32",
    device: Annotated[str, args.DEVICE] = "auto",
    processes: Annotated[int, typer.Option(help="Processes that share the batches on this machine.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Run folder; by default one under runs/.")] = None,
) -> None:  # fmt: skip
    """Measure accuracy under every threat, and under all at once, by the strongest of many attacks."""
    from omnirobust.jobs import EvaluationJob, run_evaluation
    from omnirobust.jobs.shards import workers

    features = args.Features(data, split, label, bounds, scale, mask, unit)
    job = EvaluationJob(
        data, tuple(models), args.threats(threat, features), attacks=attack, steps=steps, restarts=restarts,
        images=images, start=start, split=split, label=label, resize=resize, seed=seed, batch_size=batch_size,
        precision=precision, device=device, samples=samples, draws=draws,
    )  # fmt: skip
    args.chosen_device(device)
    if launched(given, processes, out):
        return
    team = workers()
    try:
        with progress_bars(shown=team.rank == 0) as progress:
            record = run_evaluation(job, out, progress, given.text(), team)
    except ModuleNotFoundError as error:  # AutoAttack is an extra
        if error.name != "pyautoattack":
            raise
        raise ValueError(str(error)) from error
    if team.rank > 0:
        return
    from omnirobust.jobs.report import build_report

    show_evaluation(record)
    say(*data_notes(record.config["data"]), *notes(job.threats.values(), steps, images, record.metrics["images"]))
    say(f"Results: {record.folder.path}", f"Report:  {build_report(record.folder.path)}")


def show_evaluation(record: EvaluationRecord) -> None:
    """Print accuracies, how models compare, and what a reader must know."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from omnirobust.jobs.report.numbers import threat_names
    from omnirobust.jobs.report.robustness import comparisons, heading, notes
    from omnirobust.jobs.report.text import percent

    table = Table(title=heading(record), box=box.SIMPLE_HEAD, pad_edge=False)
    table.caption = (
        "Accuracy in %; union: under all threats at once, with its 95 % interval; average: mean over threats."
    )
    table.add_column("model", no_wrap=True)
    for column in ("clean", *threat_names(record.config["threats"]).values(), "average", "union", "interval"):
        table.add_column(column, justify="right")
    for name, found in record.metrics["models"].items():
        rates = [percent(rate["estimate"]) for rate in (found["clean"], *found["accuracy"].values())]
        union, low, high = (percent(found["union"][key]) for key in ("estimate", "low", "high"))
        table.add_row(name, *rates, percent(found["average"]), union, f"{low} to {high}")
    console = Console(markup=False)
    console.print(table)
    for line in [*comparisons(record), *notes(record)]:
        console.print(line, soft_wrap=True, highlight=False)
