"""What the options that all attacks share do to a recipe, and the plan that they resolve to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from textwrap import fill
from typing import Any, TypeVar, cast, get_args, get_type_hints

from torch import Tensor

from omnirobust._progress import ProgressHook, check_hook
from omnirobust.attacks import option_table as _option_table
from omnirobust.attacks.option_table import OPTIONS as OPTIONS
from omnirobust.attacks.option_table import AttackOptions as AttackOptions
from omnirobust.attacks.option_table import Option as Option
from omnirobust.attacks.presets import DEFAULT_CLIP, PAPER_CLIP, PRESETS, PRESETS_COLOUR, AttackSettings, Seen, Task
from omnirobust.attacks.results import BatchStore
from omnirobust.core.arguments import check_number, check_seed, repeated
from omnirobust.core.choices import Precision
from omnirobust.core.contracts import check_mask, check_set
from omnirobust.core.directions import Direction
from omnirobust.core.draws import Start
from omnirobust.core.ranges import digest
from omnirobust.core.threat_models import Clip, FeasibleSet, ThreatModel, paper_width, told_range
from omnirobust.core.types import WeightRule
from omnirobust.core.weights import Fixed
from omnirobust.domains.losses import Loss
from omnirobust.domains.transforms.seeded import View

DRAWS = 10
"""Fresh draws that a result is judged on where something is random and nobody says how many."""

_STARTS = get_args(Start)

_CHOICES: dict[str, tuple[object, ...]] = {
    "targeted": (True, False),
    "stop_when_fooled": (True, False),
    "history": ("means", "full"),
    "precision": get_args(Precision),
    "preset": ("paper", "transfer", None),
}
"""Options that are one of a few values."""


# The table imports no torch, so that help is quick: it has the types that it names from here.
_option_table.__dict__.update(
    Tensor=Tensor,
    WeightRule=WeightRule,
    Direction=Direction,
    Loss=Loss,
    ProgressHook=ProgressHook,
    BatchStore=BatchStore,
)

TYPES: dict[str, Any] = get_type_hints(AttackOptions)
"""The types of the options by name."""

_Recipe = TypeVar("_Recipe", bound=Callable[..., Any])


OF_MODELS = frozenset({"loss", "targeted", "true_labels", "precision"})
"""Options that say something of models and labels alone."""


def with_options(recipe: _Recipe, without: frozenset[str] = frozenset()) -> _Recipe:
    """Let a recipe that ends in ``**options`` show them all: in its signature, and in its docstring before Returns.

    Those ``without`` which it does are unknown to it.
    """
    signature, shown = inspect.signature(recipe), {n: o for n, o in OPTIONS.items() if n not in without}
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=o.default, annotation=TYPES[name])
        for name, o in shown.items()
    ]
    names = {p.name for p in own} | set(shown)

    @wraps(recipe)
    def checked(*args: Any, **kwargs: Any) -> Any:
        check_names(recipe.__name__, kwargs, names)
        return recipe(*args, **kwargs)

    checked.__dict__["__signature__"] = signature.replace(parameters=[*own, *options])
    listed = "\n".join(
        fill(f"{name}: {o.text}", 120, initial_indent=" " * 8, subsequent_indent=" " * 12) for name, o in shown.items()
    )
    checked.__doc__ = (recipe.__doc__ or "").replace("\n\n    Returns:", f"\n{listed}\n\n    Returns:", 1)
    return cast(_Recipe, checked)


def check_names(told: str, given: Mapping[str, object], known: set[str]) -> None:
    """Raise a TypeError, as Python itself does, that names what is given and not ``known``."""
    for name in given:
        if name not in known:
            raise TypeError(f"{told}() got an unexpected keyword argument {name!r}")


@dataclass(frozen=True)
class Plan:
    """One attack, resolved: everything but models and inputs.

    Attributes:
        task: whose settings these are.
        threat_model: what the attacker may do.
        settings: those of the preset, and what was given instead.
        options: all of them, as given or by default.
        clip: what happens to shared perturbations at the ends of the data range.
        views: transformations to withstand; None for none.
    """

    task: Task
    threat_model: ThreatModel
    settings: AttackSettings
    options: AttackOptions
    clip: Clip
    views: tuple[View, ...] | None = None
    axes: int | None = None  # dimensions of one input, once it is known

    @classmethod
    def of(
        cls,
        task: Task,
        threat_model: ThreatModel,
        given: AttackOptions,
        clip: Clip | None = None,
        colour: bool = False,
    ) -> Plan:
        """Check what is given, and resolve it; ``colour`` says that inputs are images of three channels.

        Raises:
            ValueError: if an option is out of range, or of another kind; the sentence names it.
        """
        options = cast(AttackOptions, {name: o.default for name, o in OPTIONS.items()} | given)
        _check_kinds(threat_model, options)
        _check_counts(options)
        settings = _resolve(task, threat_model, options, colour)
        clip = clip or (PAPER_CLIP if options["preset"] == "paper" else DEFAULT_CLIP)
        return cls(task, threat_model, settings, options, clip)

    @property
    def shared(self) -> bool:
        """Whether the inputs of a group share a perturbation."""
        return self.task == "universal"

    @property
    def _own_masks(self) -> bool:
        """Whether masks differ from problem to problem, or features in their ranges: then the record tells them."""
        mask, axes = self.threat_model.mask, self.axes
        return not self.threat_model.ordinary or (mask is not None and axes is not None and mask.ndim > axes)

    @property
    def draws(self) -> int:
        """Fresh draws on which a result is judged, if anything is random."""
        return self.options["draws"] or DRAWS

    def check_rows(self, B: int, shape: tuple[int, ...]) -> None:
        """Raise a ValueError unless what is given for each problem is given for B, of perturbations of ``shape``."""
        rule, init = self.settings.rule, self.options["init"]
        if isinstance(rule, Fixed) and rule.w.ndim == 2 and len(rule.w) != B:
            raise ValueError(f"w of Fixed must have a row for each of {B} problems, got {len(rule.w)}")
        if isinstance(init, Tensor) and tuple(init.shape) != shape:
            raise ValueError(f"init must have shape {shape}, got {tuple(init.shape)}")

    def rows(self, rows: slice | Tensor) -> Plan:
        """Return the plan of some problems: what is given for each of them is cut."""
        threat, settings, options = self.threat_model, self.settings, self.options
        if isinstance(threat.eps, Tensor) or threat.mask is not None:
            threat = threat.select(rows, 99 if self.axes is None else self.axes)
        if isinstance(settings.rule, Fixed) and settings.rule.w.ndim == 2:
            settings = replace(settings, rule=Fixed(settings.rule.w[rows]))
        cut = {name: value[rows] for name, value in options.items() if isinstance(value, Tensor)}
        return replace(self, threat_model=threat, settings=settings, options=cast(AttackOptions, {**options, **cut}))

    def feasible(self, x: Tensor) -> FeasibleSet:
        """Return the perturbations allowed around inputs ``x``, checked where the threat model is the caller's own."""
        threat = self.threat_model
        if type(threat) is ThreatModel:
            return threat.around(x, shared=self.shared, clip=self.clip)
        return check_set(threat, x, shared=self.shared, clip=self.clip)

    def describe(self, draws: int | None = None) -> dict[str, Any]:
        """Return what is resolved as plain values, for the record of a run; ``draws`` are those made in the end."""
        s, threat, shared = self.settings, self.threat_model, self.shared
        options: dict[str, Any] = {**self.options, "draws": draws or self.draws}
        measured = accuracy_of(self.options["targeted"], self.options["true_labels"])
        return {
            "norm": threat.name,
            "eps": threat.eps.tolist() if isinstance(threat.eps, Tensor) else threat.eps,
            **({"bounds": list(threat.bounds)} if threat.ordinary else told_range(threat)),
            **{
                name: options[name]
                for name, o in OPTIONS.items()
                if o.record == "always" or (o.record == "changed" and options[name] != o.default)
            },
            **({} if measured == "y" else {"accuracy_of": measured}),
            "step_size": s.step_size,
            "rule": repr(s.rule),
            "direction": repr(s.direction),
            "loss": getattr(s.loss, "__name__", repr(s.loss)),
            **({"seen": str(s.seen), "softened": s.softened} if isinstance(s, Seen) else {}),
            "start": s.start,
            "keep": s.keep,
            "mask": None if threat.mask is None else int(threat.mask.sum()),
            **({} if threat.mask is None or not self._own_masks else {"mask_digest": digest(threat.mask)}),
            "shared": shared,
            "clip": self.clip if shared else None,
            "transforms": None if self.views is None else {view.name: repr(view) for view in self.views},
        }


