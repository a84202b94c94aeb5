"""What of a step of Algorithm 2 is compiled: functions of tensors alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from omnirobust.core.projections import simplex_by_sorting
from omnirobust.core.weights import ascend
from omnirobust.domains.classifier import Classifier
from omnirobust.domains.losses import cross_entropy_slope
from omnirobust.domains.outputs import read_logits
from omnirobust.domains.unrolled import unrolled_l2

Deltas: TypeAlias = tuple[Tensor, ...]


class Inputs(NamedTuple):
    """What the steps on a mini-batch of B examples have in common.

    Attributes:
        x: (B, *S).
        y: (B,) int64.
        lows, highs: the ends of the K sets, (B, *S) each.
        radii: of the K sets, (B,) each.
    """

    x: Tensor
    y: Tensor
    lows: Deltas
    highs: Deltas
    radii: Deltas


class Found(NamedTuple):
    """What a compiled function returns.

    Attributes:
        moved: the K next perturbations, (B, *S) each.
        losses: f at those before, (B, K).
        sound: whether all is finite and solved, ().
        descent: grad (-f) at those before, (K, B, *S).
        compiled: whether it ran as compiled code.
        weights: the next ones, (B, K); those before where the rule is not part of the function.
    """

    moved: Deltas
    losses: Tensor
    sound: Tensor
    descent: Tensor
    compiled: bool
    weights: Tensor


Returned: TypeAlias = tuple[Deltas, Tensor, Tensor, Tensor, bool, Tensor]
"""The fields of ``Found``, as a compiler returns them."""


class Plan(NamedTuple):
    """What the steps of a training have in common.

    Attributes:
        shapes: of each of the K attacks its norm, and what its step does with a gradient: "sign", "unit" or "raw".
        weighed: whether each gradient is multiplied by its weight.
        ascent: beta and gamma of (14), by which weights move; None where a rule moves them that is not compiled.
    """

    shapes: tuple[tuple[float, str], ...]
    weighed: bool
    ascent: tuple[float, float] | None


def whole_step(classifier: Classifier, plan: Plan) -> Callable[..., object]:
    """Return a step: its passes through the model, its moves and projections."""
    model, label, K = classifier.model, classifier.name, len(plan.shapes)
    mixed, move = classifier.precision == "bf16", moves(plan)

    def said(points: Tensor) -> Tensor:
        with torch.autocast(points.device.type, torch.bfloat16, enabled=mixed):
            output = model(points)
        logits = read_logits(output, len(points), label).logits
        return logits.to(torch.promote_types(logits.dtype, points.dtype))

    def step(given: Inputs, deltas: Deltas, lengths: Tensor, weights: Tensor) -> Returned:
        logits, pull = torch.func.vjp(said, torch.cat([given.x + delta for delta in deltas]))[:2]
        losses, slope = cross_entropy_slope(logits, given.y.repeat(K))
        (grads,) = pull(-slope)
        descent = grads.view(K, *given.x.shape)
        return move(given, deltas, lengths, weights, losses.view(K, -1).t(), descent)

    return step


def moves(plan: Plan) -> Callable[..., Returned]:
    """Return what a step does once losses (B, K) and gradients (K, B, *S) are known."""
    shapes, weighed, ascent = plan

    def move(
        given: Inputs, deltas: Deltas, lengths: Tensor, weights: Tensor, losses: Tensor, descent: Tensor
    ) -> Returned:
        finite = (losses.sum() + descent.sum()).isfinite()
        moved: list[Tensor] = []
        for k, (p, shape) in enumerate(shapes):
            slope = descent[k].flatten(1)
            slope = slope * weights[:, k : k + 1] if weighed else slope
            way = slope.sign() if shape == "sign" else _unit(slope) if shape == "unit" else slope
            to = deltas[k].flatten(1) - lengths[k].unsqueeze(1) * way
            low, high = given.lows[k].flatten(1), given.highs[k].flatten(1)
            if p == 2:
                to, solved = unrolled_l2(to, given.radii[k].unsqueeze(1), low, high)
                finite = finite & solved.all()
            else:
                to = torch.clamp(to, low, high)
            moved.append(to.view(given.x.shape))
        compiled = torch.compiler.is_compiling()  # noted as the code is made, and returned ever after
        following = weights if ascent is None else ascend(weights, losses, *ascent, project=simplex_by_sorting)
        return tuple(moved), losses, finite, descent, compiled, following

    return move


def _unit(slope: Tensor) -> Tensor:
    """Scale rows (B, n) to l2 norm 1; zero rows stay zero. Divided by their largest first, squares stay in range."""
    scaled = slope / slope.abs().amax(1, keepdim=True).clamp_min(torch.finfo(slope.dtype).tiny)
    return scaled / scaled.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)
