"""What must hold of the inputs, labels and settings of a grid of domains, and how its domains are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from omnirobust.core.arguments import check_count, check_flag, check_seed, is_number, repeated
from omnirobust.core.types import described
from omnirobust.domains.classifier import Classifier
from omnirobust.domains.losses import Loss, wants_reach
from omnirobust.domains.memory import MemoryBudget
from omnirobust.domains.outputs import RowError

_TRIED = 12
"""Rows that a loss is tried on."""


def as_groups(x: object, shared: bool) -> Tensor:
    """Return inputs as (E, B, *S): E = 1 where every input has its own perturbation.

    Raises:
        ValueError: if ``x`` is not a float tensor (B, *S), or (B, E, *S) with E >= 1 where ``shared``.
    """
    wanted = "(B, E, *S)" if shared else "(B, *S)"
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 + shared:
        raise ValueError(f"x must be a float tensor of shape {wanted}, got {described(x)}")
    if shared and x.shape[1] == 0:
        raise ValueError(f"x must hold at least one input a group, got shape {tuple(x.shape)}")
    return x.detach().transpose(0, 1).contiguous() if shared else x.detach().unsqueeze(0)


def as_labels(x: Tensor, y: object, sizes: tuple[int, int, int], shared: bool, name: str = "y") -> Tensor:
    """Return labels as (B, models, transforms, examples).

    Args:
        x: inputs, (B, *S) or (B, E, *S).
        y: int64; (B,), (B, models) or (B, models x transforms), or where ``shared`` (B, E); or any shape of four axes
            that broadcasts.
        sizes: how many models, transforms and examples there are.
        shared: whether E inputs share a perturbation.
        name: what messages call the labels.

    Raises:
        ValueError: if ``y`` does not fit.
    """
    if not isinstance(y, Tensor) or y.dtype != torch.int64:
        raise ValueError(f"{name} must be an int64 tensor of class indices, got {described(y)}{_elsewhere(x, y)}")
    if y.device != x.device:
        raise ValueError(f"{name} is on {y.device} but x is on {x.device}: move one of them")
    B, (models, transforms, examples) = len(x), sizes
    if y.ndim == 4 and all(have in (1, want) for have, want in zip(y.shape, (B, *sizes), strict=True)):
        return y.expand(B, *sizes)
    if shared and tuple(y.shape) == (B, examples):
        return y[:, None, None, :].expand(B, *sizes)
    if not shared and tuple(y.shape) == (B,):
        return y[:, None, None, None].expand(B, *sizes)
    if not shared and tuple(y.shape) == (B, models):
        return y[:, :, None, None].expand(B, *sizes)
    if not shared and tuple(y.shape) == (B, models * transforms):
        return y.view(B, *sizes)
    fits = f"({B}, {examples})" if shared else f"({B},) or ({B}, {models})"
    if not shared and transforms > 1:
        fits += f" or ({B}, {models * transforms})"
    grid = "" if sizes[1:] == (1, 1) else f", or broadcast to {(B, *sizes)}"
    raise ValueError(f"{name} must have shape {fits}{grid}, got {tuple(y.shape)}{_elsewhere(x, y)}")


def _elsewhere(x: Tensor, y: object) -> str:
    """Name the page for labels that are of no single class: of pixels or boxes, or several at once."""
    if not isinstance(y, Tensor) or y.ndim < 2 or len(y) != len(x):
        return ""
    return ": labels of pixels, or of several classes at once, are for attack_losses, see docs/losses.md"


def axes_of(
    models: tuple[str, ...], transforms: tuple[str, ...] | None, examples: int | None
) -> dict[str, tuple[str, ...]]:
    """Return the factors in use: examples and transforms where given, models where several or nothing else is."""
    axes: dict[str, tuple[str, ...]] = {}
    if len(models) > 1 or (transforms is None and examples is None):
        axes["models"] = models
    if transforms is not None:
        axes["transforms"] = transforms
    if examples is not None:
        axes["examples"] = tuple(f"image_{e}" for e in range(examples))
    return axes


def product_names(axes: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Name the domains of a grid with these axes, row-major: the members of the factors, joined by a slash."""
    names = [""]
    for members in axes.values():
        names = [f"{name}/{member}" for name in names for member in members]
    return tuple(name.removeprefix("/") for name in names)


def sources_of(models: Sequence[str], transforms: Sequence[str], examples: int) -> list[tuple[str, slice]]:
    """Return the pairs of model and transformation as messages name them, and which domains each stands for."""
    under = [f" under transformation {name!r}" for name in transforms] or [""]
    pairs = [f"model {name!r}{text}" for name in models for text in under]
    return [(name, slice(i * examples, (i + 1) * examples)) for i, name in enumerate(pairs)]


def of_global_row(error: RowError, rows: Tensor, part: slice, examples: int | None) -> RowError:
    """Name the row of an error by its global number.

    Args:
        error: its row is one of (transformations and draws, examples, rows).
        rows: global numbers of the problems, (b,).
        part: which examples of each problem these are.
        examples: how many each has; None where each problem is one.
    """
    e = part.start + error.row // len(rows) % (part.stop - part.start)
    row = int(rows[error.row % len(rows)])
    where = f"row {row}" if examples is None else f"image {e} of group {row}"
    return RowError(error.problem, row * (examples or 1) + e, where)


