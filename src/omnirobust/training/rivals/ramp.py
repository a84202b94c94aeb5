"""RAMP: logits under two attacks drawn together, and natural training where it goes the way of the adversarial one."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from omnirobust.training.state import Run


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return KL(softmax(p) || softmax(q)) of logits (B, C), (B,); gradients flow into both.

    Classes that p rules out, by a logit of minus infinity, add nothing.
    """
    log_p, log_q = log_softmax(p, 1), log_softmax(q, 1)
    return (log_p.exp() * (log_p - log_q).masked_fill(log_p.isneginf(), 0.0)).sum(1)


def fused(before: Tensor, natural: Tensor, adversarial: Tensor, share: float) -> Tensor:
    """Return a parameter moved by both trainings.

        theta + (1 - b) g_a + b max(cos(g_n, g_a), 0) g_n,    g_n = natural - theta, g_a = adversarial - theta

    Args:
        before: theta, any shape.
        natural: what an epoch of natural training makes of it.
        adversarial: what an epoch of adversarial training makes of it.
        share: b in [0, 1].

    Reference: Jiang and Singh, 2024, whose g_n and g_a are those of a whole epoch, too, and whose layers are the
    tensors of the network.
    """
    g_n, g_a = natural - before, adversarial - before
    length = torch.linalg.vector_norm(g_n) * torch.linalg.vector_norm(g_a)
    cosine = (g_n * g_a).sum() / length if bool(length > 0) else torch.zeros_like(length)
    return before + (1 - share) * g_a + share * cosine.clamp_min(0) * g_n


def with_natural_epoch(
    run: Run, natural: Callable[[], object], adversarial: Callable[[], dict[str, float]], share: float
) -> dict[str, float]:
    """Train an epoch twice from the same parameters, and leave what ``fused`` makes of both.

    The natural epochs have an optimizer state of their own, which a checkpoint holds. Buffers, such as BatchNorm's
    statistics, are those of adversarial training.

    Args:
        run: of the training.
        natural: trains ``run.model`` for a natural epoch.
        adversarial: trains it for an adversarial one.
        share: b in [0, 1].

    Returns:
        What ``adversarial`` returns.
    """
    before, own = copy.deepcopy(run.model.state_dict()), copy.deepcopy(run.optimizer.state_dict())
    run.optimizer.load_state_dict(own | {"state": run.natural or {}})
    natural()
    run.natural = copy.deepcopy(run.optimizer.state_dict()["state"])
    moved = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    run.model.load_state_dict(before)
    run.optimizer.load_state_dict(own)
    row = adversarial()
    with torch.no_grad():
        for name, p in run.model.named_parameters():
            p.copy_(fused(before[name], moved[name], p, share))
    return row
