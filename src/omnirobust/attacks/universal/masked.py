"""Images from which nothing is learned, since no gradient reaches them: gradient masking, seen over the first epoch."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from omnirobust.attacks.masking import GradientMaskingWarning, Masking, masked_rows, masking_notes
from omnirobust.core.types import Evaluation
from omnirobust.domains.grid import DomainGrid
from omnirobust.domains.losses import Loss

_WHERE = "as they come by first, from which nothing is learned there: success may be understated"


class MaskedImages:
    """Counts the images that resist and have no gradient when they come by for the first time."""

    def __init__(self) -> None:
        self._pairs: list[str] = []
        self._masked = torch.zeros(0)
        self._seen = 0
        self._masking = Masking()

    def see(self, grid: DomainGrid, evaluation: Evaluation, delta: Tensor) -> None:
        """Take note of the images of a mini-batch.

        Raises:
            GradientMaskingError: if a model masks all of enough of them.
        """
        self._pairs = [pair for pair, _ in grid.sources]
        masked = masked_rows(grid, evaluation, delta, self._masking).view(len(self._pairs), -1)
        self._masked = masked.sum(1).cpu() + (self._masked if self._seen else 0)
        self._seen += masked.shape[1]

    def notes(self, loss: Loss) -> list[str]:
        """Warn of models, and transformations before them, that mask too many, and return what was said.

        Raises:
            GradientMaskingError: if a model masks all images seen.
        """
        self._masking.judge(enough=1)
        told = masking_notes(self._masked / max(self._seen, 1), self._pairs, loss, _WHERE)
        for note in told:
            warnings.warn(note, GradientMaskingWarning, stacklevel=3)  # names the line that called the learner
        return told