def accuracy_of(targeted: bool, true_labels: Tensor | None) -> str:
    """Name the labels that accuracy is counted against."""
    if true_labels is not None:
        return "true labels"
    return "clean predictions" if targeted else "y"


def label_notes(targeted: bool, true_labels: Tensor | None) -> tuple[str, ...]:
    """Say so where accuracy is not counted against labels."""
    if accuracy_of(targeted, true_labels) != "clean predictions":
        return ()
    return ("A targeted attack without true_labels: accuracy counts what each model said of the clean inputs.",)


def _resolve(task: Task, threat_model: ThreatModel, options: AttackOptions, colour: bool) -> AttackSettings:
    """Return the preset with what is given instead."""
    preset, norm = options["preset"], threat_model.name
    rows = (PRESETS_COLOUR if colour else PRESETS)[preset][task]
    if norm not in rows:
        raise ValueError(f"preset must be another than {preset!r} under {norm}: it is for {' and '.join(rows)}")
    base = rows[norm]
    if base.step_size is not None:  # alpha of raw gradients: in a range that is wider these are smaller
        base = replace(base, step_size=base.step_size * paper_width(threat_model) ** 2)
    if options["direction"] is not None:  # a step size belongs to its direction
        base = replace(base, direction=options["direction"], step_size=None)
    given: dict[str, Any] = {name: options[name] for name in ("rule", "step_size", "loss", "keep")}
    if isinstance(options["init"], str):
        given["start"] = options["init"]
    return replace(base, **{name: value for name, value in given.items() if value is not None})


