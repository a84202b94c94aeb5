"""Weight rules that answer with the worst of a smaller set than the simplex, and one that looks at gradients.

``CVaR``, ``ChiSquare`` and ``Tilted`` are the sets of distributionally robust optimisation around the average 1/K: the
answer to the losses F is the w of the set that maximises sum_k w_k F_k. Their radius goes from the average to the worst
case. ``MinNorm`` is the rule of multi-objective descent.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, log
from typing import ClassVar

import torch
from torch import Tensor

from omnirobust.core.arguments import check_number
from omnirobust.core.types import Evaluation
from omnirobust.core.weights import StartsUniform

_HALVINGS = 60
"""Of an interval of exponents: what is left is below float64's resolution of a weight."""

_GAP = 1e-9
"""How far the least norm may be missed, in units of the largest squared gradient."""

_PAIRS = 4000
"""Most exchanges between two weights for each domain in the search of the least norm; a dozen in all do for three."""

_FORBIDS = 1e6
"""A pull, in units of the largest squared gradient, that leaves next to no weight."""


@dataclass(frozen=True)
class CVaR(StartsUniform):
    """The mean over the worst share of the domains, the conditional value at risk: w_k <= 1 / (alpha K).

    The largest losses get 1 / (alpha K) each, the next one what is left. 1 is the average, 1/K and less the worst case.

    Args:
        alpha: the share, in (0, 1].

    Reference: Rockafellar and Uryasev, Optimization of conditional value-at-risk, 2000.
    """

    alpha: float

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, "in (0, 1]", lambda value: 0 < value <= 1)

    def step(self, weights: Tensor, losses: Tensor) -> Tensor:
        """Return the maximiser, (B, K); ties go to the first domains. Cost: one sort."""
        most = min(1 / max(self.alpha * losses.shape[1], 1e-300), 1.0)
        before = torch.arange(losses.shape[1], device=losses.device, dtype=torch.float64) * most
        shares = (1 - before).clamp(0, most).to(weights)
        order = losses.argsort(dim=1, descending=True, stable=True)
        return torch.zeros_like(weights).scatter_(1, order, shares.expand_as(order))


@dataclass(frozen=True)
class ChiSquare(StartsUniform):
    """The worst case within a chi-square distance of the average: K sum_k (w_k - 1/K)^2 <= 2 radius.

    The mean of the losses plus sqrt(2 radius) standard deviations, as long as no weight is 0. From (K - 1) / 2 on it is
    the worst case.

    Args:
        radius: >= 0. 0 is the average.

    Reference: Namkoong and Duchi, Variance-based regularization with convex objectives, 2017.
    """

    radius: float

    def __post_init__(self) -> None:
        _check_radius(self.radius)

    def step(self, weights: Tensor, losses: Tensor) -> Tensor:
        """Return the maximiser, (B, K); domains that tie share alike.

        With the m largest losses alone in the support, w is 1/m plus a multiple of what they differ from their mean,
        and the distance tells the multiple: of these K candidates, those without a negative weight lie in the set, and
        the best of them is the maximiser. Cost: one sort and some operations on (B, K, K).
        """
        K = losses.shape[1]
        ranked, order = _spread(losses).sort(dim=1, descending=True, stable=True)
        m = torch.arange(1, K + 1, device=losses.device, dtype=torch.float64)
        within = torch.ones(K, K, device=losses.device, dtype=torch.float64).tril()  # row m: the first m
        mean = ranked.cumsum(1) / m
        off = (ranked[:, None, :] - mean[:, :, None]) * within  # (B, m, K)
        room = (2 * self.radius + 1) / K - 1 / m  # of ||w - 1/m||^2 on the support
        spread = off.square().sum(2)
        level = spread <= 1e-24  # the m largest are equal: 1/m each
        pace = (room.clamp_min(0) / spread.masked_fill(level, 1)).sqrt().masked_fill(level, 0)
        w = within / m[:, None] + pace[:, :, None] * off
        value = (w * ranked[:, None, :]).sum(2).masked_fill((w.amin(2) < -1e-12) | (room < -1e-12), -torch.inf)
        # equal values: the widest support
        best = K - 1 - (value >= value.amax(1, keepdim=True) - 1e-15).flip(1).long().argmax(1)
        chosen = w[torch.arange(len(w), device=w.device), best].clamp_min(0)
        return torch.zeros_like(weights).scatter_(1, order, (chosen / chosen.sum(1, keepdim=True)).to(weights))


@dataclass(frozen=True)
class Tilted(StartsUniform):
    """The worst case within a relative entropy of the average: sum_k w_k log(K w_k) <= radius.

    The weights are proportional to exp(F_k / tau), as those of ``ExponentiatedGradient`` after one step, with the
    temperature tau that makes the entropy the radius. From log K on it is the worst case.

    Args:
        radius: in nats, >= 0. 0 is the average.

    Reference: Li et al., Tilted empirical risk minimization, 2021, for the weights; Hu and Hong, Kullback-Leibler
    divergence constrained distributionally robust optimization, 2013, for the set.
    """

    radius: float

    def __post_init__(self) -> None:
        _check_radius(self.radius)

    def step(self, weights: Tensor, losses: Tensor) -> Tensor:
        """Return the maximiser, (B, K); domains that tie share alike.

        Cost: one root, by 60 halvings on (B, K).
        """
        F = _spread(losses)
        if self.radius == 0:
            return torch.full_like(weights, 1 / F.shape[1])
        # of the inverse temperature's exponent to base 2, in units of the spread of the losses
        low, high = torch.full_like(F[:, :1], -60.0), torch.full_like(F[:, :1], 60.0)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            inside = _entropy(F, middle) <= self.radius
            low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
        return (F * low.exp2()).softmax(1).to(weights)


