"""What the paper claims of Tables 1(b) and A3, each claim a predicate on measured rates."""

from __future__ import annotations

from omnirobust.paper.ensemble_claims import NORMS, TABLE_1A, mean_lift
from omnirobust.study.claims import Claim, Rates, percent

SHARED = ("minmax-beats-average", "hardest-model", "spread", "easiest-model-pays")
"""Claims of Table 1(a) that are made of these tables too."""


def _changes(r: Rates, norm: str) -> dict[str, float]:
    """Return how much more accurate each model is under min-max."""
    avg, minmax = r.accuracy(norm, "avg"), r.accuracy(norm, "minmax")
    return {m: minmax[m] - avg[m] for m in avg}


def _show_changes(r: Rates) -> str:
    told = {n: ", ".join(f"{m} {100 * v:+.1f}" for m, v in _changes(r, n).items()) for n in NORMS}
    return "points: " + "; ".join(f"{norm} {changes}" for norm, changes in told.items())


def _a_is_hardest(r: Rates, norm: str) -> bool:
    avg = r.accuracy(norm, "avg")
    return all(avg["A"] > value for m, value in avg.items() if m != "A")


def _a_falls_most(r: Rates, norm: str) -> bool:
    changes = _changes(r, norm)
    return all(changes["A"] < value for m, value in changes.items() if m != "A")


def _exchanged(r: Rates, norm: str, raised: str) -> bool:
    changes = _changes(r, norm)
    return changes["A"] < 0 and all(changes[m] > 0 for m in raised)


def _lift_claims(least: float, printed: str) -> tuple[Claim, ...]:
    return (
        Claim(
            "mean-lift",
            f"Over the four norms min-max lifts ASR_all by {100 * least:g} % or more on average (printed: {printed}).",
            lambda r: mean_lift(r) >= least,
            lambda r: f"mean lift {percent([mean_lift(r)])} %",
        ),
        Claim(
            "lift-order",
            "The lift is largest for l1 and smallest for l0.",
            lambda r: (
                all(r.lift("l1", "minmax") > r.lift(n, "minmax") for n in ("l0", "l2", "linf"))
                and all(r.lift("l0", "minmax") < r.lift(n, "minmax") for n in ("l1", "l2", "linf"))
            ),
            lambda r: "lifts " + ", ".join(f"{n} {percent([r.lift(n, 'minmax')])} %" for n in NORMS),
        ),
        Claim(
            "a-hardest",
            "In every norm A, the MLP, withstands the average attack best.",
            lambda r: all(_a_is_hardest(r, n) for n in NORMS),
            lambda r: "; ".join(
                f"{n} A {percent([r.accuracy(n, 'avg')['A']])}, others up to "
                f"{percent([max(v for m, v in r.accuracy(n, 'avg').items() if m != 'A')])}"
                for n in NORMS
            ),
        ),
    )


def _exchange(raised: str) -> Claim:
    return Claim(
        "exchange",
        f"In every norm min-max gains on A and gives up accuracy points on {', '.join(raised)}.",
        lambda r: all(_exchanged(r, n, raised) for n in NORMS),
        _show_changes,
    )


_SHARED = tuple(claim for claim in TABLE_1A if claim.name in SHARED)

TABLE_1B = (
    *_SHARED,
    *_lift_claims(0.17, "19.27 %, in the text 17.48 %"),
    Claim(
        "a-falls-most",
        "In every norm min-max takes more accuracy from A than from any other model.",
        lambda r: all(_a_falls_most(r, n) for n in NORMS),
        _show_changes,
    ),
    _exchange("B"),
)

TABLE_A3 = (*_SHARED, *_lift_claims(0.15, "15.69 %"), _exchange("EFH"))
