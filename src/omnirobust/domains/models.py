"""What a model is to an attack, and what a probe has found out about one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from omnirobust.domains.frozen import Frozen

Model: TypeAlias = Callable[[Tensor], Any]
Models: TypeAlias = Mapping[str, Model] | Sequence[Model] | Model


@dataclass(frozen=True)
class Probed:
    """A model of which ``_probe.probed`` has found out how it behaves, so that nothing has to find it out again.

    Attributes:
        model: maps a batch (B, *S) to logits (B, C).
        random: whether two passes over the same inputs differ.
        notes: what a reader of results must know of it.
        held: what stands behind it, if that was looked for.
        dtype: that it needs its inputs in; None for theirs.
        classes: C; None if it has answered nothing yet.
        said: its classes of the rows that it was probed on, at most 32, (n,) int64.
        only_reads: whether it is known to leave its inputs as they are.
    """

    model: Model
    random: bool = False
    notes: tuple[str, ...] = ()
    held: Frozen | None = field(default=None, repr=False, compare=False)
    dtype: torch.dtype | None = None
    classes: int | None = None
    said: Tensor | None = field(default=None, repr=False, compare=False)
    only_reads: bool = False

    def __call__(self, batch: Tensor) -> Any:
        """Call the model."""
        return self.model(batch)
