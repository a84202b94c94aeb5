"""``omnirobust attack``: ensembles of models, universal perturbations, transformations, and products of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from omnirobust.cli import arguments as args
from omnirobust.cli.config import configurable
from omnirobust.cli.console import data_notes, notes, progress_bars, say
from omnirobust.cli.given import Given
from omnirobust.cli.launch import launched
from omnirobust.cli.options import CommonOptions, with_common
from omnirobust.core.choices import Clip, GroupBy

if TYPE_CHECKING:
    from omnirobust.jobs import AttackJob

app = typer.Typer(help="Find perturbations that beat everything at once.", no_args_is_help=True)

TRANSFORMS = (
    "Transformations to withstand: ori flh flv bri:0.1 gam:1.3 crop:0.8 rot:30, drawn from a range rot:-30..30 or with "
    "a probability flh:p=0.8, chained rot:-20..20+bri:0.1; the sets table-3, table-a5, table-a6; FILE.py:NAME of "
    "your own."
)


@app.command()
@configurable
@with_common
def ensemble(given: Given, common: CommonOptions) -> None:
    """Attack every model at once with one perturbation an image, by the average and by min-max."""
    _run(given, common, common.job())


@app.command()
@configurable
@with_common
def universal(
    given: Given,
    common: CommonOptions,
    group_size: Annotated[int, typer.Option(help="Images that share a perturbation.")] = 5,
    group_by: Annotated[GroupBy, typer.Option(help="Which images go together.")] = "random",
    group_seed: Annotated[int, typer.Option(help="Seed of the shuffle before images are put into groups.")] = 0,
    clip: Annotated[
        Clip | None,
        typer.Option(
            help="At the ends of the data range: clamp each image, or keep the perturbation in the intersection of the "
            "images' boxes, as the paper does: much harder.",
            show_default="image; intersection with --preset paper",
        ),
    ] = None,
    transforms: Annotated[list[str] | None, typer.Option(help=TRANSFORMS)] = None,
) -> None:
    """Attack groups of images with one perturbation each: under one or several models and transformations at once."""
    from omnirobust.jobs import Grouping

    groups = Grouping(group_size, group_by, group_seed)
    domains = args.Domains(groups, clip, tuple(transforms or ()))
    _run(given, common, common.job(domains))


@app.command()
@configurable
@with_common
def transforms(
    given: Given,
    common: CommonOptions,
    transforms: Annotated[list[str], typer.Option(help=TRANSFORMS)],
) -> None:
    """Attack with perturbations that survive every transformation, under one or several models."""
    domains = args.Domains(transforms=tuple(transforms))
    _run(given, common, common.job(domains))


def _run(given: Given, common: CommonOptions, job: AttackJob) -> None:
    from omnirobust.jobs import run_attack
    from omnirobust.jobs.shards import workers

    args.chosen_device(common.device)
    if launched(given, common.processes, common.out):
        return
    team = workers()
    with progress_bars(shown=team.rank == 0) as progress:
        record = run_attack(job, common.out, progress, given.text(), team)
    if team.rank > 0:
        return
    from omnirobust.cli.tables import show_attack
    from omnirobust.jobs.report import build_report

    show_attack(record)
    taken = record.config["data"]["images"] + record.metrics["left_out"]
    say(
        *data_notes(record.config["data"]),
        *notes([job.threat_model], record.config["attack"]["steps"], job.images, taken),
    )
    say(f"Results: {record.folder.path}", f"Report:  {build_report(record.folder.path)}")
