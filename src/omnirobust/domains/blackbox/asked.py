"""One black box within one attack: what it has answered, how often it was asked for each row, and what its slope is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnirobust.core.threat_models import Bounds, clamped
from omnirobust.domains.blackbox.asking import Oracle, Output, as_logits, digests
from omnirobust.domains.blackbox.estimate import estimated
from omnirobust.domains.classifier import Classifier, Model


class Asked:
    """A model of logits whose gradients are estimated, or those of its guides.

    An input that was asked before for the same row is not asked again, nor counted.

    Args:
        name: of the model.
        oracle: that is asked.
        output: what it says.
        samples: questions for an estimate.
        guides: differentiable models that resemble it.
        limit: questions for each row; None for any number.
        search: whether gradients are not estimated, because the attack does without.
        bounds: data range that inputs are clamped to; None for none.
        size: how many rows there are, and how many inputs a row has at once.
        first_row: global number of the first row.
        seed: keys the draws of estimates.
        classes: of labels, how many there are at least; more once more were said.
    """

    def __init__(
        self, name: str, oracle: Oracle, output: Output, samples: int, guides: Mapping[str, Model], *,
        limit: int | None = None, search: bool = False, bounds: Bounds | None = None,
        size: tuple[int, int] = (0, 1), first_row: int = 0, seed: int = 0, classes: int = 2,
    ) -> None:  # fmt: skip
        self.name, self.limit, self.search, self.samples = name, limit, search, samples
        self.output: Output = output
        self.classes = classes
        self._oracle, self.bounds, self.first_row = oracle, bounds, first_row
        self.guides = [Classifier(f"{name}'s surrogate {guide}", model) for guide, model in guides.items()]
        self.counts = np.zeros(size, np.int64)  # no tensor: a model's tensors are put back after each call
        self.prior: Tensor | None = None  # of the inputs that are being differentiated: gradients of other models
        self._known: dict[bytes, np.ndarray] = {}
        self._seen: set[tuple[int, bytes]] = set()
        self.seed, self._estimates = seed, Counter[tuple[int, int]]()
        self._at: tuple[list[int], list[int]] | None = None

    @contextmanager
    def on(self, rows: Tensor, columns: Tensor) -> Iterator[None]:
        """Say whose inputs follow: their global rows, and which of a row's inputs they are, (n,) each."""
        before, self._at = self._at, (rows.tolist(), columns.tolist())
        try:
            yield
        finally:
            self._at = before

    def __call__(self, batch: Tensor) -> Tensor:
        """Return the logits of ``batch`` (n, *S), (n, C), with a backward pass of their own."""
        return _Answer.apply(batch, self)  # pyright: ignore[reportReturnType]

    def ask(self, batch: Tensor, at: tuple[list[int], list[int]] | None) -> Tensor:
        """Return the logits of ``batch`` (n, *S); what was not known is asked, and counted for the rows ``at``."""
        batch = batch.detach()
        batch = (batch if self.bounds is None else clamped(batch, self.bounds)) + 0.0  # -0 and 0 are one number
        keys = digests(batch)
        places = {key: i for i, key in reversed(list(enumerate(keys))) if key not in self._known}
        if places:
            new = sorted(places, key=lambda key: places[key])
            rows = [places[key] for key in new]
            self._known |= self._oracle.answers(batch if len(rows) == len(batch) else batch[rows], new)
        for key, row, column in zip(keys, *(at or ([], [])), strict=False):
            if (row, key) not in self._seen:  # what two views of a row have in common counts for the first
                self._seen.add((row, key))
                self.counts[row - self.first_row, column] += 1
        said = np.stack([self._known[key] for key in keys]) if keys else np.zeros((0, 2))
        logits = as_logits(torch.from_numpy(said), self.output, self.classes)
        self.classes = max(self.classes, logits.shape[1]) if self.output == "labels" else self.classes
        return logits.to(batch.device, torch.promote_types(batch.dtype, torch.float32))

    def left(self, rows: Tensor) -> Tensor:
        """Return how many questions the rows, (n,) by place, have left, (n,) int64."""
        most = 2**62 if self.limit is None else self.limit
        return torch.from_numpy(most - self.counts[rows.cpu().numpy()].sum(1))

    def numbers(self, batch: Tensor, at: tuple[list[int], list[int]] | None) -> list[int]:
        """Return a number for each of the inputs (n, *S) whose gradient is estimated next: no other has the same."""
        if at is None:
            return [int.from_bytes(key[:7], "little") for key in digests(batch)]
        places = list(zip(*at, strict=True))
        self._estimates.update(places)
        columns = self.counts.shape[1]
        return [(row * columns + column << 24) + self._estimates[row, column] for row, column in places]

    def slope(self, batch: Tensor, at: tuple[list[int], list[int]] | None, direction: Tensor) -> Tensor:
        """Return the gradient of <direction, logits> (n, C) in ``batch`` (n, *S), as good as it is known.

        Where nothing is known it is 1 everywhere: a search does not look at it, and it is not a masked one.
        """
        priors = [self._of_guide(guide, batch, direction) for guide in self.guides]
        if self.prior is not None and self.prior.shape == batch.shape:
            priors.append(self.prior)
        if self.search:
            return torch.stack([_unit(p) for p in priors]).sum(0) if priors else torch.ones_like(batch)
        return estimated(self, batch, at, direction, priors)

    def _of_guide(self, guide: Classifier, batch: Tensor, direction: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = batch.detach().clone().requires_grad_()
            return guide.gradient((guide(leaf) * direction.to(leaf)).sum(1), leaf)


class _Answer(torch.autograd.Function):
    """Asks in the forward pass, and estimates in the backward pass."""

    @staticmethod
    def forward(ctx: Any, batch: Tensor, asked: Asked) -> Tensor:
        ctx.asked, ctx.at = asked, asked._at
        ctx.save_for_backward(batch)
        return asked.ask(batch, ctx.at)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (batch,) = ctx.saved_tensors
        return ctx.asked.slope(batch, ctx.at, grads[0]).to(batch), None


def _unit(slope: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(slope.flatten(1), dim=1).clamp_min(1e-12)
    return slope / norm.view(-1, *[1] * (slope.ndim - 1))
