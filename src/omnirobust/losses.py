"""Per-example attack losses: low where the model is fooled.

Every loss maps logits (B, C) and labels (B,) to (B,). Untargeted, ``labels`` are the classes to leave; with
``targeted=True`` they are the classes to reach, and the loss is low once the model says them.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

_SHARPNESS = 10.0


class Loss(Protocol):
    """A per-example loss, low = fooled: (logits (B, C), labels (B,)) -> (B,)."""

    def __call__(self, logits: Tensor, labels: Tensor, *, targeted: bool = False) -> Tensor:
        """Return the loss of every row, (B,)."""
        ...


def fooled(logits: Tensor, labels: Tensor, *, targeted: bool = False) -> Tensor:
    """Say which rows are fooled: argmax differs from the label, or equals it when ``targeted``.

    Args:
        logits: (B, C).
        labels: (B,) int64.

    Returns:
        (B,) bool. NaN logits count as not fooled.
    """
    predicted = logits.argmax(dim=1)
    hit = predicted == labels if targeted else predicted != labels
    return hit & ~logits.isnan().any(dim=1)


def margin(logits: Tensor, labels: Tensor, kappa: float = 50.0, *, targeted: bool = False) -> Tensor:
    """Carlini and Wagner's hinge: max(z_y - max_{j != y} z_j + kappa, 0).

    Targeted it is max(max_{j != y} z_j - z_y + kappa, 0). The maximum runs over the true wrong logits, of any sign.

    Args:
        logits: (B, C), C >= 2.
        labels: (B,) int64 in [0, C).
        kappa: confidence, in logits: the hinge is zero once the margin is won by ``kappa``.

    Returns:
        (B,), in [0, inf).

    Reference: Carlini and Wagner, "Towards evaluating the robustness of neural networks", 2017; the paper's
    Section 4.1 and Appendix C.2 (kappa = 50).
    """
    return (signed_margin(logits, labels, targeted=targeted) + kappa).clamp_min(0)


def signed_margin(logits: Tensor, labels: Tensor, *, targeted: bool = False) -> Tensor:
    """Return z_y - max_{j != y} z_j, or its negative when ``targeted``: zero at the decision boundary.

    Returns:
        (B,), any real.
    """
    return _signed(_label_minus_best_other(logits, labels), targeted)


def smooth_margin(logits: Tensor, labels: Tensor, *, targeted: bool = False) -> Tensor:
    """Return z_y - log sum_{j != y} exp(z_j), or its negative when ``targeted``.

    The logit of p_y: every wrong class pulls, the nearest most. Unlike cross-entropy it does not flatten where the
    model is sure or surely fooled.

    Returns:
        (B,), any real.
    """
    others = logits.scatter(1, labels.unsqueeze(1), -torch.inf).logsumexp(dim=1)
    return _signed(_pick(logits, labels) - others, targeted)


def standardised_margin(logits: Tensor, labels: Tensor, *, targeted: bool = False) -> Tensor:
    """Return the smooth margin of standardised logits: smooth_margin(10 z / s) / 10, s the standard deviation of z.

    s is taken over the classes and held constant in the gradient. The value does not change when a model's logits are
    multiplied by a number, so that the weights compare models of different logit scales like with like; unlike
    probabilities it does not saturate. The factor 10 keeps the softmax over wrong classes close to the maximum.

    Returns:
        (B,), in standard deviations of the logits, about -4 to 4 for ten classes.
    """
    centred = logits.detach() - logits.detach().mean(dim=1, keepdim=True)
    deviation = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / logits.shape[1] ** 0.5
    scale = deviation.clamp_min(torch.finfo(logits.dtype).eps)
    return smooth_margin(logits * (_SHARPNESS / scale), labels, targeted=targeted) / _SHARPNESS


def probability_margin(logits: Tensor, labels: Tensor, *, targeted: bool = False) -> Tensor:
    """Return p_y - max_{j != y} p_j with p = softmax(z), or its negative when ``targeted``.

    Lies in [-1, 1] for every model, so that the weights compare models of different logit scales like with like.

    Returns:
        (B,), in [-1, 1].
    """
    return _signed(_label_minus_best_other(logits.softmax(dim=1), labels), targeted)


def neg_cross_entropy(logits: Tensor, labels: Tensor, *, targeted: bool = False) -> Tensor:
    """Return log p_y, or -log p_y when ``targeted``.

    Returns:
        (B,), in (-inf, 0]; [0, inf) when targeted.
    """
    return _signed(_pick(logits.log_softmax(dim=1), labels), targeted)


def dlr(logits: Tensor, labels: Tensor, *, targeted: bool = False) -> Tensor:
    """Difference of logits ratio: (z_y - max_{j != y} z_j) / (z_(1) - z_(3)), z_(i) the i-th largest logit.

    Unchanged when all logits are shifted or scaled. Targeted it is (max_{j != y} z_j - z_y) over
    (z_(1) - (z_(3) + z_(4)) / 2).

    Args:
        logits: (B, C), C >= 3; C >= 4 when targeted.
        labels: (B,) int64.

    Returns:
        (B,), at most 1 when untargeted; fooled rows with nearly tied largest logits may fall far below -1.

    Raises:
        ValueError: with too few classes.

    Reference: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", 2020 (there with the opposite sign).
    """
    needed = 4 if targeted else 3
    if logits.shape[1] < needed:
        raise ValueError(f"dlr needs logits of at least {needed} classes, got {logits.shape[1]}")
    top = logits.topk(needed, dim=1).values
    scale = top[:, 0] - (top[:, 2] + top[:, 3]) / 2 if targeted else top[:, 0] - top[:, 2]
    # where the largest logits tie the ratio has no bound: there its size stops at that of a difference of 1e-6
    return _signed(_label_minus_best_other(logits, labels), targeted) / scale.clamp_min(1e-6)


def _pick(scores: Tensor, labels: Tensor) -> Tensor:
    return scores.gather(1, labels.unsqueeze(1)).squeeze(1)


def _label_minus_best_other(scores: Tensor, labels: Tensor) -> Tensor:
    best_other = scores.scatter(1, labels.unsqueeze(1), -torch.inf).amax(dim=1)
    return _pick(scores, labels) - best_other


def _signed(value: Tensor, targeted: bool) -> Tensor:
    return -value if targeted else value
