"""Strings of the command line to settings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

import typer

from omnirobust.core.choices import Clip, Norm, Unit

if TYPE_CHECKING:
    import torch

    from omnirobust.core.directions import Direction
    from omnirobust.core.threat_models import ThreatModel
    from omnirobust.core.types import WeightRule
    from omnirobust.domains.losses import Loss
    from omnirobust.jobs import Grouping

DATA = (
    "digits, mnist, cifar10, hub:ORG/NAME, a folder of images, a table FILE.parquet, or tensors x and y of "
    "FILE.safetensors or FILE.npz."
)
LABEL = typer.Option(help="Column of the classes, where the data has several: fine_label, say.")
BOUNDS = typer.Option(
    metavar="LOW..HIGH|FILE",
    help="Range of the data: 0..255, -inf..inf; or a csv, npy or safetensors file of two rows, a value a feature.",
    show_default="0..1",
)
SCALE = typer.Option(
    metavar="NUMBER|FILE", help="Unit of the features, which radii and steps are in; or a file, a value a feature."
)
MASK = typer.Option(metavar="FILE", help="What may change: a file of 1 and 0, one a feature.")
UNIT = typer.Option(help="What l0 counts: values, or pixels, all channels of a place as one.")
RESIZE = typer.Option(metavar="H W", help="Height and width that images are resized to.")
DEVICE = typer.Option(
    metavar="DEVICE", help="Where to compute: auto, cpu, cuda, cuda:N or mps; auto takes cuda where there is one."
)

_RADIUS = re.compile(r"(\d*\.?\d+(?:e[+-]?\d+)?)(?:/(\d*\.?\d+))?", re.IGNORECASE)
"""A number, or a fraction of two."""


RuleName: TypeAlias = Literal["minmax", "average", "worst", "ascent", "exponentiated"]
"""The weight rules: min-max is the tuned one of the norm, or the paper's."""

LossName: TypeAlias = Literal[
    "relative-margin",
    "standardised-margin",
    "margin",
    "smooth-margin",
    "probability-margin",
    "neg-cross-entropy",
    "dlr",
]
"""The attack losses."""

DirectionName: TypeAlias = Literal["raw", "sign", "normalised", "adaptive", "detour"]
"""The ways to move."""


@dataclass(frozen=True)
class Domains:
    """What is attacked at once beside models: see the attributes of the same names of ``AttackJob``."""

    groups: Grouping | None = None
    clip: Clip | None = None
    transforms: tuple[str, ...] = ()


def expand_lists(argv: Sequence[str], options: Sequence[str]) -> list[str]:
    """Repeat list options before each of their values: ``--models a b,c`` to ``--models a --models b --models c``.

    Raises:
        ValueError: if no value follows a list option.
    """
    expanded: list[str] = []
    option: str | None = None
    for place, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name in options:
            option = name
            if not equals and not _is_value(argv[place + 1 : place + 2]):
                raise ValueError(f"Option '{name}' requires an argument.")
            expanded += _repeat(option, value) if equals else []
        elif option is None or word.startswith("-"):
            option = None
            expanded.append(word)
        else:
            expanded += _repeat(option, word)
    return expanded


def _repeat(option: str, words: str) -> list[str]:
    return [part for word in values_of(words) for part in (option, word)]


def values_of(words: str) -> list[str]:
    """Return the values of a list that is written as one word: "a,b" stands for a and b."""
    return [word for word in words.split(",") if word]


def _is_value(following: Sequence[str]) -> bool:
    return bool(following) and not following[0].startswith("-")


