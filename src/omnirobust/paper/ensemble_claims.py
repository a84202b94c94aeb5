"""What the paper claims of Tables 1(a), 1(b), A2, A3 and A4, each claim a predicate on measured rates."""

from __future__ import annotations

from collections.abc import Sequence

from omnirobust.study.claims import Claim, Rates, in_order, order, percent

NORMS = ("l0", "l1", "l2", "linf")
HEURISTICS = ("w_c+d", "w_a+c+d", "w_clip", "w_prior", "w_static")


def _pairs(r: Rates, names: Sequence[str] = NORMS) -> str:
    return "; ".join(f"{n} {percent([r.asr_all(n, 'avg')])} to {percent([r.asr_all(n, 'minmax')])}" for n in names)


def _spread(accuracy: dict[str, float]) -> float:
    return max(accuracy.values()) - min(accuracy.values())


def _exchange(r: Rates) -> tuple[float, float]:
    """Return the mean fall of the linf accuracy of C and D, and the mean rise of that of A and B."""
    avg, minmax = r.accuracy("linf", "avg"), r.accuracy("linf", "minmax")
    return sum(avg[m] - minmax[m] for m in "CD") / 2, sum(minmax[m] - avg[m] for m in "AB") / 2


def _easiest_pays(r: Rates, norm: str) -> bool:
    avg, minmax = r.accuracy(norm, "avg"), r.accuracy(norm, "minmax")
    easiest = min(avg, key=lambda m: avg[m])
    return minmax[easiest] > avg[easiest]


def mean_lift(r: Rates) -> float:
    """Return the mean over the four norms of the lift of ASR_all."""
    return sum(r.lift(n, "minmax") for n in NORMS) / len(NORMS)


def _lift_claims(least: float, printed: str, largest: str) -> tuple[Claim, ...]:
    return (
        Claim(
            "mean-lift",
            f"Over the four norms min-max lifts ASR_all by {100 * least:g} % or more on average (printed: {printed}).",
            lambda r: mean_lift(r) >= least,
            lambda r: f"mean lift {percent([mean_lift(r)])} %",
        ),
        Claim(
            "lift-order",
            f"The lift is largest for {largest} and smallest for l0.",
            lambda r: (
                all(r.lift(largest, "minmax") > r.lift(n, "minmax") for n in NORMS if n != largest)
                and all(r.lift("l0", "minmax") < r.lift(n, "minmax") for n in NORMS if n != "l0")
            ),
            lambda r: "lifts " + ", ".join(f"{n} {percent([r.lift(n, 'minmax')])} %" for n in NORMS),
        ),
    )


TABLE_1A = (
    Claim(
        "minmax-beats-average",
        "Min-max fools all four models at once more often than the average, in every norm.",
        lambda r: all(r.asr_all(n, "minmax") > r.asr_all(n, "avg") for n in NORMS),
        _pairs,
    ),
    *_lift_claims(0.4, "40.79 %", "linf"),
    Claim(
        "levels",
        "Min-max reaches at least 89 % in every norm; the average never gets above 85 %.",
        lambda r: all(r.asr_all(n, "minmax") >= 0.89 and r.asr_all(n, "avg") <= 0.85 for n in NORMS),
        _pairs,
    ),
    Claim(
        "hardest-model",
        "In every norm the model that withstands the attack best keeps less accuracy under min-max.",
        lambda r: all(max(r.accuracy(n, "minmax").values()) < max(r.accuracy(n, "avg").values()) for n in NORMS),
        lambda r: "; ".join(
            f"{n} {percent([max(r.accuracy(n, s).values()) for s in ('avg', 'minmax')])}" for n in NORMS
        ),
    ),
    Claim(
        "spread",
        "In every norm the accuracies of the four models lie closer together under min-max.",
        lambda r: all(_spread(r.accuracy(n, "minmax")) < _spread(r.accuracy(n, "avg")) for n in NORMS),
        lambda r: "; ".join(f"{n} {percent([_spread(r.accuracy(n, s)) for s in ('avg', 'minmax')])}" for n in NORMS),
    ),
    Claim(
        "easiest-model-pays",
        "In every norm the model that the average fools most keeps more accuracy under min-max.",
        lambda r: all(_easiest_pays(r, n) for n in NORMS),
        lambda r: ", ".join(f"{n} {'yes' if _easiest_pays(r, n) else 'no'}" for n in NORMS),
    ),
    Claim(
        "accuracy-order",
        "For linf the accuracies fall in the order C > D > A > B, under the average and under min-max.",
        lambda r: all(in_order(r.accuracy("linf", s), "CDAB") for s in ("avg", "minmax")),
        lambda r: f"average {order(r.accuracy('linf', 'avg'))}, min-max {order(r.accuracy('linf', 'minmax'))}",
    ),
    Claim(
        "exchange",
        "For linf min-max gains 20 points or more on C and D and gives up less than 2 on A and B (31.47, 0.86 points).",
        lambda r: _exchange(r)[0] >= 0.20 and _exchange(r)[1] < 0.02,
        lambda r: (
            f"gains {percent(_exchange(r)[:1])} points on C and D, gives up {percent(_exchange(r)[1:])} on A and B"
        ),
    ),
)


def _clean(r: Rates, place: str = "") -> dict[str, float]:
    return {m: r.accuracy(place + m, "clean")[m] for m in "ABCD"}


def _fgsm(r: Rates, place: str = "") -> dict[str, float]:
    return {m: r.accuracy(place + m, "fgsm")[m] for m in "ABCD"}


