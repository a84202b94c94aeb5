"""Other libraries' conventions: foolbox itself, and objects made like those of torchattacks and ART."""

from __future__ import annotations

import math
from copy import deepcopy
from functools import partial

import foolbox
import numpy as np
import pytest
import torch
from torch import nn

import omnirobust as orb
from omnirobust.attacks import adapters


@pytest.fixture
def single(models):
    """Two models in single precision, in which foolbox normalises."""
    return {name: deepcopy(models[name]).float().eval() for name in "ab"}


def test_an_attack_is_called_as_those_of_torchattacks_are(single, x, y) -> None:
    attack = adapters.AttackModule(single, orb.Linf(0.1), partial(orb.attack_ensemble, steps=7))
    attacked = attack(x.float(), y)
    wanted = orb.attack_ensemble(single, x.float(), y, orb.Linf(0.1), steps=7)
    assert torch.equal(attacked, wanted.adversarial)
    assert attack.result is not None and torch.equal(attack.result.weights, wanted.weights)


@pytest.mark.parametrize("p", [0, 1, 2, math.inf])
def test_an_attack_is_called_as_those_of_foolbox_are(single, x, y, p) -> None:
    x = x.float()
    preprocessing = {"mean": 0.4, "std": 0.5}
    model = foolbox.PyTorchModel(single["a"], bounds=(0, 1), preprocessing=preprocessing, device="cpu")
    labels = model(x).argmax(1)
    radii = [3.0, 5.0] if p == 0 else [0.02, 0.3]
    attack = adapters.FoolboxAttack(p, partial(orb.attack_ensemble, steps=10))
    raw, clipped, success = attack(model, x, labels, epsilons=radii)
    peer = foolbox.attacks.LinfFastGradientAttack()(model, x, labels, epsilons=radii)
    assert success.shape == peer[2].shape and success.dtype == peer[2].dtype
    assert len(raw) == len(clipped) == len(attack.results) == 2
    criterion = foolbox.Misclassification(labels)
    for radius, images, fooled, result in zip(radii, clipped, success, attack.results, strict=True):
        assert torch.equal(criterion(images, model(images)), fooled)
        assert torch.equal(result.fooled[:, 0], fooled)
        assert images.min() >= 0 and images.max() <= 1
        assert bool(((images - x).flatten(1).norm(p, 1) <= radius * (1 + 1e-5)).all())
    assert bool(success.any()) and bool((success[1] | ~success[0]).all())


def test_one_radius_gives_tensors(single, x, y) -> None:
    model = foolbox.PyTorchModel(single["a"], bounds=(0, 1), device="cpu")
    raw, clipped, success = adapters.FoolboxAttack(2)(model, x.float(), foolbox.Misclassification(y), epsilons=0.5)
    assert isinstance(raw, torch.Tensor) and torch.equal(raw, clipped) and success.shape == (9,)


def test_the_class_to_reach_is_taken_from_the_criterion(single, x, y) -> None:
    x = x.float()
    model = foolbox.PyTorchModel(single["b"], bounds=(0, 1), device="cpu")
    goal = (model(x).argmax(1) + 1) % 4
    criterion = foolbox.TargetedMisclassification(goal)
    _, clipped, success = adapters.FoolboxAttack(2)(model, x, criterion, epsilons=2.0)
    assert torch.equal(criterion(clipped, model(clipped)), success) and torch.equal(
        model(clipped).argmax(1) == goal, success
    )
    assert bool(success.any())


def test_several_models_of_foolbox_are_fooled_at_once(single, x, y) -> None:
    x = x.float()
    models = {name: foolbox.PyTorchModel(model, bounds=(-1, 2), device="cpu") for name, model in single.items()}
    _, clipped, success = adapters.FoolboxAttack(math.inf)(models, x, y, epsilons=0.2)
    wrong = torch.stack([model(clipped).argmax(1) != y for model in models.values()], 1)
    assert torch.equal(wrong.all(1), success)


