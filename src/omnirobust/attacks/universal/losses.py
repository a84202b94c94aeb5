"""The loss of the baseline."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from omnirobust.core.arguments import check_number
from omnirobust.domains.losses import neg_cross_entropy


@dataclass(frozen=True)
class ClippedCrossEntropy:
    """max(log p_y, -cap): the cross-entropy up to ``cap``, so that images which are fooled for sure stop pulling.

    Attributes:
        cap: in nats, > 0.

    Reference: Shafahi et al. 2020, "Universal adversarial training".
    """

    cap: float = 9.0

    def __post_init__(self) -> None:
        check_number("cap", self.cap, "> 0", lambda cap: cap > 0)

    def __call__(self, logits: Tensor, labels: Tensor, *, targeted: bool = False) -> Tensor:
        """Return the loss of every row, (B,)."""
        loss = neg_cross_entropy(logits, labels, targeted=targeted)
        return loss if targeted else loss.clamp_min(-self.cap)
