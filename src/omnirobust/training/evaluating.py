"""What the steps of Algorithm 2 see of a mini-batch: losses of K perturbations, and the gradients of these."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from omnirobust.core.draws import forked
from omnirobust.domains.classifier import Classifier, widened
from omnirobust.domains.frozen import buffers_kept
from omnirobust.domains.losses import cross_entropy_slope, neg_cross_entropy
from omnirobust.domains.outputs import check_finite, check_ruled_in, rows_named
from omnirobust.training.budget import PassBudget
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
        budget: what the graph of one pass keeps to; None for all images in one pass.
    """

    def __init__(
        self, classifier: Classifier, x: Tensor, y: Tensor, count: int, budget: PassBudget | None = None
    ) -> None:
        self.classifier, self.x, self.y, self.count, self.budget = classifier, x, y, count, budget
        self._labels, self._fit = y.repeat(count), False

    def see(self, deltas: list[Tensor], dpar: float = 0.0) -> Seen:
        """Evaluate K perturbations (B, *S), with input gradients and, for DPAR, those of h.

        That is one forward pass, or as many as the budget asks for.
        """
        points = self._points(deltas)
        if dpar > 0:
            return self._see_spread(points)
        found = []
        for cut in self._cuts(points):
            with rows_named(lambda row, first=cut.start: first + row):
                found.append(self._slopes(points[cut], self._labels[cut]))
        losses, grads = found[0] if len(found) == 1 else map(torch.cat, zip(*found, strict=True))
        return Seen(self._by_attack(losses), grads.view(self.count, *self.x.shape), None, None)

    def losses(self, deltas: list[Tensor]) -> Tensor:
        """Return f of K perturbations (B, *S), (B, K), without gradients."""
        points, found = self._points(deltas), list[Tensor]()
        cuts = self._cuts(points)
        with torch.no_grad():
            for cut in cuts:
                with rows_named(lambda row, first=cut.start: first + row):
                    found.append(-neg_cross_entropy(self._logits(points[cut], self._labels[cut]), self._labels[cut]))
        return self._by_attack(found[0] if len(found) == 1 else torch.cat(found))

    def try_out(self, deltas: list[Tensor]) -> None:
        """Find out what is wrong with the labels, and with a model that has not answered yet, and leave no trace."""
        if self.classifier.classes is None:
            with forked(self.x), buffers_kept(cast(nn.Module, self.classifier.model)):
                self.see(deltas)
        else:
            check_labels(self.x.new_empty(0, self.classifier.classes), self.y)

    def splits(self, deltas: list[Tensor]) -> bool:
        """Say whether K perturbations go through the model in several passes."""
        return self.budget is not None and len(self._cuts(self._points(deltas))) > 1

    def _cuts(self, points: Tensor) -> list[slice]:
        """Cut all images (K B, *S) into those of each pass."""
        if self.budget is None:
            return [slice(0, len(points))]

        def hold(images: int) -> object:
            with forked(points):
                return self._slopes(points[:images].detach().clone(), self._labels[:images])

        return self.budget.cuts(("attack", points.shape[1:], points.dtype), len(points), hold, self.classifier.model)

    def _slopes(self, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return f of images (n, *S), (n,), and the gradients of -f."""
        points = points.requires_grad_(True)
        logits = self._logits(points, labels)
        check_differentiable(logits)
        losses, slope = cross_entropy_slope(logits, labels)
        with self.classifier.differentiating():
            (grads,) = torch.autograd.grad(logits, points, slope.neg_())
        return losses, self._checked(grads)

    def _see_spread(self, points: Tensor) -> Seen:
        """Evaluate images (K B, *S) with h, which takes in all K of an example at once."""
        each = points.view(self.count, *self.x.shape)

        def spreads(cut: slice) -> Seen:
            with rows_named(lambda row: cut.start + row % (cut.stop - cut.start)):
                return self._spreads(self.classifier.arrange(each[:, cut].flatten(0, 1)), self.y[cut])

        def hold(examples: int) -> object:
            with forked(points):
                return spreads(slice(0, examples))

        key, cuts = ("dpar", self.count, points.shape[1:], points.dtype), list[slice]()
        if self.budget is not None:
            cuts = self.budget.cuts(key, len(self.x), hold, self.classifier.model)
        if len(cuts) < 2:
            return self._spreads(points, self.y)
        found = [spreads(cut) for cut in cuts]
        return Seen(
            torch.cat([seen.losses for seen in found]),
            torch.cat([seen.descent for seen in found], 1),
            torch.cat([seen.diversity for seen in found if seen.diversity is not None]),
            torch.cat([seen.spread for seen in found if seen.spread is not None], 1),
        )

    def _spreads(self, points: Tensor, y: Tensor) -> Seen:
        """Evaluate the images (K b, *S) of b examples."""
        points, labels = points.requires_grad_(True), y.repeat(self.count)
        logits = self._logits(points, labels, twice=True)
        check_differentiable(logits)
        losses = -neg_cross_entropy(logits, labels)
        with self.classifier.differentiating():
            (grads,) = torch.autograd.grad(losses.sum(), points, create_graph=True)
        ascent = self._checked(grads).view(self.count, len(y), *self.x.shape[1:])
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

    def _logits(self, points: Tensor, labels: Tensor, twice: bool = False) -> Tensor:
        logits = self.classifier.logits(points, self.x.dtype, spare=True, twice=twice)
        if not self._fit:
            check_labels(logits, self.y)
            self._fit = True
        if self.classifier.rules_out:
            check_ruled_in(logits, labels, f"model {self.classifier.name!r}")
        return logits

    def _checked(self, grads: Tensor) -> Tensor:
        check_finite(grads, f"model {self.classifier.name!r} has NaN or infinite input gradients")
        return grads.contiguous()

    def _by_attack(self, losses: Tensor) -> Tensor:
        return losses.view(self.count, -1).t()
