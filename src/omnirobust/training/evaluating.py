"""What the steps of Algorithm 2 see of a mini-batch: losses of K perturbations, and the gradients of these."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from omnirobust.domains.classifier import Classifier, widened
from omnirobust.domains.losses import cross_entropy_slope, neg_cross_entropy
from omnirobust.domains.outputs import check_finite, check_ruled_in
from omnirobust.training.diversity import diversity
from omnirobust.training.outputs import check_differentiable, check_labels, needs_second_derivatives


class Seen(NamedTuple):
    """What one evaluation of the K perturbations yields.

    Attributes:
        losses: f, high = fooled, (B, K).
        descent: grad (-f) of each perturbation, (K, B, *S): what a stepper, which descends, is to be handed.
        diversity: h, (B,); None without DPAR.
        spread: grad h of each perturbation, (K, B, *S); None without DPAR.
    """

    losses: Tensor
    descent: Tensor
    diversity: Tensor | None
    spread: Tensor | None


class Evaluator:
    """The passes of K perturbations of one mini-batch: what all steps have in common is laid out and checked once.

    Args:
        classifier: the model; whoever evaluates has frozen it (``Classifier.frozen``).
        x: inputs, (B, *S).
        y: (B,) int64.
        count: K.
    """

    def __init__(self, classifier: Classifier, x: Tensor, y: Tensor, count: int) -> None:
        self.classifier, self.x, self.y, self.count = classifier, x, y, count
        self._labels, self._fit = y.repeat(count), False

    def see(self, deltas: list[Tensor], dpar: float = 0.0) -> Seen:
        """Evaluate K perturbations (B, *S) in one forward pass, with input gradients and, for DPAR, those of h."""
        points = self._points(deltas).requires_grad_(True)
        logits = self._logits(points)
        check_differentiable(logits)
        if dpar > 0:
            return self._see_spread(points, -neg_cross_entropy(logits, self._labels))
        losses, slope = cross_entropy_slope(logits, self._labels)
        with self.classifier.differentiating():
            (grads,) = torch.autograd.grad(logits, points, slope.neg_())
        return Seen(self._by_attack(losses), self._checked(grads), None, None)

    def losses(self, deltas: list[Tensor]) -> Tensor:
        """Return f of K perturbations (B, *S), (B, K), without gradients."""
        with torch.no_grad():
            return self._by_attack(-neg_cross_entropy(self._logits(self._points(deltas)), self._labels))

    def _see_spread(self, points: Tensor, losses: Tensor) -> Seen:
        with self.classifier.differentiating():
            (grads,) = torch.autograd.grad(losses.sum(), points, create_graph=True)
        ascent = self._checked(grads)
        h = diversity(ascent)
        with needs_second_derivatives():
            (spread,) = torch.autograd.grad(h.sum(), points)
        return Seen(self._by_attack(losses.detach()), -ascent.detach(), h.detach(), spread.view_as(ascent))

    def _points(self, deltas: list[Tensor]) -> Tensor:
        """Return x + delta for all perturbations, (K B, *S), as the model runs fastest: one pass over the memory."""
        points = self.x.new_empty(self.count, *self.x.shape)
        for place, delta in zip(points, deltas, strict=True):
            torch.add(self.x, delta, out=place)
        return self.classifier.arrange(widened(points.flatten(0, 1)))

    def _logits(self, points: Tensor) -> Tensor:
        logits = self.classifier.logits(points, self.x.dtype, spare=True)
        if not self._fit:
            check_labels(logits, self.y)
            self._fit = True
        if self.classifier.rules_out:
            check_ruled_in(logits, self._labels, f"model {self.classifier.name!r}")
        return logits

    def _checked(self, grads: Tensor) -> Tensor:
        check_finite(grads, f"model {self.classifier.name!r} has NaN or infinite input gradients")
        return grads.contiguous().view(self.count, *self.x.shape)

    def _by_attack(self, losses: Tensor) -> Tensor:
        return losses.view(self.count, -1).t()
