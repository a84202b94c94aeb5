"""What a model returns, checked where it could train wrongly without a word."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from omnirobust.domains.outputs import read_logits, reason


def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    """Return the model's logits of ``x`` (B, *S), (B, C) in float32 at least, read as attacks read them.

    A model that does not take the dtype of ``x`` gets it in that of its parameters.

    Raises:
        ValueError: if there are no logits of that shape.
    """
    try:
        output = model(x)
    except torch.OutOfMemoryError:
        raise
    except ValueError as error:
        raise ValueError(f"model cannot take inputs of shape {tuple(x.shape)}: {reason(error)}") from error
    except RuntimeError:
        own = next((p.dtype for p in model.parameters() if p.is_floating_point()), x.dtype)
        if own == x.dtype:
            raise
        output = model(x.to(own))
    logits = read_logits(output, len(x), "model").logits
    return logits.to(torch.promote_types(torch.promote_types(logits.dtype, x.dtype), torch.float32))


def check_labels(logits: Tensor, y: Tensor, name: str = "data") -> None:
    """Raise a ValueError unless every label is a class of the model; ``name`` is what the message calls the data."""
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(
            f"{name} must hold labels from 0 to {logits.shape[1] - 1}, the model's classes, got {low} to {high}"
        )


def check_not_probabilities(logits: Tensor) -> None:
    """Raise a ValueError if the rows look like probabilities, which the cross-entropy would squash once more."""
    rows = logits.detach().float()
    if bool((rows >= 0).all()) and bool(((rows.sum(1) - 1).abs() < 1e-3).all()):
        raise ValueError("model returns probabilities: it must return logits, the scores before the softmax")


def check_differentiable(losses: Tensor) -> None:
    """Raise a ValueError unless the losses depend on the inputs by way of autograd."""
    if not losses.requires_grad:
        raise ValueError(
            "model must let gradients through to its inputs, which attacks climb, got an output without any: it "
            "detaches them, or runs under no_grad"
        )


@contextmanager
def needs_second_derivatives(wanted: bool = True) -> Iterator[None]:
    """Say of a model that fails inside, if it is ``wanted``, that it has no second derivatives.

    Raises:
        ValueError: instead of autograd's RuntimeError.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if not wanted:
            raise
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"dpar must be 0 for this model, which has no second derivatives: {reason}") from error
