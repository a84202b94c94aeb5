"""Preprocessing without a useful gradient in front of a model: JPEG, rounding, the resizing of another library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from omnirobust.core.types import described


class StraightThrough(nn.Module):
    """A function whose gradient is that of the identity, or of another function.

    ``nn.Sequential(StraightThrough(f), model)`` is a model of f's inputs: it says what the model says of f(x), and an
    attack moves x as if f were not there, or were ``gradient``. Success is judged through f as it is.

    Args:
        f: maps inputs (n, *S), detached, to a tensor, an array or n arrays: (n, *S), or with ``gradient`` of the shape
            that this returns. What f returns is given the dtype and the device of its inputs.
        gradient: a differentiable function in torch that stands for f in the backward pass, such as
            ``torch.nn.functional.interpolate`` for a resizing; None for the identity.

    Raises:
        ValueError: if f or ``gradient`` is no function; when called, if f returns no numbers, or another shape than its
            inputs', or than ``gradient``.

    Cost: f forwards; ``gradient`` forwards and backwards where a gradient is asked for.

    Reference: backward pass differentiable approximation, Athalye et al., "Obfuscated gradients give a false sense of
    security", 2018, Section 4.1; the straight-through estimator of Bengio et al., 2013.
    """

    def __init__(self, f: Callable[[Tensor], Any], gradient: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        for name, given in (("f", f), ("gradient", gradient)):
            if not callable(given) and (name == "f" or given is not None):
                raise ValueError(f"{name} must be a function of a batch of inputs, got {type(given).__name__}")
        self.f, self.gradient = f, gradient

    def forward(self, x: Tensor) -> Tensor:
        """Return f(x) for inputs (n, *S)."""
        with torch.no_grad():
            value = _as_tensor(self.f(x.detach().clone()), x)
        wants = torch.is_grad_enabled() and x.requires_grad
        stands = self.gradient(x) if wants and self.gradient is not None else x
        if stands.shape != value.shape and (wants or self.gradient is None):
            of = "its input's" if self.gradient is None else "gradient's"
            hint = "; say by gradient what stands for it" if self.gradient is None else ""
            raise ValueError(
                f"f must return values of {of} shape {tuple(stands.shape)}, got {tuple(value.shape)}{hint}"
            )
        return _Straight.apply(stands, value) if wants else value  # pyright: ignore[reportReturnType]


def _as_tensor(said: Any, like: Tensor) -> Tensor:
    try:
        found = said if isinstance(said, Tensor) else torch.as_tensor(np.asarray(said))
        return found.to(like)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"f must return numbers, one array for each input, got {described(said)}") from error


class _Straight(torch.autograd.Function):
    """Returns the second of two tensors, and gives its gradient to the first."""

    @staticmethod
    def forward(ctx: Any, stands: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None
