"""What still stands under one threat while attack after attack is run on it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor

from omnirobust._models import Model
from omnirobust.domains import DomainGrid
from omnirobust.evaluation._threats import lies_inside
from omnirobust.losses import signed_margin
from omnirobust.threat_models import ThreatModel

INNER = "from another threat"
"""What the examples are called that were found for a threat inside this one."""


@dataclass
class Standing:
    """The inputs of one model under one threat: which are right still, and the worst perturbation of each so far.

    Attributes:
        model: maps (n, *S) to logits (n, C).
        x: inputs, (B, *S).
        y: labels, (B,) int64.
        threat: what the attacker may do.
        right: whether nothing has fooled the model yet, (B,) bool.
        margin: the least z_y - max_{j != y} z_j seen, (B,).
        delta: where it was seen, (B, *S).
        breaks: how many inputs fell to what.
    """

    model: Model
    x: Tensor
    y: Tensor
    threat: ThreatModel
    right: Tensor
    margin: Tensor
    delta: Tensor
    breaks: Counter[str] = field(default_factory=Counter)

    def rows(self) -> Tensor:
        """Return the indices of the inputs that stand, int64."""
        return self.right.nonzero().flatten()

    def note(self, rows: Tensor, delta: Tensor, label: str) -> None:
        """Judge perturbations ``delta`` (n, *S) of inputs ``rows``, made by ``label``, and keep the worse."""
        fooled, margin = judged(self.model, self.x[rows], self.y[rows], delta, self.threat.bounds)
        self.breaks[label] += int(fooled.sum())
        self._keep(rows, fooled, margin, delta, fooled | (margin < self.margin[rows]))

    def borrow(self, other: Standing) -> None:
        """Let what fell under ``other``, where it lies inside this threat, fall here too."""
        rows = (self.right & ~other.right & lies_inside(other.threat, self.threat, self.x)).nonzero().flatten()
        if len(rows):
            self.breaks[INNER] += len(rows)
            every = torch.ones_like(rows, dtype=torch.bool)
            self._keep(rows, every, other.margin[rows], other.delta[rows], every)

    def _keep(self, rows: Tensor, fooled: Tensor, margin: Tensor, delta: Tensor, worse: Tensor) -> None:
        self.right[rows[fooled]] = False
        self.margin[rows[worse]] = margin[worse]
        self.delta[rows[worse]] = delta[worse]


@dataclass(frozen=True)
class Clean:
    """The model on the inputs as they are.

    Attributes:
        right: (B,) bool.
        margin: z_y - max_{j != y} z_j, (B,).
        rivals: the wrong classes, the likeliest first, (B, C - 1) int64.
    """

    right: Tensor
    margin: Tensor
    rivals: Tensor

    def standing(self, model: Model, x: Tensor, y: Tensor, threat: ThreatModel) -> Standing:
        """Return what stands before the first attack."""
        return Standing(model, x, y, threat, self.right.clone(), self.margin.clone(), torch.zeros_like(x))


def first_look(model: Model, x: Tensor, y: Tensor, batch_size: int | None) -> Clean:
    """Evaluate the model on the inputs as they are, and check it and them.

    Raises:
        ValueError: if the model's output or a label does not fit.
    """
    seen: list[Tensor] = []

    def look(logits: Tensor, labels: Tensor, *, targeted: bool = False) -> Tensor:
        seen.append(logits.detach())
        return signed_margin(logits, labels, targeted=targeted)

    parts = []
    for rows in torch.arange(len(x), device=x.device).split(batch_size or max(len(x), 1)):
        grid = DomainGrid({"model": model}, x[rows], y[rows], loss=look)
        parts.append(grid.evaluate(torch.zeros_like(x[rows]), grad=False))
    logits = torch.cat(seen)
    order = logits.argsort(dim=1, descending=True, stable=True)
    rivals = order[order != y.unsqueeze(1)].view(len(x), logits.shape[1] - 1)
    fooled = torch.cat([p.fooled for p in parts if p.fooled is not None])[:, 0]
    return Clean(~fooled, torch.cat([p.losses for p in parts])[:, 0], rivals)


def judged(model: Model, x: Tensor, y: Tensor, delta: Tensor, bounds: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Say in full precision which of x + delta fool the model, (n,) bool, and by what margin, (n,)."""
    grid = DomainGrid({"model": model}, (x + delta).clamp(*bounds), y, loss=signed_margin)
    e = grid.evaluate(torch.zeros_like(x), grad=False)
    assert e.fooled is not None
    return e.fooled[:, 0], e.losses[:, 0]