def check_classes(classifiers: Sequence[Classifier], m: int, labels: Tensor | None) -> None:
    """Check the classes of model ``m``, which has just answered for the first time.

    Raises:
        ValueError: if a label is none of them, or a model that has answered has another number of classes.
    """
    first = classifiers[m]
    assert first.classes is not None
    if labels is not None and labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= first.classes):
        raise ValueError(
            f"y must lie in [0, {first.classes}), the classes of model {first.name!r}, "
            f"got {int(labels.min())} to {int(labels.max())}"
        )
    # who says labels alone does not say how many there are
    told = [c for c in classifiers if c.classes is not None and getattr(c.model, "output", None) != "labels"]
    counts = {c.name: c.classes for c in told}
    if len(set(counts.values())) > 1:
        raise ValueError(f"models must agree on the number of classes, got {counts}")


def check_gradients(models: object, what: str) -> None:
    """Refuse models that only answer where gradients are taken and no questions are counted.

    Raises:
        ValueError: if there is one, known by its mark, among one or several models.
    """
    several = (
        models.values() if isinstance(models, Mapping) else models if isinstance(models, list | tuple) else [models]
    )
    if any(getattr(model, "answers_only", None) is True for model in several):
        raise ValueError(f"{what} must have gradients, got a BlackBox: attack_ensemble and attack_transforms take one")


def check_loss(loss: Loss, classes: int, targeted: bool, device: torch.device) -> None:
    """Try a loss of one's own once, on made-up logits of so many classes.

    Raises:
        ValueError: if it cannot be called as the library's are, does not return a finite number a row that depends on
            the logits, or is of the wrong sign; the sentence names it.
    """
    try:
        _tried(loss, classes, targeted, device)
    except TypeError:  # a loss that cannot be hashed
        _tried.__wrapped__(loss, classes, targeted, device)


@lru_cache(maxsize=64)
@torch.enable_grad()
def _tried(loss: Loss, classes: int, targeted: bool, device: torch.device) -> None:
    name = getattr(loss, "__name__", repr(loss))
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(_TRIED, classes, generator=generator)).to(device).requires_grad_()
    labels = (torch.arange(_TRIED, device=device) // 2) % classes
    values = _called(loss, name, logits, labels, targeted)
    (slope,) = torch.autograd.grad(values.sum(), logits, allow_unused=True) if values.requires_grad else (None,)
    if slope is None:
        raise ValueError(f"loss must depend on the logits by way of autograd, {name} lets no gradient through")
    if not bool(slope.isfinite().all()):
        raise ValueError(f"loss must have finite gradients, those of {name} are NaN or infinite")
    of_label = slope.gather(1, labels.unsqueeze(1)).squeeze(1) * (-1 if targeted else 1)
    tolerance = 1e-4 * slope.abs().amax(1)  # what rounding leaves of a derivative that is zero
    if int((of_label < -tolerance).sum()) > int((of_label > tolerance).sum()):
        wanted, does = ("must not raise", "raises") if targeted else ("must not lower", "lowers")
        raise ValueError(
            f"loss must be low where the model is fooled: a higher logit of the {'target' if targeted else 'label'} "
            f"{wanted} it, but it {does} {name}, which has the wrong sign"
        )


def _called(loss: Loss, name: str, logits: Tensor, labels: Tensor, targeted: bool) -> Tensor:
    try:
        reach = {"reach": torch.ones_like(logits[:, 0])} if wants_reach(loss) else {}
        values = loss(logits, labels, targeted=targeted, **reach)
    except Exception as error:  # whatever code of one's own raises
        said = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(
            "loss must be called as loss(logits, labels, targeted=...), as those of omnirobust.losses are, but "
            f"{name} raised {type(error).__name__}: {said} (for cross-entropy take losses.neg_cross_entropy)"
        ) from error
    if not isinstance(values, Tensor) or tuple(values.shape) != (len(logits),) or not values.is_floating_point():
        raise ValueError(
            f"loss must return a number for each of {len(logits)} rows, {name} returned {described(values)}"
        )
    if not bool(values.isfinite().all()):
        raise ValueError(f"loss must return finite numbers, {name} returned NaN or infinity")
    return values


def check_settings(
    *, loss: object, clip: object, samples: object, memory: object, shared: object, targeted: object, seed: object
) -> None:
    """Raise a ValueError that names the setting of a grid that is out of range."""
    if not callable(loss):
        raise ValueError(f"loss must be a function of logits and labels, got {type(loss).__name__}")
    if clip not in ("image", "intersection"):
        raise ValueError(f"clip must be 'image' or 'intersection', got {clip!r}")
    check_count("samples", samples)
    check_flag("shared", shared)
    check_flag("targeted", targeted)
    check_seed("seed", seed)
    if not isinstance(memory, MemoryBudget):
        check_memory(memory)


def check_memory(memory: object) -> None:
    """Raise a ValueError unless ``memory`` is a number of bytes, or None."""
    if memory is not None and not (is_number(memory) and isinstance(memory, int) and memory >= 1):
        raise ValueError(f"memory must be a whole number of bytes >= 1 or None, got {repeated(memory)}")
