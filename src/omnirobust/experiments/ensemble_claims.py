"""What the paper claims of its ensemble experiments, each as a predicate on measured rates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from torch import Tensor

from omnirobust.experiments.claims import Claim, Rates
from omnirobust.experiments.spec import REFERENCE

NORMS = ("l0", "l1", "l2", "linf")
HEURISTICS = ("w_c+d", "w_a+c+d", "w_clip", "w_prior", "w_static")
SETTLED = 0.05
"""How near to its final value a mean weight must stay to count as settled."""


def settling_step(path: Tensor, tolerance: float = SETTLED) -> int:
    """Return the first step from which on every mean weight stays within ``tolerance`` of its final value.

    Args:
        path: mean weights at each iterate, (T+1, K).
    """
    far = ((path - path[-1]).abs() > tolerance).any(1).nonzero()
    return int(far[-1]) + 1 if len(far) else 0


def order(values: dict[str, float]) -> str:
    """Write the names from the largest value to the smallest: "C > D > A > B"."""
    return " > ".join(sorted(values, key=lambda name: -values[name]))


def in_order(values: dict[str, float], names: Sequence[str]) -> bool:
    """Say whether the values fall strictly in the order of the names."""
    return all(values[a] > values[b] for a, b in pairwise(names))


def percent(values: Iterable[float]) -> str:
    """Write fractions as percentages."""
    return ", ".join(f"{100 * v:.1f}" for v in values)


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


def _mean_lift(r: Rates) -> float:
    return sum(r.lift(n, "minmax") for n in NORMS) / len(NORMS)


TABLE_1A = (
    Claim(
        "minmax-beats-average",
        "Min-max fools all four models at once more often than the average, in every norm.",
        lambda r: all(r.asr_all(n, "minmax") > r.asr_all(n, "avg") for n in NORMS),
        _pairs,
    ),
    Claim(
        "mean-lift",
        "Over the four norms min-max lifts ASR_all by 40 % or more on average (printed: 40.79 %).",
        lambda r: _mean_lift(r) >= 0.40,
        lambda r: f"mean lift {percent([_mean_lift(r)])} %",
    ),
    Claim(
        "lift-order",
        "The lift is largest for linf and smallest for l0.",
        lambda r: (
            all(r.lift("linf", "minmax") > r.lift(n, "minmax") for n in ("l0", "l1", "l2"))
            and all(r.lift("l0", "minmax") < r.lift(n, "minmax") for n in ("l1", "l2", "linf"))
        ),
        lambda r: "lifts " + ", ".join(f"{n} {percent([r.lift(n, 'minmax')])} %" for n in NORMS),
    ),
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
        "For linf min-max gains ten times as much on C and D as it gives up on A and B, or more (31.47, 0.86 points).",
        lambda r: _exchange(r)[0] > 0 and _exchange(r)[0] >= 10 * _exchange(r)[1],
        lambda r: (
            f"gains {percent(_exchange(r)[:1])} points on C and D, gives up {percent(_exchange(r)[1:])} on A and B"
        ),
    ),
)


def _clean(r: Rates) -> dict[str, float]:
    return {m: r.accuracy(m, "clean")[m] for m in "ABCD"}


def _fgsm(r: Rates) -> dict[str, float]:
    return {m: r.accuracy(m, "fgsm")[m] for m in "ABCD"}


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


def _path(r: Rates) -> Tensor:
    return r.weights_path("linf", "minmax")


FIGURE_1 = (
    Claim(
        "average-neglects-c-d",
        "At the end of the average attack C and D are each fooled less often than A and B.",
        lambda r: min(r.accuracy("linf", "avg")[m] for m in "CD") > max(r.accuracy("linf", "avg")[m] for m in "AB"),
        lambda r: "fooled " + ", ".join(f"{m} {percent([1 - v])}" for m, v in r.accuracy("linf", "avg").items()),
    ),
    Claim(
        "weight-of-d",
        "The weight of D first rises, and falls by 0.05 or more afterwards (0.45 to 0.30).",
        lambda r: bool(_path(r)[:, 3].max() >= max(_path(r)[0, 3], _path(r)[-1, 3]) + 0.05),
        lambda r: (
            f"from {_path(r)[0, 3]:.2f} to {_path(r)[:, 3].max():.2f} at step {int(_path(r)[:, 3].argmax())}, "
            f"at the end {_path(r)[-1, 3]:.2f}"
        ),
    ),
    Claim(
        "weights-settle",
        f"The mean weights settle in a fifth of the steps: after that they stay within {SETTLED} of their last values.",
        lambda r: settling_step(_path(r)) <= (len(_path(r)) - 1) / 5,
        lambda r: f"settled from step {settling_step(_path(r))} of {len(_path(r)) - 1} on",
    ),
    Claim(
        "weight-order",
        "The mean weights end in the order C > D > A > B.",
        lambda r: in_order(r.weights("linf", "minmax"), "CDAB"),
        lambda r: ", ".join(f"{m} {w:.3f}" for m, w in r.weights("linf", "minmax").items()),
    ),
    Claim(
        "weights-tell-robustness",
        "The weights of min-max order the models as their accuracies under the average attack do.",
        lambda r: order(r.weights("linf", "minmax")) == order(r.accuracy("linf", "avg")),
        lambda r: f"weights {order(r.weights('linf', 'minmax'))}, accuracies {order(r.accuracy('linf', 'avg'))}",
    ),
)


def _points(r: Rates, first: str) -> list[str]:
    points = {k[-1] for k in r.keys() if k[0] == first and k[1] == "minmax" and k[-1] != REFERENCE}  # noqa: SIM118
    if not points:
        raise KeyError(first)
    return sorted(points, key=float)


def _gains(r: Rates, panel: str) -> dict[float, float]:
    return {float(e): r.asr_all(panel, "minmax", e) - r.asr_all(panel, "avg", e) for e in _points(r, panel)}


def _show_gains(r: Rates, panel: str) -> str:
    return "gain " + ", ".join(f"{100 * g:+.1f} at {e:g}" for e, g in _gains(r, panel).items())


def _radius_claims(panel: str) -> tuple[Claim, ...]:
    models = "A, B, C" if panel == "ABC" else "A to D"
    return (
        Claim(
            f"never-worse-{panel}",
            f"On {models} min-max is never more than one point below the average, whatever the radius.",
            lambda r: all(gain >= -0.01 for gain in _gains(r, panel).values()),
            lambda r: _show_gains(r, panel),
        ),
        Claim(
            f"moderate-radius-{panel}",
            f"On {models} min-max gains most at a radius between 0.15 and 0.25.",
            lambda r: 0.15 <= max(_gains(r, panel), key=lambda e: _gains(r, panel)[e]) <= 0.25,
            lambda r: _show_gains(r, panel),
        ),
    )


FIGURE_2 = _radius_claims("ABCD") + _radius_claims("ABC")


def _gammas(r: Rates, norm: str) -> dict[float, float]:
    return {float(g): r.asr_all(norm, "minmax", g) for g in _points(r, norm)}


def _show_gammas(r: Rates, norm: str) -> str:
    return "ASR_all " + ", ".join(f"{100 * v:.1f} at {g:g}" for g, v in _gammas(r, norm).items())


def _argbest(values: dict[float, float]) -> float:
    return max(values, key=lambda point: values[point])


def _gamma_claims(norm: str) -> tuple[Claim, ...]:
    return (
        Claim(
            f"small-gamma-{norm}",
            f"For {norm} no regularisation (gamma = 0) is more than a point worse than the best gamma.",
            lambda r: max(_gammas(r, norm).values()) > _gammas(r, norm)[0.0] + 0.01,
            lambda r: _show_gammas(r, norm),
        ),
        Claim(
            f"large-gamma-{norm}",
            f"For {norm} gamma = 10 is more than a point worse than the best gamma.",
            lambda r: max(_gammas(r, norm).values()) > list(_gammas(r, norm).values())[-1] + 0.01,
            lambda r: _show_gammas(r, norm),
        ),
        Claim(
            f"best-gamma-{norm}",
            f"For {norm} the best gamma lies between 3 and 5.",
            lambda r: 3 <= _argbest(_gammas(r, norm)) <= 5,
            lambda r: f"best at {_argbest(_gammas(r, norm)):g}",
        ),
    )


CLAIMS: dict[str, tuple[Claim, ...]] = {
    "table-1a": TABLE_1A,
    "table-a2": TABLE_A2,
    "table-a4": TABLE_A4,
    "figure-1": FIGURE_1,
    "figure-2": FIGURE_2,
    "figure-a1": _gamma_claims("linf") + _gamma_claims("l2"),
}
"""Experiment name to what the paper claims of it."""
