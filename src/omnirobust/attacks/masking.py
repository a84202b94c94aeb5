"""Models that let no gradient through: which they are, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from omnirobust.core.types import Evaluation
from omnirobust.domains.grid import DomainGrid
from omnirobust.domains.loss_grid import LossGrid
from omnirobust.domains.losses import Loss, signed_margin, smooth_margin

_ENOUGH = 100
"""Rows that a model must mask, and no other, before an attack in batches is stopped for it."""


MASKED = 0.05
"""The share of rows without any gradient from which on it is said that gradients are masked."""

HINT = (
    "is there a step function, a rounding or a detach inside? A program of torch.export may have lost a backward pass "
    "of its own, such as a straight-through one: attack the module that it was made from"
)


class GradientMaskingError(ValueError):
    """No gradient reaches any input: a gradient attack cannot see the model."""


class GradientMaskingWarning(UserWarning):
    """No gradient reaches some of the inputs: the attack begins there without a direction."""


@dataclass
class Masking:
    """Which models, and transformations before them, have let no gradient through so far, over all batches.

    Attributes:
        open: how many rows each still resisted, of those batches in which a row had no gradient.
        seeing: those that let one through.
    """

    open: dict[str, int] = field(default_factory=dict)
    seeing: set[str] = field(default_factory=set)

    def note(self, name: str, open_rows: int, blocked: bool) -> None:
        """Take note of a batch: how many rows ``name`` still resisted in it, and whether it masks all of them."""
        self.open[name] = self.open.get(name, 0) + open_rows
        if open_rows and not blocked:
            self.seeing.add(name)

    def judge(self, enough: int) -> None:
        """Raise a GradientMaskingError if one masked all rows seen, and these are ``enough`` to say so."""
        for name, rows in self.open.items():
            if name not in self.seeing and rows >= enough:
                raise GradientMaskingError(
                    f"gradient masking: {name} has zero input gradient on every row, so that a gradient attack cannot "
                    f"see it ({HINT})"
                )


_AT_START = "at the start, where the attack begins without a direction and success may be understated"


def masking_notes(zero_gradient: Tensor, pairs: Sequence[str], loss: Loss | None, where: str = _AT_START) -> list[str]:
    """Say of which models, and transformations before them, too many rows began without a gradient.

    Args:
        zero_gradient: the share of rows of each domain, (K,).
        pairs: of model and transformation, as messages name them.
        loss: of the attack: where it may be one that saturates, another is named. None for losses of the caller's own.
        where: on which rows, and what follows from it.
    """
    shares = zero_gradient.view(len(pairs), -1).mean(1).tolist()
    advice = "an attack that needs no gradient, such as AutoAttack's Square, shows how much"
    if loss is None:
        advice = HINT.partition("?")[0] + "?"
    elif loss not in (smooth_margin, signed_margin):
        advice = f"try loss=losses.smooth_margin, which does not saturate; {advice}"
    return [
        f"Gradient masking: the input gradient of {pair} is zero on {100 * share:.2f} % of the rows {where} ({advice})."
        for pair, share in zip(pairs, shares, strict=True)
        if share >= MASKED
    ]


def masked_rows(grid: DomainGrid | LossGrid, evaluation: Evaluation, delta: Tensor, masking: Masking) -> Tensor:
    """Say which rows resist and have no gradient under each domain, (B, K) bool; ``masking`` takes note.

    Raises:
        GradientMaskingError: if a model masks all of enough rows.
    """
    assert evaluation.grads is not None
    flat = torch.stack([(grad.flatten(1) == 0).all(dim=1) for grad in evaluation.grads], 1)
    open_ = torch.ones_like(flat) if evaluation.fooled is None else ~evaluation.fooled
    masked = flat & open_
    for source, (name, domains) in enumerate(grid.sources):
        resisting = open_[:, domains]
        all_masked = bool(resisting.any()) and bool((masked[:, domains] == resisting).all())
        blocked = all_masked and grid.blocks_gradient(source, delta)
        masking.note(name, int(resisting.any(1).sum()), blocked)
    masking.judge(enough=_ENOUGH)
    return masked
