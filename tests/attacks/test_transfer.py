"""The preset for models that are not attacked: its settings, its cost, and that it does what it is for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import omnirobust as orb
from omnirobust.domains import losses
from omnirobust.domains.consensus import Consensus
from omnirobust.domains.grid import DomainGrid


class Counting(nn.Module):
    """Counts the rows whose input gradient was asked for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.asked = model, 0

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(self._count)
        return self.model(x)

    def _count(self, slope: Tensor) -> None:
        self.asked += len(slope)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("threat", [orb.Linf(0.1), orb.L2(0.5)])
def test_steps_are_gradients_of_each_model(models, x, y, threat, targeted):
    counted = {name: Counting(model) for name, model in models.items()}
    orb.attack_ensemble(counted, x, y, threat, preset="transfer", steps=0, targeted=targeted)
    before = {name: model.asked for name, model in counted.items()}
    result = orb.attack_ensemble(counted, x, y, threat, preset="transfer", steps=7, targeted=targeted)
    assert {name: model.asked - 2 * before[name] for name, model in counted.items()} == dict.fromkeys(
        models, 7 * len(x)
    )
    assert result.gradient_evaluations == 7 * 3  # a row


@pytest.mark.parametrize("threat", [orb.Linf(0.1), orb.L2(0.5)])
def test_it_is_its_parts(models, x, y, threat):
    whole = orb.attack_ensemble(models, x, y, threat, preset="transfer", steps=6)
    settings: Any = orb.settings.TRANSFER[threat.name]
    grid = Consensus.of(DomainGrid(models, x, y, loss=losses.consensus_margin), settings.seen)
    parts = orb.solve(grid, threat.around(x), orb.ExponentiatedGradient(0.5), steps=6, direction=settings.direction)
    assert torch.equal(whole.delta, parts.delta) and torch.equal(whole.weights, parts.weights)
    assert threat.around(x).contains(whole.delta).all()


@pytest.fixture
def coloured(x):
    """Two models of images of three channels, and such images."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        parts = [(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 4)), (nn.Flatten(), nn.Linear(108, 4))]
        made = {name: nn.Sequential(*layers).double() for name, layers in zip("ab", parts, strict=True)}
        return made, torch.rand(len(x), 3, 6, 6, dtype=torch.float64)


@pytest.mark.parametrize("threat", [orb.Linf(0.1), orb.L2(0.5)])
def test_images_in_colour_are_mirrored_and_gradients_taken_as_they_are(coloured, y, threat):
    models, x = coloured
    whole = orb.attack_ensemble(models, x, y, threat, preset="transfer", steps=6)
    mirrored = orb.transforms.named("flh:p=0.5+warp:0.7")[1]
    grid = Consensus.of(DomainGrid(models, x, y, loss=losses.consensus_margin), mirrored, softened=False)
    parts = orb.solve(grid, threat.around(x), orb.Uniform(), steps=6, direction=orb.Momentum(length=4))
    assert torch.equal(whole.delta, parts.delta) and torch.equal(whole.weights, parts.weights)
    assert whole.settings["seen"] == str(mirrored) and whole.settings["softened"] is False
    counted = {name: Counting(model) for name, model in models.items()}
    orb.attack_ensemble(counted, x, y, threat, preset="transfer", steps=0)
    before = [model.asked for model in counted.values()]
    orb.attack_ensemble(counted, x, y, threat, preset="transfer", steps=7)
    assert [model.asked - 2 * b for model, b in zip(counted.values(), before, strict=True)] == [7 * len(x)] * 2


def test_groups_of_images_in_colour(coloured, y):
    models, x = coloured
    groups = x.unflatten(0, (3, 3)), y.unflatten(0, (3, 3))
    colour = orb.attack_universal(models, *groups, orb.L2(0.5), preset="transfer", steps=2)
    one = {"a": nn.Sequential(nn.Flatten(), nn.Linear(36, 4)).double()}
    grey = orb.attack_universal(one, x[:, :1].unflatten(0, (3, 3)), groups[1], orb.L2(0.5), preset="transfer", steps=2)
    assert colour.settings["seen"] == "flh:p=0.5+warp:0.7" and grey.settings["seen"] == "warp:0.7"


def test_every_attack_has_it(models, x, y):
    one: dict[str, Any] = {"preset": "transfer", "steps": 3}
    transforms = {"as it is": orb.transforms.Identity(), "flipped": orb.transforms.FlipHorizontal()}
    found = [
        orb.attack_transforms(models["a"], x, y, transforms, orb.Linf(0.1), **one),
        orb.attack_universal(models["a"], x.unflatten(0, (3, 3)), y.unflatten(0, (3, 3)), orb.L2(0.5), **one),
        orb.attack_product(models, x, y, orb.L2(0.5), transforms=transforms, **one),
    ]
    for result in found:
        assert "Momentum" in result.settings["direction"] and result.settings["keep"] == "last"
        assert bool((result.losses < result.history.losses[0]).any())


@pytest.mark.parametrize("threat", [orb.L1(1.0), orb.L0(3)])
def test_norms_without_it(models, x, y, threat):
    with pytest.raises(
        ValueError, match=f"preset must be another than 'transfer' under {threat.name}: it is for l2 and"
    ):
        orb.attack_ensemble(models, x, y, threat, preset="transfer")


def test_a_training_has_none_of_it():
    with pytest.raises(ValueError, match="preset must be one of paper, got 'transfer'"):
        orb.training.Scheme("single", (orb.Linf(0.1),), preset="transfer")  # type: ignore[arg-type]


def test_what_models_see_is_drawn_anew_and_they_are_judged_without(models, x, y):
    seen: list[Tensor] = []
    keep = models["a"].forward
    models["a"].forward = lambda z: (seen.append(z.detach().clone()), keep(z))[1]  # type: ignore[method-assign]
    result = orb.attack_ensemble(models, x, y, orb.Linf(0.1), preset="transfer", steps=3)
    attacked = [z for z in seen if len(z) == len(x)]
    assert not any(torch.allclose(z, x, atol=0.1 + 1e-9) for z in attacked[-5:-1]), "bent by more than the radius"
    assert torch.equal(attacked[-1], result.adversarial)
    again = orb.attack_ensemble(models, x, y, orb.Linf(0.1), preset="transfer", steps=3)
    assert torch.equal(result.delta, again.delta)
    other = orb.attack_ensemble(models, x, y, orb.Linf(0.1), preset="transfer", steps=3, seed=1)
    assert not torch.equal(result.delta, other.delta)
    assert result.settings["seen"] == "warp:0.7"


def test_inputs_that_are_no_images(x, y):
    model = nn.Linear(36, 4, dtype=torch.float64)
    result = orb.attack_ensemble(model, x.flatten(1), y, orb.L2(0.5), preset="transfer", steps=3)
    assert bool((result.losses < result.history.losses[0]).any())