def test_a_model_of_foolbox_is_a_domain_with_gradients_through_its_preprocessing(single, x, y) -> None:
    x = x.float()
    model = foolbox.PyTorchModel(single["a"], (0, 1), preprocessing={"mean": 0.3, "std": 0.2}, device="cpu")

    def plain(images):
        return single["a"]((images - 0.3) / 0.2)

    ours, theirs = (
        orb.attack_ensemble({"a": network, "b": single["b"]}, x, y, orb.Linf(0.05), steps=4)
        for network in (plain, adapters.from_foolbox(model))
    )
    assert torch.allclose(ours.delta, theirs.delta, atol=1e-6) and torch.equal(ours.fooled, theirs.fooled)


class ArtLike:
    """What ``PyTorchClassifier`` of ART 1.20 has: the network, the range, and preprocessing under a private name."""

    clip_values = (0.0, 1.0)

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def _apply_preprocessing(self, x, y, fit, no_grad=True):
        assert not fit and not no_grad
        return (x - 0.3) / 0.2, y


def test_a_classifier_made_like_those_of_art_is_a_domain(single, x, y) -> None:
    x = x.float()
    domain = adapters.from_art(ArtLike(single["a"]))
    assert torch.allclose(domain(x), single["a"]((x - 0.3) / 0.2))
    result = orb.attack_ensemble({"a": domain}, x, y, orb.Linf(0.1), steps=3)
    assert not bool(result.zero_gradient.any())


BALL = adapters.FoolboxAttack(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, y: adapters.FoolboxAttack(3), "p must be 0, 1, 2 or inf, got 3"),
        (
            lambda m, x, y: BALL(m, x, y, epsilons=[None]),
            r"epsilons must be a radius .* got \[None\]",
        ),
        (lambda m, x, y: BALL(m, x, y, epsilons=None), r"epsilons must be a radius .* got None"),
        (lambda m, x, y: BALL(m, x, y, epsilons={0.1: 1}), r"epsilons must be a radius .* got \{0.1: 1\}"),
        (lambda m, x, y: BALL(m, x, y, epsilons=True), "epsilons must be a radius .* got True"),
        (lambda m, x, y: BALL({}, x, y, epsilons=0.1), "model must hold at least one model, got none"),
        (lambda m, x, y: BALL(m, x, y, epsilons=[]), r"epsilons must be a radius .* got \[\]"),
        (lambda m, x, y: BALL(m, x, "cat", epsilons=1.0), "criterion must be labels, .* got str"),
        (
            lambda m, x, y: BALL(len, x, y, epsilons=1.0),
            "model must be a foolbox model, .* got builtin",
        ),
        (lambda m, x, y: adapters.from_art(m), "classifier must be a PyTorchClassifier of ART, .* got PyTorchModel"),
        (
            lambda m, x, y: BALL({"m": m, "n": Wider()}, x, y, epsilons=1.0),
            r"model must hold models of the same bounds, got \[\(0.0, 1.0\), \(0.0, 2.0\)\]",
        ),
    ],
)
def test_what_does_not_fit_is_told(single, x, y, call, message) -> None:
    model = foolbox.PyTorchModel(single["a"], bounds=(0, 1), device="cpu")
    with pytest.raises(ValueError, match=message):
        call(model, x.float(), y)


class Wider:
    bounds = (0, 2)

    def __call__(self, x):
        return x


@pytest.mark.parametrize(
    "radii", [np.float32([0.0625, 0.25]), torch.tensor([0.0625, 0.25]), list(np.float32([0.0625, 0.25]))]
)
def test_radii_may_be_numbers_of_numpy_and_torch(single, x, y, radii) -> None:
    model = foolbox.PyTorchModel(single["a"], bounds=(0, 1), device="cpu")
    attack = adapters.FoolboxAttack(math.inf, partial(orb.attack_ensemble, steps=2))
    wanted = attack(model, x.float(), y, epsilons=[0.0625, 0.25])
    found = attack(model, x.float(), y, epsilons=radii)
    assert all(torch.equal(a, b) for a, b in zip(wanted[1], found[1], strict=True))
    assert torch.equal(found[2], wanted[2])
    one = attack(model, x.float(), y, epsilons=radii[1])
    assert torch.equal(one[1], wanted[1][1]) and one[2].shape == (9,)
