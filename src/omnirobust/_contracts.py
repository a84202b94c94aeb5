"""What code of the caller's own owes the solver, checked where it is handed over: domains, weight rules, sets.

Shapes are checked of all, since that costs nothing. Values are checked only of what is not the library's: on an
accelerator looking at them waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from math import prod

import torch
from torch import Tensor

from omnirobust._types import Domains, Evaluation, WeightRule, described
from omnirobust.threat_models import Clip, FeasibleSet, ThreatModel

_ROUNDING = 1e-4
"""How far a projection may miss the caller's own set, which need not be computed as exactly as ours."""


def check_domains(domains: Domains) -> int:
    """Return how many domains there are, K; raise a ValueError unless names and axes agree."""
    told, names = type(domains).__name__, tuple(domains.names)
    if not names:
        raise ValueError(f"{told} must have at least one domain")
    members = [len(among) for among in domains.axes.values()]
    if prod(members) != len(names):
        raise ValueError(f"axes of {told} must have a product of {len(names)} members, as names, got {members}")
    return len(names)


def evaluated(domains: Domains, delta: Tensor, K: int, grad: bool) -> Evaluation:
    """Evaluate K domains, and see that what they return has its shapes.

    Raises:
        ValueError: that names what is wrong, and the class of the domains.
    """
    e = domains.evaluate(delta, grad=grad)
    told = f"{type(domains).__name__}.evaluate must return"
    if not isinstance(e, Evaluation):
        raise ValueError(f"{told} an Evaluation, got {type(e).__name__}")
    size = (len(delta), K)
    if not isinstance(e.losses, Tensor) or not e.losses.is_floating_point() or tuple(e.losses.shape) != size:
        raise ValueError(f"{told} floating losses of shape (B, K) = {size}, got {described(e.losses)}")
    if e.fooled is not None and (
        not isinstance(e.fooled, Tensor) or e.fooled.dtype != torch.bool or tuple(e.fooled.shape) != size
    ):
        raise ValueError(f"{told} fooled as None or bool of shape (B, K) = {size}, got {described(e.fooled)}")
    if not grad:
        return e
    if not isinstance(e.grads, tuple | list) or len(e.grads) != K:
        got = f"{len(e.grads)} of them" if isinstance(e.grads, tuple | list) else described(e.grads)
        raise ValueError(f"{told} a tuple of K = {K} gradients where grad is true, got {got}")
    for k, slope in enumerate(e.grads):
        if not isinstance(slope, Tensor) or slope.shape != delta.shape:
            got = f"{described(slope)} for {domains.names[k]!r}"
            raise ValueError(f"{told} gradients of shape {tuple(delta.shape)}, got {got}")
    return e


def off_simplex(weights: Tensor) -> Tensor:
    """Say which rows of (B, K) are no weights: negative, NaN, or of another sum than 1; (B,) bool."""
    return ~((weights >= 0).all(1) & ((weights.sum(1) - 1).abs() < 1e-4))


def first_weights(rule: WeightRule, B: int, K: int, like: Tensor) -> Tensor:
    """Return a rule's first weights (B, K), with the type and device of ``like``.

    Raises:
        ValueError: if a rule of the caller's own gives none.
    """
    init: Callable[..., Tensor] = rule.init
    knows = "dtype" in signature(init).parameters  # a rule of the caller's own need not
    w = init(B, K, dtype=like.dtype, device=like.device) if knows else init(B, K)
    return w if _is_ours(rule) else _weights(w, (B, K), f"{type(rule).__name__}.init({B}, {K})").to(like)


def next_weights(rule: WeightRule, weights: Tensor, losses: Tensor) -> Tensor:
    """Return a rule's answer (B, K) to losses (B, K).

    Raises:
        ValueError: if a rule of the caller's own gives none.
    """
    w = rule.step(weights, losses)
    return w if _is_ours(rule) else _weights(w, tuple(losses.shape), f"{type(rule).__name__}.step").to(losses)


def set_around(threat: ThreatModel, x: Tensor, *, shared: bool = False, clip: Clip = "image") -> FeasibleSet:
    """Return the set of a threat model around inputs (B, *S), or (B, E, *S) if ``shared``.

    Raises:
        ValueError: if a threat model of the caller's own gives none.
    """
    if type(threat) is ThreatModel:
        return threat.around(x, shared=shared, clip=clip)
    found = threat.around(x, shared=shared, clip=clip) if shared or clip != "image" else threat.around(x)
    shape = tuple(x.shape[:1] + x.shape[2:]) if shared else tuple(x.shape)
    if not isinstance(found, FeasibleSet) or tuple(found.shape) != shape:
        got = f"one of shape {tuple(found.shape)}" if isinstance(found, FeasibleSet) else type(found).__name__
        raise ValueError(f"{type(threat).__name__}.around must return a FeasibleSet of shape {shape}, got {got}")
    return found


def check_set(threat: ThreatModel, x: Tensor, *, shared: bool = False, clip: Clip = "image") -> FeasibleSet:
    """Check inputs against a threat model, and return the set; try the projection of one's own on noise.

    Raises:
        ValueError: if the inputs do not fit, or the projection does not lead into the set.
    """
    feasible = set_around(threat, x, shared=shared, clip=clip)
    if type(feasible) is not FeasibleSet:
        noise = torch.randn(feasible.shape, generator=torch.Generator().manual_seed(0)).to(feasible.lower)
        check_member(feasible, feasible.project(noise), noise)
    return feasible


def check_member(feasible: FeasibleSet, moved: Tensor, like: Tensor) -> None:
    """Raise a ValueError unless ``moved``, a projection, lies in a set of the caller's own, and in its data range."""
    if type(feasible) is FeasibleSet:
        return
    name = type(feasible).__name__
    told = f"{name}.project must return"
    if not isinstance(moved, Tensor) or moved.shape != like.shape or moved.dtype != like.dtype:
        raise ValueError(f"{told} {described(like)}, got {described(moved)}")
    if not moved.numel():
        return
    if not bool(moved.isfinite().all()):
        raise ValueError(f"{told} finite perturbations, got NaN or infinity")
    out = float(torch.maximum(feasible.lower - moved, moved - feasible.upper).max())
    if out > _ROUNDING * float((feasible.upper - feasible.lower).max()):
        raise ValueError(f"{told} perturbations between lower and upper, got one {out:.2g} outside")
    knows = "tol" in signature(feasible.contains).parameters
    inside = feasible.contains(moved, tol=_ROUNDING) if knows else feasible.contains(moved)
    if not isinstance(inside, Tensor) or tuple(inside.shape) != (len(like),) or inside.dtype != torch.bool:
        raise ValueError(f"{name}.contains must return bool of shape ({len(like)},), got {described(inside)}")
    if not bool(inside.all()):
        row = int((~inside).nonzero()[0])
        raise ValueError(f"{told} members of the set, got one in row {row} for which contains is false")


def _weights(w: object, size: tuple[int, ...], told: str) -> Tensor:
    if not isinstance(w, Tensor) or tuple(w.shape) != size:
        raise ValueError(f"{told} must return weights of shape {size}, got {described(w)}")
    bad = off_simplex(w)
    if bool(bad.any()):
        row = [round(v, 4) for v in w[int(bad.nonzero()[0])].tolist()]
        raise ValueError(f"{told} must return weights >= 0 that sum to 1 in each row, got {row}")
    return w


def _is_ours(rule: WeightRule) -> bool:
    return type(rule).__module__.startswith("omnirobust.")
