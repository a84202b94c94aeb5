"""How numbers are written, on the terminal and on pages alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LEVELS = 255
"""Radii are often so many levels of an 8-bit image: 4/255."""


def percent(rate: float | None, *, sign: bool = False) -> str:
    """Format a rate in per cent, to two decimals as the paper's tables do; "-" for None."""
    if rate is None:
        return "-"
    return f"{100 * rate:+.2f}" if sign else f"{100 * rate:.2f}"


def count(number: int, noun: str) -> str:
    """Write a number with its noun: "1 image", "2 images"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def radius(eps: float) -> str:
    """Write a radius as people type it: 0.1, 20, or 4/255 where only that is short."""
    for scale, suffix in ((1, ""), (_LEVELS, f"/{_LEVELS}")):
        text = f"{eps * scale:g}"
        if abs(float(text) - eps * scale) <= 1e-9 * abs(eps * scale):
            return f"{text}{suffix}"
    return f"{eps:g}"


def threat_names(threats: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return what pages call each threat of a run's settings, by the name that its files have.

    Names that were made of norm and radius ("linf:0.0313725") have the radius as people type it ("linf:8/255").
    """
    return {name: _threat_name(name, threat.get("norm"), threat.get("eps")) for name, threat in threats.items()}


def _threat_name(name: str, norm: str | None, eps: float | None) -> str:
    made, numbered, number = name.partition("#")
    if eps is None or made != f"{norm}:{eps:g}":
        return name
    return f"{norm}:{radius(eps)}{numbered}{number}"