def _check_counts(options: AttackOptions) -> None:
    for name, o in OPTIONS.items():
        value, optional = options[name], o.default is None
        if o.least is None or (optional and value is None):
            continue
        must = f"a whole number >= {o.least}{' or None' if optional else ''}"
        check_number(name, value, must, lambda number, least=o.least: isinstance(number, int) and number >= least)
    if not isinstance(options["progress"], bool):
        check_hook(options["progress"])
    check_seed("seed", options["seed"])


def _check_kinds(threat_model: ThreatModel, options: AttackOptions) -> None:
    rule, direction, loss, init = options["rule"], options["direction"], options["loss"], options["init"]
    if not isinstance(threat_model, ThreatModel):
        raise ValueError(f"threat_model must be a ThreatModel such as Linf(0.1), got {repeated(threat_model)}")
    check_mask(threat_model)
    if isinstance(rule, type):
        raise ValueError(f"rule must be a weight rule such as Uniform(), got the class {rule.__name__}: call it")
    if rule is not None and (not hasattr(rule, "init") or not hasattr(rule, "step")):
        raise ValueError(f"rule must be a weight rule such as Uniform(), got {repeated(rule)}")
    if direction is not None and (isinstance(direction, type) or not hasattr(direction, "start")):
        raise ValueError(f"direction must be a direction such as Sign(), got {repeated(direction)}")
    if loss is not None and not callable(loss):
        raise ValueError(f"loss must be a function of logits and labels, got {repeated(loss)}")
    if init is not None and (not isinstance(init, Tensor | str) or (isinstance(init, str) and init not in _STARTS)):
        got = repr(init) if isinstance(init, str) else type(init).__name__
        raise ValueError(f"init must be a tensor, 'zero' or 'normal', got {got}")
    for name, choices in _CHOICES.items():
        # 1 and 0 equal True and False, but are no choice between yes and no
        if not any(type(options[name]) is type(choice) and options[name] == choice for choice in choices):
            *others, last = map(repr, choices)
            raise ValueError(f"{name} must be {', '.join(others)} or {last}, got {repeated(options[name])}")
