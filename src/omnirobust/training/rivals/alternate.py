"""Which of two norms a mini-batch is trained on: the likelier the worse the model has fared under it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from omnirobust.core.draws import DrawKey, uniforms

_APART = -2
"""Keys these draws, apart from those of random starts."""


class RunningErrors:
    """What share of the examples two attacks have beaten over a training, and the draws that follow from it.

    Norm i is drawn with probability e_i / (e_0 + e_1), e_i the share of the examples that were wrong under it over all
    mini-batches that it was drawn for. Both are as likely until both have been drawn, and while neither beats any.

    Reference: Croce and Hein, 2022 (E-AT).
    """

    def __init__(self) -> None:
        self.right, self.seen, self.draws = [0.0, 0.0], [0.0, 0.0], 0

    def chances(self) -> tuple[float, float]:
        """Return the probabilities of both."""
        if not all(self.seen):
            return 0.5, 0.5
        wrong = [1 - right / seen for right, seen in zip(self.right, self.seen, strict=True)]
        return (wrong[0] / sum(wrong), wrong[1] / sum(wrong)) if sum(wrong) else (0.5, 0.5)

    def draw(self, seed: int) -> int:
        """Return 0 or 1, which depends on ``seed``, on the number of draws before and on what was noted."""
        u = float(uniforms(DrawKey(seed, _APART, self.draws), torch.zeros(1, dtype=torch.int64), 1))
        self.draws += 1
        return int(u >= self.chances()[0])

    def note(self, drawn: int, right: float, seen: int) -> None:
        """Add the examples of a mini-batch, and how many were right under attack."""
        self.right[drawn] += right
        self.seen[drawn] += seen

    def state(self) -> dict[str, Tensor]:
        """Return the counts and the number of draws."""
        counts = torch.tensor([self.right, self.seen], dtype=torch.float64)
        return {"errors": counts, "draws": torch.tensor(self.draws)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put them back."""
        self.right, self.seen = state["errors"].tolist()
        self.draws = int(state["draws"])
