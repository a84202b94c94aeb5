"""How a perturbation fares on images that it was not learned from."""

from __future__ import annotations

import torch
from torch import Tensor

from omnirobust.attacks.labels import already_notes, already_there
from omnirobust.attacks.universal.results import UniversalPerturbation, UniversalScore
from omnirobust.core.arguments import check_count, check_flag, check_seed
from omnirobust.core.draws import torch_forked
from omnirobust.core.threat_models import Bounds, clamped
from omnirobust.domains.classifier import Models
from omnirobust.domains.grid import DomainGrid, Transforms
from omnirobust.domains.losses import neg_cross_entropy
from omnirobust.domains.probe import notes_of, probed
from omnirobust.domains.transforms.seeded import as_views

_SCORING = 2**30
"""Restart number that keys the draws of scoring: learning has seen none of them."""

_DRAWS = 10


def score_universal(
    models: Models,
    x: Tensor,
    y: Tensor,
    perturbation: UniversalPerturbation | Tensor,
    *,
    bounds: Bounds = (0.0, 1.0),
    transforms: Transforms | None = None,
    draws: int | None = None,
    targeted: bool = False,
    seed: int = 0,
    batch_size: int = 500,
) -> UniversalScore:
    """Say which images a perturbation fools: argmax M(t(clip(x + delta))) differs from y.

    Images that are misclassified without it count as fooled: score ``torch.zeros`` to see how many those are. Those of
    which a model says the class to reach without it do not count.

    Args:
        models: one model, a mapping from name to model, or a sequence.
        x: images in ``bounds``, (N, *S).
        y: labels, (N,) int64; the classes to reach if ``targeted``.
        perturbation: delta, (*S).
        bounds: range of the data; that of the perturbation itself if it has one.
        transforms: transformations of the perturbed images.
        draws: fresh draws of random transformations and models, >= 1; 10 if not given.
        targeted: whether ``y`` are classes to reach.
        seed: of these draws.
        batch_size: images at once, >= 1.

    Returns:
        Success by image, model and transformation, with means over all, by class and by pair.

    Raises:
        ValueError: if an argument does not fit.

    Cost: N forwards for each model and transformation, times ``draws`` if one is random; N of each model more
    if ``targeted``.
    """
    delta, bounds = _parts(perturbation, bounds)
    if tuple(x.shape[1:]) != tuple(delta.shape):
        raise ValueError(f"perturbation must have the shape of an image, {tuple(x.shape[1:])}, got {(*delta.shape,)}")
    check_flag("targeted", targeted)
    check_seed("seed", seed)
    for name, value in (("draws", draws), ("batch_size", batch_size)):
        if value is not None:
            check_count(name, value, whole=False)
    views = None if transforms is None else as_views(transforms, x[:2])
    parts, names, known = [], (), probed(models, x, batch_size)
    for begin in range(0, max(len(x), 1), batch_size):
        rows = slice(begin, begin + batch_size)
        grid = DomainGrid(
            known, clamped(x[rows] + delta.to(x), bounds), y[rows], loss=neg_cross_entropy, transforms=views,
            targeted=targeted, seed=seed, restart=_SCORING, first_row=begin,
        )  # fmt: skip
        with torch_forked(x):
            parts.append(_success(grid, delta, len(x[rows]), (draws or _DRAWS) if grid.random else 1))
        names = grid.names
    judged = f"Success is the share of {draws or _DRAWS} draws."
    told = notes_of(known.values(), judged)
    if not targeted:
        return UniversalScore(torch.cat(parts), y, names, told)
    already = already_there(known, x, y, len(views or (None,)), batch_size).T
    return UniversalScore(torch.cat(parts), y, names, (*told, *already_notes(already)), already)


def _parts(perturbation: UniversalPerturbation | Tensor, bounds: Bounds) -> tuple[Tensor, Bounds]:
    if isinstance(perturbation, UniversalPerturbation):
        return perturbation.delta, perturbation.bounds
    return perturbation, bounds


def _success(grid: DomainGrid, delta: Tensor, images: int, draws: int) -> Tensor:
    nothing = delta.new_zeros(images, *delta.shape)
    total = torch.zeros(images, len(grid.names), device=delta.device)
    for _ in range(draws):
        fooled = grid.evaluate(nothing, grad=False).fooled
        assert fooled is not None
        total += fooled
    return total / draws
