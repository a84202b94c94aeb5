"""Multi steepest descent: one perturbation, which at every step goes the way of the norm that hurts most."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from omnirobust.core.threat_models import FeasibleSet
from omnirobust.core.types import Evaluation
from omnirobust.training.inner_steps import steppers
from omnirobust.training.schemes import Scheme


def ascend_together(
    descent: Callable[[Tensor], Tensor],
    losses: Callable[[list[Tensor]], Tensor],
    scheme: Scheme,
    feasible: list[FeasibleSet],
    starts: list[Tensor],
) -> tuple[list[Tensor], Tensor]:
    """Take the R steps of one perturbation an example.

    With v_k the steepest direction of norm k and f the loss, each step makes K candidates and keeps, example by
    example, the one of highest loss:

        delta_k <- proj_{X_k}(delta + alpha_k v_k(grad f(delta))),    delta <- delta_k of the highest f(delta_k)

    Args:
        descent: delta (B, *S) to grad (-f), (B, *S), which steppers go down.
        losses: K perturbations (B, *S) to their f, (B, K).
        scheme: of kind "msd".
        feasible: the sets X_k.
        starts: K first perturbations (B, *S), of which the worst is kept likewise, unless all are zero.

    Returns:
        K perturbations (B, *S), each in its set, and one-hot weights (B, K): where norm k was the last to be kept,
        delta_k is the perturbation, elsewhere 0.

    Cost: R gradients of B inputs, and R K forward passes besides, K more for random starts.

    Reference: Maini, Wong and Kolter, 2020, Algorithm 1, whose start is zero.
    """
    moving, ones = steppers(scheme, feasible), starts[0].new_ones(len(starts[0]), 1)
    delta = starts[0] if scheme.start == "zero" else _worst(starts, losses(starts))[0]
    kept = torch.zeros(len(delta), dtype=torch.int64, device=delta.device)
    for r in range(1, scheme.steps + 1):
        fallen = Evaluation(torch.zeros_like(ones), None, (descent(delta),))
        candidates = [
            stepper.step(r, delta, ones, fallen, around) for stepper, around in zip(moving, feasible, strict=True)
        ]
        delta, kept = _worst(candidates, losses(candidates))
    weights = one_hot(kept, len(feasible))
    own = weights.t().view(len(feasible), len(delta), *[1] * (delta.ndim - 1))
    return [delta * mine for mine in own], weights.to(torch.promote_types(delta.dtype, torch.float32))


def _worst(candidates: Sequence[Tensor], losses: Tensor) -> tuple[Tensor, Tensor]:
    """Return each example's candidate of highest loss, the first of equal ones, and its number (B,)."""
    kept = losses.argmax(1)
    return torch.stack(list(candidates))[kept, torch.arange(len(kept), device=kept.device)], kept
