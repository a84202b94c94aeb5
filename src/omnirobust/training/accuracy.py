"""The accuracy of a model, without touching its modes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from omnirobust.training.batches import Batches, Data, batches
from omnirobust.training.outputs import logits_of


@contextmanager
def restored_modes(model: nn.Module) -> Iterator[None]:
    """Put every module of ``model`` back into the mode, training or eval, that it came in."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def accuracy(model: nn.Module, data: Data, *, batch_size: int = 512) -> float:
    """Return the share of examples that ``model`` classifies right, in eval mode, which is restored afterwards.

    Args:
        model: maps (B, *S) to logits (B, C).
        data: as for ``fit``; a name stands for its test split.
        batch_size: examples a forward pass.
    """
    return accuracy_of(model, batches("data", data, "test", batch_size, None))


def accuracy_of(model: nn.Module, data: Batches) -> float:
    """Return the accuracy on batches, as ``accuracy`` does."""
    device = next(model.parameters()).device
    right = seen = 0
    with restored_modes(model), torch.no_grad():
        model.eval()
        for x, y in data.epoch(0):
            right += int((logits_of(model, x.to(device)).argmax(1) == y.to(device)).sum())
            seen += len(y)
    return right / seen
