"""The card beside each trained model: what it is, how it was trained, what it reaches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from omnirobust._files import replacing
from omnirobust.domains.losses import neg_cross_entropy

FGSM_EPS = 0.2
"""Radius of the attack in Table A2."""


@dataclass(frozen=True)
class Card:
    """What is known of one trained model.

    Attributes:
        name: data/letter, with @seedN unless the seed is 0.
        architecture: letter of Table A1.
        shape: (channels, height, width) of the images.
        classes: number of logits.
        data: name of the training data.
        data_note: what a reader of the accuracies must know about the data; empty if nothing.
        recipe: the settings of the training; "name" says whether they are the paper's or ours.
        seed: of the initial weights, the shuffling and the dropout.
        epochs: epochs done.
        finished: whether the training has ended; False for weights written while it goes on.
        validation_accuracy: on the held-out end of the training data; None without one.
        clean_accuracy: on the test split; while the training goes on, on the first 1,000 of its images.
        fgsm_accuracy: on the test split under FGSM, linf radius ``FGSM_EPS``; None before the training has ended.
        torch_version: that trained it.
    """

    name: str
    architecture: str
    shape: tuple[int, int, int]
    classes: int
    data: str
    data_note: str
    recipe: Mapping[str, object]
    seed: int
    epochs: int
    finished: bool
    validation_accuracy: float | None
    clean_accuracy: float
    fgsm_accuracy: float | None
    torch_version: str

    def write(self, file: Path) -> None:
        """Write the card as JSON."""
        with replacing(file) as partial:
            partial.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def read_card(file: Path) -> Card:
    """Read a card written by ``Card.write``.

    Raises:
        ValueError: if the file is no card.
    """
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        return Card(**(fields | {"shape": tuple(fields["shape"])}))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"The card {file} is damaged: delete it and train the model again.") from error


def fgsm_accuracy(model: nn.Module, x: Tensor, y: Tensor, eps: float = FGSM_EPS, *, batch_size: int = 500) -> float:
    """Return the accuracy of ``model`` under one signed gradient step.

    x_adv = clip(x + eps * sign(grad_x CE(model(x), y)), 0, 1)

    Args:
        model: in eval mode, (B, *S) to logits (B, C).
        x: images in [0, 1], (N, *S).
        y: true labels, (N,).
        eps: linf radius, in units of the images' range.
        batch_size: images a pass.

    Returns:
        The share of images still classified right, in [0, 1].

    Cost: two forward passes and one backward pass an image.

    Reference: Goodfellow et al. 2014, "Explaining and harnessing adversarial examples".
    """
    right, device = 0, next((parameter.device for parameter in model.parameters()), x.device)
    for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
        images, labels = images.to(device, copy=True).requires_grad_(), labels.to(device)
        # Summed, not averaged: the sign of an image's gradient must not depend on its batch.
        (grad,) = torch.autograd.grad(neg_cross_entropy(model(images), labels).sum(), images)
        attacked = (images.detach() - eps * grad.sign()).clamp_(0, 1)
        with torch.no_grad():
            right += int((model(attacked).argmax(1) == labels).sum())
    return right / len(x)
