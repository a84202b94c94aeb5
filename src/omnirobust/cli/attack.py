"""``omnirobust attack``: ensembles of models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omnirobust.cli import arguments as args
from omnirobust.cli.arguments import DirectionName, LossName, NormName, RuleName
from omnirobust.cli.console import progress_bars, say

app = typer.Typer(help="Find perturbations that beat everything at once.", no_args_is_help=True)


@app.callback()
def _attack() -> None:
    pass


@app.command()
def ensemble(
    data: Annotated[str, typer.Option(help="digits, mnist, cifar10, hub:ORG/NAME, or a folder in hub layout.")],
    models: Annotated[
        list[str],
        typer.Option(
            help="Models to attack: a, mnist/a, a@seed1 of the zoo; FILE.py:NAME or package:NAME of your own."
        ),
    ],
    norm: Annotated[NormName, typer.Option(help="Norm of the perturbation.")],
    eps: Annotated[float, typer.Option(help="Radius; for l0 a number of pixel values.")],
    steps: Annotated[int, typer.Option(help="Steps of Algorithm 1.")] = 50,
    images: Annotated[int, typer.Option(help="How many images to attack.")] = 200,
    start: Annotated[int, typer.Option(help="Index of the first image.")] = 0,
    split: Annotated[str, typer.Option(help="Split of the data.")] = "test",
    rule: Annotated[
        RuleName, typer.Option(help="How weights answer the losses, held against the average.")
    ] = RuleName.MINMAX,
    beta: Annotated[float | None, typer.Option(help="Step size of the weights, for --rule ascent.")] = None,
    gamma: Annotated[float | None, typer.Option(help="Pull towards equal weights, for ascent, exponentiated.")] = None,
    eta: Annotated[float | None, typer.Option(help="Step size of the weights, for --rule exponentiated.")] = None,
    preset: Annotated[args.Preset | None, typer.Option(help="The paper's settings; else the tuned ones.")] = None,
    loss: Annotated[LossName | None, typer.Option(help="Attack loss, instead of the preset's.")] = None,
    direction: Annotated[DirectionName | None, typer.Option(help="How to move, instead of the preset's.")] = None,
    step_size: Annotated[float | None, typer.Option(help="alpha, instead of the preset's.")] = None,
    init: Annotated[args.StartName | None, typer.Option(help="Starting point, instead of the preset's.")] = None,
    keep: Annotated[args.Keep | None, typer.Option(help="Iterate to return, instead of the preset's.")] = None,
    labels: Annotated[
        args.Labels, typer.Option(help="What to leave: true labels, or own predictions.")
    ] = args.Labels.TRUE,
    target: Annotated[int | None, typer.Option(help="Class to reach, for a targeted attack.")] = None,
    transfer: Annotated[list[str] | None, typer.Option(help="Models to score without attacking them.")] = None,
    restarts: Annotated[int, typer.Option(help="Independent runs; the best is kept.")] = 1,
    stop_when_fooled: Annotated[bool, typer.Option(help="Drop images that fool every model.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Images attacked together, and saved together.")] = 250,
    precision: Annotated[args.PrecisionName, typer.Option(help="During the attack.")] = args.PrecisionName.FP32,
    out: Annotated[Path | None, typer.Option(help="Run folder; by default one under runs/.")] = None,
) -> None:
    """Attack every model at once with one perturbation an image, by the average and by min-max."""
    from omnirobust.jobs import EnsembleJob, run_ensemble

    job = EnsembleJob(
        data=data,
        models=tuple(models),
        threat_model=args.threat_model(norm, eps),
        steps=steps,
        images=images,
        start=start,
        split=split,
        preset=None if preset is None else "paper",
        rule=args.weight_rule(rule, beta, gamma, eta),
        rule_name="min-max" if rule is RuleName.MINMAX else rule.value,
        direction=args.direction(direction),
        step_size=step_size,
        loss=args.attack_loss(loss),
        init=None if init is None else init.value,
        keep=None if keep is None else keep.value,
        seed=seed,
        batch_size=batch_size,
        precision=precision.value,
        stop_when_fooled=stop_when_fooled,
        restarts=restarts,
        labels=labels.value,
        target=target,
        transfer=tuple(transfer or ()),
    )
    with progress_bars() as progress:
        record = run_ensemble(job, out, progress)
    from omnirobust.cli.tables import show_attack

    show_attack(record)
    _finish(record.folder.path)


def _finish(path: Path) -> None:
    from omnirobust.report import build_report

    page = build_report(path)
    say(f"Results: {path}", f"Report:  {page}")
