"""What the paper claims of Figures 1, 2 and A1, each claim a predicate on measured rates."""

from __future__ import annotations

from torch import Tensor

from omnirobust.study.claims import Claim, Rates, in_order, order, percent
from omnirobust.study.spec import REFERENCE

SETTLED = 0.05
"""How near to its final value a mean weight must stay to count as settled."""


def settling_step(path: Tensor, tolerance: float = SETTLED) -> int:
    """Return the first step from which on every mean weight stays within ``tolerance`` of its final value.

    Args:
        path: mean weights at each iterate, (T+1, K).
    """
    far = ((path - path[-1]).abs() > tolerance).any(1).nonzero()
    return int(far[-1]) + 1 if len(far) else 0


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


def _radius_claims(panel: str, low: float = 0.15, high: float = 0.25) -> tuple[Claim, ...]:
    place, models = panel.rpartition(" ")[::2]
    models = ("A, B, C" if models == "ABC" else "A to D") + (f" of {place}" if place else "")
    return (
        Claim(
            f"never-worse-{panel}",
            f"On {models} min-max is never more than one point below the average, whatever the radius.",
            lambda r: all(gain >= -0.01 for gain in _gains(r, panel).values()),
            lambda r: _show_gains(r, panel),
        ),
        Claim(
            f"moderate-radius-{panel}",
            f"On {models} min-max gains most at a radius between {low:g} and {high:g}.",
            lambda r: low <= max(_gains(r, panel), key=lambda e: _gains(r, panel)[e]) <= high,
            lambda r: _show_gains(r, panel),
        ),
    )


FIGURE_2 = (
    _radius_claims("ABCD") + _radius_claims("ABC")
    + _radius_claims("CIFAR-10 ABCD", 0.03, 0.05) + _radius_claims("CIFAR-10 ABC", 0.03, 0.05)
)  # fmt: skip


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


FIGURE_A1 = _gamma_claims("linf") + _gamma_claims("l2")
