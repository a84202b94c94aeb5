"""Which of two solutions of the same problems is kept, row by row."""

from __future__ import annotations

import torch
from torch import Tensor

from omnirobust.core.history import History, is_better
from omnirobust.core.solver import Solution


def better_of(a: Solution, b: Solution, rows: Tensor | None = None) -> Solution:
    """Keep, row by row, the solution that fools more domains, ties by the lower worst loss, then ``a``.

    Args:
        a: of B problems.
        b: of the problems of ``a`` that ``rows`` lists; of all if it is None.
        rows: int64 indices into ``a``.
    """
    rows = torch.arange(len(a.delta), device=a.delta.device) if rows is None else rows
    better = beats(b, a, rows)
    return chosen(a, b, rows, better, a.history.choose(b.history, rows, better))


def beats(b: Solution, a: Solution, rows: Tensor) -> Tensor:
    """Say which problems of ``b``, the ``rows`` of ``a``, it solves better, (len(rows),) bool."""
    known = a.fooled is not None and b.fooled is not None
    counts = [s.fooled.sum(1) if known and s.fooled is not None else s.losses.new_zeros(len(s.losses)) for s in (a, b)]
    return is_better(counts[1], b.losses.amax(1), counts[0][rows], a.losses[rows].amax(1))


def chosen(a: Solution, b: Solution, rows: Tensor, better: Tensor, history: History) -> Solution:
    """Put those problems of ``b`` that are ``better`` into their places among ``a``."""

    def pick(of_a: Tensor, of_b: Tensor) -> Tensor:
        return of_a.index_copy(0, rows[better], of_b[better])

    return Solution(
        pick(a.delta, b.delta),
        pick(a.weights, b.weights),
        pick(a.losses, b.losses),
        None if a.fooled is None or b.fooled is None else pick(a.fooled, b.fooled),
        pick(a.step, b.step),
        history,
    )
