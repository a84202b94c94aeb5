"""A walk along the boundary: from a few dozen gradients a perturbation that fools on all domains, nearly the shortest.

The ball shrinks where the perturbation fools and grows where it does not, as in Pintor et al., "Fast minimum-norm
adversarial attacks through adaptive norm constraints", 2021; what is ours is that one perturbation is to fool several
models, under several transformations, each counted by the distance to its boundary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from omnirobust.core.directions import unit_l2, weighted_gradient
from omnirobust.core.threat_models import FeasibleSet
from omnirobust.core.types import Evaluation
from omnirobust.core.units import in_units, seen_in_units
from omnirobust.core.weights import ExponentiatedGradient
from omnirobust.domains.grid import DomainGrid

_FIRST, _LAST = 1.0, 0.01
"""The length of the first and of the last step, in radii of the ball of the moment."""

_WIDEST, _NARROWEST = {math.inf: 0.1, 2.0: 0.2, 1.0: 0.4}, 0.003
"""By what share the radius changes at the first step, by norm, and at the last."""

Aimed: TypeAlias = Callable[[Tensor, Tensor], DomainGrid]

_LANES = 4
"""Wrong classes that are tried: which of them is the nearest cannot be told from the input."""

_TRIAL, _REST = 0.24, 0.6
"""Gradients of each class's walk and of the one that goes on from the best, as shares of the steps of an attack."""

_RULE = ExponentiatedGradient(1.0)


def nearest(
    grid: DomainGrid, feasible: FeasibleSet, eps: Tensor, steps: int, aimed: Aimed | None
) -> tuple[Tensor, Tensor]:
    """Walk towards some likely wrong classes, all in one batch, and on from the shortest perturbation, to any class.

    Args:
        grid: see ``walk``.
        feasible: see ``walk``.
        eps: the first radii, (B,), > 0.
        steps: of an attack, >= 1.
        aimed: makes the grid of some rows (n,) whose domains are to say classes (n, K). None, and with two classes:
            there is one walk alone, of as many gradients.

    Returns:
        As ``walk``.

    Cost: 1.6 times ``steps`` gradients, in batches of up to four times as many rows.
    """
    count, rest = math.ceil(_TRIAL * steps), math.ceil(_REST * steps)
    classes = None if aimed is None else _likely(grid, torch.zeros_like(feasible.lower))
    if classes is None or aimed is None:
        return walk(grid, feasible, eps, rest + _LANES * count)
    rows = torch.arange(len(eps), device=eps.device)
    lanes = rows.repeat(classes.shape[1])
    goals = classes.T.reshape(-1, 1).expand(-1, len(grid.names))
    delta, size = walk(aimed(lanes, goals), feasible.select(lanes), eps[lanes], count)
    best = size.view(-1, len(rows)).argmin(0) * len(rows) + rows
    delta, size = delta[best], size[best]
    further, smaller = walk(grid, feasible, torch.where(size.isinf(), eps, size), rest, start=delta)
    shorter = smaller < size
    return torch.where(shorter.view(-1, *[1] * (delta.ndim - 1)), further, delta), torch.where(shorter, smaller, size)


def _likely(grid: DomainGrid, zero: Tensor) -> Tensor | None:
    """Return the wrong classes that the models give most to together, (B, lanes) int64; None where there is no choice.

    Classes that any of the models is to leave, or gives minus infinity, are none.
    """
    said = grid.logits(zero)
    if len({logits.shape[1] for logits in said}) > 1 or said[0].shape[1] < 3:
        return None
    score = torch.stack([logits.log_softmax(1) for logits in said]).mean(0)
    score = score.scatter(1, grid.labels.flatten(1), -torch.inf)
    count = min(_LANES, int(score.isfinite().sum(1).min()))
    return score.topk(count, 1).indices if count else None


def walk(
    grid: DomainGrid, feasible: FeasibleSet, eps: Tensor, steps: int, start: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the shortest perturbation met that fools every model, (B, *S), and its norm, (B,), infinite for none.

    Args:
        grid: domains whose losses are margins, 0 at the boundary; none of them random.
        feasible: the box, the unit, and the norm: l1, l2 or linf.
        eps: the first radii, (B,), > 0.
        steps: gradients to take, >= 1.
        start: perturbations to begin at, (B, *S), feasible; None for zeros.
    """
    units, scale = in_units(feasible), 1.0 if feasible.scale is None else feasible.scale
    delta = torch.zeros_like(units.lower) if start is None else start / scale
    best, size, like = delta.clone(), torch.full_like(eps, torch.inf), (-1,) + (1,) * (delta.ndim - 1)
    weights = _RULE.init(len(eps), len(grid.names), dtype=eps.dtype, device=eps.device)
    for t in range(steps):
        moved = (delta * scale).to(feasible.lower.dtype)
        seen = seen_in_units(grid.evaluate(moved), feasible)
        assert seen.fooled is not None and seen.grads is not None
        hit, norm = seen.fooled.all(1), units.norm(delta).to(eps)
        better = hit & (norm < size)
        best, size = torch.where(better.view(like), moved, best), torch.where(better, norm, size)
        away, slopes = _distances(seen, units.p)
        eps = _next_radius(eps, hit, norm, size, away.amax(1), _between(_WIDEST[units.p], _NARROWEST, t / steps))
        weights = _RULE.step(weights, away / away.abs().amax(1, keepdim=True).clamp_min(torch.finfo(away.dtype).tiny))
        grad = weighted_gradient(weights / slopes, seen.grads)
        shape = torch.sign(grad) if units.p == math.inf else unit_l2(grad)
        length = (eps * _between(_FIRST, _LAST, t / steps)).view(like)
        delta = replace(units, eps=eps, checked=True).project((delta - length * shape).to(delta.dtype))
    return best, size


def _next_radius(eps: Tensor, hit: Tensor, norm: Tensor, size: Tensor, away: Tensor, share: float) -> Tensor:
    """Shrink where all models err; grow where not, but not beyond what is known to suffice."""
    grown = torch.where(size.isinf(), torch.maximum(norm + away, eps) * (1 + _NARROWEST), eps * (1 + share))
    return torch.where(hit, torch.minimum(norm, size) * (1 - share), torch.minimum(grown, size * (1 - _NARROWEST)))


def _distances(seen: Evaluation, p: float) -> tuple[Tensor, Tensor]:
    """Return how far the boundary of each linearised model is, negative beyond it, and its slope, (B, K)."""
    assert seen.grads is not None
    dual = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[p]
    slopes = torch.stack([torch.linalg.vector_norm(g.flatten(1), dual, dim=1) for g in seen.grads], 1).to(seen.losses)
    slopes = slopes.clamp_min(torch.finfo(slopes.dtype).eps ** 2)
    return seen.losses / slopes, slopes


def _between(first: float, last: float, done: float) -> float:
    """Go from ``first`` to ``last`` along half a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2
