"""What code of the caller's own owes the solver, checked where it is handed over: domains, weight rules, sets.

What is the library's own (``is_ours``) passes by; the rest is wrapped in something that checks each of its answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import signature
from math import prod
from typing import Any

import torch
from torch import Tensor

from omnirobust.core.arguments import is_ours as is_ours
from omnirobust.core.threat_models import Clip, FeasibleSet, ThreatModel
from omnirobust.core.types import Domains, Evaluation, WeightRule, described
from omnirobust.core.weights import off_simplex

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


def checked_domains(domains: Domains) -> Domains:
    """Wrap domains of the caller's own, so that their answers have their shapes.

    Raises:
        ValueError: if names and axes do not agree; the wrapped ones, if an answer is not what it must be.
    """
    return _CheckedDomains(domains, check_domains(domains))


def checked_rule(rule: WeightRule) -> WeightRule:
    """Return a rule whose weights lie in the simplex: the library's as they are, others wrapped."""
    if is_ours(rule):
        return rule
    return _CheckedSeeingRule(rule) if hasattr(rule, "step_evaluated") else _CheckedRule(rule)


def check_mask(threat: ThreatModel) -> None:
    """Raise a ValueError if a mask lets nothing change: an attack would find nothing, as on a robust model."""
    if threat.mask is not None and not bool(threat.mask.any()):
        raise ValueError("mask of the threat model must allow at least one coordinate to change, got False everywhere")


def check_answers_losses(rule: WeightRule | None) -> None:
    """Refuse a rule that says nothing without gradients, where there are none in one perturbation for all domains.

    Raises:
        ValueError: if it is one.
    """
    if getattr(rule, "needs_gradients", False):
        raise ValueError(f"rule must answer losses alone here, got {rule!r}, which compares gradients")


@dataclass(frozen=True)
class _CheckedDomains:
    domains: Domains
    K: int

    @property
    def names(self) -> tuple[str, ...]:
        return self.domains.names

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        return self.domains.axes

    def evaluate(self, delta: Tensor, grad: bool = True) -> Evaluation:
        return check_evaluation(self.domains.evaluate(delta, grad=grad), self.domains, delta, self.K, grad)

    def select(self, rows: Tensor) -> Domains:
        return _CheckedDomains(self.domains.select(rows), self.K)


@dataclass(frozen=True)
class _CheckedRule:
    rule: WeightRule

    def init(self, B: int, K: int, **like: Any) -> Tensor:
        knows = "dtype" in signature(self.rule.init).parameters  # a rule of the caller's own need not
        w = self.rule.init(B, K, **like) if knows else self.rule.init(B, K)
        return _weights(w, (B, K), f"{type(self.rule).__name__}.init({B}, {K})").to(**like)

    def step(self, weights: Tensor, losses: Tensor) -> Tensor:
        w = self.rule.step(weights, losses)
        return _weights(w, tuple(losses.shape), f"{type(self.rule).__name__}.step").to(losses)


@dataclass(frozen=True)
class _CheckedSeeingRule(_CheckedRule):
    rule: Any

    def step_evaluated(self, weights: Tensor, evaluation: Evaluation) -> Tensor:
        w = self.rule.step_evaluated(weights, evaluation)
        shape = tuple(evaluation.losses.shape)
        return _weights(w, shape, f"{type(self.rule).__name__}.step_evaluated").to(evaluation.losses)


def check_evaluation(e: Evaluation, domains: Domains, delta: Tensor, K: int, grad: bool) -> Evaluation:
    """Return what K domains said of ``delta``, if it has its shapes.

    Raises:
        ValueError: that names what is wrong, and the class of the domains.
    """
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
    if e.losses.requires_grad:  # what is kept of a step must not keep the graph of every pass
        e = replace(e, losses=e.losses.detach())
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


def first_weights(rule: WeightRule, B: int, K: int, like: Tensor) -> Tensor:
    """Return a rule's first weights (B, K), with the type and device of ``like``.

    Raises:
        ValueError: if a rule of the caller's own gives none.
    """
    init: Callable[..., Tensor] = checked_rule(rule).init
    return init(B, K, dtype=like.dtype, device=like.device)


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
        noise = noise if feasible.scale is None else (noise * feasible.scale).to(noise)
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
    width = (feasible.upper - feasible.lower).nan_to_num(posinf=0.0)
    if out > _ROUNDING * float(width.max() if bool(width.any()) else moved.abs().max()):
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
