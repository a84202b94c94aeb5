"""Cells of groups and of transformations are what the attacks say, on the images and by the labels that they name."""

from dataclasses import replace

import pytest
import torch

from omnirobust import DomainGrid, attack_transforms, attack_universal, zoo
from omnirobust.attacks.presets import DEFAULT, PAPER_TRANSFORMS, PAPER_UNIVERSAL
from omnirobust.core.threat_models import Linf
from omnirobust.domains import losses
from omnirobust.domains.groups import make_groups
from omnirobust.domains.transforms import CentralCrop, FlipHorizontal, Identity
from omnirobust.evaluation.carlini_wagner import minimal_l2
from omnirobust.study.attack_cells import CHUNK, Cell, Distortion, Transformed, Universal
from omnirobust.study.attack_runner import groups_of
from omnirobust.study.cell_cache import CellCache, finished_model
from omnirobust.zoo.checkpoints import save

from .conftest import load_images, make_images, make_model
from .test_store import same

EPS = 0.08
GROUPS = Cell(
    ("mnist/a",), "linf", EPS, PAPER_UNIVERSAL["linf"], labels="true", steps=8, task=Universal(4, "random", "image")
)
VIEWS = {"ori": Identity(), "flh": FlipHorizontal(), "crop": CentralCrop(0.8)}
TRANSFORMED = Cell(
    ("mnist/a",), "linf", 0.02, PAPER_TRANSFORMS["linf"], labels="true", steps=8, task=Transformed(tuple(VIEWS.items()))
)


def grouped(count: int, size: int = 4, by: str = "random"):
    data = make_images("mnist", 10_000)
    index = make_groups(data.y, size, by, 0)[:count]
    return data.x[index], data.y[index]


@pytest.mark.parametrize("clip", ["image", "intersection"])
def test_groups_are_what_the_universal_attack_says(cell_cache, clip):
    cell = replace(GROUPS, task=replace(GROUPS.task, clip=clip))
    x, y = grouped(12)
    expected = attack_universal(
        make_model("mnist/a"), x, y, Linf(EPS), preset="paper", clip=clip, steps=8, history="full"
    )
    found = cell_cache.measure(cell, 50)
    assert torch.equal(found.fooled, expected.fooled)
    assert torch.equal(found.weights, expected.weights)
    assert torch.equal(found.labels, y)
    assert found.fooled_path.shape == (12, 9, 4)
    assert 0 < int(found.fooled.sum()) < 48


def test_the_box_decides(tmp_path):
    def black_and_white(name, split, limit):
        data = load_images(name, split, limit)
        return replace(data, x=data.x.round())

    cell_cache = CellCache(tmp_path, make_model, black_and_white)
    inside = replace(GROUPS, task=replace(GROUPS.task, clip="intersection"))
    free, boxed = (cell_cache.measure(cell, 200).fooled.double().mean() for cell in (GROUPS, inside))
    assert free > boxed + 0.05


