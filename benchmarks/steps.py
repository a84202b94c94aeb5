"""Runs of Algorithm 1, and the passes that none can do without: what benchmarks of a step compare.

Of the library only ``orb`` and the networks are named here, so that another commit of it can be run as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import omnirobust as orb
from omnirobust import zoo


def untrained(letters: str, shape: tuple[int, int, int]) -> dict[str, nn.Module]:
    """Build networks of the paper, untrained: how long a step takes does not depend on the weights."""
    torch.manual_seed(0)
    return {letter: zoo.architectures.build(letter, shape, 10).eval() for letter in letters}


def bare(
    models: Iterable[nn.Module], views: Sequence[Callable[[Tensor], Tensor]], x: Tensor, y: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor], steps: int, *, last: bool = True,
) -> Callable[[], None]:  # fmt: skip
    """Return a function that takes each model's gradient of all views in one pass, ``steps`` times, and nothing else.

    Args:
        models: the networks.
        views: functions of ``x``, images that go through a model together; empty for ``x`` itself.
        x: images, (N, *S).
        y: labels, (N,).
        loss: of logits and labels.
        steps: how many gradients of each.
        last: whether a forward follows: what any attack must pay to know the losses of its last iterate.
    """
    labels = y.repeat(max(len(views), 1))

    def run() -> None:
        for step in range(steps + last):
            for model in models:
                leaf = x.detach().requires_grad_(step < steps)
                seen = torch.cat([view(leaf) for view in views]) if views else leaf
                with torch.set_grad_enabled(step < steps):
                    value = loss(model(seen), labels).sum()
                if step < steps:
                    torch.autograd.grad(value, leaf)

    return run


def solved(
    models: nn.Module | Mapping[str, nn.Module], x: Tensor, y: Tensor, threat: Any, settings: Any, loss: Any,
    steps: int, **of_grid: Any,
) -> Callable[[], object]:  # fmt: skip
    """Return a function that runs ``steps`` steps of Algorithm 1 on a grid.

    Args:
        models, x, y, loss: of the grid.
        threat: the threat model.
        settings: an ``AttackSettings``, whose loss counts for nothing.
        steps: T.
        of_grid: further arguments of the grid; ``shared`` and ``clip`` are the set's, too.
    """
    of_set = {name: value for name, value in of_grid.items() if name in ("shared", "clip")}

    def run() -> object:
        return orb.solve(
            orb.DomainGrid(models, x, y, loss=loss, **of_grid), threat.around(x, **of_set), settings.rule, steps=steps,
            step_size=settings.step_size, direction=settings.direction, keep=settings.keep,
        )  # fmt: skip

    return run
