"""How far the margin of a model can go on an input: the unit of ``losses.relative_margin``."""

from __future__ import annotations

import torch
from torch import Tensor

from omnirobust._types import Evaluation
from omnirobust.threat_models import FeasibleSet

_FAR = 64.0
"""Length of the step whose projection is taken for the end of the set, in diagonals of its box."""


def reach_of(feasible: FeasibleSet, margins: Evaluation) -> Tensor:
    """Return |m| + max over delta in X of -<g, delta>: a margin and how far it can fall inside X to first order.

    The maximum is taken at the projection of a long step along -g: eps times the dual norm of g, but no further than
    the box allows. Where the gradient is zero, or nothing may change, |m| alone remains; where that is zero too, the
    reach is 1.

    Args:
        feasible: the set X around every row.
        margins: m (B, K) and its gradients g, K times (B, *S), at delta = 0.

    Returns:
        (B, K), positive and finite, such that its inverse leaves room for the gradients of a model.

    Cost: K projections.
    """
    assert margins.grads is not None
    falls = torch.stack([_fall(feasible, slope) for slope in margins.grads], 1)
    reach = margins.losses.abs() + falls
    info = torch.finfo(reach.dtype)
    return torch.where(reach == 0, 1.0, reach.nan_to_num(posinf=info.max)).clamp(64 * info.tiny, info.max / 64)


def _fall(feasible: FeasibleSet, slope: Tensor) -> Tensor:
    flat = slope.flatten(1)
    # to a largest entry of 1, for squares and products may leave the range of the numbers where the slope does not
    largest = flat.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(slope.dtype).tiny)
    shape, width = flat / largest, torch.linalg.vector_norm((feasible.upper - feasible.lower).flatten(1), dim=1)
    end = feasible.project((shape * (width * -_FAR).unsqueeze(1)).view_as(slope)).flatten(1)
    wide = torch.promote_types(slope.dtype, torch.float32)
    return (-(shape.to(wide) * end).sum(dim=1) * largest.squeeze(1)).clamp_min(0)
