"""Shapes, norm names and the protocols that the whole package shares.

Letters for shapes, used in every docstring:

    B   problems in a batch (one perturbation each)
    K   domains of one problem (models, examples, transformations, attacks)
    *S  shape of one perturbation, for images (channels, height, width)
    C   classes
    T   steps of the solver
    E   examples that share one perturbation

Perturbations are ``delta`` (B, *S), domain weights ``w`` (B, K), losses (B, K). Losses of attacks are
low where the model is fooled. Labels are int64 class indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class Evaluation:
    """What ``Domains.evaluate`` sees at one perturbation.

    Attributes:
        losses: F_k(delta) of every problem and domain, (B, K), low = fooled.
        fooled: whether domain k is fooled, (B, K) bool; None where the domains know no success.
        grads: K input gradients of F_k with respect to delta, each (B, *S); None if not asked for.
    """

    losses: Tensor
    fooled: Tensor | None
    grads: tuple[Tensor, ...] | None = None

    def select(self, rows: Tensor) -> Evaluation:
        """Keep the problems that ``rows`` (int64) lists."""
        fooled = None if self.fooled is None else self.fooled[rows]
        return Evaluation(self.losses[rows], fooled, None if self.grads is None else tuple(g[rows] for g in self.grads))


@runtime_checkable
class Domains(Protocol):
    """K losses of one perturbation, for each of B problems."""

    @property
    def names(self) -> tuple[str, ...]:
        """One name a domain, K in all."""
        ...

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """The factors whose product the K domains are, row-major: factor name to its members."""
        ...

    def evaluate(self, delta: Tensor, grad: bool = True) -> Evaluation:
        """Evaluate every domain at ``delta`` (B, *S), one model's graph at a time."""
        ...

    def select(self, rows: Tensor) -> Domains:
        """Keep the problems whose indices ``rows`` (int64) lists."""
        ...


@runtime_checkable
class WeightRule(Protocol):
    """How the domain weights answer the losses.

    A rule may also have ``step_evaluated(weights, evaluation)``, which sees success and input gradients as well: it is
    asked instead of ``step`` wherever there are gradients, which is at every iterate but the last.
    """

    def init(self, B: int, K: int) -> Tensor:
        """Return the first weights, (B, K); those with ``dtype`` and ``device`` as keywords are given both."""
        ...

    def step(self, weights: Tensor, losses: Tensor) -> Tensor:
        """Return the weights (B, K) that follow ``weights`` (B, K) once ``losses`` (B, K) are seen."""
        ...


def check_shape(name: str, tensor: Tensor, expected: Sequence[int]) -> None:
    """Raise a ValueError that names the argument unless ``tensor`` has the ``expected`` shape."""
    if tuple(tensor.shape) != tuple(expected):
        raise ValueError(f"{name} must have shape {tuple(expected)}, got {tuple(tensor.shape)}")


def described(value: object) -> str:
    """Say what ``value`` is: a tensor's dtype and shape, or the type."""
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
