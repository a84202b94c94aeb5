"""Losses and settings of one's own: what cannot be meant is refused in a sentence, what may not be meant is noted."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import omnirobust as orb
from omnirobust.attacks.universal import learn_universal
from omnirobust.domains import losses
from omnirobust.evaluation import GradientAttack, evaluate_robustness
from omnirobust.training.inner_steps import steppers


def problem(classes: int = 5) -> tuple[nn.Module, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(27, classes))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(classes, 27, generator=g))
        model[1].bias.zero_()
        x = torch.rand(12, 3, 3, 3, generator=g)
        return model, x, model(x).argmax(1)


def picked(z: Tensor, y: Tensor) -> Tensor:
    return z.gather(1, y[:, None])[:, 0]


def high_is_fooled(z: Tensor, y: Tensor, *, targeted: bool = False) -> Tensor:
    return cross_entropy(z, y, reduction="none") * (-1 if targeted else 1)


REFUSED = [
    (cross_entropy, "loss must be called as loss.logits, labels, targeted=....*cross_entropy raised TypeError"),
    (nn.CrossEntropyLoss(reduction="none"), r"CrossEntropyLoss\(\) raised TypeError.*losses.neg_cross_entropy"),
    (lambda z, y, targeted=False: -cross_entropy(z, y), "loss must return a number for each of 12 rows.*of shape"),
    (lambda z, y, targeted=False: None, "loss must return a number for each.*NoneType"),
    (lambda z, y, targeted=False: z.argmax(1), "loss must return a number for each.*int64"),
    (lambda z, y, targeted=False: z[:, 0] * float("nan"), "loss must return finite numbers"),
    (lambda z, y, targeted=False: (picked(z, y) * 0).sqrt(), "loss must have finite gradients"),
    (lambda z, y, targeted=False: picked(z, y).detach(), "lets no gradient through"),
    (high_is_fooled, "high_is_fooled, which has the wrong sign"),
    (lambda z, y, targeted=False: losses.margin(z, y, targeted=not targeted), "has the wrong sign"),
]


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("loss", "message"), REFUSED)
def test_a_loss_that_cannot_attack_is_refused_in_a_sentence_that_names_it(loss, message: str, targeted: bool) -> None:
    model, x, y = problem()
    with pytest.raises(ValueError, match=message):
        orb.attack_ensemble(model, x, y, orb.Linf(0.1), steps=1, loss=loss, targeted=targeted)


@pytest.mark.parametrize(("loss", "message"), [REFUSED[0], REFUSED[2], REFUSED[8]])
def test_evaluations_and_universal_perturbations_refuse_them_too(loss, message: str) -> None:
    model, x, y = problem()
    with pytest.raises(ValueError, match=message):
        evaluate_robustness(model, x, y, orb.Linf(0.1), steps=1, attacks=[GradientAttack("mine", loss)])
    with pytest.raises(ValueError, match=message):
        learn_universal(model, x, y, orb.Linf(0.1), epochs=1, loss=loss)


OWN = [
    lambda z, y, targeted=False: picked(z, y) * (-1 if targeted else 1),
    lambda z, y, *, targeted: losses.signed_margin(z, y, targeted=targeted).clamp_min(-1),
    partial(losses.margin, kappa=0.0),
]


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("loss", OWN)
def test_losses_of_ones_own_are_tried_once_and_used(loss, classes: int, targeted: bool) -> None:
    tried: list[int] = []

    def counted(z: Tensor, y: Tensor, *, targeted: bool) -> Tensor:
        tried.append(z.shape[0]) if z.shape[0] == 12 and z.is_leaf else None
        return loss(z, y, targeted=targeted)

    model, x, y = problem(classes)
    goal = (y + 1) % classes if targeted else y
    found = orb.attack_ensemble(
        model, x, goal, orb.Linf(0.4), steps=5, loss=counted, targeted=targeted, restarts=2, batch_size=5
    )
    assert found.asr_all > 0.5 and tried == [12]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"history": "x"}, "history must be 'means' or 'full', got 'x'"),
        ({"targeted": "yes"}, "targeted must be True or False, got 'yes'"),
        ({"targeted": 1}, "targeted must be True or False, got 1"),
        ({"stop_when_fooled": "no"}, "stop_when_fooled must be True or False, got 'no'"),
        ({"progress": "x"}, "progress must be True, False or a callable of .*, got 'x'"),
        ({"seed": True}, "seed must be a whole number, got True"),
        ({"precision": "fp16"}, "precision must be 'fp32' or 'bf16', got 'fp16'"),
    ],
)
def test_choices_are_held_to_what_there_is(options: dict, message: str) -> None:
    model, x, y = problem()
    with pytest.raises(ValueError, match=message):
        orb.attack_ensemble(model, x, y, orb.Linf(0.1), steps=1, **options)


def test_a_radius_is_no_yes_or_no() -> None:
    for make in (orb.Linf, orb.L2, orb.L1, orb.L0):
        with pytest.raises(TypeError, match="eps must be a number or a tensor, got True"):
            make(True)
    model, x, y = problem()
    with pytest.raises(ValueError, match="targeted must be True or False, got 'yes'"):
        learn_universal(model, x, y, orb.Linf(0.1), targeted="yes")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"progress must be True, False or a callable of .*, got 'no'"):
        learn_universal(model, x, y, orb.Linf(0.1), progress="no")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("bounds", [(0.0, 255.0), (-1.0, 1.0), (2.0, 2.25)])
@pytest.mark.parametrize(("make", "power"), [(orb.Linf, 1), (orb.L2, 1), (orb.L1, 1), (orb.L0, 0)])
def test_the_papers_preset_is_the_same_attack_in_any_range(make, power: int, bounds: tuple[float, float]) -> None:
    (low, high), (model, x, y) = bounds, problem()
    width = high - low
    model, x = model.double(), x.double()
    eps = {orb.Linf: 0.15, orb.L2: 0.6, orb.L1: 2.0, orb.L0: 4.0}[make]

    def moved(v: Tensor) -> Tensor:
        return model((v - low) / width)

    plain = orb.attack_ensemble(model, x, y, make(eps), steps=8, preset="paper")
    there = orb.attack_ensemble(
        moved, low + width * x, y, make(eps * width**power, bounds=bounds), steps=8, preset="paper"
    )
    assert plain.asr_all > 0
    assert there.settings["step_size"] == pytest.approx(plain.settings["step_size"] * width**2)
    torch.testing.assert_close(there.delta / width, plain.delta, atol=1e-9, rtol=1e-6)
    torch.testing.assert_close(there.weights, plain.weights, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("make", [orb.Linf, orb.L2])
def test_the_papers_preset_trains_against_the_same_attack_in_any_range(make) -> None:
    model, x, y = problem()
    model, x = model.double(), x.double()
    scaled = nn.Sequential(nn.Flatten(), nn.Linear(27, 5)).double()
    with torch.no_grad():
        scaled[1].weight.copy_(model[1].weight / 255)
        scaled[1].bias.zero_()
    deltas = []
    for net, top in ((model, 1.0), (scaled, 255.0)):
        scheme = orb.training.Scheme("single", (make(0.3 * top, bounds=(0.0, top)),), steps=4, preset="paper")
        (delta,), _ = orb.training.attack_batch(net, x * top, y, scheme)
        deltas.append(delta / top)
    assert float(deltas[0].abs().max()) > 0.05
    torch.testing.assert_close(deltas[1], deltas[0], atol=1e-9, rtol=1e-6)
    assert steppers(orb.training.Scheme("single", (make(0.3),), step_sizes=(0.1,)), [make(0.3).around(x)])


def test_transformations_take_labels_for_each_domain() -> None:
    model, x, y = problem()
    views = {"same": lambda v: v, "flipped": lambda v: v.flip(-1), "dark": lambda v: 0.2 * v}
    each = torch.stack([y, (y + 1) % 5, (y + 2) % 5], 1)
    found = orb.attack_transforms(model, x, each, views, orb.Linf(0.05), steps=2)
    alone = [model(view(found.adversarial)).argmax(1) != each[:, k] for k, view in enumerate(views.values())]
    assert torch.equal(found.fooled, torch.stack(alone, 1))
    both = {"a": model, "b": lambda v: -model(v)}
    grid = torch.stack([(y + k) % 5 for k in range(6)], 1)
    found = orb.attack_transforms(both, x, grid, views, orb.Linf(0.05), steps=2)
    seen = [net(view(found.adversarial)).argmax(1) for net in both.values() for view in views.values()]
    assert torch.equal(found.fooled, torch.stack(seen, 1) != grid)
    with pytest.raises(ValueError, match=r"y must have shape \(12,\) or \(12, 1\) or \(12, 3\)"):
        orb.attack_transforms(model, x, y[:, None].expand(-1, 2), views, orb.Linf(0.05), steps=1)


WIDTHS = [
    (orb.Linf, 1.0), (orb.L2, 27**0.5), (orb.L1, 27.0), (orb.L0, 27.0),
]  # fmt: skip


@pytest.mark.parametrize(("make", "whole"), WIDTHS)
def test_a_radius_that_reaches_across_the_data_range_is_noted(make, whole: float) -> None:
    model, x, y = problem()
    scale = 1 if make is orb.L0 else 2
    bounds, z = (-1.0, 1.0), 2 * x - 1

    def notes(eps: float) -> list[str]:
        threat = make(eps, bounds=bounds)
        attack = orb.attack_ensemble(model, z, y, threat, steps=1).notes
        report = evaluate_robustness(model, z, y, {"t": threat}, steps=1, attacks=[GradientAttack("m", losses.dlr)])
        said = [note for note in attack if "data range" in note]
        assert [f"t: {note}" for note in said] == [note for note in report.notes if "data range" in note]
        return said

    assert not notes(scale * whole * 0.99)
    (note,) = notes(scale * whole)
    assert note.endswith("reaches across the data range [-1, 1]: any input may become any.")
    mask = torch.zeros(3, 3, 3, dtype=torch.bool)
    mask[0, 0, :2] = True
    within = make(scale * {1.0: 1, 27**0.5: 2**0.5, 27.0: 2}[whole], bounds=bounds, mask=mask)
    assert any("data range" in note for note in orb.attack_ensemble(model, z, y, within, steps=1).notes)


def test_inputs_that_fill_next_to_nothing_of_their_bounds_are_noted() -> None:
    model, x, y = problem()
    said = "The inputs fill less than 1 % of their bounds [0, 255]: are these the bounds of the data?"
    assert said in orb.attack_ensemble(model, x, y, orb.Linf(8, bounds=(0, 255)), steps=1).notes
    groups, labels = x.view(4, 3, 3, 3, 3), y.view(4, 3)
    assert said in orb.attack_universal(model, groups, labels, orb.Linf(8, bounds=(0, 255)), steps=1).notes
    assert not orb.attack_ensemble(model, x, y, orb.Linf(0.1), steps=1).notes


def test_targets_that_the_model_says_already_are_noted() -> None:
    model, x, y = problem()
    goal = torch.where(torch.arange(12) < 3, y, (y + 1) % 5)
    notes = orb.attack_ensemble(model, x, goal, orb.Linf(0.1), steps=1, targeted=True).notes
    assert any(" in 3 of 12: success leaves these out" in note for note in notes)
    notes = orb.attack_ensemble(model, x, (y + 1) % 5, orb.Linf(0.1), steps=1, targeted=True).notes
    assert not any("already" in note for note in notes)
