"""How numbers are written, on the terminal and on pages alike."""

from __future__ import annotations

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
