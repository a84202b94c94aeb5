"""A walk along the boundary: from a few dozen gradients a perturbation that fools all models, nearly the shortest.

The ball shrinks where the perturbation fools and grows where it does not, as in Pintor et al., "Fast minimum-norm
adversarial attacks through adaptive norm constraints", 2021; what is ours is that several models are to be fooled, each
counted by the distance to its boundary.
"""

from __future__ import annotations

import math
from dataclasses import replace

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

_WIDEST, _NARROWEST = 0.1, 0.003
"""By what share the radius changes at the first step and at the last."""

_RULE = ExponentiatedGradient(1.0)


def walk(grid: DomainGrid, feasible: FeasibleSet, eps: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return the shortest perturbation met that fools every model, (B, *S), and its norm, (B,), infinite for none.

    Args:
        grid: models whose losses are margins, 0 at the boundary; none of them random.
        feasible: the box, the unit, and the norm: l1, l2 or linf.
        eps: the first radii, (B,), > 0.
        steps: gradients to take, >= 1.
    """
    units, scale = in_units(feasible), 1.0 if feasible.scale is None else feasible.scale
    delta = torch.zeros_like(units.lower)
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
        eps = _next_radius(eps, hit, norm, size, away.amax(1), _between(_WIDEST, _NARROWEST, t / steps))
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