@dataclass(frozen=True)
class MinNorm(StartsUniform):
    """The weights whose gradient is the shortest: the direction of multi-objective descent, task-oriented.

    -sum_k w_k grad F_k of least norm lowers every F_k to first order, or is zero where none can be lowered without
    raising another.

    Args:
        pull: None looks only at the domains that are not fooled yet, at all of them where none is left (or where
            success is unknown). A number, >= 0, looks at all, and adds ``pull`` times the weight of those that are
            fooled to half the squared norm: 0 does not care, and large is like None.

    Gradients count as the losses give them: a loss of larger slope gets less weight, so that a loss which has a unit
    of its own for each model (the default) is meant. Needs gradients: universal attacks over mini-batches have none.

    Reference: Desideri, Multiple-gradient descent algorithm, 2012; Bui et al., Generating adversarial examples with
    task oriented multi-objective optimization, 2023.
    """

    pull: float | None = None
    needs_gradients: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.pull is not None:
            check_number("pull", self.pull, "None, or finite and >= 0", lambda value: isfinite(value) and value >= 0)

    def step(self, weights: Tensor, losses: Tensor) -> Tensor:
        """Return ``weights`` unchanged: of the last iterate there are no gradients."""
        return weights

    def step_evaluated(self, weights: Tensor, evaluation: Evaluation) -> Tensor:
        """Return the weights of least norm, (B, K).

        Cost: the products of K gradients with each other, and a search on (B, K, K), to a gap of 1e-9 of the
        largest or for 4,000 K exchanges.
        """
        assert evaluation.grads is not None
        slopes = torch.stack([grad.flatten(1) for grad in evaluation.grads], 1).double()
        products = slopes @ slopes.mT
        largest = products.diagonal(dim1=1, dim2=2).amax(1)[:, None]
        largest = largest.masked_fill(largest == 0, 1)  # no gradient at all: every weight is as short
        fooled = torch.zeros_like(weights, dtype=torch.bool) if evaluation.fooled is None else evaluation.fooled
        pull = fooled * ((self.pull or 0.0) / largest).clamp_max(_FORBIDS)
        seen = ~fooled | fooled.all(1, keepdim=True) if self.pull is None else torch.ones_like(fooled)
        return _least(products / largest[:, :, None], pull, seen).to(weights)


def _check_radius(radius: float) -> None:
    check_number("radius", radius, "finite and >= 0", lambda value: isfinite(value) and value >= 0)


def _spread(losses: Tensor) -> Tensor:
    """Return losses in [-1, 0], in units of each row's largest difference: no maximiser depends on it. In float64."""
    F = losses.double().clamp(-1e300, 1e300)
    F = F - F.amax(1, keepdim=True)
    return F / -F.amin(1, keepdim=True).clamp_max(-torch.finfo(torch.float64).tiny)


def _entropy(F: Tensor, exponent: Tensor) -> Tensor:
    """Return the relative entropy to 1/K of the weights that are proportional to exp(2^exponent F), (B, 1)."""
    logs = (F * exponent.exp2()).log_softmax(1)
    return (logs.exp() * logs.masked_fill(logs.isneginf(), 0)).sum(1, keepdim=True) + log(F.shape[1])


def _least(products: Tensor, pull: Tensor, seen: Tensor) -> Tensor:
    """Minimise w' G w / 2 + pull' w over the simplex on the domains that are ``seen``, by exchanges between pairs.

    Args:
        products: G, (B, K, K), the largest on its diagonal 1.
        pull: (B, K).
        seen: (B, K) bool, one or more a row.

    Each exchange gives to the domain of the gentlest slope and takes from the one where that gains most, as far as is
    best: exact for two domains. The gap between the slopes bounds how far the value is from the least.
    """
    w = seen.double() / seen.sum(1, keepdim=True)
    rows = torch.arange(len(w), device=w.device)
    for _ in range(_PAIRS * w.shape[1]):
        slope = (products @ w[:, :, None]).squeeze(2) + pull
        to = slope.masked_fill(~seen, torch.inf).argmin(1)
        above = (slope - slope[rows, to][:, None]).masked_fill(w <= 0, 0).clamp_min(0)
        if bool((above.amax(1) <= _GAP).all()):
            break
        curves = products[rows, to, to][:, None] + products.diagonal(dim1=1, dim2=2) - 2 * products[rows, to]
        paces = above / curves.clamp_min(1e-300)
        off = (above * paces).argmax(1)  # the exchange that gains most
        moved = paces[rows, off].minimum(w[rows, off])
        w[rows, off] -= moved
        w[rows, to] += moved
    return w / w.sum(1, keepdim=True)
