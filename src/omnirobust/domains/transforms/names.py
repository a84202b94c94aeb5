"""Transformations by name: what the command line reads, and the paper's sets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from omnirobust.domains.transforms.base import Amount, Chain, ImageTransform
from omnirobust.domains.transforms.blur import Blur, Jpeg
from omnirobust.domains.transforms.colour import Brightness, Gamma, Identity, Noise
from omnirobust.domains.transforms.geometry import CentralCrop, FlipHorizontal, FlipVertical, Rotate, Scale, Translate
from omnirobust.domains.transforms.warp import Warp

_KINDS: tuple[type[ImageTransform], ...] = (
    Identity, FlipHorizontal, FlipVertical, Brightness, Gamma, CentralCrop, Rotate,
    Translate, Scale, Noise, Blur, Jpeg, Warp,
)  # fmt: skip

NAMES: Mapping[str, type[ImageTransform]] = MappingProxyType({kind.short: kind for kind in _KINDS})
"""Short name to transformation; the first seven names are the paper's."""

PAPER_DETERMINISTIC: Mapping[str, ImageTransform] = MappingProxyType(
    {
        "ori": Identity(),
        "flh": FlipHorizontal(),
        "flv": FlipVertical(),
        "bri": Brightness(0.1),
        "gam": Gamma(1.3),
        "crop": CentralCrop(0.8),
        "rot": Rotate(30.0),
    }
)
"""The seven of the paper's Table A6; its Table 3 has the first six (Appendix C.3)."""

PAPER_STOCHASTIC: Mapping[str, ImageTransform] = MappingProxyType(
    {
        "ori": Identity(),
        "flh": FlipHorizontal(p=0.8),
        "flv": FlipVertical(p=0.8),
        "bri": Brightness(0.1, p=0.8),
        "crop": CentralCrop((0.6, 1.0)),
    }
)
"""The five of the paper's Table A5 (Appendices C.3 and D.3)."""


def named(text: str) -> tuple[str, ImageTransform]:
    """Read a transformation from text, and give it that text as its name.

    The text is a short name, then values after colons: "flh", "flh:p=0.8", "rot:-30", "rot:-30..30" (drawn),
    "crop:0.6..1.0", "shift:-2..2:down=0", "gam:1.3:bounds=-1..1". A plus sign chains: "rot:-20..20+bri:0.1".

    Raises:
        ValueError: if the text says no transformation; the sentence lists the names, or names the value.
    """
    try:
        steps = [_one(part) for part in re.split(r"\+(?=[a-z])", text)]
    except ValueError as error:
        raise ValueError(f"transformation {text!r}: {error}") from error
    return text, steps[0] if len(steps) == 1 else Chain(tuple(steps))


def _one(text: str) -> ImageTransform:
    short, *arguments = text.split(":")
    if short not in NAMES:
        raise ValueError(f"must be one of {', '.join(NAMES)}, got {short!r}")
    kind = NAMES[short]
    inherited, *own = [f.name for f in fields(kind)]
    known = [*own, inherited]
    given: dict[str, Any] = {}
    for number, argument in enumerate(arguments):
        name, value = argument.split("=", 1) if "=" in argument else ("", argument)
        if not name and number == 0 and kind.amounts:
            name = kind.amounts[0]
        if name not in known or name in given:
            may = ", ".join(f"{n}=" for n in known)
            raise ValueError(f"{short} takes {may}, each once, got {argument!r}")
        given[name] = _amount(value)
    return kind(**given)


def _amount(text: str) -> Amount:
    parts = text.split("..")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise ValueError(f"a value must be a number or a range such as 0.6..1.0, got {text!r}")
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])
