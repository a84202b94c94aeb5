"""What the paper claims of Tables A9 and A10: that weights agree between norms, and with the least distortion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from torch import Tensor

from omnirobust.evaluation.rank_correlation import spearman
from omnirobust.study.claims import Claim, Rates
from omnirobust.study.spec import Key

NORMS = ("l0", "l1", "l2", "linf")
MEASURES = ("dist", "eps_min")


def _key(name: str) -> Key:
    return (name, "alone" if name in MEASURES else "minmax")


def correlation(r: Rates, one: str, other: str) -> float:
    """Return Spearman's correlation of two columns of the table, over the images of all groups."""
    return spearman(r.values(*_key(one)).flatten(), r.values(*_key(other)).flatten())


def _tops(r: Rates, name: str) -> Tensor:
    return r.values(*_key(name)).argmax(1)


def agreement(r: Rates, *names: str) -> float:
    """Return the share of groups in which the same image is on top of every column named."""
    first, *others = (_tops(r, name) for name in names)
    same = first == first
    for top in others:
        same &= top == first
    return float(same.double().mean())


@dataclass(frozen=True)
class Statistic:
    """A number that the tables come to.

    Attributes:
        name: as the printed ones are named.
        kind: "correlation", or "share" of the groups.
        value: what it is of measured rows; a KeyError means that one was not measured.
    """

    name: str
    kind: Literal["correlation", "share"]
    value: Callable[[Rates], float]


def _correlations() -> list[Statistic]:
    pairs = [*combinations(NORMS, 2), *((n, m) for m in MEASURES for n in NORMS), MEASURES]
    return [Statistic(f"{a} and {b}", "correlation", lambda r, a=a, b=b: correlation(r, a, b)) for a, b in pairs]


def _shares() -> list[Statistic]:
    tops = [(n, m) for m in MEASURES for n in NORMS]
    return [
        Statistic("same top", "share", lambda r: agreement(r, *NORMS)),
        *(Statistic(f"top {n} is top {m}", "share", lambda r, n=n, m=m: agreement(r, n, m)) for n, m in tops),
    ]


STATISTICS = (*_correlations(), *_shares())
"""In the order in which they are shown."""


def _between_norms(r: Rates) -> dict[str, float]:
    return {f"{a} and {b}": correlation(r, a, b) for a, b in combinations(NORMS, 2)}


def _with(r: Rates, measure: str) -> dict[str, float]:
    return {n: correlation(r, n, measure) for n in NORMS}


def _on_top(r: Rates, measure: str) -> dict[str, float]:
    return {n: agreement(r, n, measure) for n in NORMS}


def _show(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in values.items())


TABLE_A9 = (
    Claim(
        "norms-agree",
        "The weights of any two norms are highly correlated (printed: 0.74 or more): above 0.7.",
        lambda r: min(_between_norms(r).values()) > 0.7,
        lambda r: _show(_between_norms(r)),
    ),
    Claim(
        "same-top",
        "In at least half of the groups all four norms give the largest weight to the same image.",
        lambda r: agreement(r, *NORMS) >= 0.5,
        lambda r: f"in {100 * agreement(r, *NORMS):.0f} % of the groups",
    ),
    Claim(
        "weights-tell-eps-min",
        "In every norm weights rise with eps_min: a correlation of 0.4 or more (printed: 0.50 or more).",
        lambda r: min(_with(r, "eps_min").values()) >= 0.4,
        lambda r: _show(_with(r, "eps_min")),
    ),
    Claim(
        "weights-tell-dist",
        "In every norm weights rise with dist: a correlation above 0 (printed: 0.21 or more).",
        lambda r: min(_with(r, "dist").values()) > 0,
        lambda r: _show(_with(r, "dist")),
    ),
    Claim(
        "highly-related",
        "Weights are highly related to the least distortion, as the text says: 0.7 or more with eps_min in every norm.",
        lambda r: min(_with(r, "eps_min").values()) >= 0.7,
        lambda r: _show(_with(r, "eps_min")),
    ),
    Claim(
        "heaviest-is-hardest",
        "In every norm the heaviest image has the largest eps_min of its group in at least half of the groups.",
        lambda r: min(_on_top(r, "eps_min").values()) >= 0.5,
        lambda r: _show(_on_top(r, "eps_min")),
    ),
)
