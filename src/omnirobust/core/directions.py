"""How a perturbation moves: raw gradient (the paper), sign, l2-normalised, or adaptive.

A direction is a frozen setting; ``start`` makes a stepper, which holds the state of one run. A stepper answers
each evaluation with the next perturbation, already projected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from omnirobust.core.arguments import check_number
from omnirobust.core.threat_models import FeasibleSet
from omnirobust.core.types import Evaluation
from omnirobust.core.weights import weighted_gradient as weighted_gradient

Decay: TypeAlias = Literal["constant", "linear"]


class Stepper(Protocol):
    """The state of one run of a direction."""

    def step(self, t: int, delta: Tensor, weights: Tensor, evaluation: Evaluation, feasible: FeasibleSet) -> Tensor:
        """Return the projected perturbation of step ``t`` (1, ..., T) that follows ``delta`` (B, *S)."""
        ...

    def select(self, rows: Tensor) -> None:
        """Keep the problems that ``rows`` lists."""
        ...


class Direction(Protocol):
    """A way to move: a setting that starts a stepper for each run."""

    def start(self, feasible: FeasibleSet, step_size: float | None, steps: int) -> Stepper:
        """Return the stepper of a run of ``steps`` steps."""
        ...


def balanced_gradient(weights: Tensor, grads: tuple[Tensor, ...]) -> Tensor:
    """Return sum_k w_k grad F_k / ||grad F_k||_2, with 0 for a zero gradient.

    Args:
        weights: (B, K).
        grads: K tensors (B, *S).

    Returns:
        (B, *S), a new tensor.
    """
    return weighted_gradient(weights, tuple(unit_l2(g) for g in grads))


@dataclass(frozen=True)
class RawGradient:
    """delta <- proj(delta - alpha g), the paper's (13), with g the weighted gradient as it comes."""

    decay: Decay = "constant"

    def start(self, feasible: FeasibleSet, step_size: float | None, steps: int) -> Stepper:
        """Return the stepper; ``step_size`` is alpha and must be given."""
        if step_size is None:
            raise ValueError("step_size must be given for raw gradients: their scale is the model's")
        return Plain(lambda g: g, step_size, steps, self.decay)


@dataclass(frozen=True)
class Sign:
    """delta <- proj(delta - alpha sign(g)): steepest descent for linf."""

    decay: Decay = "constant"

    def start(self, feasible: FeasibleSet, step_size: float | Tensor | None, steps: int) -> Stepper:
        """Return the stepper; ``step_size`` is alpha, in units of the input, or (B,); else eps/4 (l0: width/4)."""
        return Plain(torch.sign, step_size, steps, self.decay)


@dataclass(frozen=True)
class Normalised:
    """delta <- proj(delta - alpha g / ||g||_2): steepest descent for l2. A zero gradient moves nothing."""

    decay: Decay = "constant"

    def start(self, feasible: FeasibleSet, step_size: float | Tensor | None, steps: int) -> Stepper:
        """Return the stepper; ``step_size`` is alpha, an l2 length, or (B,); else eps/4 (l0: width/4)."""
        return Plain(unit_l2, step_size, steps, self.decay)


@dataclass(frozen=True)
class Sparse:
    """delta <- proj(delta - alpha u / ||u||_1), u the signs of the largest coordinates of g.

    Steepest descent for l1, spread over more than the one coordinate that is steepest by itself.

    Args:
        share: of the coordinates that move, in (0, 1]; one at least. Those that stand at the end of their range and
            would leave it are passed over.
        decay: of the step, as for ``Sign``.

    Reference: Tramer and Boneh, "Adversarial training and robustness for multiple perturbations", 2019 (SLIDE); those
    at the end of their range are passed over as in Maini et al., 2020.
    """

    share: float = 0.01
    decay: Decay = "constant"

    def __post_init__(self) -> None:
        check_number("share", self.share, "in (0, 1]", lambda share: 0 < share <= 1)

    def start(self, feasible: FeasibleSet, step_size: float | Tensor | None, steps: int) -> Stepper:
        """Return the stepper; ``step_size`` is alpha, an l1 length, or (B,); else eps/4."""
        return _OfLargest(self.share, Plain(lambda u: u, step_size, steps, self.decay))


