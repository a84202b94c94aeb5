"""What is kept of a run: the best iterate, the problems that are still in it, and what happened at every iterate.

``BestIterate``, ``Active`` and ``Trace`` wrap any loop: ``solve`` shows them every iterate, and they know nothing of
how it was made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from omnirobust.core.choices import Keep
from omnirobust.core.types import Evaluation

_SHRINK = 0.75
"""A batch becomes smaller once less than this share of it is left."""

_MEANS = ("losses", "weights", "fooled", "all_fooled", "best_all_fooled")


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
        return _combined([self, other], lambda mine, theirs: mine.index_copy(1, rows[better], theirs[:, better]))

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
        return _combined([self], lambda values: values.to(device))

    def means(self, *, keep_rows: bool) -> History:
        """Average over problems; keep the rows too if asked."""
        B = max(self.losses.shape[1], 1)
        unknown = self.losses.new_full(self.losses.shape[::2], torch.nan)
        return History(
            losses=self.losses.sum(1) / B,
            weights=self.weights.sum(1) / B,
            fooled=unknown if self.fooled is None else self.fooled.sum(1) / B,
            all_fooled=unknown[:, 0] if self.fooled is None else self.fooled.all(2).sum(1) / B,
            best_all_fooled=unknown[:, 0] if self.fooled is None else self.best.sum(1) / B,
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
            These three are NaN where no success is known.
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
        moved = {name: getattr(self, name).to(device) for name in _MEANS}
        return replace(self, rows=None if self.rows is None else self.rows.to(device), **moved)

    def choose(self, other: History, rows: Tensor, better: Tensor) -> History:
        """Put ``other``, of the problems ``rows``, in the place of this one where ``better`` (len(rows),).

        Raises:
            ValueError: if a history lacks its rows; means over problems cannot be taken apart again.
        """
        if self.rows is None or other.rows is None:
            raise ValueError("histories can be joined problem by problem only if both were kept in full")
        return self.rows.choose(other.rows, rows, better).means(keep_rows=True)


class Active:
    """The problems that are still in the batch; where fooled ones are to stop, these leave it.

    Args:
        e: the evaluation at the starting point.
        stop: whether problems are done once all their domains are fooled.

    Attributes:
        rows: original indices of the problems in the batch, int64.
        whole: whether these are all of them.
        left: which of them are not done, bool; None where nothing stops.

    Raises:
        ValueError: if fooled problems are to stop and the domains know no success.
    """

    def __init__(self, e: Evaluation, stop: bool) -> None:
        if stop and e.fooled is None:
            raise ValueError("stop_when_fooled needs domains that know success; these give fooled = None")
        self.rows, self.whole = torch.arange(len(e.losses), device=e.losses.device), True
        self.left = None if e.fooled is None or not stop else ~e.fooled.all(dim=1)

    def finish(self, e: Evaluation) -> None:
        """Let those be done that ``e`` fools."""
        if self.left is not None and e.fooled is not None:
            self.left = self.left & ~e.fooled.all(dim=1)

    def leave(self) -> Tensor | None:
        """Return the positions that stay in the batch, once few enough are left; () when none is, else None.

        Sizes shrink geometrically, so that few distinct batch sizes occur; problems that are done fill a batch up.
        """
        if self.left is None:
            return None
        size, left = len(self.left), int(self.left.sum())
        if left == 0:
            return self.rows[:0]
        if left > _SHRINK * size:
            return None
        while _SHRINK * size >= left and size > 1:
            size = int(_SHRINK * size)
        kept = torch.argsort((~self.left).to(torch.uint8), stable=True)[: max(size, left)].sort().values
        self.rows, self.left, self.whole = self.rows[kept], self.left[kept], False
        return kept


class BestIterate:
    """For every problem the iterate to return: the best one so far, by ``is_better``, or the last.

    Args:
        keep: "best" or "last".
        delta: the starting point, (B, *S).
        w: its weights, (B, K).
        e: its evaluation.
    """

    def __init__(self, keep: Keep, delta: Tensor, w: Tensor, e: Evaluation) -> None:
        self._keep = keep
        self.delta, self.weights, self.losses = delta.clone(), w.clone(), e.losses.clone()
        self.fooled = None if e.fooled is None else e.fooled.clone()
        self.step = torch.zeros(len(delta), dtype=torch.int64, device=delta.device)
        self._worst = e.losses.amax(dim=1)
        self._count = torch.zeros_like(self.step) if e.fooled is None else e.fooled.sum(dim=1)

    def offer(self, t: int, active: Active, delta: Tensor, w: Tensor, e: Evaluation) -> None:
        """Keep iterate ``t`` of the problems in the batch where it is better, and they are not done."""
        better = active.left
        if self._keep == "best":
            rows, worst = active.rows, e.losses.amax(dim=1)
            count = torch.zeros_like(rows) if e.fooled is None else e.fooled.sum(dim=1)
            whole = active.whole
            before = (self._count, self._worst) if whole else (self._count[rows], self._worst[rows])
            wins = is_better(count, worst, *before)
            better = wins if better is None else better & wins
            self._put(better, active, (self._count, count), (self._worst, worst))
        step = torch.full_like(active.rows, t)
        kept = [(self.delta, delta), (self.weights, w), (self.losses, e.losses), (self.step, step)]
        if self.fooled is not None and e.fooled is not None:
            kept.append((self.fooled, e.fooled))
        self._put(better, active, *kept)

    @staticmethod
    def _put(better: Tensor | None, active: Active, *pairs: tuple[Tensor, Tensor]) -> None:
        """Write the second of each pair, of the problems in the batch, into the first, of all, where ``better``."""
        for mine, theirs in pairs:
            if better is None:
                mine.copy_(theirs)
            elif active.whole:  # one pass over memory, of which gathering and scattering rows takes several
                torch.where(better.view(-1, *[1] * (mine.ndim - 1)), theirs, mine, out=mine)
            else:
                mine[active.rows[better]] = theirs[better]


class Trace:
    """The values of every problem at every iterate; those of a problem that is done, or on a way round, repeat.

    Args:
        steps: T.
        w: weights at the starting point, (B, K).
        e: the evaluation there.
    """

    def __init__(self, steps: int, w: Tensor, e: Evaluation) -> None:
        T, fooled = steps + 1, e.fooled
        self._seen = seen = HistoryRows(
            e.losses.new_zeros(T, *e.losses.shape),
            w.new_zeros(T, *w.shape),
            None if fooled is None else fooled.new_zeros(T, *fooled.shape),
            e.losses.new_zeros(T, len(w), dtype=torch.bool),
        )
        seen.losses[0], seen.weights[0] = e.losses, w
        if seen.fooled is not None and fooled is not None:
            seen.fooled[0], seen.best[0] = fooled, fooled.all(dim=1)

    def note(self, t: int, active: Active, w: Tensor, e: Evaluation, best: BestIterate) -> None:
        """Take down iterate ``t`` of the problems in the batch, and what all have kept."""
        seen, left = self._seen, active.left
        for rows, now in ((seen.losses, e.losses), (seen.weights, w), (seen.fooled, e.fooled)):
            if rows is None or now is None:
                continue
            if left is None:
                rows[t] = now
            else:
                rows[t] = rows[t - 1]
                rows[t, active.rows[left]] = now[left]
        if best.fooled is not None:
            seen.best[t] = best.fooled.all(dim=1)

    def pass_over(self, t: int, active: Active, w: Tensor) -> None:
        """Let nothing of iterate ``t`` count but the weights."""
        self.repeat(t, t + 1)
        rows = active.rows if active.left is None else active.rows[active.left]
        self._seen.weights[t, rows] = w if active.left is None else w[active.left]

    def repeat(self, begin: int, end: int) -> None:
        """Let the iterates from ``begin`` to before ``end`` be as the one before them."""
        seen = self._seen
        for rows in (seen.losses, seen.weights, seen.fooled, seen.best):
            if rows is not None:
                rows[begin:end] = rows[begin - 1]

    def means(self, *, full: bool) -> History:
        """Average over problems; keep every problem's values if ``full``."""
        return self._seen.means(keep_rows=full)


def join_histories(parts: Sequence[History]) -> History:
    """Join the histories of the parts of one batch: means weighted by the number of problems."""
    total = sum(part.problems for part in parts)
    shares = [part.problems / max(total, 1) for part in parts]
    means = {
        name: torch.stack([getattr(p, name) * share for p, share in zip(parts, shares, strict=True)]).sum(0)
        for name in _MEANS
    }
    rows = [part.rows for part in parts if part.rows is not None]
    whole = _combined(rows, lambda *values: torch.cat(values, 1)) if len(rows) == len(parts) else None
    return History(**means, problems=total, rows=whole)


def _combined(parts: Sequence[HistoryRows], how: Callable[..., Tensor]) -> HistoryRows:
    """Combine the tensors of all parts field by field; success is known where all of them know it."""
    return HistoryRows(
        how(*[p.losses for p in parts]),
        how(*[p.weights for p in parts]),
        None if any(p.fooled is None for p in parts) else how(*[p.fooled for p in parts]),
        how(*[p.best for p in parts]),
    )
