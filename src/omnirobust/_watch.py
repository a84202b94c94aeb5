"""What is watched while an attack runs: its progress, and models that let no gradient through."""

from __future__ import annotations

from collections.abc import Callable

import torch

from omnirobust.domains import DomainGrid
from omnirobust.solver import Progress

_ENOUGH_BLIND = 100
"""Rows that a model must be blind on, and on no other, before an attack in batches is stopped for it."""


class BlindModelError(ValueError):
    """No gradient reaches any input: a gradient attack cannot see the model."""


class Blindness:
    """Which models, and transformations before them, have let no gradient through so far, over all batches."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}
        self._seeing: set[str] = set()

    def note(self, name: str, open_rows: int, blocked: bool) -> None:
        """Take note of a batch: how many rows ``name`` still resisted in it, and whether it is blind on all of them."""
        self._open[name] = self._open.get(name, 0) + open_rows
        if open_rows and not blocked:
            self._seeing.add(name)

    def judge(self, enough: int) -> None:
        """Raise a BlindModelError if one was blind on all rows seen, and these are ``enough`` to say so."""
        for name, rows in self._open.items():
            if name not in self._seeing and rows >= enough:
                raise BlindModelError(
                    f"{name} has zero input gradient on every row: a gradient attack cannot see it "
                    "(is there a step function, a rounding or a detach inside?)"
                )


class GradientWatch:
    """Watches the start for gradients that are zero, and counts steps for the progress bar."""

    def __init__(self, grid: DomainGrid, advance: Callable[[int], None], blind: Blindness) -> None:
        self._grid, self._advance, self._blind = grid, advance, blind
        self._left = 0
        self.zero_gradient = torch.zeros(len(grid.names))
        self._first = True

    def restart(self, steps: int) -> None:
        """Begin to count the steps of another run."""
        self._left = steps + 1

    def finish(self) -> None:
        """Count the steps that a run which stopped early did not take."""
        self._advance(self._left)
        self._left = 0

    def __call__(self, seen: Progress) -> None:
        self._advance(1)
        self._left -= 1
        if self._first and seen.evaluation.grads is not None and len(seen.delta):
            self._look(seen)
        self._first = False

    def _look(self, seen: Progress) -> None:
        e = seen.evaluation
        assert e.grads is not None and e.fooled is not None
        flat = torch.stack([(grad.flatten(1) == 0).all(dim=1) for grad in e.grads], 1)
        blind = flat & ~e.fooled
        self.zero_gradient = blind.float().mean(0).cpu()
        for source, (name, domains) in enumerate(self._grid.sources):
            resisting = ~e.fooled[:, domains]
            all_blind = bool(resisting.any()) and bool((blind[:, domains] == resisting).all())
            blocked = all_blind and self._grid.blocks_gradient(source, seen.delta)
            self._blind.note(name, int(resisting.any(1).sum()), blocked)
        self._blind.judge(enough=_ENOUGH_BLIND)
