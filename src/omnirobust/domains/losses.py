"""Per-example attack losses: low where the model is fooled.

Every loss maps logits (B, C) and labels (B,) to (B,). Untargeted, ``labels`` are the classes to leave; with
``targeted=True`` they are the classes to reach, and the loss is low once the model says them.

Logits of half precision are lifted to float32 first, where the small differences that a gradient is made of survive.
What a loss does not see, its docstring says: an offset of all logits, a positive factor of all of them, or further
classes whose logits lie far below (how far, depends on the loss).
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from math import isfinite
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import softplus

from omnirobust.core.arguments import check_number
from omnirobust.core.threat_models import FeasibleSet
from omnirobust.core.types import Evaluation
from omnirobust.core.units import in_units, seen_in_units

_SHARPNESS = 10.0

_AGREEMENT = 3.0
"""How much of ``consensus_margin`` goes to the wrong class that is ahead: per standard deviation, in logits."""

_LEAST_SLOPE = 2.0**-100
"""What is added to the slope of the cross-entropy in its margin, 1 - p_y: that leaves the range of float32 at a margin
of 103 and, a factor of the gradient, would take its direction along."""

_STRAIGHT = 50
"""Argument from which on softplus is the identity."""

UNITS = 4.0
"""Units of ``relative_margin`` in one reach: on clean inputs it lies between -4 and 4."""

_LARGEST = 1e30
"""Bound of what is summed in ``relative_margin``."""


_FAR = 64.0
"""Length of the step whose projection is taken for the end of the set, in diagonals of its box."""


class Loss(Protocol):
    """A per-example loss, low = fooled: (logits (B, C), labels (B,)) -> (B,)."""

    def __call__(self, logits: Tensor, labels: Tensor, *, targeted: bool = False) -> Tensor:
        """Return the loss of every row, (B,)."""
        ...


def fooled(logits: Tensor, labels: Tensor, *, targeted: bool = False, checked: bool = False) -> Tensor:
    """Say which rows are fooled: argmax differs from the label, or equals it when ``targeted``.

    Args:
        logits: (B, C).
        labels: (B,) int64.
        targeted: see above.
        checked: whether no logit is known to be NaN.

    Returns:
        (B,) bool. NaN logits count as not fooled.
    """
    predicted = logits.argmax(dim=1)
    hit = predicted == labels if targeted else predicted != labels
    return hit if checked else hit & ~logits.isnan().any(dim=1)


def margin(logits: Tensor, labels: Tensor, kappa: float = 50.0, *, targeted: bool = False) -> Tensor:
    """Carlini and Wagner's hinge: max(z_y - max_{j != y} z_j + kappa, 0).

    Targeted it is max(max_{j != y} z_j - z_y + kappa, 0). The maximum runs over the true wrong logits, of any sign.

    Args:
        logits: (B, C), C >= 2.
        labels: (B,) int64 in [0, C).
        kappa: confidence, in logits: the hinge is zero once the margin is won by ``kappa``.

    Returns:
        (B,), in [0, inf). Unchanged by an offset, and by classes that do not come second; not by a factor: ``kappa`` is
        in logits.

    Reference: Carlini and Wagner, "Towards evaluating the robustness of neural networks", 2017; the paper's
    Section 4.1 and Appendix C.2 (kappa = 50).
    """
    check_number("kappa", kappa, "a finite number", isfinite)
    return (signed_margin(logits, labels, targeted=targeted) + kappa).clamp_min(0)


def signed_margin(logits: Tensor, labels: Tensor, *, targeted: bool = False) -> Tensor:
    """Return z_y - max_{j != y} z_j, or its negative when ``targeted``: zero at the decision boundary.

    Returns:
        (B,), any real. Unchanged by an offset, and by classes that do not come second; a factor multiplies it.
    """
    return _signed(_label_minus_best_other(_lifted(logits), labels), targeted)


def smooth_margin(logits: Tensor, labels: Tensor, *, targeted: bool = False) -> Tensor:
    """Return z_y - log sum_{j != y} exp(z_j), or its negative when ``targeted``.

    The logit of p_y: every wrong class pulls, the nearest most. Unlike cross-entropy it does not flatten where the
    model is sure or surely fooled.

    Returns:
        (B,), any real. Unchanged by an offset, and by classes that lie 20 below another wrong one; not by a factor.
    """
    logits = _lifted(logits)
    least = torch.finfo(logits.dtype).min  # where every wrong logit is -inf, logsumexp has no gradient
    others = logits.scatter(1, labels.unsqueeze(1), -torch.inf).clamp_min(least).logsumexp(dim=1)
    return _signed(_pick(logits, labels) - others, targeted)


def standardised_margin(logits: Tensor, labels: Tensor, *, targeted: bool = False) -> Tensor:
    """Return the smooth margin of standardised logits: smooth_margin(10 z / s) / 10, s the standard deviation of z.

    s is taken over the classes and held constant in the gradient. The value does not change when a model's logits are
    multiplied by a number, so that the weights compare models of different logit scales like with like; unlike
    probabilities it does not saturate. The factor 10 keeps the softmax over wrong classes close to the maximum.

    Returns:
        (B,), in standard deviations of the logits, about -4 to 4 for ten classes. Unchanged by an offset, and by a
        factor (in float32 while the deviation stays between 1e-7 and 1e18). Not by further classes, which change the
        deviation: one that lies very far below all others leaves little of the differences between these. Classes at
        minus infinity do not count.
    """
    logits = _lifted(logits)
    scale = _deviation(logits.detach()).clamp_min(torch.finfo(logits.dtype).eps)
    return smooth_margin(logits * (_SHARPNESS / scale), labels, targeted=targeted) / _SHARPNESS


def standardised(logits: Tensor) -> Tensor:
    """Return logits (B, C) in units of the standard deviation of their row, which is held constant in the gradient."""
    logits = _lifted(logits)
    return logits / _deviation(logits.detach()).clamp_min(torch.finfo(logits.dtype).eps)


def consensus_margin(logits: Tensor, labels: Tensor, *, said: Tensor | None = None, targeted: bool = False) -> Tensor:
    """Return z_y - sum_{j != y} q_j z_j of standardised logits z, or its negative when ``targeted``.

    q is the softmax over the wrong classes of three times what all models say, and held constant: all of them push
    towards the same classes, which is what carries over to a model that is not attacked.

    Args:
        logits: (B, C).
        labels: (B,) int64.
        said: (B, C), the mean over the models of their standardised logits; attacks give those of the step before
            (``domains.consensus``). None: the row's own.

    Returns:
        (B,), in standard deviations of the logits. Unchanged by an offset and by a factor, as ``standardised_margin``;
        classes at minus infinity do not count.
    """
    z = standardised(logits)
    scores = (z.detach() if said is None else said.to(z)) * _AGREEMENT
    q = scores.scatter(1, labels.unsqueeze(1), -torch.inf).softmax(dim=1)
    return _signed(_pick(z, labels) - (q * z.masked_fill(q == 0, 0.0)).sum(dim=1), targeted)


def _deviation(logits: Tensor) -> Tensor:
    """Return the standard deviation of every row over the classes that are not minus infinity, (B, 1)."""
    out = logits.isneginf()
    if not bool(out.any()):
        centred, count = logits - logits.mean(dim=1, keepdim=True), logits.shape[1]
        return torch.linalg.vector_norm(centred, dim=1, keepdim=True) / count**0.5
    counts = (~out).sum(dim=1, keepdim=True)
    mean = logits.masked_fill(out, 0.0).sum(dim=1, keepdim=True) / counts
    return torch.linalg.vector_norm((logits - mean).masked_fill(out, 0.0), dim=1, keepdim=True) / counts**0.5


def relative_margin(logits: Tensor, labels: Tensor, *, reach: Tensor | None = None, targeted: bool = False) -> Tensor:
    """Return the smooth margin in quarters of ``reach``: smooth_margin(40 z / reach) / 10, low = fooled.

    The default of the attacks, which set ``reach`` once for every model and row, before the first step: the margin of
    the clean input and how far it can fall inside the ball to first order (``DomainGrid.scaled``). So in an attack the
    loss depends neither on an offset of a model's logits nor on a positive factor, nor on classes that never come near
    winning, and the weights compare models of different logit scale like with like, for two classes too.

    Args:
        logits: (B, C), C >= 2.
        labels: (B,) int64.
        reach: (B,), > 0, in logits; held constant. None: 4, for a loss in logits.

    Returns:
        (B,), any real; -4 to 4 on the clean inputs whose ``reach`` it is, to the smoothing of at most log(C - 1) / 10.
        Unchanged by an offset, by classes that lie half a reach below another wrong one, and by a factor that
        multiplies ``reach`` too; not by a factor alone. Finite, and its gradient, for logits up to 1e38.
    """
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    z = z.clamp_min(torch.finfo(z.dtype).min)  # of infinities there is no difference
    unit = z.new_full((1,), 1.0) if reach is None else reach.to(z) / UNITS
    # differences first: an offset costs no digits
    ahead = (z - z.gather(1, labels.unsqueeze(1))) / (unit / _SHARPNESS).unsqueeze(1)
    others = ahead.clamp(-_LARGEST, _LARGEST).scatter(1, labels.unsqueeze(1), -torch.inf).logsumexp(dim=1)
    return others / _SHARPNESS if targeted else -others / _SHARPNESS


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
    reach = margins.losses.abs() + falls_of(feasible, margins)
    return as_divisor(reach)


def as_divisor(size: Tensor) -> Tensor:
    """Return sizes >= 0 as what losses and gradients can be divided by: finite, > 0 with room to spare, 1 for 0."""
    info = torch.finfo(size.dtype)
    return torch.where(size == 0, 1.0, size.nan_to_num(posinf=info.max)).clamp(64 * info.tiny, info.max / 64)


def falls_of(feasible: FeasibleSet, seen: Evaluation) -> Tensor:
    """Return how far each loss that was ``seen`` at delta = 0 can fall inside X to first order, (B, K), >= 0."""
    if feasible.scale is not None:
        seen, feasible = seen_in_units(seen, feasible), in_units(feasible)
    assert seen.grads is not None
    if feasible.lower.dtype.itemsize < 4:  # a long step may leave the range of half precision
        feasible = replace(feasible, lower=feasible.lower.float(), upper=feasible.upper.float(), checked=True)
    return torch.stack([_fall(feasible, slope) for slope in seen.grads], 1)


def _fall(feasible: FeasibleSet, slope: Tensor) -> Tensor:
    flat = slope.flatten(1)
    # to a largest entry of 1, for squares and products may leave the range of the numbers where the slope does not
    largest = flat.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(slope.dtype).tiny)
    shape, width = flat / largest, torch.linalg.vector_norm((feasible.upper - feasible.lower).flatten(1), dim=1)
    if not bool(width.isfinite().all()):  # features without an end go as far as the ball does
        ends = (feasible.upper - feasible.lower).flatten(1).minimum(2 * feasible.radius().unsqueeze(1).to(flat))
        width = torch.where(width.isfinite(), width, torch.linalg.vector_norm(ends, dim=1))
    end = feasible.project((shape * (width * -_FAR).unsqueeze(1)).view_as(slope)).flatten(1)
    wide = torch.promote_types(slope.dtype, torch.float32)
    return (-(shape.to(wide) * end).sum(dim=1) * largest.squeeze(1)).clamp_min(0)


def wants_reach(loss: object) -> bool:
    """Say whether a loss has a keyword ``reach`` that defaults to None, as ``relative_margin``: grids then give it."""
    return wants(loss, "reach")


def wants(loss: object, name: str) -> bool:
    """Say whether a loss has a keyword of that name that defaults to None."""
    try:
        parameter = inspect.signature(loss).parameters.get(name)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return False
    return parameter is not None and parameter.kind is parameter.KEYWORD_ONLY and parameter.default is None


def probability_margin(logits: Tensor, labels: Tensor, *, targeted: bool = False) -> Tensor:
    """Return p_y - max_{j != y} p_j with p = softmax(z), or its negative when ``targeted``.

    Lies in [-1, 1] for every model, so that the weights compare models of different logit scales like with like. It
    saturates by nature: the gradient shrinks by a factor e for each logit by which one class wins, and in float32 it
    is gone from a margin of about 100 on. No attack moves what a model is that sure of; ``smooth_margin`` does.

    Returns:
        (B,), in [-1, 1]. Unchanged by an offset, and by classes that lie 20 below the largest logit; not by a factor.
    """
    p = _lifted(logits).softmax(dim=1)
    margin = _label_minus_best_other(p, labels)
    # With c = 1 for y and -1 for the best other it is sum c p, but near 1 or -1 the gradient of that sum cancels: the
    # large p's part of it is to come from the small ones. So the distance from 1, or from -1, is summed instead.
    side = torch.where(margin < 0, -1.0, 1.0).to(p).unsqueeze(1)
    best_other = p.detach().scatter(1, labels.unsqueeze(1), -torch.inf).argmax(dim=1, keepdim=True)
    c = torch.zeros_like(p).scatter(1, best_other, -1.0).scatter(1, labels.unsqueeze(1), 1.0)
    return _signed(side.squeeze(1) * (1 - (p * (1 - side * c)).sum(dim=1)), targeted)


def neg_cross_entropy(logits: Tensor, labels: Tensor, *, targeted: bool = False) -> Tensor:
    """Return log p_y = -softplus(-m), m = z_y - log sum_{j != y} exp(z_j), or its negative when ``targeted``.

    Taken as a softmax, the true class's part of the gradient, 1 - p_y, rounds to nothing in float32 from a margin of
    17 on, while the others' stay, and the direction is lost. Here it is (1 - p_y) grad m, both without cancellation.
    2^-100 is added to that factor, so that the direction stays right where 1 - p_y is too small for float32, too.

    Returns:
        (B,), in (-inf, 0]; [0, inf) when targeted. Unchanged by an offset, and by classes that lie 20 below another
        wrong one; not by a factor.
    """
    m = smooth_margin(logits, labels)
    held = (m - m.detach()).nan_to_num()  # zero; NaN where the margin is infinite
    return _signed(-softplus(-m, threshold=_STRAIGHT) + _LEAST_SLOPE * held, targeted)


def cross_entropy_slope(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the negative of ``neg_cross_entropy``, f = softplus(-m), (B,), and its gradient in the logits, (B, C).

        df/dz_y = -s,    df/dz_j = s exp(z_j) / sum_{i != y} exp(z_i),    s = sigmoid(-m) + 2^-100

    Bit for bit what autograd makes of it, by a quarter of the operations: for loops that need no graph of the loss.

    Args:
        logits: (B, C), in float32 or wider; of a row all finite, or minus infinity for classes other than its label.
        labels: (B,) int64 in [0, C).
    """
    z, at = logits.detach(), labels.unsqueeze(1)
    rest = z.scatter(1, at, -torch.inf).clamp_min_(torch.finfo(z.dtype).min)
    others = rest.logsumexp(dim=1, keepdim=True)
    lost = others - z.gather(1, at)
    slope = torch.ops.aten.softplus_backward(torch.ones_like(lost), lost, 1, _STRAIGHT)
    slope = slope.add_(_LEAST_SLOPE * lost.isfinite())
    return softplus(lost, threshold=_STRAIGHT).squeeze(1), rest.sub_(others).exp_().mul_(slope).scatter_(1, at, -slope)


