"""Weights that persist over mini-batches: of classes, of images, or of the data as one."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from omnirobust.core.contracts import checked_rule, first_weights
from omnirobust.core.types import Evaluation, WeightRule

Over: TypeAlias = Literal["classes", "images", "data"]


class Weighing:
    """The domains of a data set, P pairs of model and transformation times D kinds of image, and their weights.

    Args:
        y: labels of the images, (N,).
        over: what the D kinds are.
        pairs: P.
        rule: how weights answer losses.
        like: gives device and precision of the weights.
    """

    def __init__(
        self, y: Tensor, over: Over, pairs: int, rule: WeightRule, like: Tensor, already: Tensor | None = None
    ) -> None:
        if over not in get_args(Over):
            raise ValueError(f"over must be one of {', '.join(get_args(Over))}, got {over!r}")
        self.axis, self.members, self._kind = _kinds(y, over)
        self._rule, self._already = checked_rule(rule), already
        size = (pairs, len(self.members or ("all",)))
        self._weights = first_weights(rule, 1, size[0] * size[1], like).view(size)
        self.restart()

    @property
    def weights(self) -> Tensor:
        """The weights of all domains, (P D,)."""
        return self._weights.flatten()

    def answer(self, chosen: Tensor, evaluation: Evaluation) -> Tensor:
        """Let the weights of the domains in a mini-batch answer its losses, and spread them over its images.

        The domains in the batch are stepped among themselves: w_B / sum(w_B) goes through the rule with their mean
        losses, and keeps its sum. Domains that the batch does not hold are left alone.

        Args:
            chosen: indices of the batch's images, (b,).
            evaluation: losses (1, P b), row-major.

        Returns:
            The weight of every image under every pair, (1, P b), of sum 1: each has an equal share of its domain's.
        """
        kinds, place, counts = self._kind[chosen].unique(return_inverse=True, return_counts=True)
        losses = evaluation.losses.view(len(self._weights), -1)
        sums = losses.new_zeros(len(losses), len(kinds)).index_add_(1, place, losses)
        old = self._weights[:, kinds].reshape(1, -1)
        mass = old.sum()
        shares = old / mass if bool(mass > 0) else torch.full_like(old, 1 / old.shape[1])
        new = self._rule.step(shares, (sums / counts).view(1, -1))
        self._weights[:, kinds] = (new * mass).view(sums.shape)
        self._note(chosen, kinds, sums, counts, evaluation)
        return (new.view(sums.shape) / counts)[:, place].view(1, -1)

    def restart(self) -> None:
        """Begin to take means over another epoch."""
        self._sums, self._counts = torch.zeros_like(self._weights), torch.zeros_like(self._weights[0])
        self._fooled = self._left = 0

    def row(self) -> dict[str, float]:
        """Return the means since the last ``restart``: loss, fooled, and the worst mean loss of a domain."""
        images = float(self._counts.sum()) * len(self._sums)
        means = (self._sums / self._counts)[:, self._counts > 0]
        return {
            "loss": float(self._sums.sum()) / images,
            "fooled": self._fooled / max(self._left, 1),
            "worst_loss": float(means.max()),
        }

    def _note(self, chosen: Tensor, kinds: Tensor, sums: Tensor, counts: Tensor, evaluation: Evaluation) -> None:
        self._sums[:, kinds] += sums
        self._counts[kinds] += counts
        assert evaluation.fooled is not None
        fooled = evaluation.fooled.view(len(self._weights), -1)
        counted = torch.ones_like(fooled) if self._already is None else ~self._already[:, chosen]
        self._fooled += int((fooled & counted).sum())
        self._left += int(counted.sum())


def _kinds(y: Tensor, over: Over) -> tuple[str, tuple[str, ...], Tensor]:
    """Return the name of the factor, its members (none if all is one), and the member of every image, (N,)."""
    if over == "data":
        return "data", (), torch.zeros_like(y)
    if over == "images":
        return "images", tuple(f"image_{i}" for i in range(len(y))), torch.arange(len(y), device=y.device)
    labels, kind = y.unique(return_inverse=True)
    return "classes", tuple(f"class_{c}" for c in labels.tolist()), kind
