"""Weight rules on the whole simplex: how domain weights answer the losses. Those on a part of it: ``core.ambiguity``.

All keep w in the probability simplex. ``init(B, K)`` gives the first weights, ``step(weights, losses)`` the next,
both (B, K): every problem of the batch has weights of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from omnirobust.core.arguments import check_number
from omnirobust.core.projections import simplex_unchecked
from omnirobust.core.types import WeightRule


def uniform(B: int, K: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> Tensor:
    """Return w = 1/K, (B, K)."""
    return torch.full((B, K), 1.0 / K, dtype=dtype, device=device)


class StartsUniform:
    """A rule whose first weights are the average."""

    def init(
        self, B: int, K: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
    ) -> Tensor:
        """Return w = 1/K, (B, K)."""
        return uniform(B, K, dtype=dtype, device=device)


@dataclass(frozen=True)
class Uniform(StartsUniform):
    """w = 1/K throughout: the average, as ensemble PGD and EOT use it."""

    def step(self, weights: Tensor, losses: Tensor) -> Tensor:
        """Return ``weights`` unchanged."""
        return weights


@dataclass(frozen=True, eq=False)
class Fixed:
    """w is what the caller says, throughout.

    Args:
        w: (K,) for the whole batch, or (B, K), a row for each problem; non-negative, each row summing to 1.

    Raises:
        ValueError: if a row is not in the simplex.
    """

    w: Tensor

    def __post_init__(self) -> None:
        try:
            w = torch.as_tensor(self.w)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"w must be a tensor of weights, got {type(self.w).__name__}") from error
        if w.is_complex() or w.dtype == torch.bool:
            raise ValueError(f"w must hold real numbers, got {w.dtype}")
        w = w if w.is_floating_point() else w.to(torch.get_default_dtype())
        if w.ndim not in (1, 2):
            raise ValueError(f"w must have shape (K,) or (B, K), got {tuple(w.shape)}")
        if not bool((w >= 0).all()) or not bool(((w.sum(-1) - 1).abs() <= 1e-5).all()):
            raise ValueError("w must be non-negative and each row must sum to 1")
        object.__setattr__(self, "w", w)

    def init(
        self, B: int, K: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
    ) -> Tensor:
        """Return the given weights, (B, K).

        Raises:
            ValueError: if they were given for another number of problems or domains.
        """
        if self.w.shape[-1] != K or (self.w.ndim == 2 and self.w.shape[0] != B):
            raise ValueError(f"w must have shape ({K},) or ({B}, {K}), got {tuple(self.w.shape)}")
        return self.w.to(dtype=dtype, device=device).expand(B, K).clone()

    def step(self, weights: Tensor, losses: Tensor) -> Tensor:
        """Return ``weights`` unchanged."""
        return weights


def weighted_gradient(weights: Tensor, grads: tuple[Tensor, ...]) -> Tensor:
    """Return sum_k w_k grad F_k, the gradient of (4) in delta.

    Args:
        weights: (B, K).
        grads: K tensors (B, *S).

    Returns:
        (B, *S), a new tensor.
    """
    shape = (-1,) + (1,) * (grads[0].ndim - 1)
    total = grads[0] * weights[:, 0].view(shape)
    for k, grad in enumerate(grads[1:], start=1):
        total.addcmul_(grad, weights[:, k].view(shape))
    return total


def ascend(
    weights: Tensor, losses: Tensor, beta: float, gamma: float, project: Callable[[Tensor], Tensor] = simplex_unchecked
) -> Tensor:
    """Return proj_P(w + beta (F - gamma (w - 1/K))), the paper's (14), (B, K), by a projection onto the simplex."""
    shrunk = weights * (1 - beta * gamma) + beta * gamma / weights.shape[-1]
    return project(shrunk.add_(losses, alpha=beta))


@dataclass(frozen=True)
class ProjectedAscent(StartsUniform):
    """One projected gradient ascent step, the paper's (14): w <- proj_P(w + beta (F - gamma (w - 1/K))).

    Args:
        beta: step size, > 0. Warns unless beta * gamma < 1, which Theorem 1 asks for.
        gamma: strength of the pull towards 1/K, >= 0. 0 is the pure worst case (1); large is the average.
    """

    beta: float
    gamma: float

    def __post_init__(self) -> None:
        _check_rates("beta", self.beta, self.gamma)
        if self.beta * self.gamma >= 1:
            warnings.warn(
                f"beta * gamma is {self.beta * self.gamma:g}; Theorem 1 asks for beta * gamma < 1: w may oscillate",
                RuntimeWarning,
                stacklevel=3,
            )

    def step(self, weights: Tensor, losses: Tensor) -> Tensor:
        """Return the weights after one step of (14), (B, K)."""
        return ascend(weights, losses, self.beta, self.gamma)


@dataclass(frozen=True)
class ExponentiatedGradient(StartsUniform):
    """Mirror ascent with the entropy: w_k <- w_k exp(eta (F_k - gamma (w_k - 1/K))), normalised to sum 1.

    Args:
        eta: step size, > 0.
        gamma: strength of the pull towards 1/K, >= 0.
    """

    eta: float
    gamma: float = 0.0

    def __post_init__(self) -> None:
        _check_rates("eta", self.eta, self.gamma)

    def step(self, weights: Tensor, losses: Tensor) -> Tensor:
        """Return the weights after one multiplicative step, (B, K)."""
        pull = self.gamma * (weights - 1.0 / weights.shape[-1])
        # from exactly 0 no factor leads back: what has underflowed starts again from a millionth
        return (weights.clamp_min(1e-6).log() + self.eta * (losses - pull)).softmax(dim=-1)


@dataclass(frozen=True)
class WorstCase(StartsUniform):
    """w is one-hot at the largest loss: the inner maximum of (2). Ties go to the first domain.

    The first weights, before any loss is seen, are 1/K.
    """

    def step(self, weights: Tensor, losses: Tensor) -> Tensor:
        """Return the one-hot weights, (B, K)."""
        return torch.zeros_like(weights).scatter_(1, losses.argmax(dim=1, keepdim=True), 1.0)


def _check_rates(name: str, rate: float, gamma: float) -> None:
    check_number(name, rate, "finite and > 0", lambda value: isfinite(value) and value > 0)
    check_number("gamma", gamma, "finite and >= 0", lambda value: isfinite(value) and value >= 0)


def off_simplex(weights: Tensor) -> Tensor:
    """Say which rows of (B, K) are no weights: negative, NaN, or of another sum than 1; (B,) bool."""
    return ~((weights >= 0).all(1) & ((weights.sum(1) - 1).abs() < 1e-4))


def weights_of(rule: WeightRule, weights: Tensor | None, losses: Tensor) -> Tensor:
    """Return the first weights of ``solve``: those given, if they fit, or the rule's own."""
    B, K = losses.shape
    if weights is None:
        init: Callable[..., Tensor] = rule.init
        return init(B, K, dtype=losses.dtype, device=losses.device)
    if tuple(weights.shape) != (B, K):
        raise ValueError(f"weights must have shape ({B}, {K}), got {tuple(weights.shape)}")
    if bool(off_simplex(weights).any()):
        raise ValueError("weights must be non-negative and each row must sum to 1")
    return weights.to(losses)
