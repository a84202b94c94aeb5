"""The options that all attacks on the command line share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from omnirobust.cli import arguments as args
from omnirobust.cli.arguments import DirectionName, LossName, NormName, RuleName

if TYPE_CHECKING:
    from omnirobust.cli.config import Given
    from omnirobust.jobs import AttackJob


@dataclass(frozen=True)
class CommonOptions:
    """What every attack is told: data, models, threat model, and how to run."""

    data: Annotated[
        str,
        typer.Option(help="digits, mnist, cifar10, hub:ORG/NAME, or a folder of images."),
    ]
    models: Annotated[
        list[str],
        typer.Option(
            help="Models to attack: a, mnist/a, a@seed1 of the zoo; timm:NAME, hf:ORG/NAME; FILE.py:NAME, "
            "package:NAME, FILE.safetensors:ARCHITECTURE or the folder of a training of your own."
        ),
    ]
    norm: Annotated[NormName, typer.Option(help="Norm of the perturbation.")]
    eps: Annotated[
        float, typer.Option(parser=args.radius, metavar="RADIUS", help="0.1 or 8/255; for l0 a number of pixel values.")
    ]
    steps: Annotated[int, typer.Option(help="Steps of Algorithm 1.")] = 50
    images: Annotated[int, typer.Option(help="How many images to attack.")] = 200
    start: Annotated[int, typer.Option(help="Index of the first image.")] = 0
    split: Annotated[str, typer.Option(help="Split of the data.")] = "test"
    rule: Annotated[
        str,
        typer.Option(
            parser=args.rule_name,
            metavar=args.RULES,
            help="How weights answer the losses, held against the average; FILE.py:NAME is one of your own.",
        ),
    ] = RuleName.MINMAX.value
    beta: Annotated[float | None, typer.Option(help="Step size of the weights, for --rule ascent.")] = None
    gamma: Annotated[float | None, typer.Option(help="Pull towards equal weights, for ascent, exponentiated.")] = None
    eta: Annotated[float | None, typer.Option(help="Step size of the weights, for --rule exponentiated.")] = None
    preset: Annotated[args.Preset | None, typer.Option(help="The paper's settings; else the tuned ones.")] = None
    loss: Annotated[LossName | None, typer.Option(help="Attack loss, instead of the preset's.")] = None
    direction: Annotated[DirectionName | None, typer.Option(help="How to move, instead of the preset's.")] = None
    step_size: Annotated[float | None, typer.Option(help="alpha, instead of the preset's.")] = None
    init: Annotated[args.StartName | None, typer.Option(help="Starting point, instead of the preset's.")] = None
    keep: Annotated[args.Keep | None, typer.Option(help="Iterate to return, instead of the preset's.")] = None
    labels: Annotated[args.Labels, typer.Option(help="What to leave: true labels, or own predictions.")] = (
        args.Labels.TRUE
    )
    target: Annotated[int | None, typer.Option(help="Class to reach, for a targeted attack.")] = None
    transfer: Annotated[list[str] | None, typer.Option(help="Models to score without attacking them.")] = None
    restarts: Annotated[int, typer.Option(help="Independent runs; the best is kept.")] = 1
    stop_when_fooled: Annotated[bool, typer.Option(help="Drop what fools everything.")] = False
    seed: Annotated[int, typer.Option(help="Seed of noise and draws.")] = 0
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Perturbations found together, and saved together.", show_default="250; 50 with groups or transforms"
        ),
    ] = None
    precision: Annotated[args.PrecisionName, typer.Option(help="During the attack.")] = args.PrecisionName.FP32
    device: Annotated[str, args.DEVICE] = "auto"
    processes: Annotated[int, typer.Option(help="Processes that share the batches on this machine.")] = 1
    out: Annotated[Path | None, typer.Option(help="Run folder; by default one under runs/.")] = None

    def job(self, domains: args.Domains | None = None) -> AttackJob:
        """Make the job of these options, on models alone or on the ``domains`` given."""
        from omnirobust.jobs import AttackJob

        domains = args.Domains() if domains is None else domains
        alone = domains.groups is None and not domains.transforms
        return AttackJob(
            data=self.data,
            models=tuple(self.models),
            threat_model=args.threat_model(self.norm, self.eps),
            steps=self.steps,
            images=self.images,
            start=self.start,
            split=self.split,
            groups=domains.groups,
            transforms=domains.transforms,
            clip=domains.clip,
            samples=domains.samples,
            draws=domains.draws,
            preset=None if self.preset is None else "paper",
            rule=args.weight_rule(self.rule, self.beta, self.gamma, self.eta),
            rule_name=args.rule_label(self.rule),
            own_rule=self.rule if ":" in self.rule else "",
            direction=args.direction(self.direction),
            step_size=self.step_size,
            loss=args.attack_loss(self.loss),
            init=None if self.init is None else self.init.value,
            keep=None if self.keep is None else self.keep.value,
            seed=self.seed,
            batch_size=self.batch_size if self.batch_size is not None else (250 if alone else 50),
            precision=self.precision.value,
            stop_when_fooled=self.stop_when_fooled,
            restarts=self.restarts,
            labels=self.labels.value,
            target=self.target,
            transfer=tuple(self.transfer or ()),
            device=self.device,
        )


def with_common(command: Callable[..., None]) -> Callable[..., None]:
    """Turn ``command(given, common, its own options)`` into one whose signature lists all options but ``common``.

    The only place where arguments travel as a mapping: typer calls a command by the names in its signature.
    """
    given, _, *own = inspect.signature(command, eval_str=True).parameters.values()
    common = _parameters()

    def run(given: Given, **values: Any) -> None:
        command(given, CommonOptions(**{p.name: values.pop(p.name) for p in common}), **values)

    required = [p for p in common if p.default is p.empty]
    every = [*required, *own, *(p for p in common if p.default is not p.empty)]
    by_name = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in every]
    run.__name__, run.__doc__, run.__annotations__ = command.__name__, command.__doc__, {}
    run.__dict__["__signature__"] = inspect.Signature([given, *by_name])
    return run


def _parameters() -> list[inspect.Parameter]:
    hints = get_type_hints(CommonOptions, include_extras=True)
    return [
        inspect.Parameter(
            f.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if f.default is MISSING else f.default,
            annotation=hints[f.name],
        )
        for f in fields(CommonOptions)
    ]
