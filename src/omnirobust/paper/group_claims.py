"""What the paper claims of Table 2, each claim a predicate on measured rates.

Claims of CIFAR-10 are judged on those of its four models that were measured.
"""

from __future__ import annotations

from itertools import pairwise
from math import inf, isfinite

from omnirobust.study.claims import Claim, Rates, percent

SIZES = ("2", "4", "5", "10")


def _places(r: Rates, data: str) -> list[str]:
    """Return the models of a data set that were measured at every K, by the average and by min-max."""
    named = dict.fromkeys(key[0] for key in r.keys() if key[0].startswith(data))  # noqa: SIM118
    found = [p for p in named if all(r.has(p, s, K) for s in ("avg", "minmax") for K in SIZES)]
    if not found or (data == "MNIST" and len(found) < len(named)):
        raise KeyError(data)
    return found


def _gains(r: Rates, data: str) -> dict[str, list[float]]:
    return {
        place: [r.asr_all(place, "minmax", K) - r.asr_all(place, "avg", K) for K in SIZES] for place in _places(r, data)
    }


def _show_gains(r: Rates, data: str) -> str:
    return "; ".join(f"{p} " + ", ".join(f"{100 * g:+.1f}" for g in gains) for p, gains in _gains(r, data).items())


def _lift(r: Rates, place: str, size: str) -> float:
    """Return the relative gain of ASR_gp, infinite where only min-max fools any group."""
    base, ours = r.asr_all(place, "avg", size), r.asr_all(place, "minmax", size)
    if base == 0:
        return inf if ours > 0 else 0.0
    return (ours - base) / base


def _mean_lift(r: Rates, data: str) -> float:
    """Return the mean lift at K = 5 over the models that have one: those that the average fools any group of."""
    lifts = [lift for place in _places(r, data) if isfinite(lift := _lift(r, place, "5"))]
    return sum(lifts) / max(len(lifts), 1)


def _falls(r: Rates, data: str) -> bool:
    levels = [[r.asr_all(p, s, K) for K in SIZES] for p in _places(r, data) for s in ("avg", "minmax")]
    return all(a > b for row in levels for a, b in pairwise(row))


def _show_levels(r: Rates, data: str) -> str:
    return "; ".join(f"{p} {percent(r.asr_all(p, 'minmax', K) for K in SIZES)}" for p in _places(r, data))


def _lifts(r: Rates, place: str) -> list[float]:
    return [_lift(r, place, K) for K in SIZES]


def _growing(r: Rates, data: str) -> float:
    places = _places(r, data)
    return sum(all(a < b for a, b in pairwise(_lifts(r, place))) for place in places) / len(places)


def _images_fall(r: Rates, data: str) -> bool:
    return all(r.asr_avg(p, "minmax", "10") < r.asr_avg(p, "avg", "10") for p in _places(r, data))


def _images_rise(r: Rates, data: str) -> bool:
    return all(r.asr_avg(p, "minmax", "2") > r.asr_avg(p, "avg", "2") for p in _places(r, data))


def _show_images(r: Rates, data: str, size: str) -> str:
    return "; ".join(f"{p} {percent(r.asr_avg(p, s, size) for s in ('avg', 'minmax'))}" for p in _places(r, data))


def _of(data: str, least: float, printed: str) -> tuple[Claim, ...]:
    short = data.split("-")[0].lower()
    claims = (
        Claim(
            f"{short}-minmax-beats-average",
            f"{data}: min-max fools more groups whole than the average, for every model and K.",
            lambda r: all(gain > 0 for gains in _gains(r, data).values() for gain in gains),
            lambda r: "points at K = 2, 4, 5, 10: " + _show_gains(r, data),
        ),
        Claim(
            f"{short}-mean-lift",
            f"{data}: at K = 5 the mean lift over the models is {100 * least:g} % or more (printed: {printed}).",
            lambda r: _mean_lift(r, data) >= least,
            lambda r: "lifts " + ", ".join(f"{p} {percent([_lift(r, p, '5')])} %" for p in _places(r, data)),
        ),
        Claim(
            f"{short}-falls-with-k",
            f"{data}: ASR_gp falls as K grows, for every model, by the average and by min-max.",
            lambda r: _falls(r, data),
            lambda r: "min-max " + _show_levels(r, data),
        ),
        Claim(
            f"{short}-lift-grows",
            f"{data}: for three models in four or more the lift grows with K throughout.",
            lambda r: _growing(r, data) >= 0.75,
            lambda r: "; ".join(f"{p} {percent(_lifts(r, p))} %" for p in _places(r, data)),
        ),
        Claim(
            f"{short}-images-at-2",
            f"{data}: at K = 2 min-max fools more images too, for every model.",
            lambda r: _images_rise(r, data),
            lambda r: "ASR_avg by average and min-max: " + _show_images(r, data, "2"),
        ),
    )
    if data != "MNIST":
        return claims
    fewer = Claim(
        "mnist-images-at-10",
        "MNIST: at K = 10 min-max fools fewer images than the average, for every model: groups are won at their cost.",
        lambda r: _images_fall(r, data),
        lambda r: "ASR_avg by average and min-max: " + _show_images(r, data, "10"),
    )
    return (*claims, fewer)


TABLE_2 = _of("MNIST", 0.40, "42.63 %") + _of("CIFAR-10", 0.25, "35.21 % over B, D, E and H, 27.1 % over B and D")
