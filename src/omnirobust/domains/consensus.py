"""Models as an attack for others sees them: kinks rounded, images bent, and each told what all said the step before."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from omnirobust.core.types import Evaluation
from omnirobust.domains.grid import DomainGrid
from omnirobust.domains.losses import standardised, wants
from omnirobust.domains.memory import Part
from omnirobust.domains.passes import Cut, Found
from omnirobust.domains.soften import Softened
from omnirobust.domains.transforms import ImageTransform


class Consensus(DomainGrid):
    """A grid of models whose kinks may be rounded (``Softened``), and whose loss may want to know what all of them say.

    A loss with a keyword ``said`` is given it, (n, C): the mean over all models of their standardised logits of each
    image. They are those of the evaluation before, so that models still go one by one; at the first there are none.
    """

    _plain: Any
    _soft: bool  # whether kinks are rounded
    _asks: bool  # whether the loss wants to know
    _said: Tensor | None  # of the evaluation before, (R, E, B, C)
    _saying: list[Tensor]  # in this one, of each model

    @classmethod
    def of(cls, grid: DomainGrid, seen: ImageTransform, softened: bool = True) -> DomainGrid:
        """Return the domains of ``grid`` so, of models that see images through ``seen`` (``DomainGrid.through``).

        ``softened`` says whether kinks are rounded. Models that only answer are left alone.
        """
        if grid.asked is not None:
            return grid
        new = cls.__new__(cls)
        new.__dict__.update(grid.through(seen).__dict__)
        new._said, new._plain, new._whole = None, grid._loss, {}
        new._soft = softened
        new._asks = wants(grid._loss, "said")
        return new

    def evaluate(self, delta: Tensor, grad: bool = True) -> Evaluation:
        """Evaluate as any grid does, and remember what was said."""
        self._saying = []
        found = super().evaluate(delta, grad)
        self._said = torch.stack(self._saying).mean(0) if self._asks else None
        return found

    def select(self, rows: Tensor | slice) -> DomainGrid:
        """Keep the problems that ``rows`` lists."""
        chosen = super().select(rows)
        assert isinstance(chosen, Consensus)
        chosen._said = None if self._said is None else self._said[:, :, rows]
        return chosen

    def _piece(self, m: int, cut: Cut, delta: Tensor, grad: bool, watch: bool = False) -> Found:
        def loss(logits: Tensor, labels: Tensor, *, targeted: bool = False) -> Tensor:
            self._hear(m, cut.part, standardised(logits.detach()), len(delta))
            return self._plain(logits, labels, targeted=targeted, said=self._heard(cut.part))

        self._loss = loss if self._asks else self._plain
        with Softened() if self._soft else nullcontext():
            return super()._piece(m, cut, delta, grad, watch)

    def _hear(self, m: int, part: Part, z: Tensor, B: int) -> None:
        """Keep what model ``m`` says of a part (n, C), averaged over its draws."""
        if len(self._saying) == m:
            self._saying.append(z.new_empty(*self._sizes[1:], B, z.shape[1]))
        e, b = part.examples.stop - part.examples.start, len(range(B)[part.rows])
        blocks = z.split([len(slots) * e * b for slots in part.slots])
        means = [block.view(-1, e, b, z.shape[1]).mean(0) for block in blocks]
        part.put(torch.stack(means), self._saying[m])

    def _heard(self, part: Part) -> Tensor | None:
        """Return what all models said of the images of a part, in the order in which a model sees them, (n, C)."""
        if self._said is None:
            return None
        of_part = self._said[:, part.examples, part.rows]
        drawn = zip(part.transforms, part.slots, strict=True)
        return torch.cat([of_part[r].flatten(0, 1).repeat(len(slots), 1) for r, slots in drawn])