def test_groups_of_more_images_begin_with_those_of_fewer(cell_cache, tmp_path):
    few = cell_cache.measure(GROUPS, CHUNK)
    more = cell_cache.measure(GROUPS, 2 * CHUNK)
    assert (len(few), len(more)) == (CHUNK // 4, CHUNK // 2)
    assert same(more.rows(slice(len(few))), few)
    other = CellCache(tmp_path / "other", make_model, load_images)
    assert torch.equal(other.measure(GROUPS, 2 * CHUNK).fooled, more.fooled)
    assert cell_cache.recall(GROUPS, 2 * CHUNK + 50).fooled.shape == more.fooled.shape


def test_groups_by_class_can_be_kept_to_some_classes():
    y = make_images("mnist", 10_000).y
    task = Universal(5, "class", "image", (0, 3))
    index = groups_of(task, y, 0)
    assert set(y[index].flatten().tolist()) <= {0, 3}
    every = make_groups(y, 5, "class", 0)
    assert [g.tolist() for g in every if int(y[g[0]]) in (0, 3)] == index.tolist()


def test_transformations_are_what_the_attack_says(cell_cache):
    data = make_images("mnist", 40)
    expected = attack_transforms(
        make_model("mnist/a"), data.x, data.y, VIEWS, Linf(0.02), preset="paper", steps=8, history="full"
    )
    found = cell_cache.measure(TRANSFORMED, 40)
    assert torch.equal(found.fooled, expected.fooled)
    assert torch.equal(found.weights, expected.weights)
    assert 0 < int(found.fooled.all(1).sum()) < 40


@pytest.mark.parametrize("cell", [GROUPS, TRANSFORMED], ids=["groups", "transformations"])
def test_released_labels_leave_the_prediction_and_are_judged_by_the_truth(cell_cache, cell):
    count = 160
    released = cell_cache.measure(replace(cell, labels="released"), count)
    predicted = cell_cache.measure(replace(cell, labels="predicted"), count)
    true = cell_cache.measure(cell, count)
    assert torch.equal(released.labels, true.labels)
    agree = (released.labels == predicted.labels).all(1)
    assert 0 < int(agree.sum()) < len(agree)
    assert torch.equal(released.fooled[agree], predicted.fooled[agree])
    assert torch.equal(true.fooled[agree], predicted.fooled[agree])
    assert torch.allclose(released.weights, predicted.weights, atol=1e-5)
    # On the others the attack is that of the predictions, so that the truth may be where it ends.
    assert not torch.equal(released.fooled[~agree], true.fooled[~agree])


def test_released_labels_count_as_the_model_sees_the_attacked_images(cell_cache):
    cell = replace(TRANSFORMED, labels="released")
    data, model = make_images("mnist", 30), make_model("mnist/a")
    seen = [t.apply(data.x, torch.zeros(30, 0)) for t in VIEWS.values()]
    own = torch.stack([model(x).argmax(1) for x in seen], 1)
    result = attack_transforms(model, data.x, own[:, None, :, None], VIEWS, Linf(0.02), preset="paper", steps=8)
    after = [model(t.apply(result.adversarial, torch.zeros(30, 0))).argmax(1) for t in VIEWS.values()]
    expected = torch.stack(after, 1) != data.y[:, None]
    assert torch.equal(cell_cache.measure(cell, 30).fooled, expected)


def test_random_transformations_are_judged_on_every_fresh_draw(cell_cache):
    views = (("ori", Identity()), ("flh", FlipHorizontal(p=0.5)), ("crop", CentralCrop((0.6, 1.0))))
    one, three = (replace(TRANSFORMED, labels="released", task=Transformed(views, 1, n)) for n in (1, 3))
    a, b = cell_cache.measure(one, 60).fooled, cell_cache.measure(three, 60).fooled
    assert torch.equal(a[:, 0], b[:, 0])
    assert bool((b <= a).all())
    assert int(b.sum()) < int(a.sum())
    assert torch.equal(cell_cache.measure(one, 60).fooled, a)


def test_distortions_are_those_of_every_image_by_itself(cell_cache):
    groups = Universal(5, "class")
    cell = Cell(("mnist/a",), "l2", 0.0, DEFAULT["l2"], steps=30, task=Distortion(groups))
    found = cell_cache.measure(cell, 25)
    x, _ = grouped(5, 5, "class")
    model = make_model("mnist/a")
    # A linear model: the distance to the nearest boundary, where the box is not in the way.
    z, w = model(x.flatten(0, 1)).detach(), model.weight.detach()
    top = z.argmax(1)
    gaps = z.gather(1, top[:, None]) - z
    lengths = (w[top][:, None] - w[None]).norm(dim=2)
    nearest = (gaps / lengths).masked_fill(torch.nn.functional.one_hot(top, 10).bool(), torch.inf).amin(1)
    assert bool((found.distortion.flatten() >= nearest - 1e-5).all())
    assert found.distortion.flatten().median() == pytest.approx(float(nearest.median()), rel=0.1)
    direct = minimal_l2(model, x.flatten(0, 1), top, steps=30)
    assert torch.equal(found.distortion.flatten(), direct.distortion)
    assert same(cell_cache.recall(cell, 25), found)


def test_models_without_weights_wait_and_impossible_or_damaged_ones_do_not(tmp_path):
    def load(name):
        if name == "mnist/b":
            raise ValueError("The weights are damaged")
        if name == "mnist/c":
            raise zoo.MissingWeightsError("There are no weights yet")
        if name == "mnist/e":
            raise ValueError("name must be one of those with a recipe")
        return make_model(name)

    lab = CellCache(tmp_path, load, load_images)
    assert lab.untrained(GROUPS) == ()
    assert lab.untrained(replace(GROUPS, models=("mnist/a", "mnist/c"), task=None)) == ("mnist/c",)
    with pytest.raises(ValueError, match="The weights are damaged"):
        lab.untrained(replace(GROUPS, models=("mnist/b",)))
    with pytest.raises(ValueError, match="name must be one of those with a recipe"):
        lab.untrained(replace(GROUPS, models=("mnist/e",)))


def test_models_that_are_still_being_trained_wait(digits, tmp_path, monkeypatch):
    model, card = zoo.load("digits/a"), zoo.card("digits/a")
    assert finished_model("digits/a").state_dict().keys() == model.state_dict().keys()
    save(model, replace(card, finished=False), tmp_path)
    monkeypatch.setenv("OMNIROBUST_CACHE", str(tmp_path))
    with pytest.raises(zoo.MissingWeightsError, match="digits/a is not trained to the end yet: omnirobust zoo train"):
        finished_model("digits/a")
    cell = replace(GROUPS, models=("digits/a",), data="digits")
    assert CellCache(tmp_path / "cells").untrained(cell) == ("digits/a",)


def test_too_few_images_for_a_group_are_one_sentence(cell_cache):
    with pytest.raises(ValueError, match="images must be >= 4, the size of a group, got 3"):
        cell_cache.measure(GROUPS, 3)
    with pytest.raises(ValueError, match="images must be at most 448, the test images of mnist, got"):
        cell_cache.measure(GROUPS, 600)


def test_groups_of_one_class_take_as_many_images_as_fit(cell_cache, tmp_path):
    cell, y = replace(GROUPS, steps=1, task=Universal(4, "class")), make_images("mnist", 10_000).y
    fit = 4 * int((y.bincount() // 4).sum())
    assert fit < len(y) == 450
    found, asked = cell_cache.measure(cell, len(y)), cell_cache.recall(cell, len(y))
    assert len(found) == len(asked) == fit // 4
    assert torch.equal(asked.fooled, found.fooled)
    assert len(cell_cache.measure(cell, 41)) == 10
    few = CellCache(tmp_path, make_model, lambda name, split, count: load_images(name, split, 30))
    found = few.measure(cell, 30)
    assert 0 < len(found) == len(few.recall(cell, 30)) < 30 // 4
    with pytest.raises(ValueError, match=f"images must be at most {fit}, the test images of mnist, got 451"):
        cell_cache.measure(cell, 451)


def test_too_many_images_are_refused_before_the_first_is_attacked(cell_cache):
    for cell in (GROUPS, TRANSFORMED):
        with pytest.raises(ValueError, match=r"images must be at most 4\d\d, the test images of mnist, got 900"):
            cell_cache.measure(cell, 900)
        assert cell_cache.recall(cell, 900) is None


def test_predictions_are_those_of_the_models(cell_cache):
    cell = replace(GROUPS, labels="predicted")
    x, _ = grouped(5)
    labels = cell_cache.measure(cell, 20).labels
    grid = DomainGrid(make_model("mnist/a"), x.flatten(0, 1), labels.flatten(), loss=losses.margin)
    assert not grid.evaluate(torch.zeros_like(x.flatten(0, 1)), grad=False).fooled.any()
