"""What models see of images: each under every transformation, as often as that draws, with draws of its own."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor

from omnirobust.core.draws import DrawKey, row_seeds, seeded
from omnirobust.core.threat_models import Bounds
from omnirobust.domains.classifier import Classifier
from omnirobust.domains.memory import Part
from omnirobust.domains.transforms.seeded import View

_OF_MODELS = 2**32
"""Draws of models are keyed from this slot on, those of transformations below it."""


class Drawing(NamedTuple):
    """The draws of one evaluation of a grid.

    Attributes:
        views: the transformations; None for none.
        key: of the draws, but for the slot.
        rows: global rows of the problems, (B,) int64.
        examples: E, how many images belong to each.
        dtype: of the inputs.
    """

    views: tuple[View, ...] | None
    key: DrawKey
    rows: Tensor
    examples: int
    dtype: torch.dtype

    def seen(self, images: Sequence[Tensor], part: Part) -> Tensor:
        """Return what the models see of images, all draws of one transformation, then of the next.

        Args:
            images: for each transformation, (e b, *S).
            part: what they are.
        """
        if self.views is None:
            return images[0].repeat(len(part.slots[0]), *[1] * (images[0].ndim - 1))
        rows, each = self.rows[part.rows], range(part.examples.start, part.examples.stop)
        rows = torch.cat([rows * self.examples + e for e in each])
        seen: list[Tensor] = []
        for r, slots, block in zip(part.transforms, part.slots, images, strict=True):
            seen += [self.views[r].of(block, self.key._replace(slot=slot), rows, self.dtype) for slot in slots]
        if len({images.shape[1:] for images in seen}) > 1:
            drawn = [r for r, slots in zip(part.transforms, part.slots, strict=True) for _ in slots]
            sizes = {self.views[r].name: tuple(each.shape[1:]) for r, each in zip(drawn, seen, strict=True)}
            raise ValueError(
                f"transforms must give images of one size, for they go through a model together; got {sizes}"
            )
        return seen[0] if len(seen) == 1 else torch.cat(seen)

    def said(self, classifier: Classifier, views: Tensor, part: Part) -> Tensor:
        """Return the logits that a random model gives ``views``: it is called once a draw, each under its own seed.

        A model may draw once for a whole batch: draws of one call would not be independent.
        """
        first = self.rows[part.rows][:1] * self.examples + part.examples.start
        slots, drawn = [slot for each in part.slots for slot in each], []
        for slot, block in zip(slots, views.tensor_split(len(slots)), strict=True):
            key = self.key._replace(slot=_OF_MODELS + slot)
            with seeded(sum(row_seeds(key, first)), block):  # the sum of one seed, or of none
                drawn.append(classifier.logits(block, self.dtype))
        return torch.cat(drawn)


def mean_of_draws(values: Tensor, part: Part, shape: tuple[int, int, int]) -> Tensor:
    """Average values (n,) over the draws of each transformation of ``part``, of ``shape``: (r, e, b)."""
    _, e, b = shape
    repeats = [len(slots) for slots in part.slots]
    blocks = values.split([n * e * b for n in repeats])
    return torch.stack([v.view(n, e, b).mean(0) for v, n in zip(blocks, repeats, strict=True)])


def just_beyond(ends: Bounds, dtype: torch.dtype) -> tuple[float, float] | None:
    """Return the ends of a range, each moved outwards by one float: strictly between them lies the closed range.

    None where every feature has ends of its own.
    """
    if isinstance(ends[0], Tensor) or isinstance(ends[1], Tensor):
        return None
    low, high = torch.tensor(ends, dtype=dtype).to(dtype if dtype.itemsize > 2 else torch.float32).unbind()
    return float(low.nextafter(low.new_tensor(-inf))), float(high.nextafter(high.new_tensor(inf)))
