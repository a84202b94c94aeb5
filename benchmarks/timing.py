"""Time several callables against each other in one process, so that what slows the machine slows them all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median, quantiles
from typing import NamedTuple


class Ratio(NamedTuple):
    """A ratio of two median times, with the quartiles of the ratios of single rounds.

    Attributes:
        value: ratio of the medians.
        low: first quartile of the ratios, round by round.
        high: third quartile.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def interleaved(
    callables: Mapping[str, Callable[[], object]],
    rounds: int = 20,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Run every callable once a round and return the seconds that each run took.

    The order is reversed every other round, so that none always runs in the wake of the same neighbour.

    Args:
        callables: name to function without arguments.
        rounds: runs of each, >= 2.
        warmup: rounds that are not counted.
        clock: seconds that have passed; ``time.process_time`` for those of the processor alone.

    Returns:
        name to ``rounds`` times in seconds.
    """
    if rounds < 2:
        raise ValueError(f"rounds must be >= 2, got {rounds}")
    times: dict[str, list[float]] = {name: [] for name in callables}
    order = list(callables.items())
    for turn in range(warmup + rounds):
        for name, function in order if turn % 2 else reversed(order):
            start = clock()
            function()
            if turn >= warmup:
                times[name].append(clock() - start)
    return times


def ratio(times: Mapping[str, list[float]], of: str, over: str) -> Ratio:
    """Return how many times as long ``of`` takes as ``over``: medians, and the quartiles over the rounds."""
    rounds = [a / b for a, b in zip(times[of], times[over], strict=True)]
    low, _, high = quantiles(rounds, n=4)
    return Ratio(median(times[of]) / median(times[over]), low, high)