def dlr(logits: Tensor, labels: Tensor, *, targeted: bool = False) -> Tensor:
    """Difference of logits ratio: (z_y - max_{j != y} z_j) / (z_(1) - z_(3)), z_(i) the i-th largest logit.

    Targeted it is (max_{j != y} z_j - z_y) over
    (z_(1) - (z_(3) + z_(4)) / 2).

    Args:
        logits: (B, C), C >= 3; C >= 4 when targeted. So many of a row must be finite: minus infinity is no class here.
        labels: (B,) int64.

    Returns:
        (B,), at most 1 when untargeted; fooled rows with nearly tied largest logits may fall far below -1. Unchanged by
        an offset, by a factor (while the difference below the fraction bar stays above 1e-6), and by classes that are
        not among the largest that the ratio takes.

    Raises:
        ValueError: with too few classes, or too few that are not minus infinity.

    Reference: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", 2020 (there with the opposite sign).
    """
    needed = 4 if targeted else 3
    if logits.shape[1] < needed:
        raise ValueError(f"dlr needs logits of at least {needed} classes, got {logits.shape[1]}")
    logits = _lifted(logits)
    top = logits.topk(needed, dim=1).values
    if bool(top[:, -1].isneginf().any()):
        raise ValueError(f"dlr needs {needed} logits of every row above minus infinity, got fewer")
    scale = top[:, 0] - (top[:, 2] + top[:, 3]) / 2 if targeted else top[:, 0] - top[:, 2]
    # where the largest logits tie the ratio has no bound: there its size stops at that of a difference of 1e-6
    return _signed(_label_minus_best_other(logits, labels), targeted) / scale.clamp_min(1e-6)


def _lifted(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _pick(scores: Tensor, labels: Tensor) -> Tensor:
    return scores.gather(1, labels.unsqueeze(1)).squeeze(1)


def _label_minus_best_other(scores: Tensor, labels: Tensor) -> Tensor:
    best_other = scores.scatter(1, labels.unsqueeze(1), -torch.inf).amax(dim=1)
    return _pick(scores, labels) - best_other


def _signed(value: Tensor, targeted: bool) -> Tensor:
    return -value if targeted else value
