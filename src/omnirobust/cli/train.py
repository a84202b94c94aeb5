"""``omnirobust train``: a model that withstands several attacks at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnirobust.cli import arguments as args
from omnirobust.cli.config import configurable
from omnirobust.cli.console import data_notes, progress_bars, say
from omnirobust.cli.given import Given
from omnirobust.cli.launch import launched
from omnirobust.core.choices import Keep, Optimizer, Persist, Precision, SchemeKind, TrainingPreset, TrainingStart, Unit

if TYPE_CHECKING:
    from omnirobust.core.threat_models import ThreatModel
    from omnirobust.jobs import TrainingRecord
    from omnirobust.training import Scheme


@configurable
def train(
    given: Given,
    data: Annotated[str, typer.Option(help=args.DATA)],
    model: Annotated[
        str | None,
        typer.Option(help="What to train from the beginning: a, lenet, mnist/a, or FILE.py:NAME of your own."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", help="A zoo model, run folder, FOLDER:FILE.py:NAME, or safetensors of --model."),
    ] = None,
    threat: Annotated[
        list[str] | None, typer.Option(help="What attackers may do: linf:0.2 l2:2 l1:10 l0:20, linf:8/255.")
    ] = None,
    scheme: Annotated[
        SchemeKind | None,
        typer.Option(help="What to train against.", show_default="minmax; single for one threat, natural for none"),
    ] = None,
    dpar: Annotated[float, typer.Option(help="Weight of the attacks' diversity; the paper's is 0.1.")] = 0.0,
    dpar_warmup: Annotated[int, typer.Option(help="Epochs over which --dpar rises from 0.")] = 0,
    steps: Annotated[int, typer.Option(help="Ascent steps of the attacks on each mini-batch.")] = 20,
    beta: Annotated[float | None, typer.Option(help="Step size of the weights.", show_default="0.02")] = None,
    gamma: Annotated[float | None, typer.Option(help="Pull towards equal weights.", show_default="4")] = None,
    pairing: Annotated[float, typer.Option(help="Of --scheme ramp: weight of the logits' divergence.")] = 5.0,
    natural_share: Annotated[float, typer.Option(help="Of --scheme ramp: share of the natural epochs.")] = 0.5,
    persist: Annotated[
        Persist | None,
        typer.Option(
            help="What an image goes on from: nothing, its last weights, or these and its perturbations.",
            show_default="all with --preset, else none",
        ),
    ] = None,
    adversarial_ratio: Annotated[float, typer.Option(help="Share of attacked examples in the loss.")] = 0.5,
    preset: Annotated[TrainingPreset | None, typer.Option(help="The attacks' steps as the paper prints them.")] = None,
    init: Annotated[TrainingStart, typer.Option(help="Where attacks begin.")] = "random",
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 10,
    batch_size: Annotated[int, typer.Option(help="Images a mini-batch, over all processes.")] = 128,
    optimizer: Annotated[Optimizer, typer.Option(help="Of the parameters; sgd has Nesterov momentum 0.8.")] = (
        "adam"
    ),
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    weight_decay: Annotated[float, typer.Option(help="l2 penalty.")] = 0.0,
    milestone: Annotated[
        list[int] | None, typer.Option(help="Epoch that multiplies the learning rate by 0.1; can be repeated.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="How many images to train on.", show_default="all of the train split")
    ] = None,
    label: Annotated[str | None, args.LABEL] = None,
    resize: Annotated[tuple[int, int] | None, args.RESIZE] = None,
    bounds: Annotated[str | None, args.BOUNDS] = None,
    scale: Annotated[str | None, args.SCALE] = None,
    mask: Annotated[str | None, args.MASK] = None,
    unit: Annotated[Unit, args.UNIT] = "value",
    validation: Annotated[int, typer.Option(help="Images at the end of the train split that choose the epoch.")] = 200,
    patience: Annotated[
        int | None, typer.Option(help="End after so many epochs without a better robust accuracy on them.")
    ] = None,
    keep: Annotated[
        Keep | None, typer.Option(help="Epoch to end with.", show_default="best; last without --validation")
    ] = None,
    test_images: Annotated[int, typer.Option(help="Images of the test split to judge the result on.")] = 200,
    test_steps: Annotated[int, typer.Option(help="Steps of every attack that judges it.")] = 100,
    precision: Annotated[Precision, typer.Option(help="Of attack and training.")] = "fp32",
    compile: Annotated[  # noqa: A002
        bool, typer.Option("--compile", help="Compile the attacks' steps under linf and l2.")
    ] = False,
    memory: Annotated[int | None, typer.Option(help="Bytes that the graph of one forward pass may hold.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, order, dropout and noise.")] = 0,
    device: Annotated[str, args.DEVICE] = "auto",
    processes: Annotated[
        int, typer.Option("--devices", "--processes", help="Processes that share each mini-batch, on a device each.")
    ] = 1,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write metrics for TensorBoard, too.")] = False,
    out: Annotated[Path | None, typer.Option(help="Run folder; by default one under runs/.")] = None,
) -> None:  # fmt: skip
    """Train a model against several attacks at once, judge it, and write a report; interrupted, it goes on."""
    from omnirobust.jobs import TrainingJob, run_training
    from omnirobust.jobs.shards import workers
    from omnirobust.zoo import Recipe

    recipe = Recipe(
        epochs, optimizer, lr, weight_decay, tuple(milestone or ()), batch_size, holdout=validation,
        precision=precision,
    )  # fmt: skip
    features = args.Features(data, "train", label, bounds, scale, mask, unit)
    wanted = _scheme(
        scheme, args.threats(threat or (), features), steps=steps, beta=beta, gamma=gamma, dpar=dpar,
        warmup=dpar_warmup, persist=persist, ratio=adversarial_ratio, preset=preset, init=init,
        pairing=pairing, natural_share=natural_share,
    )  # fmt: skip
    job = TrainingJob(
        data, wanted, recipe, model=model, start=start, images=images, label=label, resize=resize, patience=patience,
        keep=keep, test_images=test_images, test_steps=test_steps, seed=seed,
        tensorboard=tensorboard, device=device, compile=compile, memory=memory,
    )  # fmt: skip
    where = args.chosen_device(device)
    if launched(given, processes, out):
        return
    team = workers(job.recipe.precision, where.type)
    with progress_bars(shown=team.rank == 0) as progress:
        record = run_training(job, out, progress, given.text(), team, _say_epoch)
    if team.rank == 0:
        _show(record)


def _scheme(
    name: SchemeKind | None, threats: Mapping[str, ThreatModel], *, steps: int, beta: float | None,
    gamma: float | None, dpar: float, warmup: int, persist: Persist | None, ratio: float, preset: TrainingPreset | None,
    init: TrainingStart, pairing: float, natural_share: float,
) -> Scheme:  # fmt: skip
    """Make the scheme of the options; without a name the one that the number of threats suggests."""
    from omnirobust.core.weights import ProjectedAscent
    from omnirobust.training import DEFAULT_RULE, Scheme

    models = tuple(threats.values())
    kind = name if name else ("minmax" if len(models) > 1 else "single" if models else "natural")
    rule = None
    if beta is not None or gamma is not None:
        rule = ProjectedAscent(
            DEFAULT_RULE.beta if beta is None else beta, DEFAULT_RULE.gamma if gamma is None else gamma
        )
    return Scheme(
        kind, models, steps=steps, rule=rule, dpar=dpar, persist=persist, adversarial_ratio=ratio,
        preset=None if preset is None else "paper", start=init, dpar_warmup=warmup,
        pairing=pairing, natural_share=natural_share,
    )  # fmt: skip


def _left_out(data: Mapping[str, Any]) -> list[str]:
    return [f"Note: {data['name']}, {data['split']} split: {data['note']}."] if data["note"] else []


def _say_epoch(epoch: int, epochs: int, row: Mapping[str, float]) -> None:
    """Write one line about an epoch that has ended."""
    from omnirobust.jobs.report.training import told_epoch

    say(told_epoch(epoch, epochs, row))


def _show(record: TrainingRecord) -> None:
    """Print how the result fares on test images, and where everything lies."""
    from omnirobust.cli.evaluate import show_evaluation
    from omnirobust.jobs.names import WEIGHTS
    from omnirobust.jobs.report import build_report
    from omnirobust.jobs.report.training import told_end, told_notes

    say(told_end(record), *told_notes(record), *_left_out(record.config["data"]), *data_notes(record.config["data"]))
    if record.evaluation is not None:
        show_evaluation(record.evaluation)
    say(f"Results: {record.folder.path}", f"Model:   {record.folder.file(WEIGHTS)}")
    say(f"Report:  {build_report(record.folder.path)}")
