"""Trainings and judgings on embedded digits: kept, resumed after a kill, and right by their own definition."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from omnirobust import L2, Linf
from omnirobust.paper import robustness_cells
from omnirobust.paper.robustness_cells import RobustnessCell, gradient_cosines, last_iterates, measure_images
from omnirobust.paper.training_budgets import Effort, training_of
from omnirobust.study.cell_cache import CellCache
from omnirobust.zoo import data

EFFORT = Effort(epochs=2, images=256, steps=2, holdout=64)
TRAINING = training_of("a", "minmax", 1.0, 0, EFFORT)


def digits(name, split, limit):
    assert name == "mnist"
    return data.load("digits", split, limit=limit)


@pytest.fixture
def cell_cache(tmp_path):
    return CellCache(tmp_path, load_images=digits)


def test_a_training_is_kept_with_its_weights_and_its_history(cell_cache, tmp_path):
    assert cell_cache.recall(TRAINING, 0) is None
    found = cell_cache.measure(TRAINING, 0)
    again = CellCache(tmp_path, load_images=lambda *_: pytest.fail("images were asked for")).recall(TRAINING, 0)
    assert again is not None
    for name, value in found.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])
    assert [row["epoch"] for row in again.history] == [1, 2]
    assert all(0 <= row["robust"] <= 1 for row in again.history)
    assert again.weights.shape == (256, 2)
    assert torch.allclose(again.weights.sum(1), torch.ones(256), atol=2e-3)
    assert again.seconds > 0
    (folder,) = (f for f in tmp_path.iterdir() if f.name not in ("machines", ".locks"))
    assert json.loads((folder / "settings.json").read_text()) == json.loads(json.dumps(TRAINING.describe()))
    assert not (folder / "fit").exists()


def test_a_killed_training_goes_on_to_the_same_model(tmp_path):
    whole = CellCache(tmp_path / "whole", load_images=digits).measure(TRAINING, 0)
    epochs = []

    def kill(n):
        epochs.append(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CellCache(tmp_path / "killed", load_images=digits).measure(TRAINING, 0, kill)
    lab = CellCache(tmp_path / "killed", load_images=digits)
    assert lab.recall(TRAINING, 0) is None
    going: list[tuple[int, bool]] = []
    found = lab.measure(TRAINING, 0, lambda n: going.append((n, any(tmp_path.glob("killed/*/fit")))))
    # one epoch each: the first was not repeated, but counted when all was done
    assert (epochs, going) == ([1], [(1, True), (1, False)])
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, found.model.state_dict()[name])


def test_more_images_than_there_are_are_refused(cell_cache, tmp_path):
    greedy = training_of("a", "minmax", 1.0, 0, replace(EFFORT, images=1290))
    with pytest.raises(ValueError, match="images and holdout must be at most 1297 together"):
        cell_cache.measure(greedy, 0)


def test_settings_and_weights_tell_cells_apart(cell_cache, tmp_path):
    others = [training_of("a", "minmax", 2.0, 0, EFFORT), training_of("a", "minmax", 1.0, 1, EFFORT)]
    for training in (TRAINING, *others):
        cell_cache.measure(training, 0)
    cell_cache.measure(RobustnessCell(TRAINING, "pgd", "linf", 0.2, 2), 10)
    cell_cache.measure(RobustnessCell(TRAINING, "pgd", "linf", 0.1, 2), 10)
    assert len([f for f in tmp_path.iterdir() if f.name not in ("machines", ".locks")]) == 5


def test_a_judging_is_kept_chunk_by_chunk(cell_cache, tmp_path, monkeypatch):
    monkeypatch.setattr(robustness_cells, "CHUNK", 20)
    cell = RobustnessCell(TRAINING, "pgd", "l2", 1.0, 3)
    assert cell_cache.recall(cell, 50) is None
    first = cell_cache.measure(cell, 20)
    assert len(cell_cache.recall(cell, 50)["right"]) == 20
    whole = cell_cache.measure(cell, 50)
    assert torch.equal(whole["right"][:20], first["right"])
    monkeypatch.setattr(robustness_cells, "measure_images", lambda *_: pytest.fail("judged again"))
    again = cell_cache.measure(cell, 50)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    # an image's result does not depend on the chunk that it was judged in
    model, test = cell_cache.measure(TRAINING, 0).model, digits("mnist", "test", 50)
    alone = measure_images(model, cell, test.x, test.y, 0, None)
    assert torch.equal(alone["right"], whole["right"])
    file = next(tmp_path.glob("*/rows-000020-000040.safetensors"))
    file.write_bytes(b"damaged")
    assert len(cell_cache.recall(cell, 50)["right"]) == 20


@pytest.mark.parametrize(
    ("metric", "norm", "eps"), [("pgd", "linf", 0.2), ("strong", "l2", 0.3), ("universal", "linf", 0.3)]
)
def test_what_is_right_withstands_a_perturbation_of_that_size(cell_cache, metric, norm, eps):
    found = cell_cache.measure(RobustnessCell(TRAINING, metric, norm, eps, 2), 30)
    model, test = cell_cache.measure(TRAINING, 0).model, digits("mnist", "test", 30)
    clean = model(test.x).argmax(1) == test.y
    assert torch.equal(found["clean"], clean)
    assert not (found["right"] & ~clean).any()
    assert 0 < found["right"].sum() < clean.sum()
    assert (found[norm] <= eps * (1 + 1e-5)).all()
    if metric == "universal":
        assert len(set(found["l2"].tolist())) == 1


def test_strong_leaves_no_more_than_the_attack_of_the_training(cell_cache):
    pgd, strong = (
        cell_cache.measure(RobustnessCell(TRAINING, metric, "linf", 0.05, 5), 100)["right"]
        for metric in ("pgd", "strong")
    )
    assert 0 < strong.sum() <= pgd.sum() < 100


class Two(nn.Module):
    """A linear classifier of two classes: the gradient of its loss has one direction for each label."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 64, generator=torch.Generator().manual_seed(0)))

    def forward(self, x):
        return x.flatten(1) @ self.weight.T


def test_gradients_of_two_attacks_on_a_linear_model_are_one():
    x, y = torch.rand(9, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(9) % 2
    found = gradient_cosines(Two(), x, y, (Linf(0.1), L2(0.5)), 3)
    assert torch.allclose(found, torch.ones(9), atol=1e-5)
    deltas = last_iterates(Two(), x, y, (Linf(0.1), L2(0.5)), 3)
    assert not torch.allclose(deltas[0], deltas[1])


def test_attacks_that_ascend_the_regulariser_have_gradients_less_alike():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        smooth = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    test = digits("mnist", "test", 60)
    threats = (Linf(0.2), L2(1.0))
    plain, diverse = (gradient_cosines(smooth, test.x, test.y, threats, 10, dpar=dpar) for dpar in (0.0, 10.0))
    assert diverse.mean() < plain.mean() - 0.02


def test_gradients_are_kept_by_the_attack_that_made_them(cell_cache):
    asked = [RobustnessCell(TRAINING, metric, "l2", 1.0, 3) for metric in ("gradients", "gradients_dpar")]
    plain, diverse = (cell_cache.measure(cell, 20)["cosine"] for cell in asked)
    model, test = cell_cache.measure(TRAINING, 0).model, digits("mnist", "test", 20)
    for found, dpar in ((plain, 0.0), (diverse, 0.1)):
        again = gradient_cosines(model, test.x, test.y, (Linf(0.2), L2(1.0)), 3, dpar=dpar)
        assert torch.allclose(found, again, atol=1e-5)
    assert not torch.allclose(plain, diverse)
