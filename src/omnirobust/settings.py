"""Settings of the attacks as data: the paper's, and the tuned defaults, one row a norm."""

from __future__ import annotations

from dataclasses import dataclass

from omnirobust import losses
from omnirobust._types import WeightRule
from omnirobust.adaptive import Adaptive
from omnirobust.directions import Direction, RawGradient
from omnirobust.losses import Loss
from omnirobust.solver import Keep
from omnirobust.starts import Start
from omnirobust.weights import ExponentiatedGradient, ProjectedAscent


@dataclass(frozen=True)
class AttackSettings:
    """Everything a recipe may leave to a norm: the rule, how delta moves, what it lowers, where it starts."""

    rule: WeightRule
    direction: Direction
    step_size: float | None
    loss: Loss
    start: Start
    keep: Keep


def _paper(alpha: float, beta: float, gamma: float) -> AttackSettings:
    return AttackSettings(ProjectedAscent(beta, gamma), RawGradient(), alpha, losses.margin, "normal", "last")


PAPER: dict[str, AttackSettings] = {
    "l0": _paper(1.0, 1 / 100, 7),
    "l1": _paper(1 / 4, 1 / 100, 5),
    "l2": _paper(1 / 10, 1 / 100, 3),
    "linf": _paper(1 / 4, 1 / 50, 3),
}
"""Algorithm 1 as the paper runs it on MNIST (Table 1(a), Appendix C.2): raw gradients, the C&W hinge with kappa = 50,
alpha, beta and gamma of each norm, the last iterate. The text is silent on the start: noise, as the released code."""

_TUNED = AttackSettings(ExponentiatedGradient(0.5), Adaptive(), None, losses.standardised_margin, "zero", "best")

DEFAULT: dict[str, AttackSettings] = {"l0": _TUNED, "l1": _TUNED, "l2": _TUNED, "linf": _TUNED}
"""The user's default of each norm; docs/defaults.md says how it was chosen. One setting won in all four norms."""
