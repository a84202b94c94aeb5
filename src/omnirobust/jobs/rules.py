"""Find a weight rule of the user's own code."""

from __future__ import annotations

import torch
from torch import Tensor

from omnirobust._contracts import off_simplex
from omnirobust._own_code import broken, load_own
from omnirobust._types import WeightRule


def load_rule(name: str) -> WeightRule:
    """Load a weight rule.

    Args:
        name: "FILE.py:NAME" or "package.module:NAME": a rule, or a class or function without arguments that gives one.

    Raises:
        ValueError: if there is no such thing, it is no rule, its code fails, its weights leave the simplex, or those of
            a problem depend on other problems.
        FileNotFoundError: if there is no such file.
    """
    short, found = load_own(name, "rule")
    if short == "average":
        raise ValueError(f"rule must not be called average, which it is held against, got {name}")
    try:
        rule = found if isinstance(found, WeightRule) and not isinstance(found, type) else found()
        first = rule.init(2, 3)
        losses = torch.tensor([[0.0, 1.0, 2.0], [2.0, 0.5, 0.0]])
        weights = first.clone(), rule.step(first, losses)
        alone = rule.step(rule.init(1, 3), losses[:1])
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        raise ValueError(broken(name, "rule", error)) from error
    for values, told in zip(weights, ("init(2, 3)", "step(weights, losses)"), strict=True):
        _check(values, f"rule must give weights >= 0 of sum 1, of shape (2, 3) for {told}, got {name}: ")
    if not torch.allclose(weights[1][:1], alone, atol=1e-5):
        raise ValueError(f"rule must give a problem the weights that it gives it alone, got others from {name}")
    return rule


def told_rule(rule: WeightRule) -> str:
    """Return a rule as text, the same in every process."""
    bare = type(rule).__repr__ is object.__repr__  # it names a place in memory
    return f"{type(rule).__name__}()" if bare else repr(rule)


def _check(weights: object, refusal: str) -> None:
    if not isinstance(weights, Tensor):
        raise ValueError(refusal + type(weights).__name__)
    if tuple(weights.shape) != (2, 3):
        raise ValueError(refusal + f"shape {tuple(weights.shape)}")
    if bool(off_simplex(weights).any()):
        raise ValueError(refusal + f"{weights.tolist()}")