@dataclass(frozen=True)
class Features:
    """What features are: their ranges, units, and which may change, as the command line has them.

    Attributes:
        data: name of the data.
        split: of it.
        label: column of its classes.
        bounds: LOW..HIGH or a file.
        scale: a number or a file.
        mask: a file.
        unit: what l0 counts.
    """

    data: str
    split: str = "test"
    label: str | None = None
    bounds: str | None = None
    scale: str | None = None
    mask: str | None = None
    unit: Unit = "value"

    def threat_model(self, norm: Norm, eps: float) -> ThreatModel:
        """Make the threat model of a norm's name and a radius.

        Raises:
            ValueError: if a file is not there, or does not have a value a feature; or for pixels without l0.
        """
        from omnirobust.core.arguments import NORMS
        from omnirobust.core.threat_models import ThreatModel

        return ThreatModel(NORMS[norm], eps, **self._ranges, unit=self.unit)

    @cached_property
    def _ranges(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.bounds is not None:
            found["bounds"] = self._ends(self.bounds)
        if self.scale is not None:
            number = _number(self.scale)
            found["scale"] = self._rows("scale", self.scale, 1)[0] if number is None else number
        if self.mask is not None:
            (mask,) = self._rows("mask", self.mask, 1)
            if not bool(((mask == 0) | (mask == 1)).all()):
                raise ValueError(f"mask must be a file of 1 and 0, got other numbers in {self.mask}")
            found["mask"] = mask != 0
        return found

    def _ends(self, text: str) -> tuple[Any, Any]:
        low, dots, high = text.partition("..")
        if dots and _number(low) is not None and _number(high) is not None:
            return float(low), float(high)
        low, high = self._rows("bounds", text, 2)
        return low, high

    def _rows(self, argument: str, text: str, count: int) -> list[torch.Tensor]:
        """Return the rows of a file, each shaped to broadcast to one input."""
        from omnirobust.zoo.data import load
        from omnirobust.zoo.tables import feature_names, read_values

        rows = read_values(text, argument, feature_names(self.data, self.label))
        if len(rows) == 1 and count == 2 and len(rows[0]) == 2:
            rows = list(rows[0].unbind())
        if len(rows) != count:
            raise ValueError(f"{argument} must be a file of {count} row{'s' * (count > 1)}, got {len(rows)} in {text}")
        shape = load(self.data, self.split, limit=1, label=self.label, labelled=False).shape
        return [_shaped(argument, row, shape) for row in rows]


PLAIN = Features("")
"""Features in [0, 1], all of the unit 1."""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _shaped(argument: str, row: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Shape a row of values to an input: one a value, or one a channel, the first axis."""
    if row.ndim > 1 or row.numel() == 1:
        return row
    if row.numel() == prod(shape):
        return row.view(shape)
    if row.numel() == shape[0]:
        return row.view(-1, *[1] * (len(shape) - 1))
    wanted = f"{prod(shape)}, one a value" + (f", or {shape[0]}, one a channel" if len(shape) > 1 else "")
    raise ValueError(f"{argument} must have as many values as inputs of shape {shape} have: {wanted}, got {len(row)}")


def radius(text: str) -> float:
    """Read a radius: a number, or a fraction such as 8/255. Signs and the rest are for the threat model to judge.

    Raises:
        ValueError: if the text is neither.
    """
    above, slash, below = str(text).partition("/")
    try:
        return float(above) / (float(below) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"eps must be a number or a fraction such as 8/255, got {text!r}") from None


def threats(texts: Sequence[str], features: Features = PLAIN) -> dict[str, ThreatModel]:
    """Make threat models of texts such as "linf:0.2" or "linf:8/255", by these texts, or "robustbench:cifar10" for all.

    Raises:
        ValueError: if a text is not NORM:RADIUS, or one comes twice.
    """
    found: dict[str, ThreatModel] = {}
    written = _written_out(texts)
    if features.unit != "value" and not any(text.startswith("l0:") for text in written):
        raise ValueError(f"unit must be value without a threat of l0, got {features.unit}")
    for text in written:
        norm, _, radius = text.partition(":")
        if norm not in get_args(Norm) or not (matched := _RADIUS.fullmatch(radius)):
            raise ValueError(f"threat must be NORM:RADIUS such as linf:0.2, l2:2 or linf:8/255, got {text!r}")
        if text in found:
            raise ValueError(f"threat must be given once each, got {text} twice")
        above, below = float(matched[1]), float(matched[2] or 1)
        if below == 0:
            raise ValueError(f"threat must have a finite radius, got {text!r}")
        counted = features if norm == "l0" else replace(features, unit="value")
        found[text] = counted.threat_model(cast(Norm, norm), above / below)
    return found


USUAL = {
    "cifar10": ("linf:8/255", "l2:0.5", "l1:12"), "cifar100": ("linf:8/255",),
    "imagenet": ("linf:4/255", "l2:2", "l1:255"),
}  # fmt: skip
"""The radii that models are usually judged by: those of RobustBench's leaderboards; l1, and l2 of imagenet, those of
Croce and Hein, "Adversarial robustness against multiple and single lp-threat models", 2022."""


def _written_out(texts: Sequence[str]) -> list[str]:
    """Put the threats in the place of a name for them."""
    found: list[str] = []
    for text in texts:
        kind, _, name = text.partition(":")
        if kind == "robustbench" and name not in USUAL:
            known = ", ".join(f"robustbench:{each}" for each in USUAL)
            raise ValueError(f"threat must be NORM:RADIUS, {known}, got {text!r}")
        found += USUAL[name] if kind == "robustbench" else (text,)
    return found


RULES = f"[{'|'.join(get_args(RuleName))}|FILE.py:NAME]"


def rule_name(text: str) -> str:
    """Check the name of a weight rule: one of ``RuleName``, or of one's own code.

    Raises:
        typer.BadParameter: if it is neither.
    """
    if ":" not in str(text) and str(text) not in get_args(RuleName):
        raise typer.BadParameter(
            f"{str(text)!r} is not one of {', '.join(map(repr, get_args(RuleName)))}, FILE.py:NAME."
        )
    return str(text)


def rule_label(name: str) -> str:
    """Return what tables call a weight rule: NAME of FILE.py:NAME."""
    return "min-max" if name == "minmax" else name.rpartition(":")[2]


def weight_rule(name: str, beta: float | None, gamma: float | None, eta: float | None) -> WeightRule | None:
    """Make a weight rule; None for min-max as the preset has it.

    Raises:
        ValueError: if a parameter is given that the rule does not have, or one is missing; or for code that is no rule.
        FileNotFoundError: if there is no such file of one's own code.
    """
    from omnirobust.core.weights import ExponentiatedGradient, ProjectedAscent, Uniform, WorstCase

    takes = {"ascent": ("beta", "gamma"), "exponentiated": ("eta", "gamma")}.get(name, ())
    for key, value in (("beta", beta), ("gamma", gamma), ("eta", eta)):
        if value is not None and key not in takes:
            raise ValueError(f"{key} must be left out with rule {name}, got {value}")
    if ":" in name:
        from omnirobust.jobs.names import load_rule

        return load_rule(name)
    if name == "ascent":
        if beta is None or gamma is None:
            raise ValueError("beta and gamma must be given with rule ascent")
        return ProjectedAscent(beta, gamma)
    if name == "exponentiated":
        if eta is None:
            raise ValueError("eta must be given with rule exponentiated")
        return ExponentiatedGradient(eta, gamma or 0.0)
    return {"average": Uniform(), "worst": WorstCase()}.get(name)


def chosen_device(name: str) -> torch.device:
    """Return the device of that name, set to compute what it is asked to, the same at every call.

    Raises:
        ValueError: if there is none.
    """
    from omnirobust._device import make_exact, resolved

    device = resolved(name)
    make_exact(device)
    return device


def attack_loss(name: LossName | None) -> Loss | None:
    """Return the loss of that name; None for that of the preset."""
    from omnirobust.domains import losses

    return None if name is None else getattr(losses, name.replace("-", "_"))


def direction(name: DirectionName | None) -> Direction | None:
    """Return the direction of that name, with steps that shrink unless it is the paper's; None for the preset's."""
    from omnirobust.core.adaptive import Adaptive, Detour
    from omnirobust.core.directions import Normalised, RawGradient, Sign

    if name is None:
        return None
    return {
        "raw": RawGradient(),
        "sign": Sign("linear"),
        "normalised": Normalised("linear"),
        "adaptive": Adaptive(),
        "detour": Detour(),
    }[name]
