"""The options that all attacks on the command line share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, cast, get_args, get_origin, get_type_hints

import typer

from omnirobust.attacks.option_table import OPTIONS, PLAIN, AttackOptions
from omnirobust.cli import arguments as args
from omnirobust.cli.arguments import DirectionName, LossName
from omnirobust.core.choices import Labels, Norm, Unit

if TYPE_CHECKING:
    from omnirobust.cli.given import Given
    from omnirobust.jobs import AttackJob


@dataclass(frozen=True)
class CommonOptions:
    """What every attack is told: data, models, threat model, and how to run."""

    data: Annotated[
        str,
        typer.Option(help=args.DATA),
    ]
    models: Annotated[
        list[str],
        typer.Option(
            help="Models to attack: a, mnist/a, a@seed1 of the zoo; timm:NAME, hf:ORG/NAME, rb:NAME; FILE.py:NAME, "
            "package:NAME, FILE.safetensors:ARCHITECTURE, FILE.onnx, the FOLDER of a training, or FOLDER:FILE.py:NAME "
            "where its card asks for code; NAME=SOURCE names one."
        ),
    ]
    norm: Annotated[Norm, typer.Option(help="Norm of the perturbation.")]
    eps: Annotated[
        float, typer.Option(parser=args.radius, metavar="RADIUS", help="0.1 or 8/255; for l0 a count, see --unit.")
    ]
    images: Annotated[int, typer.Option(help="How many images to attack.")] = 200
    start: Annotated[int, typer.Option(help="Index of the first image.")] = 0
    split: Annotated[str, typer.Option(help="Split of the data.")] = "test"
    label: Annotated[str | None, args.LABEL] = None
    resize: Annotated[tuple[int, int] | None, args.RESIZE] = None
    bounds: Annotated[str | None, args.BOUNDS] = None
    scale: Annotated[str | None, args.SCALE] = None
    mask: Annotated[str | None, args.MASK] = None
    unit: Annotated[Unit, args.UNIT] = "value"
    rule: Annotated[
        str,
        typer.Option(
            parser=args.rule_name,
            metavar=args.RULES,
            help="How weights answer the losses, held against the average; FILE.py:NAME is one of your own.",
        ),
    ] = "minmax"
    beta: Annotated[float | None, typer.Option(help="Step size of the weights, for --rule ascent.")] = None
    gamma: Annotated[float | None, typer.Option(help="Pull towards equal weights, for ascent, exponentiated.")] = None
    eta: Annotated[float | None, typer.Option(help="Step size of the weights, for --rule exponentiated.")] = None
    labels: Annotated[Labels, typer.Option(help="What to leave: true labels, or own predictions.")] = "true"
    target: Annotated[int | None, typer.Option(help="Class to reach, for a targeted attack.")] = None
    transfer: Annotated[
        list[str] | None, typer.Option(help="Models to score without attacking them, named as --models.")
    ] = None
    queries: Annotated[
        int | None,
        typer.Option(help="Inputs that each model which only answers may be asked for each image, judging included."),
    ] = None
    device: Annotated[str, args.DEVICE] = "auto"
    processes: Annotated[int, typer.Option(help="Processes that share the batches on this machine.")] = 1
    out: Annotated[Path | None, typer.Option(help="Run folder; by default one under runs/.")] = None
    options: AttackOptions = field(default_factory=AttackOptions)

    def job(self, domains: args.Domains | None = None) -> AttackJob:
        """Make the job of these options, on models alone or on the ``domains`` given."""
        from omnirobust.jobs import AttackJob

        domains = args.Domains() if domains is None else domains
        features = args.Features(self.data, self.split, self.label, self.bounds, self.scale, self.mask, self.unit)
        return AttackJob(
            data=self.data,
            models=tuple(self.models),
            threat_model=features.threat_model(self.norm, self.eps),
            images=self.images,
            start=self.start,
            split=self.split,
            label=self.label,
            resize=self.resize,
            groups=domains.groups,
            transforms=domains.transforms,
            clip=domains.clip,
            rule_name=args.rule_label(self.rule),
            own_rule=self.rule if ":" in self.rule else "",
            labels=self.labels,
            target=self.target,
            transfer=tuple(self.transfer or ()),
            queries=self.queries,
            device=self.device,
            options={**self.options, "rule": args.weight_rule(self.rule, self.beta, self.gamma, self.eta)},
        )


def with_common(command: Callable[..., None]) -> Callable[..., None]:
    """Turn ``command(given, common, its own options)`` into one whose signature lists all options but ``common``.

    The only place where arguments travel as a mapping: typer calls a command by the names in its signature.
    """
    given, _, *own = inspect.signature(command, eval_str=True).parameters.values()
    common, shared = _common_parameters(), _attack_parameters()

    def run(given: Given, **values: Any) -> None:
        options = cast(AttackOptions, {p.name: _made(p.name, values.pop(p.name)) for p in shared})
        command(given, CommonOptions(**{p.name: values.pop(p.name) for p in common}, options=options), **values)

    required = [p for p in common if p.default is p.empty]
    every = [*required, *own, *(p for p in common if p.default is not p.empty), *shared]
    by_name = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in every]
    run.__name__, run.__doc__, run.__annotations__ = command.__name__, command.__doc__, {}
    run.__dict__["__signature__"] = inspect.Signature([given, *by_name])
    return run


def _common_parameters() -> list[inspect.Parameter]:
    hints = get_type_hints(CommonOptions, include_extras=True)
    return [
        inspect.Parameter(
            f.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if f.default is MISSING else f.default,
            annotation=hints[f.name],
        )
        for f in fields(CommonOptions)
        if f.name != "options"
    ]


_NAMED: dict[str, tuple[Any, Callable[[Any], object]]] = {
    "loss": (LossName, args.attack_loss),
    "direction": (DirectionName, args.direction),
}
"""Options whose values are objects: their names on the command line, and what makes them."""

_SHOWN = {"batch_size": "250; 50 with groups or transforms"}
"""Defaults that a job has of its own."""


def _attack_parameters() -> list[inspect.Parameter]:
    """Return the options of ``AttackOptions`` that a job has, but the rule, which several options say."""
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=o.default,
            annotation=Annotated[_type(name), typer.Option(help=_help(o.text), show_default=_SHOWN.get(name, True))],
        )
        for name, o in OPTIONS.items()
        if o.settable and name != "rule"
    ]


def _type(name: str) -> Any:
    """Return the type of an option on the command line: names for objects, and no tensors."""
    if name in _NAMED:
        return _NAMED[name][0] | None
    members = [t for t in get_args(PLAIN[name]) if t is not object]
    return Union[tuple(members)] if get_origin(PLAIN[name]) in (Union, UnionType) else PLAIN[name]  # noqa: UP007


def _help(text: str) -> str:
    """Return the first sentence, without marks of code."""
    first = text.partition(". ")[0].replace("``", "").rstrip(".")
    return f"{first[0].upper()}{first[1:]}."


def _made(name: str, value: Any) -> object:
    return _NAMED[name][1](value) if name in _NAMED else value
