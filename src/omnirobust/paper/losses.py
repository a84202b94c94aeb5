"""Losses that only the comparisons need: the clipped hinge of Table A4, the released code's, an earlier default."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from omnirobust.attacks.presets import AttackSettings
from omnirobust.core.arguments import check_count
from omnirobust.domains.losses import margin, standardised_margin


def as_measured(default: AttackSettings) -> AttackSettings:
    """Return a default attack with the loss that its published rows were measured with."""
    return replace(default, loss=standardised_margin)


@dataclass(frozen=True)
class ClippedMargin:
    """The C&W hinge cut off from below: max(max(z_y - max_{j != y} z_j + kappa, 0), threshold).

    A model that is fooled by more than ``kappa - threshold`` logits stops pulling, so that the others are heard: the
    heuristic w_clip of Table A4 (threshold 40, kappa 50). The paper does not write the clip down. Cut off from above,
    min(F, 40), a model would pull only once it is fooled by ten logits, and no attack would start.

    Args:
        threshold: where the loss goes flat, >= 0.
        kappa: confidence of the hinge, >= 0.

    Reference: the paper, Appendix D.2; Shafahi et al. 2018, "Universal adversarial training".
    """

    threshold: float = 40.0
    kappa: float = 50.0

    def __post_init__(self) -> None:
        for name, value in (("threshold", self.threshold), ("kappa", self.kappa)):
            check_count(name, value, 0, whole=False)

    def __call__(self, logits: Tensor, labels: Tensor, *, targeted: bool = False) -> Tensor:
        """Return the loss of every row of ``logits`` (B, C), (B,)."""
        return margin(logits, labels, self.kappa, targeted=targeted).clamp_min(self.threshold)


@dataclass(frozen=True)
class Margin:
    """The C&W hinge with a confidence of one's choice: max(z_y - max_{j != y} z_j + kappa, 0).

    Args:
        kappa: confidence, >= 0.
    """

    kappa: float

    def __post_init__(self) -> None:
        if not self.kappa >= 0:
            raise ValueError(f"kappa must be >= 0, got {self.kappa}")

    def __call__(self, logits: Tensor, labels: Tensor, *, targeted: bool = False) -> Tensor:
        """Return the loss of every row of ``logits`` (B, C), (B,)."""
        return margin(logits, labels, self.kappa, targeted=targeted)


@dataclass(frozen=True)
class LabelLogit:
    """max(z_y + kappa, 0): what the released code's hinge comes to, as it masks every wrong logit with 0.

    It lowers the logit of the label and never looks for the best wrong class.

    Args:
        kappa: confidence, >= 0.
    """

    kappa: float = 50.0

    def __post_init__(self) -> None:
        if not self.kappa >= 0:
            raise ValueError(f"kappa must be >= 0, got {self.kappa}")

    def __call__(self, logits: Tensor, labels: Tensor, *, targeted: bool = False) -> Tensor:
        """Return the loss of every row of ``logits`` (B, C), (B,).

        Raises:
            ValueError: if ``targeted``, which the released code has no form of.
        """
        if targeted:
            raise ValueError("targeted must be False: this loss only lowers the logit of the label")
        picked = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
        return (picked + self.kappa).clamp_min(0)
