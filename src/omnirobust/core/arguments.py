"""Which numbers and norms an argument may be. True and False are none, though Python computes with them."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isfinite
from numbers import Real
from types import FunctionType
from typing import Any, TypeGuard, cast

from omnirobust.core.choices import Norm as Norm

NORMS: dict[Norm, float] = {"l0": 0, "l1": 1, "l2": 2, "linf": inf}
"""Norm names at the surface, and the p that each stands for."""

_LONGEST = 200
"""Characters of a value that a sentence repeats."""


def repeated(value: object) -> str:
    """Return what to say of a value in a sentence: its text, of tensors and what is long the beginning on one line."""
    shape = getattr(value, "shape", None)
    if shape is not None and len(shape):
        return f"{type(value).__name__} of shape {tuple(shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def is_number(value: object) -> TypeGuard[float]:
    """Say whether something is a real number; True, False and tensors are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_number(name: str, value: Any, must: str, fits: Callable[[float], bool]) -> None:
    """Raise a ValueError unless ``value`` is a number for which ``fits`` says yes.

    Args:
        name: of the argument.
        value: what was given.
        must: what it must be, such as "in [0, 1]".
        fits: is asked of numbers alone.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not fits(cast(float, value)):
        raise ValueError(f"{name} must be {must}, got {repeated(value)}")


def check_count(name: str, value: Any, least: int = 1, *, whole: bool = True) -> None:
    """Raise a ValueError unless ``value`` is at least ``least``.

    Args:
        name: of the argument.
        value: what was given.
        least: the smallest that will do.
        whole: whether it must be seen to be a whole number, too; not where it was read as one.
    """
    must = f"{'a whole number ' if whole else ''}>= {least}"
    check_number(name, value, must, lambda number: number >= least and (not whole or isinstance(value, int)))


def check_whole(name: str, value: Any, least: int) -> None:
    """Raise a ValueError unless ``value`` is a whole number of any type, at least ``least``."""
    small = is_number(value) and value < least
    if not is_number(value) or small or value % 1:
        raise ValueError(f"{name} must be {f'>= {least}' if small else 'a whole number'}, got {repeated(value)}")


def check_seed(name: str, value: object) -> None:
    """Raise a ValueError unless ``value`` is a whole number, of any sign."""
    check_number(name, value, "a whole number", lambda number: number % 1 == 0)


def check_flag(name: str, value: object) -> None:
    """Raise a ValueError unless ``value`` is True or False: a text, for one, would count as True."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {repeated(value)}")


def norm_name(p: float) -> Norm:
    """Name the norm of order ``p``: 0, 1, 2 or inf to "l0", "l1", "l2" or "linf".

    Raises:
        ValueError: if ``p`` is none of the four.
    """
    for name, order in NORMS.items():
        if p == order and not isinstance(p, bool):
            return name
    raise ValueError(f"p must be one of 0, 1, 2, inf, got {p!r}")


def is_ours(part: object) -> bool:
    """Say whether something is of a class of this library, whose answers need no checks."""
    return type(part).__module__.startswith("omnirobust.")


_PARTS = (
    ("domains", "evaluate", "such as FunctionDomains({name: f})"),
    ("feasible", "project", "the set around given inputs, such as Linf(0.1).around(x)"),
    ("rule", "step", "a weight rule such as ExponentiatedGradient(0.5)"),
    ("direction", "start", "a direction such as Adaptive()"),
)
"""What ``solve`` is made of: the argument, a method that tells it, and what it is."""


def check_run(steps: int, step_size: float | None, keep: str, history: str, *parts: object) -> None:
    """Raise a ValueError that names a setting of ``solve`` that is out of range, or a part that is none."""
    for part, (name, method, told) in zip(parts, _PARTS, strict=True):
        if isinstance(part, type) or not hasattr(part, method):
            got = f"{part.__name__} itself" if isinstance(part, type | FunctionType) else repeated(part)
            raise ValueError(f"{name} must be {told}, got {got}")
    check_count("steps", steps, 0)
    if steps >= 2**31:  # what is kept of each would fit no memory, nor its number a tensor
        raise ValueError(f"steps must be < 2147483648, got {steps}")
    if step_size is not None:
        check_number("step_size", step_size, "finite and > 0", lambda size: isfinite(size) and size > 0)
    if keep not in ("last", "best"):
        raise ValueError(f"keep must be 'last' or 'best', got {keep!r}")
    if history not in ("means", "full"):
        raise ValueError(f"history must be 'means' or 'full', got {history!r}")
