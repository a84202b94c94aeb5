"""What the paper claims of Tables 2, A9 and A10, each claim a predicate on measured rates.

Claims of CIFAR-10 are judged on those of its four models that were measured.
"""

from __future__ import annotations

from itertools import combinations, pairwise
from math import inf, isfinite

from torch import Tensor

from omnirobust.evaluation.rank_correlation import spearman
from omnirobust.study.claims import Claim, Key, Rates, Statistic, percent

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
