"""Which labels the accuracy of an attack is counted against, where those that it leaves or reaches are not the ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from omnirobust.domains.checks import as_labels
from omnirobust.domains.classifier import Models
from omnirobust.domains.grid import DomainGrid
from omnirobust.domains.losses import margin


@dataclass(frozen=True)
class Labels:
    """Labels to count accuracy against, and what is won before the attack.

    Attributes:
        of: the labels, (B, models, transforms, examples) int64.
        already: whether a domain's clean input is in its target class, by its true label where that is known, or
            because the model says so, (B, K) bool; None in untargeted attacks.
    """

    of: Tensor
    already: Tensor | None


def labels_of(
    models: Models,
    x: Tensor,
    y: Tensor,
    true_labels: Tensor | None,
    sizes: tuple[int, int, int],
    *,
    shared: bool,
    targeted: bool,
) -> Labels | None:
    """Return the labels that accuracy is counted against: the true ones, else what each model says of clean inputs.

    Args:
        models: those attacked.
        x: clean inputs, (B, *S), or (B, E, *S) where ``shared``.
        y: the attack's labels.
        true_labels: (B,), or (B, E) where ``shared``; None where they are not known.
        sizes: how many models, transforms and examples there are.
        shared: whether E inputs share a perturbation.
        targeted: whether ``y`` are classes to reach.

    Returns:
        None where ``y`` are the labels: in an untargeted attack that was given no others.

    Cost: a forward of each model in a targeted attack.
    """
    truth = None if true_labels is None else as_labels(x, true_labels, sizes, shared, "true_labels")
    if not targeted:
        return None if truth is None else Labels(truth, None)
    goal, said = as_labels(x, y, sizes, shared), clean_classes(models, x, shared).expand(-1, *sizes)
    already = said == goal if truth is None else (said == goal) | (truth == goal)
    return Labels(said if truth is None else truth, already.flatten(1))


def clean_classes(models: Models, x: Tensor, shared: bool, restart: int = 0) -> Tensor:
    """Return each model's class of every input as it is, without transformations, (B, M, 1, E) int64.

    ``restart`` keys the draws of random models.
    """
    flat = x.flatten(0, 1) if shared else x
    grid = DomainGrid(
        models, flat, torch.zeros(len(flat), dtype=torch.int64, device=x.device), loss=margin, restart=restart
    )
    said = torch.stack([logits.argmax(1) for logits in grid.logits(torch.zeros_like(flat))], 1)
    examples = x.shape[1] if shared else 1
    return said.unflatten(0, (-1, examples)).transpose(1, 2).unsqueeze(2)


def already_notes(already: Tensor) -> list[str]:
    """Say in how many pairs of input and domain, (B, K) bool, the class to reach is there before the attack."""
    count, pairs = int(already.sum()), already.numel()
    if not count:
        return []
    return [f"The class to reach is there already, without an attack, in {count} of {pairs}: success leaves these out."]


def already_there(models: Models, x: Tensor, goal: Tensor, views: int, batch_size: int) -> Tensor:
    """Say of which images (N, *S) models say the class to reach as they are, (models x views, N) bool.

    Args:
        models: by name.
        x: the images.
        goal: the classes to reach, (N,) int64.
        views: how many transformations there are; they do not count here.
        batch_size: images at once.

    Cost: N forwards of each model.
    """
    parts = [clean_classes(models, part, shared=False)[:, :, 0, 0] for part in x.split(batch_size)]
    return (torch.cat(parts) == goal.unsqueeze(1)).T.repeat_interleave(views, 0)
