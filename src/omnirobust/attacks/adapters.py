"""Other libraries' conventions, both ways: omnirobust attacks called as theirs are, and their models as domains.

Nothing here imports those libraries: objects are told by what they have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from omnirobust.attacks.maite import MaiteAttack as MaiteAttack
from omnirobust.attacks.maite import from_maite as from_maite
from omnirobust.attacks.maite import maite_data as maite_data
from omnirobust.attacks.recipes import attack_ensemble
from omnirobust.attacks.results import AttackResult
from omnirobust.core.threat_models import ThreatModel
from omnirobust.domains.classifier import Model, Models, named_models

FoolboxModels: TypeAlias = Any
"""A foolbox model, or a mapping from name to such models."""

FoolboxAnswer: TypeAlias = tuple[Tensor, Tensor, Tensor] | tuple[list[Tensor], list[Tensor], Tensor]
"""Raw and clipped adversarials with success (B,), or lists of them with success (radii, B)."""


class Attack(Protocol):
    """An attack of omnirobust with its settings filled in: ``attack_ensemble`` or a ``functools.partial`` of it."""

    def __call__(self, models: Any, x: Tensor, y: Tensor, threat_model: ThreatModel, /) -> AttackResult:
        """Attack inputs x (B, *S) with labels y."""
        ...


class AttackModule:
    """An attack that is called as those of torchattacks are: ``atk(images, labels)`` gives adversarial images.

    Args:
        models: the models to fool, all at once.
        threat_model: what the attacker may do.
        attack: the attack with its settings, for instance ``functools.partial(attack_ensemble, steps=20)``; with
            ``targeted=True`` among them the labels are classes to reach.

    Attributes:
        result: everything the last call found; None before the first.
    """

    def __init__(self, models: Models, threat_model: ThreatModel, attack: Attack = attack_ensemble) -> None:
        self.models = named_models(models)
        self.threat_model = threat_model
        self.attack = attack
        self.result: AttackResult | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the attacked images, (B, *S), for images (B, *S) and labels (B,)."""
        self.result = self.attack(self.models, images, labels, self.threat_model)
        return self.result.adversarial


class FoolboxAttack:
    """An attack that is called as those of foolbox are: ``attack(fmodel, x, y, epsilons=...)``.

    Args:
        p: norm of the ball, 0, 1, 2 or inf.
        attack: as for ``AttackModule``; ``targeted`` is taken from the criterion.

    Attributes:
        results: everything the last call found, one result for each radius.
    """

    def __init__(self, p: float, attack: Callable[..., AttackResult] = attack_ensemble) -> None:
        if p not in (0, 1, 2, math.inf):
            raise ValueError(f"p must be 0, 1, 2 or inf, got {p}")
        self.p = p
        self.attack = attack
        self.results: tuple[AttackResult, ...] = ()

    def __call__(
        self, model: FoolboxModels, inputs: Any, criterion: Any, *, epsilons: float | Sequence[float] | Any
    ) -> FoolboxAnswer:
        """Attack once for each radius.

        Args:
            model: a foolbox model, or a mapping from name to such models, which are fooled all at once.
            inputs: images within the model's bounds, (B, *S).
            criterion: labels (B,), or foolbox's ``Misclassification`` or ``TargetedMisclassification``.
            epsilons: one radius, or several: numbers, an array of numpy or a tensor.

        Returns:
            (raw, clipped, success) as foolbox does: of one radius tensors, and success (B,); of several lists, and
            success (radii, B). Raw and clipped are the same, since the perturbations keep the bounds.

        Raises:
            ValueError: if the models differ in their bounds, or an argument does not fit.
        """
        models, bounds = _foolbox_models(model)
        labels, targeted = _labels(criterion)
        one, radii = _radii(epsilons)
        x = _raw(inputs)
        self.results = tuple(
            self.attack(models, x, labels, ThreatModel(self.p, radius, bounds=bounds), targeted=targeted)
            for radius in radii
        )
        found = [result.adversarial for result in self.results]
        success = torch.stack([result.fooled.all(1) for result in self.results])
        if one:
            return found[0], found[0].clone(), success[0]
        return found, [images.clone() for images in found], success


