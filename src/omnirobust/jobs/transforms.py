"""Find transformations by name: those of the library, or of the user's own code."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from omnirobust.domains.transforms import NAMES, PAPER_DETERMINISTIC, PAPER_STOCHASTIC, ImageTransform, named
from omnirobust.zoo.own_code import load_own, source_digest

Transform: TypeAlias = Callable[..., Any]

SETS: Mapping[str, Mapping[str, Transform]] = {
    "table-3": {name: t for name, t in PAPER_DETERMINISTIC.items() if name != "rot"},
    "table-a5": PAPER_STOCHASTIC,
    "table-a6": PAPER_DETERMINISTIC,
}
"""Names that stand for several transformations: those of the paper's tables."""


def load_transforms(names: Sequence[str]) -> dict[str, Transform]:
    """Find transformations.

    Args:
        names: each "rot:30" or another text that ``omnirobust.transforms.named`` reads, "table-3", "table-a5"
            or "table-a6" for the sets of the paper, or "FILE.py:NAME" or "package.module:NAME" for one of one's own.

    Returns:
        Transformations by what tables call them, in the order asked for.

    Raises:
        ValueError: for an unknown or repeated name, or something that is not callable.
        FileNotFoundError: if a file is missing.
    """
    found: dict[str, Transform] = {}
    for name in names:
        for short, transform in _load(name).items():
            if short in found:
                raise ValueError(f"transforms must be named once each, got {short} twice")
            found[short] = transform
    return found


def describe_transforms(transforms: Mapping[str, Transform]) -> dict[str, str]:
    """Return transformations as plain text that changes when they do: settings, or a digest of the source."""
    return {name: _describe(transform) for name, transform in transforms.items()}


def _load(name: str) -> Mapping[str, Transform]:
    if name in SETS:
        return SETS[name]
    if not is_own_code(name):
        return dict([named(name)])
    short, transform = load_own(name, "transforms")
    if isinstance(transform, type) or not callable(transform):
        what = f"the class {short}" if isinstance(transform, type) else f"{type(transform).__name__} {short}"
        raise ValueError(f"transforms must be callables of a batch of images, got {what}")
    return {short: transform}


def is_own_code(name: str) -> bool:
    """Tell FILE.py:NAME and package.module:NAME from a name of the library and from a slip of the pen."""
    first, colon, _ = name.partition(":")
    if not colon or first in NAMES or "+" in first:
        return False
    return "." in first or "/" in first or (first.isidentifier() and importlib.util.find_spec(first) is not None)


def _describe(transform: Transform) -> str:
    if isinstance(transform, ImageTransform):
        return str(transform)
    code = transform if inspect.isfunction(transform) else type(transform)
    return f"{code.__module__}.{code.__qualname__}, source {source_digest(code)}"