def unit_l2(g: Tensor) -> Tensor:
    """Scale every row of ``g`` (B, *S) to l2 norm 1, without overflow; zero rows stay zero."""
    flat = g.flatten(1)
    norms = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    out = flat / norms
    least, most = norms.aminmax() if len(norms) else (1.0, 1.0)
    if not (float(least) > 1e-12 and float(most) < 1e12):  # squares that may underflow or overflow, zeros, and NaN
        odd = ~((norms > 1e-12) & (norms < 1e12)).squeeze(1)
        scaled = flat[odd] / flat[odd].abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(g.dtype).tiny)
        out[odd] = scaled / torch.linalg.vector_norm(scaled, dim=1, keepdim=True).clamp_min(1e-12)
    return out.view_as(g)


class Plain:
    """A step along a function of the weighted gradient, its size constant or decayed linearly to 1/T of itself."""

    def __init__(
        self, shape: Callable[[Tensor], Tensor], step_size: float | Tensor | None, steps: int, decay: Decay
    ) -> None:
        if decay not in ("constant", "linear"):
            raise ValueError(f"decay must be 'constant' or 'linear', got {decay!r}")
        self.shape, self._size, self._steps, self._decay = shape, step_size, steps, decay

    def step(self, t: int, delta: Tensor, weights: Tensor, evaluation: Evaluation, feasible: FeasibleSet) -> Tensor:
        """See ``Stepper``."""
        assert evaluation.grads is not None
        return self.down(t, delta, weighted_gradient(weights, evaluation.grads), feasible)

    def down(self, t: int, delta: Tensor, slope: Tensor, feasible: FeasibleSet) -> Tensor:
        """Take step ``t`` from ``delta`` along a gradient (B, *S) that is weighed already."""
        move, length = self.shape(slope), self.length(t, feasible)
        if isinstance(length, Tensor):
            length = length.view((-1,) + (1,) * (delta.ndim - 1))
            return feasible.project((delta - move * length).to(delta.dtype))
        return feasible.project(delta.sub(move, alpha=length).to(delta.dtype))

    def length(self, t: int, feasible: FeasibleSet) -> float | Tensor:
        """Return how far step ``t`` goes, one number or one a row (B,)."""
        fraction = 1.0 if self._decay == "constant" else 1.0 - (t - 1) / self._steps
        if self._size is not None:
            return self._size * fraction
        reach = feasible.radius()
        if feasible.p == 0:  # eps counts coordinates there: the width of the box is the length that there is
            reach = (feasible.upper - feasible.lower).flatten(1).amax(dim=1)
        return reach * (fraction / 4)

    def select(self, rows: Tensor) -> None:
        """Nothing is kept between steps but sizes of each row's own."""
        if isinstance(self._size, Tensor):
            self._size = self._size[rows]


class _OfLargest:
    """A plain step along the signs of the largest coordinates."""

    def __init__(self, share: float, plain: Plain) -> None:
        self._share, self._plain = share, plain

    def step(self, t: int, delta: Tensor, weights: Tensor, evaluation: Evaluation, feasible: FeasibleSet) -> Tensor:
        assert evaluation.grads is not None
        grad = weighted_gradient(weights, evaluation.grads)
        stuck = torch.where(grad > 0, delta <= feasible.lower, delta >= feasible.upper)
        size = torch.where(stuck, 0.0, grad.abs()).flatten(1)
        count = max(1, round(self._share * size.shape[1]))
        largest = torch.zeros_like(size).scatter_(1, size.topk(count, dim=1).indices, 1.0)
        u = (largest.view_as(grad) * grad.sign() * ~stuck).flatten(1)
        u /= u.abs().sum(1, keepdim=True).clamp_min(1)  # fewer than ``count`` where fewer can move
        return self._plain.down(t, delta, u.view_as(grad), feasible)

    def select(self, rows: Tensor) -> None:
        self._plain.select(rows)
