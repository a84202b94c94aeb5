"""Groups of examples that are to share one perturbation."""

from __future__ import annotations

import torch
from torch import Tensor

from omnirobust.core.arguments import check_count, check_seed
from omnirobust.core.choices import GroupBy as GroupBy


def make_groups(y: Tensor, size: int, by: GroupBy = "random", seed: int = 0) -> Tensor:
    """Put examples into groups of ``size``, at random or each group from one class.

    Examples that do not fill a group are left out: N - G E of them. Groups by class are dealt one class after the
    other, so that the first groups already hold all classes alike.

    Args:
        y: class indices, (N,) int64.
        size: E, examples a group, >= 1.
        by: "random" shuffles all examples; "class" shuffles those of each class, no group holds two.
        seed: of the shuffle; the same groups on every device.

    Returns:
        Indices into ``y``, (G, E) int64, on the device of ``y``; G is 0 where nothing fills a group.

    Raises:
        ValueError: if an argument does not fit.
    """
    if y.ndim != 1 or y.dtype != torch.int64:
        raise ValueError(f"y must be int64 of shape (N,), got {y.dtype} {tuple(y.shape)}")
    check_count("size", size)
    check_seed("seed", seed)
    if by not in ("random", "class"):
        raise ValueError(f"by must be 'random' or 'class', got {by!r}")
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed)).to(y.device)
    if by == "random":
        return _cut(order, size)
    return _deal([_cut(order[y[order] == label], size) for label in y.unique().tolist()], order.new_empty(0, size))


def _cut(order: Tensor, size: int) -> Tensor:
    whole = len(order) // size
    return order[: whole * size].reshape(whole, size)


def _deal(stacks: list[Tensor], none: Tensor) -> Tensor:
    """Take the first group of every stack, then the second of every stack that has one, and so on."""
    rounds = range(max((len(stack) for stack in stacks), default=0))
    return torch.cat([none, *(stack[i : i + 1] for i in rounds for stack in stacks)])


def stratified(y: Tensor, seed: int = 0) -> Tensor:
    """Return a shuffled order of examples, every stretch of which holds the classes in the shares of the whole.

    The j-th of the n examples of a class, counted from 0 after a shuffle, has its place at (j + 1/2) / n of the way;
    ties are shuffled. The first m of all N examples so hold the m n / N of each class up to rounding, as seats are
    given to parties by the method of Webster and Sainte-Lague.

    Args:
        y: class indices, (N,) int64.
        seed: of the shuffle.

    Returns:
        Indices into ``y``, (N,) int64, all of them.
    """
    shuffled = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    sizes = y.unique(return_counts=True)[1].tolist()
    place = torch.empty(len(y), dtype=torch.float64)
    place[torch.argsort(y[shuffled], stable=True)] = torch.cat(
        [place[:0], *((torch.arange(n, dtype=torch.float64) + 0.5) / n for n in sizes)]
    )
    return shuffled[torch.argsort(place, stable=True)]
