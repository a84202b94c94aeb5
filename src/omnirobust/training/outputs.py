"""What a model returns, checked where it could train wrongly without a word."""

from __future__ import annotations

from torch import Tensor, nn


def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    """Return the model's logits of ``x`` (B, *S), (B, C); an output with ``.logits`` is taken by that.

    Raises:
        ValueError: if there are no logits of that shape.
    """
    output = model(x)
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"model must return logits of shape ({len(x)}, C) or an object with .logits, got {shape}")
    return logits


def check_labels(logits: Tensor, y: Tensor) -> None:
    """Raise a ValueError unless every label is a class of the model."""
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(
            f"data must hold labels from 0 to {logits.shape[1] - 1}, the model's classes, got {low} to {high}"
        )


def check_not_probabilities(logits: Tensor) -> None:
    """Raise a ValueError if the rows look like probabilities, which the cross-entropy would squash once more."""
    rows = logits.detach().float()
    if bool((rows >= 0).all()) and bool(((rows.sum(1) - 1).abs() < 1e-3).all()):
        raise ValueError("model returns probabilities: it must return logits, the scores before the softmax")
