"""What counts are asked to be: whole numbers, and not too small."""

from __future__ import annotations

from typing import Any


def check_count(name: str, value: Any, least: int = 1, *, whole: bool = True) -> None:
    """Raise a ValueError unless ``value`` is at least ``least``.

    Args:
        name: of the argument.
        value: what was given.
        least: the smallest that will do.
        whole: whether it must be seen to be a whole number, too; not where it was read as one.
    """
    if (whole and (not isinstance(value, int) or isinstance(value, bool))) or value < least:
        raise ValueError(f"{name} must be {'a whole number ' if whole else ''}>= {least}, got {value!r}")
