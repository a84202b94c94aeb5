"""What still stands under one threat while attack after attack is run on it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from omnirobust.core.threat_models import ThreatModel, clamped
from omnirobust.evaluation.fresh import Judge
from omnirobust.evaluation.threats import lies_inside

INNER = "from another threat"
"""What the examples are called that were found for a threat inside this one."""


@dataclass
class Standing:
    """The inputs of one model under one threat: which are right still, and the worst perturbation of each so far.

    Attributes:
        judge: asks the model.
        x: inputs, (B, *S).
        y: labels, (B,) int64.
        threat: what the attacker may do.
        share: of the draws of selection, how many the worst perturbation fools, (B,); 0 or 1 unless the model is
            random.
        margin: its z_y - max_{j != y} z_j, the least seen at that share, a mean over draws, (B,).
        delta: the perturbation, (B, *S).
        made_by: which of ``labels`` made it, (B,) int64; -1 for none.
        labels: of what was tried.
    """

    judge: Judge
    x: Tensor
    y: Tensor
    threat: ThreatModel
    share: Tensor
    margin: Tensor
    delta: Tensor
    made_by: Tensor
    labels: list[str] = field(default_factory=list)

    @property
    def right(self) -> Tensor:
        """Whether no perturbation fools the model on every draw yet, (B,) bool."""
        return self.share < 1

    def rows(self) -> Tensor:
        """Return the indices of the inputs that stand, int64."""
        return self.right.nonzero().flatten()

    def note(self, rows: Tensor, delta: Tensor, label: str) -> None:
        """Judge perturbations ``delta`` (n, *S) of inputs ``rows``, made by ``label``, and keep the worse."""
        share, margin = self.judged(rows, delta)
        worse = (share > self.share[rows]) | ((share == self.share[rows]) & (margin < self.margin[rows]))
        self._keep(rows[worse], share[worse], margin[worse], delta[worse], label)

    def judged(self, rows: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Say in full precision on what share of draws x + delta fools the model, and by what mean margin, (n,)."""
        hits, margins = self.judge.asked(self._moved(rows, delta), self.y[rows], int(rows[0]))
        return hits.to(self.share.dtype).mean(0), margins.mean(0)

    def fresh(self, judge: Judge, size: int) -> Tensor:
        """Say on what draws of ``judge`` the model is right at what was kept, (D, B) bool, ``size`` inputs at once."""
        pieces = torch.arange(len(self.x), device=self.x.device).split(size)
        found = [judge.asked(self._moved(p, self.delta[p]), self.y[p], int(p[0])) for p in pieces if len(p)]
        return ~torch.cat([hits for hits, _ in found], 1)

    def borrow(self, other: Standing) -> None:
        """Let what fools more under ``other``, where it lies inside this threat, do so here too."""
        worse = (other.share > self.share) & lies_inside(other.threat, self.threat, self.x)
        rows = worse.nonzero().flatten()
        if len(rows):
            self._keep(rows, other.share[rows], other.margin[rows], other.delta[rows], INNER)

    def breaks(self, right: Tensor) -> dict[str, int]:
        """Count by label the inputs that fell, of which nothing is ``right`` (B,) bool at what the label made."""
        fell = self.made_by[~right]
        counts = {label: int((fell == k).sum()) for k, label in enumerate(self.labels)}
        return {label: n for label, n in counts.items() if n}

    def _moved(self, rows: Tensor, delta: Tensor) -> Tensor:
        return clamped(self.x[rows] + delta, self.threat.bounds)

    def _keep(self, rows: Tensor, share: Tensor, margin: Tensor, delta: Tensor, label: str) -> None:
        if label not in self.labels:
            self.labels.append(label)
        self.share[rows], self.margin[rows], self.delta[rows] = share, margin, delta
        self.made_by[rows] = self.labels.index(label)


@dataclass(frozen=True)
class Clean:
    """The model on the inputs as they are.

    Attributes:
        share: of the draws, how many find the model wrong, (B,); 0 or 1 unless it is random.
        margin: z_y - max_{j != y} z_j, (B,), a mean over draws.
        rivals: the wrong classes, the likeliest first, (B, C - 1) int64; without those that the model rules out (minus
            infinity) on all inputs. Where it rules out more on one of them, the likeliest stands in their place.
        classes: C.
    """

    share: Tensor
    margin: Tensor
    rivals: Tensor
    classes: int

    def standing(self, judge: Judge, x: Tensor, y: Tensor, threat: ThreatModel) -> Standing:
        """Return what stands before the first attack."""
        nobody = torch.full_like(y, -1)
        return Standing(judge, x, y, threat, self.share.clone(), self.margin.clone(), torch.zeros_like(x), nobody)


def first_look(judge: Judge, x: Tensor, y: Tensor, batch_size: int | None) -> Clean:
    """Evaluate the model on the inputs as they are, and check it and them.

    Raises:
        ValueError: if the model's output or a label does not fit.
    """
    hits, margins, logits = [], [], []
    for rows in torch.arange(len(x), device=x.device).split(batch_size or max(len(x), 1)):
        seen: list[Tensor] = []
        hit, margin = judge.asked(x[rows], y[rows], int(rows[0]) if len(rows) else 0, seen.append)
        hits.append(hit)
        margins.append(margin)
        logits.append(torch.cat(seen).unflatten(0, (len(hit), len(rows))).mean(0))
    mean = torch.cat(logits)
    margin = torch.cat(margins, 1).mean(0)
    return Clean(torch.cat(hits, 1).to(margin.dtype).mean(0), margin, _rivals(mean, y), mean.shape[1])


def _rivals(logits: Tensor, y: Tensor) -> Tensor:
    order = logits.argsort(dim=1, descending=True, stable=True)
    rivals = order[order != y.unsqueeze(1)].view(len(y), logits.shape[1] - 1)
    out = logits.gather(1, rivals).isneginf()
    if not bool(out.any()):
        return rivals
    return torch.where(out, rivals[:, :1], rivals)[:, : int((~out).sum(1).max())]
