"""The loss of a training as one module, so that whatever wraps it sees the whole graph."""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from omnirobust.domains.classifier import Precision
from omnirobust.domains.losses import neg_cross_entropy
from omnirobust.training.diversity import diversity
from omnirobust.training.normalised import lone_row
from omnirobust.training.outputs import check_labels, logits_of
from omnirobust.training.rivals.ramp import divergence
from omnirobust.training.schemes import Scheme
from omnirobust.training.workers import Alone, Workers


class Objective(nn.Module):
    """What gradient descent on theta minimises: the mean over a mini-batch of

        (1 - r) f(theta; x, y) + r (sum_k w_k f(theta, delta_k; x, y) + lambda h(theta, {delta_k}; x, y))     (17)

    with r = 0 for the natural scheme, and lambda = 0 without DPAR, which leaves (9), (11) or (15). For "ramp"
    ``Scheme.pairing`` times the divergence of the logits stands in the place of lambda h.

    Gradient synchronisation hooks into a module's forward pass: the second derivatives of h, taken outside, would stay
    those of one process without a word.

    Args:
        model: maps (B, *S) to logits (B, C), or to an object with ``.logits``.
        scheme: gives r and, unless ``forward`` is given another, lambda.
        precision: "bf16" runs the model under autocast; losses and h are taken in fp32.
        workers: the processes, which count together what the divergence is a mean over; None for this one alone.
    """

    def __init__(self, model: nn.Module, scheme: Scheme, precision: Precision, workers: Workers | None = None) -> None:
        super().__init__()
        self.model, self.precision = model, precision
        self.ratio = scheme.adversarial_ratio if scheme.attacks else 0.0
        self.dpar, self.workers = scheme.dpar, workers or Alone()
        self.pairing, self.extremes = scheme.pairing if scheme.kind == "ramp" else 0.0, (0, 0)
        if self.pairing:
            self.extremes = scheme.extremes

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        points: Tensor | None = None,
        weights: Tensor | None = None,
        dpar: float | None = None,
        factor: float = 1.0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss (), the share classified right, weighed as the loss is, (), and the logits of all inputs.

        Args:
            x: clean inputs, (B, *S).
            y: (B,) int64.
            points: attacked inputs x + delta_k, (K, B, *S); None for the natural loss.
            weights: w, (B, K).
            dpar: lambda >= 0 of this mini-batch; None for the scheme's.
            factor: what the mean over a share counts for in the mean over the processes: ``Batch.factor``.
        """
        # whatever wraps this module, autocast holds for the model alone
        with torch.autocast(x.device.type, enabled=False):
            return self._loss(x, y, points, weights, self.dpar if dpar is None else dpar, factor)

    def _loss(
        self, x: Tensor, y: Tensor, points: Tensor | None, weights: Tensor | None, dpar: float, factor: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        if points is None or weights is None:
            logits = self.logits(x)
            check_labels(logits, y)
            return cross_entropy(logits, y), _right(logits, y).mean(), logits.detach()
        attacked = self._kept(points, y, weights, dpar > 0 or self.pairing > 0)
        inputs, targets = attacked.points, attacked.y
        if self.ratio < 1:
            inputs, targets = torch.cat([x, inputs]), torch.cat([y, targets])
        logits = self.logits(inputs)
        check_labels(logits, y)
        losses = cross_entropy(logits, targets, reduction="none")
        loss, right = self._mix(losses, attacked, len(x)), self._mix(_right(logits, targets), attacked, len(x))
        if self.pairing:
            paired = self._paired(logits[-len(attacked.y) :].view(len(points), len(x), -1), y, factor)
            loss = loss + self.ratio * self.pairing * paired
        if dpar:
            # h takes in directions alone, which those of the cross-entropy lose in float32 where the model is sure
            climbed = neg_cross_entropy(logits[-len(attacked.y) :], attacked.y).sum()
            (grads,) = torch.autograd.grad(climbed, attacked.points, create_graph=True)
            loss = loss + self.ratio * dpar * diversity(grads.view(points.shape)).mean()
        return loss, right, logits.detach()

    def _kept(self, points: Tensor, y: Tensor, weights: Tensor, every: bool) -> _Attacked:
        """Lay the attacked inputs out as rows; those of weight 0 add nothing to the loss and are left out."""
        flat, target, w = points.detach().flatten(0, 1), y.repeat(len(points)), weights.t().reshape(-1)
        if every:  # h and the divergence take in every attack, whatever its weight
            return _Attacked(flat.clone().requires_grad_(not self.pairing), target, w)
        keep = w != 0  # NaN counts, so that the loss shows it
        return _Attacked(flat, target, w) if bool(keep.all()) else _Attacked(flat[keep], target[keep], w[keep])

    def _paired(self, logits: Tensor, y: Tensor, factor: float) -> Tensor:
        """Return the mean divergence over the examples right under the attack of the larger p, from (K, B, C)."""
        larger, smaller = (logits[k] for k in self.extremes)
        right = _right(larger, y)
        share = self.workers.total(right.mean() * factor) / self.workers.count
        apart = divergence(larger, smaller) * right.to(larger.dtype)
        return apart.mean() / torch.where(share > 0, share, 1.0).to(larger.dtype)

    def _mix(self, values: Tensor, attacked: _Attacked, size: int) -> Tensor:
        count = len(attacked.y)
        mixed = self.ratio * (attacked.weights * values[-count:]).sum() / size
        return mixed if self.ratio == 1 else mixed + (1 - self.ratio) * values[:-count].mean()

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits (n, C) of inputs (n, *S), in float32 at least."""
        mixed = self.precision == "bf16"
        lone = lone_row(self.model) if len(x) == 1 else nullcontext()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=mixed), lone:
            logits = logits_of(self.model, x)
        return logits.float() if mixed else logits


class _Attacked(NamedTuple):
    """Attacked inputs as rows (n, *S), with their classes (n,) and weights (n,)."""

    points: Tensor
    y: Tensor
    weights: Tensor


def _right(logits: Tensor, y: Tensor) -> Tensor:
    return widest(logits.detach().argmax(1) == y)


def widest(values: Tensor) -> Tensor:
    """Return ``values`` in float64, or in float32 on the device that has none."""
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)
