"""What the searches for smallest perturbations share: their result, their batches, the walk back to the boundary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from omnirobust._progress import ProgressHook, bar
from omnirobust.attacks.masking import HINT
from omnirobust.core.arguments import check_count
from omnirobust.core.choices import Norm
from omnirobust.core.draws import torch_forked
from omnirobust.core.types import Evaluation
from omnirobust.domains.checks import check_gradients
from omnirobust.domains.classifier import Models, Probed
from omnirobust.domains.grid import DomainGrid
from omnirobust.domains.probe import notes_of, probed

_DRAWS = 10
"""Draws of a random model, on all of which it must err."""

_JUDGED = (
    f"A perturbation counts where it fools on each of {_DRAWS} draws; the smallest of all that were tried had luck, "
    "and fools a little less often on others."
)

_HALVINGS = 10
"""A perturbation that fools is shortened to 1/1024 of its length, so that it ends at the boundary."""


@dataclass(frozen=True)
class Distortion:
    """The smallest perturbations found.

    Attributes:
        distortion: their norms, (B,); 0 where the model errs already, infinite where no perturbation was found.
        delta: the perturbations, (B, *S); zero where none was found.
        found: whether the model errs at x + delta, (B,) bool.
        norm: l0, l1, l2 or linf.
        notes: what a reader of these numbers must know, one sentence each; empty if nothing.
    """

    distortion: Tensor
    delta: Tensor
    found: Tensor
    norm: Norm
    notes: tuple[str, ...] = ()


def in_batches(
    search: Callable[[Mapping[str, Probed], slice, Callable[[int], None]], tuple[Distortion, Tensor]],
    models: Models,
    x: Tensor,
    batch_size: int | None,
    progress: bool | ProgressHook,
    each: int,
) -> Distortion:
    """Search batch by batch and join the results; every input counts ``each`` units of progress.

    Args:
        search: maps models, as probed, a batch's rows, and a function that counts progress, to its result and to its
            ``blind_rows``.
        models: those that are to err.
        x: all inputs, (B, *S).
        batch_size: inputs a batch; None for all.
        progress: see ``minimal_eps``.
        each: units of progress an input.

    Raises:
        ValueError: if an argument does not fit, or no gradient can be seen on any input.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError("a search for distortions needs gradients: call it outside torch.inference_mode()")
    check_gradients(models, "models")
    if batch_size is not None:
        check_count("batch_size", batch_size)
    if not isinstance(x, Tensor):
        raise ValueError(f"x must be a tensor, got {type(x).__name__}")
    size, known = batch_size or max(len(x), 1), probed(models, x, batch_size)
    with torch_forked(x), bar(progress, total=len(x) * each) as advance:
        found = [search(known, slice(begin, begin + size), advance) for begin in range(0, max(len(x), 1), size)]
    parts = [part for part, _ in found]
    blind = torch.cat([flags for _, flags in found])
    if bool(blind.any()) and bool((blind | torch.cat([p.distortion == 0 for p in parts])).all()):
        raise ValueError(
            "gradient masking: the model has zero input gradient on every row, so that a search by gradients cannot "
            f"see it ({HINT})"
        )
    return Distortion(
        torch.cat([p.distortion for p in parts]),
        torch.cat([p.delta for p in parts]),
        torch.cat([p.found for p in parts]),
        parts[0].norm,
        notes_of(known.values(), _JUDGED),
    )


def blind_rows(seen: Evaluation) -> Tensor:
    """Say which inputs some model gets right without any input gradient to go by, (B,) bool."""
    assert seen.fooled is not None and seen.grads is not None
    flat = torch.stack([(grad.flatten(1) == 0).all(1) for grad in seen.grads], 1)
    return (flat & ~seen.fooled).any(1)


def shortened(grid: DomainGrid, delta: Tensor) -> Tensor:
    """Return ``delta`` (B, *S), all of whose rows fool, each cut where its line from the input leaves the boundary.

    Found by bisection, so that a row ends at most 1/1024 of its length beyond a point where the model is right.
    """
    outer = delta.new_ones(len(delta))
    inner = torch.zeros_like(outer)
    for _ in range(_HALVINGS):
        middle = (inner + outer) / 2
        hit = errs(grid, delta * like_rows(middle, delta))
        outer, inner = torch.where(hit, middle, outer), torch.where(hit, inner, middle)
    return delta * like_rows(outer, delta)


def errs(grid: DomainGrid, delta: Tensor) -> Tensor:
    """Say whether every model errs at ``delta``, a random one on each of some draws, (B,) bool."""
    hits = [grid.evaluate(delta, grad=False).fooled for _ in range(_DRAWS if grid.random else 1)]
    return torch.stack([fooled.all(1) for fooled in hits if fooled is not None]).all(0)


def like_rows(values: Tensor, like: Tensor) -> Tensor:
    """Return ``values`` (B,) in the shape (B, 1, ..., 1) that multiplies ``like`` (B, *S)."""
    return values.view(-1, *[1] * (like.ndim - 1))
