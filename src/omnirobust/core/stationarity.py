"""How far a pair of perturbation and weights is from a stationary point: what Theorem 1 bounds."""

from __future__ import annotations

import torch
from torch import Tensor

from omnirobust.core.directions import weighted_gradient
from omnirobust.core.threat_models import FeasibleSet
from omnirobust.core.types import Domains
from omnirobust.core.units import seen_in_units
from omnirobust.core.weights import ascend


def stationarity(
    domains: Domains, feasible: FeasibleSet, delta: Tensor, weights: Tensor, *, gamma: float, alpha: float, beta: float
) -> Tensor:
    """Measure how far (delta, w) is from a first-order stationary point of (4), as Theorem 1 does.

    The l2 norm of the projected gradient: of (delta - proj_X(delta - alpha g)) / alpha, with g the gradient of (4) in
    delta, together with (w - proj_P(w + beta (F - gamma (w - 1/K)))) / beta. Zero exactly at stationary points. Of a
    set with a scale, it is that of u = delta / scale.

    Args:
        delta: (B, *S), feasible.
        weights: (B, K), in the simplex.
        gamma: of (4), >= 0.
        alpha: step size of the measure in delta, > 0.
        beta: step size of the measure in w, > 0.

    Returns:
        (B,), >= 0.

    Cost: one evaluation with gradients.
    """
    evaluation = seen_in_units(domains.evaluate(delta), feasible)
    assert evaluation.grads is not None
    unit = 1.0 if feasible.scale is None else feasible.scale
    step = alpha * weighted_gradient(weights, evaluation.grads) * unit
    moved = feasible.project((delta - step).to(delta.dtype))
    raised = ascend(weights, evaluation.losses, beta, gamma)
    in_delta = torch.linalg.vector_norm(((delta - moved) / unit).flatten(1), dim=1) / alpha
    in_weights = torch.linalg.vector_norm(weights - raised, dim=1) / beta
    return torch.hypot(in_delta, in_weights)
