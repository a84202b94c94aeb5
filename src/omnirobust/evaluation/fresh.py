"""How a random model is judged: perturbations are compared on some of its draws, and judged on others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from omnirobust.domains.classifier import Model, Probed
from omnirobust.domains.grid import DomainGrid
from omnirobust.domains.losses import signed_margin

_SELECTION, _JUDGEMENT = 2**30, 2**30 + 1
"""Restart numbers that key the draws on which perturbations are compared, and from where on those of judgement lie."""


@dataclass(frozen=True)
class Drawn:
    """What a random model says on fresh draws, of D for each question.

    Attributes:
        clean: whether it is right on the inputs as they are, (D, B) bool.
        right: whether it is right under each threat, at the perturbation kept for it, (D, B, threats) bool.
        worst: the share of the draws of selection, none of these, on which that perturbation fools, (B, threats).
    """

    clean: Tensor
    right: Tensor
    worst: Tensor

    def under(self, threats: Sequence[int], margin: Tensor) -> Tensor:
        """Say where the model is right if the attacker chooses among some threats, (D, B) bool.

        For each input the threat is chosen on the draws of selection, ties by the least mean ``margin`` (B, threats)
        there, and judged on fresh draws: being right on every one of several draws would be luck, not strength.
        """
        worst, columns = self.worst[:, list(threats)], torch.tensor(list(threats), device=self.worst.device)
        tied = torch.where(worst == worst.amax(1, keepdim=True), margin[:, columns], torch.inf)
        chosen = columns[tied.argmin(1)]
        return self.right.gather(2, chosen.expand(len(self.right), -1).unsqueeze(2))[..., 0]

    def to(self, device: torch.device | str) -> Drawn:
        """Move all tensors to ``device``."""
        return Drawn(self.clean.to(device), self.right.to(device), self.worst.to(device))

    @classmethod
    def joined(cls, parts: Sequence[Drawn]) -> Drawn:
        """Join those of the parts of one batch, in order."""
        clean, right = torch.cat([p.clean for p in parts], 1), torch.cat([p.right for p in parts], 1)
        return cls(clean, right, torch.cat([p.worst for p in parts]))


def most(right: Tensor) -> Tensor:
    """Say whether more than half of the draws, the first axis, are right."""
    return right.double().mean(0) > 0.5


@dataclass(frozen=True)
class Judge:
    """Asks one model, once if it is not random, else on several draws of its own.

    Attributes:
        model: it, or what a probe found of it.
        draws: how many times a random model is asked.
        seed: keys its draws, with the first row of each batch.
        first_row: global row of the first input.
        restart: sets these draws apart from others.
    """

    model: Model | Probed
    draws: int
    seed: int
    first_row: int = 0
    restart: int = _SELECTION

    def fresh(self, number: int) -> Judge:
        """Return a judge of draws that selection has not seen, others for every ``number``."""
        return replace(self, restart=_JUDGEMENT + number)

    def asked(
        self, x: Tensor, y: Tensor, row: int, see: Callable[[Tensor], None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Say where inputs fool the model, (D, n) bool, and by what margin z_y - max_{j != y} z_j, (D, n).

        Args:
            x: inputs as the model is to see them, (n, *S).
            y: labels, (n,).
            row: number of the first among all inputs.
            see: is shown all logits, in pieces.
        """

        def loss(logits: Tensor, labels: Tensor, *, targeted: bool = False) -> Tensor:
            if see is not None:
                see(logits.detach())
            return signed_margin(logits, labels, targeted=targeted)

        grid = DomainGrid(
            {"model": self.model}, x, y, loss=loss, seed=self.seed, restart=self.restart,
            first_row=self.first_row + row,
        )  # fmt: skip
        hits, margins = [], []
        for _ in range(self.draws if grid.random else 1):
            e = grid.evaluate(torch.zeros_like(x), grad=False)
            assert e.fooled is not None
            hits.append(e.fooled[:, 0])
            margins.append(e.losses[:, 0])
        return torch.stack(hits), torch.stack(margins)
