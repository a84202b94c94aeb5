"""Domains from any losses: not classifiers only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from omnirobust.core.contracts import check_evaluation
from omnirobust.core.types import Evaluation
from omnirobust.domains.frozen import Frozen


class FunctionDomains:
    """Domains from any losses: each callable is one F_k.

    Args:
        functions: name to f(delta, rows) -> (len(rows),), where delta (len(rows), *S) are the perturbations of the
            problems whose original indices are ``rows``; low = good for the minimiser.
        success: maps losses (B, K) to (B, K) bool; None where success has no meaning.

    Modules that stand behind the functions are in evaluation mode, with frozen parameters, while these run.

    Cost of ``evaluate``: one call of each function, and one gradient each if asked for.
    """

    def __init__(
        self,
        functions: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
        success: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._functions = named_functions("functions", functions, "delta, rows")
        self._held = Frozen(self._functions)
        self._success = success
        self._rows: Tensor | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The functions' names, K of them."""
        return tuple(self._functions)

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """The one factor of the domains: the functions."""
        return {"functions": self.names}

    def select(self, rows: Tensor) -> FunctionDomains:
        """Keep the problems that ``rows`` (int64 indices) lists, in that order."""
        chosen = object.__new__(FunctionDomains)
        chosen.__dict__.update(self.__dict__)
        chosen._rows = rows if self._rows is None else self._rows[rows]
        return chosen

    def evaluate(self, delta: Tensor, grad: bool = True) -> Evaluation:
        """Evaluate every function at ``delta`` (B, *S).

        Raises:
            ValueError: if a function does not return one value a row, or its value does not depend on ``delta``.
        """
        rows = torch.arange(len(delta), device=delta.device) if self._rows is None else self._rows
        with self._held, self._held.catch(delta.shape), torch.set_grad_enabled(grad):
            found = [self._one(name, delta.detach().requires_grad_(grad), rows) for name in self._functions]
        losses, grads = zip(*found, strict=True)
        stacked = torch.stack(losses, 1)
        fooled = None if self._success is None else self._success(stacked)
        e = Evaluation(stacked, fooled, tuple(g for g in grads if g is not None) if grad else None)
        return check_evaluation(e, self, delta, len(self.names), grad)

    def _one(self, name: str, leaf: Tensor, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the losses of a function at ``leaf``, and their gradient where that takes one."""
        loss = self._functions[name](leaf, rows)
        if tuple(getattr(loss, "shape", ("a number",))) != (len(leaf),):
            got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"function {name!r} must return shape ({len(leaf)},), got {got}")
        slope = None
        if leaf.requires_grad:
            slope = gradient_of(loss, leaf, f"function {name!r} must be differentiable in delta")
        return loss.detach(), slope


def named_functions(argument: str, given: object, takes: str) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Return a mapping from name to function, its names as text.

    Args:
        argument: what messages call the mapping.
        given: what may be one.
        takes: the two arguments of each function, as messages name them.

    Raises:
        ValueError: if it is none, is empty, or a function cannot be called with two arguments.
    """
    if not isinstance(given, Mapping | nn.ModuleDict):
        got = "a function alone" if callable(given) else type(given).__name__
        raise ValueError(f"{argument} must map names to callables f({takes}), got {got}")
    named: dict[str, Any] = {str(name): function for name, function in given.items()}
    if len(named) < len(given):
        raise ValueError(f"{argument} must have names that differ as text, got {list(given)}")
    if not named:
        raise ValueError(f"{argument} must hold at least one function, got none")
    for name, function in named.items():
        if not callable(function):
            raise ValueError(
                f"{argument} must map names to callables f({takes}), got {type(function).__name__} for {name!r}"
            )
        try:
            form = signature(function.forward if isinstance(function, nn.Module) else function)
        except (TypeError, ValueError):  # it has none to look at
            continue
        try:
            form.bind(None, None)
        except TypeError:
            raise ValueError(f"{argument} must be callable as f({takes}), got {name!r}, which takes {form}") from None
    return named


def gradient_of(loss: Tensor, leaf: Tensor, refusal: str) -> Tensor:
    """Return the gradient of the sum of ``loss`` in ``leaf``, or raise a ValueError with the words ``refusal``."""
    slope = torch.autograd.grad(loss.sum(), leaf, allow_unused=True)[0] if loss.requires_grad else None
    if slope is None:
        raise ValueError(refusal)
    return slope
