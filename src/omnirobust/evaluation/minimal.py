"""What the searches for smallest perturbations share: their result, their batches, the walk back to the boundary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from omnirobust._progress import ProgressHook, bar
from omnirobust.attacks.masking import HINT
from omnirobust.core.arguments import check_count
from omnirobust.core.choices import Norm
from omnirobust.core.draws import torch_forked
from omnirobust.core.ranges import in_8_bits
from omnirobust.core.threat_models import Bounds, FeasibleSet, clamped
from omnirobust.core.types import Evaluation
from omnirobust.domains.checks import check_gradients
from omnirobust.domains.classifier import Models, Probed
from omnirobust.domains.grid import DomainGrid
from omnirobust.domains.probe import notes_of

_DRAWS = 10
"""Draws of what is random, on all of which a model must err."""

_JUDGEMENT = 2**30 + 5
"""Restart number that keys these draws: no attack sees them."""

_JUDGED = (
    f"A perturbation counts where it fools on each of {_DRAWS} draws; the smallest of all that were tried had luck, "
    "and fools a little less often on others."
)

_HALVINGS = 10
"""A perturbation that fools is shortened to 1/1024 of its length, so that it ends at the boundary."""

_LONGER, _TRIES = 2.0**-10, 3
"""By what share a perturbation grows that only fooled by a rounding, and how often it may."""


@dataclass(frozen=True)
class Distortion:
    """The smallest perturbations found.

    Attributes:
        distortion: their norms, (B,); 0 where the model errs already, infinite where no perturbation was found.
        delta: the perturbations, (B, *S); zero where none was found.
        found: whether every model errs at x + delta, clamped to the range, under every transformation, (B,) bool:
            judged at the end, in full precision; where something is random, in the search, on ten draws.
        norm: l0, l1, l2 or linf.
        notes: what a reader of these numbers must know, one sentence each; empty if nothing.
        found_uint8: whether they still err once x + delta is rounded to 256 levels, as a file of 8 bits holds it,
            (B,) bool; None where data has no such levels. At the boundary a rounding often decides.
    """

    distortion: Tensor
    delta: Tensor
    found: Tensor
    norm: Norm
    notes: tuple[str, ...] = ()
    found_uint8: Tensor | None = None


def check_search(models: Models, x: Tensor, batch_size: int | None) -> None:
    """Raise a ValueError unless a search can begin: gradients, and arguments that none of its parts checks."""
    if torch.is_inference_mode_enabled():
        raise ValueError("a search for distortions needs gradients: call it outside torch.inference_mode()")
    check_gradients(models, "models")
    if batch_size is not None:
        check_count("batch_size", batch_size)
    if not isinstance(x, Tensor):
        raise ValueError(f"x must be a tensor, got {type(x).__name__}")


def in_batches(
    search: Callable[[DomainGrid, slice, Callable[[int], None]], tuple[Distortion, Tensor]],
    grid: DomainGrid,
    x: Tensor,
    batch_size: int | None,
    progress: bool | ProgressHook,
    each: int,
) -> Distortion:
    """Search batch by batch and join the results; every input counts ``each`` units of progress.

    Args:
        search: maps the domains of a batch, its rows, and a function that counts progress, to its result and to its
            ``blind_rows``.
        grid: the domains of all inputs, on each of which a perturbation is to fool; their models are probed here.
        x: all inputs, (B, *S).
        batch_size: inputs a batch; None for all.
        progress: see ``minimal_eps``.
        each: units of progress an input.

    Raises:
        ValueError: if a model or a label does not fit, or no gradient can be seen on any input.
    """
    size, grid, found = batch_size or max(len(x), 1), grid.probed(batch_size), []
    with torch_forked(x), bar(progress, total=len(x) * each) as advance:
        for begin in range(0, max(len(x), 1), size):
            rows = slice(begin, begin + size)
            found.append(search(grid.select(rows), rows, advance))
    parts = [part for part, _ in found]
    blind = torch.cat([flags for _, flags in found])
    if bool(blind.any()) and bool((blind | torch.cat([p.distortion == 0 for p in parts])).all()):
        raise ValueError(
            "gradient masking: the model has zero input gradient on every row, so that a search by gradients cannot "
            f"see it ({HINT})"
        )
    rounded = [p.found_uint8 for p in parts if p.found_uint8 is not None]
    return Distortion(
        torch.cat([p.distortion for p in parts]),
        torch.cat([p.delta for p in parts]),
        torch.cat([p.found for p in parts]),
        parts[0].norm,
        (*_blindness(blind & ~torch.cat([p.found for p in parts])), *_notes(grid)),
        torch.cat(rounded) if rounded else None,
    )


def _blindness(unseen: Tensor) -> tuple[str, ...]:
    """Say for how many inputs nothing was found because no gradient shows where to look."""
    if not bool(unseen.any()):
        return ()
    return (
        f"Gradient masking: some model has zero input gradient on {int(unseen.sum())} of {len(unseen)} inputs, for "
        f"which nothing was found: small perturbations may fool it there all the same ({HINT}).",
    )


def _notes(grid: DomainGrid) -> tuple[str, ...]:
    random = any(isinstance(model, Probed) and model.random for model in grid.models.values())
    told = notes_of(grid.models.values(), _JUDGED)
    return (f"A transformation is drawn. {_JUDGED}", *told) if grid.random and not random else told


def judged(
    grid: DomainGrid, feasible: FeasibleSet, bounds: Bounds, x: Tensor, delta: Tensor, found: Tensor, norm: Norm
) -> Distortion:
    """Judge perturbations as they are returned, in full precision, and rounded to 8 bits.

    One at the boundary may have fooled by a rounding, among other inputs than these: it grows by up to 3/1024. What is
    random was judged in the search: on other draws hardly any would stand that is as short as ten draws allow.

    Args:
        grid: the domains of ``x``.
        feasible: the box, and the norm.
        bounds: the range of the data.
        x: inputs, (B, *S).
        delta: what fooled in the search, (B, *S).
        found: where it did, (B,) bool.
        norm: its name.

    Cost: two forwards, four more where a rounding decides; ten where something is random.
    """
    zero = torch.zeros_like(delta)

    def fools(images: Tensor) -> Tensor:
        return errs(grid.renewed(0, x=images), zero)

    holds = found if grid.random else fools(clamped(x + delta, bounds))
    for _ in range(_TRIES):
        lost = like_rows(found & ~holds, delta)
        if not bool(lost.any()):
            break
        longer = torch.clamp(delta * (1 + _LONGER), feasible.lower, feasible.upper)
        delta = torch.where(lost, longer, delta)
        holds = fools(clamped(x + delta, bounds))
    found = found & holds
    delta = torch.where(like_rows(found, delta), delta, zero)
    size = feasible.norm(delta)
    size = torch.where(found, size.to(torch.promote_types(size.dtype, torch.float32)), torch.inf)
    levels = in_8_bits(clamped(x + delta, bounds), bounds)
    rounded = None if levels is None else found & fools(levels)
    return Distortion(size, delta, found, norm, found_uint8=rounded)


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
    """Say whether all models err at ``delta`` under all transformations, each time of some draws, (B,) bool."""
    grid = grid.renewed(_JUDGEMENT)
    hits = [grid.evaluate(delta, grad=False).fooled for _ in range(_DRAWS if grid.random else 1)]
    return torch.stack([fooled.all(1) for fooled in hits if fooled is not None]).all(0)


def like_rows(values: Tensor, like: Tensor) -> Tensor:
    """Return ``values`` (B,) in the shape (B, 1, ..., 1) that multiplies ``like`` (B, *S)."""
    return values.view(-1, *[1] * (like.ndim - 1))