TABLE_A2 = (
    Claim(
        "clean-level",
        "Every MNIST model classifies at least 98.2 % of the clean test images right.",
        lambda r: all(v >= 0.982 for v in _clean(r).values()),
        lambda r: ", ".join(f"{m} {100 * v:.2f}" for m, v in _clean(r).items()),
    ),
    Claim(
        "clean-order",
        "Clean accuracy falls in the order B > D > C > A.",
        lambda r: in_order(_clean(r), "BDCA"),
        lambda r: order(_clean(r)),
    ),
    Claim(
        "fgsm-order",
        "Accuracy under FGSM falls in the order C > D > B > A.",
        lambda r: in_order(_fgsm(r), "CDBA"),
        lambda r: order(_fgsm(r)),
    ),
    Claim(
        "clean-order-cifar10",
        "Of A to D on CIFAR-10 clean accuracy falls in the order B > D > C > A.",
        lambda r: in_order(_clean(r, "CIFAR-10 "), "BDCA"),
        lambda r: order(_clean(r, "CIFAR-10 ")),
    ),
    Claim(
        "fgsm-level-cifar10",
        "On CIFAR-10 each of A to D is below 16 % under FGSM.",
        lambda r: max(_fgsm(r, "CIFAR-10 ").values()) < 0.16,
        lambda r: ", ".join(f"{m} {100 * v:.2f}" for m, v in _fgsm(r, "CIFAR-10 ").items()),
    ),
)


def _both(test: str, other: str, r: Rates) -> bool:
    return all(r.asr_all(n, test) > r.asr_all(n, other) for n in ("l2", "linf"))


def _schemes(r: Rates, schemes: Sequence[str]) -> str:
    return "; ".join(n + " " + ", ".join(f"{s} {percent([r.asr_all(n, s)])}" for s in schemes) for n in ("l2", "linf"))


TABLE_A4 = (
    Claim(
        "minmax-best",
        "Min-max has the highest ASR_all and the highest ASR_avg of the seven schemes, for l2 and linf.",
        lambda r: all(
            rate(n, "minmax") > rate(n, s)
            for n in ("l2", "linf")
            for s in ("avg", *HEURISTICS)
            for rate in (r.asr_all, r.asr_avg)
        ),
        lambda r: _schemes(r, ("avg", *HEURISTICS, "minmax")),
    ),
    Claim(
        "best-heuristics",
        "Of the heuristics w_static is best on ASR_all, then w_prior, then w_clip, for l2 and linf.",
        lambda r: _both("w_static", "w_prior", r) and _both("w_prior", "w_clip", r),
        lambda r: _schemes(r, ("w_static", "w_prior", "w_clip")),
    ),
    Claim(
        "c+d-worst",
        "Attacking only C and D has the lowest ASR_all, below the plain average, for l2 and linf.",
        lambda r: all(_both(s, "w_c+d", r) for s in ("avg", *HEURISTICS[1:], "minmax")),
        lambda r: _schemes(r, ("w_c+d", "avg")),
    ),
    Claim(
        "a+c+d",
        "Attacking only A, C and D is worse than the average for l2 and better for linf.",
        lambda r: (
            r.asr_all("l2", "w_a+c+d") < r.asr_all("l2", "avg")
            and r.asr_all("linf", "w_a+c+d") > r.asr_all("linf", "avg")
        ),
        lambda r: _schemes(r, ("w_a+c+d", "avg")),
    ),
    Claim(
        "beats-static",
        "Min-max beats its own mean weights held fixed, for l2 and linf (by 4.78 and 12.32 points).",
        lambda r: _both("minmax", "w_static", r),
        lambda r: _schemes(r, ("w_static", "minmax")),
    ),
    Claim(
        "static-order",
        "The mean weights that min-max ends with fall in the order C > D > A > B, for l2 and linf.",
        lambda r: all(in_order(r.weights(n, "minmax"), "CDAB") for n in ("l2", "linf")),
        lambda r: "; ".join(
            n + " " + ", ".join(f"{m} {w:.3f}" for m, w in r.weights(n, "minmax").items()) for n in ("l2", "linf")
        ),
    ),
)


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


_A_HARDEST = Claim(
    "a-hardest",
    "In every norm A, the MLP, withstands the average attack best.",
    lambda r: all(_a_is_hardest(r, n) for n in NORMS),
    lambda r: "; ".join(
        f"{n} A {percent([r.accuracy(n, 'avg')['A']])}, others up to "
        f"{percent([max(v for m, v in r.accuracy(n, 'avg').items() if m != 'A')])}"
        for n in NORMS
    ),
)


def _exchange_with(raised: str) -> Claim:
    return Claim(
        "exchange",
        f"In every norm min-max gains on A and gives up accuracy points on {', '.join(raised)}.",
        lambda r: all(_exchanged(r, n, raised) for n in NORMS),
        _show_changes,
    )


_SHARED = tuple(claim for claim in TABLE_1A if claim.name in SHARED)

TABLE_1B = (
    *_SHARED,
    *_lift_claims(0.17, "19.27 %, in the text 17.48 %", "l1"),
    _A_HARDEST,
    Claim(
        "a-falls-most",
        "In every norm min-max takes more accuracy from A than from any other model.",
        lambda r: all(_a_falls_most(r, n) for n in NORMS),
        _show_changes,
    ),
    _exchange_with("B"),
)

TABLE_A3 = (*_SHARED, *_lift_claims(0.15, "15.69 %", "l1"), _A_HARDEST, _exchange_with("EFH"))
