"""What a model is trained against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from omnirobust._types import WeightRule
from omnirobust.threat_models import ThreatModel

Kind = Literal["natural", "single", "average", "minmax", "worst"]
Persist = Literal["none", "batch"]


@dataclass(frozen=True)
class Scheme:
    """The settings of one way of training.

    Attributes:
        kind: "natural" (no attack), "single" (one threat model), "average" (all equally), "minmax" (learned weights,
            Algorithm 2) or "worst" (the hardest threat model of each example).
        threats: the threat models trained against, one or more except for "natural", exactly one for "single".
        steps: ascent steps of the attacker on each mini-batch.
        rule: how the weights answer the losses for "minmax"; None for the default.
        dpar: weight of the diversity-promoting attack regulariser (17), >= 0.
        persist: whether the weights start anew at each mini-batch ("none") or carry over to the next ("batch").
        adversarial_ratio: share of the mini-batch that is attacked, in [0, 1].
    """

    kind: Kind = "natural"
    threats: tuple[ThreatModel, ...] = ()
    steps: int = 20
    rule: WeightRule | None = None
    dpar: float = 0.0
    persist: Persist = "none"
    adversarial_ratio: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        object.__setattr__(self, "threats", tuple(self.threats))  # a list is as good
        self._check_threats()
        if self.steps < 1:
            raise ValueError(f"steps must be >= 1, got {self.steps}")
        if self.rule is not None and self.kind != "minmax":
            raise ValueError(f"rule must be None unless kind is minmax, got {self.rule!r} with kind {self.kind!r}")
        if not 0 <= self.dpar < float("inf"):
            raise ValueError(f"dpar must be >= 0, got {self.dpar}")
        if self.persist not in get_args(Persist):
            raise ValueError(f"persist must be one of {', '.join(get_args(Persist))}, got {self.persist!r}")
        if not 0 <= self.adversarial_ratio <= 1:
            raise ValueError(f"adversarial_ratio must be in [0, 1], got {self.adversarial_ratio}")

    def _check_threats(self) -> None:
        for threat in self.threats:
            if not isinstance(threat, ThreatModel):
                raise ValueError(f"threats must be threat models such as Linf(0.2), got {threat!r}")
        count = len(self.threats)
        if self.kind == "natural" and count:
            raise ValueError(f"threats must be empty for kind natural, got {count}")
        if self.kind == "single" and count != 1:
            raise ValueError(f"threats must be exactly one for kind single, got {count}")
        if self.kind not in ("natural", "single") and count < 1:
            raise ValueError(f"threats must be at least one for kind {self.kind}, got none")
