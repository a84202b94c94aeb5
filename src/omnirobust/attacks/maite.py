"""MAITE's protocols of image classification, both ways: its models and data sets here, our attacks as an augmentation.

Nothing here imports MAITE: objects are told by what they have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from omnirobust.attacks.recipes import attack_ensemble
from omnirobust.attacks.results import AttackResult
from omnirobust.core.threat_models import ThreatModel
from omnirobust.core.types import described
from omnirobust.domains.classifier import Models, named_models
from omnirobust.domains.models import Model
from omnirobust.zoo.data import ImageData

if TYPE_CHECKING:
    from omnirobust.domains.blackbox.box import BlackBox

_LEVELS = 255


class _Network:
    """A MAITE model through whose answers gradients flow.

    Args:
        model: maps a sequence of images (C, H, W) to as many scores (C,).
        levels: whether it wants images of 0 to 255.
    """

    def __init__(self, model: Any, levels: bool) -> None:
        self.model, self.levels = model, levels

    def __call__(self, x: Tensor) -> Tensor:
        """Return the scores of images (n, C, H, W), (n, classes), logarithms of those that are probabilities."""
        said = self.model(list(x * _LEVELS if self.levels else x))
        return _logits(torch.stack([each if isinstance(each, Tensor) else torch.as_tensor(each) for each in said]))


class _Answers:
    """What a MAITE model says of images that it is given as arrays.

    Args:
        model: as of ``_Network``.
        levels: whether it wants uint8 images, rounded to whole levels.
    """

    def __init__(self, model: Any, levels: bool) -> None:
        self.model, self.levels = model, levels

    def __call__(self, x: Tensor) -> Tensor:
        """Return the scores of images (n, C, H, W), (n, classes), logarithms of those that are probabilities."""
        given = (x * _LEVELS).round().clamp(0, _LEVELS).byte() if self.levels else x
        said = self.model(list(given.cpu().numpy()))
        rows = [each.detach().cpu().numpy() if isinstance(each, Tensor) else np.asarray(each) for each in said]
        return _logits(torch.as_tensor(np.stack(rows)))


def _logits(scores: Tensor) -> Tensor:
    """Return scores (n, C), the logarithm of those rows that are probabilities: MAITE allows both and says neither."""
    scores = scores if scores.is_floating_point() else scores.double()
    chances = ((scores >= 0).all(1) & ((scores.sum(1) - 1).abs() < 1e-3)).unsqueeze(1)
    return torch.where(chances, scores.clamp_min(torch.finfo(scores.dtype).tiny).log(), scores)


def from_maite(model: Any, images: Tensor | None = None, *, levels: bool = False, **asked: Any) -> Model | BlackBox:
    """Make a model for omnirobust of a MAITE ``Model`` of image classification.

    Args:
        model: maps a sequence of images (C, H, W) to as many probabilities or logits (classes,); rows that are
            probabilities stand as their logarithm. It has ``metadata``.
        images: (n, C, H, W) in [0, 1]; with them it is tried whether gradients flow through the model, from tensors
            that it is given to tensors that it answers with.
        levels: whether the model wants levels 0 to 255, as uint8 where it only answers, rather than [0, 1].
        asked: for ``BlackBox``: queries, samples, surrogates, store, retries.

    Returns:
        A callable with gradients where images are given and gradients flow; else a ``BlackBox``.

    Raises:
        ValueError: if it is no such model, or an argument is out of range.
    """
    if not callable(model) or not isinstance(getattr(model, "metadata", None), Mapping):
        raise ValueError(
            f"model must be a MAITE model, which is called on a batch and has metadata, got {described(model)}"
        )
    if images is not None and not asked and _has_gradients(network := _Network(model, levels), images):
        return network
    from omnirobust.domains.blackbox.box import BlackBox

    return BlackBox(_Answers(model, levels), **asked)


def _has_gradients(network: Callable[[Tensor], Tensor], images: Tensor) -> bool:
    leaf = images[:2].detach().clone().requires_grad_()
    try:
        with torch.enable_grad():
            said = network(leaf)
            weights = torch.arange(1.0, said.shape[1] + 1).to(said)
            (slope,) = torch.autograd.grad((said * weights).sum(), leaf)
    except Exception:  # whatever the code of a model raises that is given tensors, or cuts them off
        return False
    return bool(slope.isfinite().all()) and bool(slope.any())


def maite_data(dataset: Any, limit: int | None = None) -> ImageData:
    """Read a MAITE ``Dataset`` of image classification: images, labels and the names of the classes.

    Args:
        dataset: its items are (image (C, H, W), target (classes,), metadata); images of uint8, or in [0, 1].
        limit: how many of its first items to take; None for all.

    Raises:
        ValueError: if it is no such data set, or its images differ in size or leave [0, 1].
    """
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__") or not hasattr(dataset, "metadata"):
        raise ValueError(
            f"dataset must be a MAITE data set, with items, a length and metadata, got {described(dataset)}"
        )
    count = len(dataset) if limit is None else min(limit, len(dataset))
    if count < 1:
        raise ValueError(f"dataset must hold at least one image, got {count}")
    items = [dataset[i] for i in range(count)]
    images = [_image(image, number) for number, (image, *_) in enumerate(items)]
    if len(shapes := {image.shape for image in images}) > 1:
        raise ValueError(f"dataset must have images of one size, got {' and '.join(map(str, sorted(shapes)[:2]))}")
    targets = np.stack([np.asarray(target) for _, target, *_ in items])
    if targets.ndim != 2:
        raise ValueError(f"dataset must have targets (classes,), one-hot or scores, got shape {targets.shape[1:]}")
    names: Mapping[int, str] = dataset.metadata.get("index2label", {})
    classes = tuple(str(names.get(i, i)) for i in range(targets.shape[1]))
    return ImageData(
        torch.from_numpy(np.stack(images)), torch.from_numpy(targets.argmax(1).astype(np.int64)),
        str(dataset.metadata.get("id", "maite")), "test", classes,
    )  # fmt: skip


def _image(image: Any, number: int) -> np.ndarray:
    """Return an image as (C, H, W) float32 in [0, 1]."""
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if array.ndim != 3:
        raise ValueError(f"images must be (channels, height, width), got {array.shape} at {number}")
    scaled = array.astype(np.float32) / (_LEVELS if array.dtype == np.uint8 else 1)
    if not (scaled.min() >= 0 and scaled.max() <= 1):
        raise ValueError(
            f"images must be uint8 or in [0, 1], got {array.dtype} from {array.min():g} to {array.max():g} at {number}"
        )
    return scaled


class MaiteAttack:
    """An attack as a MAITE ``Augmentation``: ``attack((images, targets, metadata))`` gives perturbed images.

    Targets and metadata are passed on. Images come back in the dtype they had; in uint8 each pixel is rounded towards
    its clean value, so that no perturbation leaves its ball. Where noise is drawn, what is found for an image hangs on
    its place in the batch.

    Args:
        models: the models to fool, all at once: any that ``attack_ensemble`` takes, ``from_maite`` among them.
        threat_model: what the attacker may do to images in [0, 1].
        attack: the attack with its settings, for instance ``functools.partial(attack_ensemble, steps=20)``.
        name: the augmentation's id.

    Attributes:
        metadata: {"id": name}.
        result: everything the last call found; None before the first.
    """

    def __init__(
        self, models: Models, threat_model: ThreatModel, attack: Callable[..., AttackResult] = attack_ensemble,
        name: str = "omnirobust",
    ) -> None:  # fmt: skip
        self.models, self.threat_model, self.attack = named_models(models), threat_model, attack
        self.metadata = {"id": name}
        self.result: AttackResult | None = None

    def __call__(self, batch: tuple[Sequence[Any], Sequence[Any], Sequence[Any]], /) -> tuple[Any, Any, Any]:
        """Return the batch with attacked images.

        Raises:
            ValueError: if the images differ in size or are neither uint8 nor in [0, 1], or the attack refuses them.
        """
        images, targets, metadata = batch
        clean = [_image(image, number) for number, image in enumerate(images)]
        if len(shapes := {image.shape for image in clean}) > 1:
            raise ValueError(f"images of a batch must be of one size, got {' and '.join(map(str, sorted(shapes)[:2]))}")
        x = torch.from_numpy(np.stack(clean))
        y = torch.as_tensor(np.stack([np.asarray(target) for target in targets])).argmax(1)
        self.result = self.attack(self.models, x, y, self.threat_model)
        moved = self.result.adversarial.cpu()
        return [_as_given(each, before) for each, before in zip(moved, images, strict=True)], targets, metadata


def _as_given(moved: Tensor, before: Any) -> Any:
    """Return an attacked image in the kind and dtype of the clean one, in uint8 rounded towards it."""
    array = before.detach().cpu().numpy() if isinstance(before, Tensor) else np.asarray(before)
    found = moved.numpy()
    if array.dtype == np.uint8:
        delta = _LEVELS * found.astype(np.float64) - array
        whole = np.trunc(np.where(np.abs(delta - delta.round()) < 1e-3, delta.round(), delta))  # floats of whole levels
        found = array + whole
    found = found.astype(array.dtype)
    return torch.as_tensor(found, device=before.device) if isinstance(before, Tensor) else found