def from_foolbox(model: Any) -> Model:
    """Make a model for omnirobust of a foolbox model, its preprocessing included.

    Its bounds are those of the threat model to attack it with: ``Linf(0.1, bounds=tuple(fmodel.bounds))``.

    Args:
        model: a foolbox model of torch.

    Returns:
        A callable from images (B, *S) within the bounds to logits (B, C), through which gradients flow.

    Raises:
        ValueError: if it is no such model.
    """
    if not callable(model) or not hasattr(model, "bounds"):
        raise ValueError(f"model must be a foolbox model, which has bounds, got {type(model).__name__}")

    def logits(x: Tensor) -> Tensor:
        return _raw(model(x))

    return logits


class _ArtModel(nn.Module):
    """An ART classifier's network after its preprocessing."""

    def __init__(self, network: nn.Module, prepare: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network
        self.prepare = prepare

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.prepare(x))


def from_art(classifier: Any) -> nn.Module:
    """Make a model for omnirobust of an ART ``PyTorchClassifier``, its preprocessing included.

    Its ``clip_values`` are the bounds of the threat model to attack it with.

    Args:
        classifier: a ``PyTorchClassifier`` whose preprocessing has gradients, that is, is written in torch.

    Returns:
        A module from images (B, *S) within the clip values to logits (B, C).

    Raises:
        ValueError: if it is no such classifier.
    """
    network = getattr(classifier, "model", None)
    if not isinstance(network, nn.Module) or not hasattr(classifier, "clip_values"):
        raise ValueError(
            f"classifier must be a PyTorchClassifier of ART, with a model and clip_values, got "
            f"{type(classifier).__name__}"
        )
    apply = getattr(classifier, "_apply_preprocessing", None)

    def prepare(x: Tensor) -> Tensor:
        if apply is None:
            return x
        prepared = apply(x, y=None, fit=False, no_grad=False)[0]
        if not isinstance(prepared, Tensor):
            raise ValueError(f"classifier must preprocess in torch, got {type(prepared).__name__} from its steps")
        return prepared

    return _ArtModel(network, prepare)


def _foolbox_models(model: FoolboxModels) -> tuple[dict[str, Model], tuple[float, float]]:
    named = dict(model) if isinstance(model, Mapping) else {"model_0": model}
    if not named:
        raise ValueError("model must hold at least one model, got none")
    models = {str(name): from_foolbox(each) for name, each in named.items()}
    bounds = {(float(each.bounds[0]), float(each.bounds[1])) for each in named.values()}
    if len(bounds) != 1:
        raise ValueError(f"model must hold models of the same bounds, got {sorted(bounds)}")
    return models, bounds.pop()


def _labels(criterion: Any) -> tuple[Tensor, bool]:
    """Return the labels of a foolbox criterion or the labels themselves, and whether they are to be reached."""
    for name, targeted in (("target_classes", True), ("labels", False)):
        if hasattr(criterion, name):
            return _raw(getattr(criterion, name)), targeted
    if isinstance(_raw(criterion), Tensor):
        return _raw(criterion), False
    raise ValueError(
        f"criterion must be labels, Misclassification or TargetedMisclassification, got {type(criterion).__name__}"
    )


def _radii(epsilons: Any) -> tuple[bool, list[float]]:
    """Return whether one radius was given rather than several, and the radii as plain numbers."""
    plain = epsilons.tolist() if hasattr(epsilons, "tolist") else epsilons  # arrays, their numbers, and tensors
    one = isinstance(plain, Real)
    if not one and not isinstance(plain, Sequence):
        raise ValueError(f"epsilons must be a radius or a sequence of radii, got {epsilons!r}")
    radii = [plain] if one else [each.item() if hasattr(each, "item") else each for each in plain]
    if not radii or any(isinstance(radius, bool) or not isinstance(radius, Real) for radius in radii):
        raise ValueError(f"epsilons must be a radius or a sequence of radii, got {epsilons!r}")
    return one, [float(radius) for radius in radii]


def _raw(tensor: Any) -> Any:
    """Unwrap a tensor of eagerpy, which foolbox uses within."""
    return getattr(tensor, "raw", tensor)
