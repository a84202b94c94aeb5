"""What happened at every iterate of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


def is_better(count: Tensor, worst: Tensor, best_count: Tensor, best_worst: Tensor) -> Tensor:
    """Say which problems an iterate serves better: more domains fooled, or as many at a lower worst loss.

    Args:
        count: of the iterate, how many domains it fools, (B,).
        worst: its largest loss, (B,).
        best_count, best_worst: the same of the iterate kept so far.
    """
    return (count > best_count) | ((count == best_count) & (worst < best_worst))


@dataclass(frozen=True)
class HistoryRows:
    """Every problem's values at every iterate; index 0 is the starting point.

    Attributes:
        losses: (T+1, B, K).
        weights: (T+1, B, K), each iterate's answer to its losses.
        fooled: (T+1, B, K) bool, or None where the domains know no success.
        best: (T+1, B) bool, whether every domain is fooled at the iterate kept so far.
    """

    losses: Tensor
    weights: Tensor
    fooled: Tensor | None
    best: Tensor

    def choose(self, other: HistoryRows, rows: Tensor, better: Tensor) -> HistoryRows:
        """Put ``other``, of the problems ``rows``, in the place of this one where ``better`` (len(rows),)."""

        def pick(mine: Tensor, theirs: Tensor) -> Tensor:
            return mine.index_copy(1, rows[better], theirs[:, better])

        return HistoryRows(
            pick(self.losses, other.losses),
            pick(self.weights, other.weights),
            None if self.fooled is None or other.fooled is None else pick(self.fooled, other.fooled),
            pick(self.best, other.best),
        )

    def best_fooled(self) -> Tensor:
        """Return which domains the best iterate so far fools, (T+1, B, K) bool: the one that keep="best" would return.

        Raises:
            ValueError: if the domains know no success.
        """
        if self.fooled is None:
            raise ValueError("fooled must be known to say what the best iterate so far fools")
        kept, count, worst = self.fooled.clone(), self.fooled.sum(2), self.losses.amax(2)
        for t in range(1, len(kept)):
            later = is_better(count[t], worst[t], count[t - 1], worst[t - 1])
            for values in (kept, count, worst):
                values[t] = torch.where(later.view(-1, *[1] * (values.ndim - 2)), values[t], values[t - 1])
        return kept

    def to(self, device: torch.device | str) -> HistoryRows:
        """Move all tensors to ``device``."""
        fooled = None if self.fooled is None else self.fooled.to(device)
        return HistoryRows(self.losses.to(device), self.weights.to(device), fooled, self.best.to(device))

    def means(self, *, keep_rows: bool) -> History:
        """Average over problems; keep the rows too if asked."""
        B = max(self.losses.shape[1], 1)
        none = torch.zeros_like(self.losses, dtype=torch.bool) if self.fooled is None else self.fooled
        return History(
            losses=self.losses.sum(1) / B,
            weights=self.weights.sum(1) / B,
            fooled=none.sum(1) / B,
            all_fooled=none.all(2).sum(1) / B,
            best_all_fooled=self.best.sum(1) / B,
            problems=self.losses.shape[1],
            rows=self if keep_rows else None,
        )


@dataclass(frozen=True)
class History:
    """Means over problems at every iterate; index 0 is the starting point.

    Attributes:
        losses: (T+1, K) mean losses.
        weights: (T+1, K) mean weights.
        fooled: (T+1, K), the fraction of problems that fool each domain.
        all_fooled: (T+1,), the fraction that fools every domain: ASR_all of the iterate.
        best_all_fooled: (T+1,), the same of the iterate kept so far. Under random transformations both go by the draws
            of the attack itself, luck included: what holds on fresh draws is the result's ``success``.
        problems: B.
        rows: every problem's values, if they were asked for.
    """

    losses: Tensor
    weights: Tensor
    fooled: Tensor
    all_fooled: Tensor
    best_all_fooled: Tensor
    problems: int
    rows: HistoryRows | None = None

    def to(self, device: torch.device | str) -> History:
        """Move all tensors to ``device``."""
        names = ("losses", "weights", "fooled", "all_fooled", "best_all_fooled")
        moved = {name: getattr(self, name).to(device) for name in names}
        return replace(self, rows=None if self.rows is None else self.rows.to(device), **moved)

    def choose(self, other: History, rows: Tensor, better: Tensor) -> History:
        """Put ``other``, of the problems ``rows``, in the place of this one where ``better`` (len(rows),).

        Raises:
            ValueError: if a history lacks its rows; means over problems cannot be taken apart again.
        """
        if self.rows is None or other.rows is None:
            raise ValueError("histories can be joined problem by problem only if both were kept in full")
        return self.rows.choose(other.rows, rows, better).means(keep_rows=True)


def join_histories(parts: Sequence[History]) -> History:
    """Join the histories of the parts of one batch: means weighted by the number of problems."""
    total = sum(part.problems for part in parts)
    shares = [part.problems / max(total, 1) for part in parts]

    def mean(values: Sequence[Tensor]) -> Tensor:
        return torch.stack([v * s for v, s in zip(values, shares, strict=True)]).sum(0)

    rows = [part.rows for part in parts if part.rows is not None]
    return History(
        losses=mean([p.losses for p in parts]),
        weights=mean([p.weights for p in parts]),
        fooled=mean([p.fooled for p in parts]),
        all_fooled=mean([p.all_fooled for p in parts]),
        best_all_fooled=mean([p.best_all_fooled for p in parts]),
        problems=total,
        rows=_join_rows(rows) if len(rows) == len(parts) else None,
    )


def _join_rows(parts: Sequence[HistoryRows]) -> HistoryRows:
    fooled = [p.fooled for p in parts if p.fooled is not None]
    return HistoryRows(
        torch.cat([p.losses for p in parts], 1),
        torch.cat([p.weights for p in parts], 1),
        torch.cat(fooled, 1) if len(fooled) == len(parts) else None,
        torch.cat([p.best for p in parts], 1),
    )
