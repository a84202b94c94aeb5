"""How much of a mini-batch goes through the model at once, so that the graph of a pass keeps to a budget."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch

from omnirobust.domains.memory import counted


class PassBudget:
    """Cuts what goes through a model, by what the graphs of one and of two of it were found to hold.

    That is measured once for each kind of pass, so that a training is cut alike from beginning to end, resumed or not.

    Args:
        memory: bytes that the graph of one forward pass may hold, >= 1.

    """

    def __init__(self, memory: int) -> None:
        self.memory, self._whole, self._alone = memory, list[str](), 0
        self._held: dict[Hashable, tuple[int, int]] = {}

    def cuts(
        self, kind: Hashable, count: int, hold: Callable[[int], object], model: object, each: int = 1
    ) -> list[slice]:
        """Cut ``count`` examples into parts, as large as the budget allows, of one at least.

        Args:
            kind: of the pass; what was measured of one holds for all others.
            count: examples, >= 1.
            hold: makes the graph of so many units, 1 or 2, and leaves no trace but in random states.
            model: whose own tensors do not count.
            each: units of an example.
        """
        if count < 2:
            return [slice(0, count)]
        if kind not in self._held:
            self._held[kind] = _measured(hold, model)
        one, more = self._held[kind]
        self._alone = max(self._alone, one + (each - 1) * more)
        size = max(1, (1 + (self.memory - one) // more) // each)
        return [slice(begin, min(begin + size, count)) for begin in range(0, count, size)]

    def went_whole(self, why: str) -> None:
        """Note that mini-batches were not cut in the steps of the optimizer."""
        if why not in self._whole:
            self._whole.append(why)

    @property
    def notes(self) -> tuple[str, ...]:
        """Where the budget was not kept, and why: one sentence each."""
        told = [f"memory: the steps of the optimizer saw each mini-batch whole, for {why}." for why in self._whole]
        if self._alone > self.memory:
            told.append(
                f"memory: the graph of one example alone holds up to {self._alone:,} bytes, more than the "
                f"{self.memory:,} given: they went one at a time."
            )
        return tuple(told)


def _measured(hold: Callable[[int], object], model: object) -> tuple[int, int]:
    """Return the bytes that the graph of one unit holds, and those of each further one, >= 1."""
    found = []
    for units in (1, 2):
        with torch.enable_grad(), counted(model) as seen:
            hold(units)
        found.append(sum(seen.values()))
    return found[0], max(found[1] - found[0], 1)
