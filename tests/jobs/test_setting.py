from dataclasses import replace

import pytest
import torch

import omnirobust as orb
from omnirobust.domains.groups import make_groups
from omnirobust.jobs import AttackJob, Grouping
from omnirobust.jobs.names import predict
from omnirobust.jobs.setting import load_setting
from omnirobust.zoo import data

JOB = AttackJob("digits", ("a", "c"), orb.Linf(0.1), images=40, start=3)


def test_without_groups_every_image_is_alone(digits):
    setting = load_setting(JOB)
    images = data.load("digits", limit=40, start=3)
    assert (setting.E, setting.shared, setting.left_out, setting.transforms) == (1, False, 0, None)
    assert torch.equal(setting.x, images.x)
    assert torch.equal(setting.y, images.y)
    assert setting.rows.tolist() == list(range(3, 43))


@pytest.mark.parametrize("by", ["random", "class"])
def test_groups_hold_their_images_and_labels(digits, by):
    setting = load_setting(replace(JOB, groups=Grouping(3, by, seed=2)))
    images = data.load("digits", limit=40, start=3)
    groups = make_groups(images.y, 3, by, 2)
    assert torch.equal(setting.x, images.x[groups])
    assert torch.equal(setting.y, images.y[groups])
    assert setting.rows.tolist() == (groups.flatten() + 3).tolist()
    assert setting.left_out == 40 - groups.numel()
    assert torch.equal(setting.listed(setting.x), setting.images.x)
    assert torch.equal(setting.clean, predict(setting.models, setting.images.x))


def test_predicted_labels_are_each_model_s_own_in_the_place_of_the_grid(digits):
    setting = load_setting(replace(JOB, groups=Grouping(4), labels="predicted", transforms=("flh", "flv")))
    assert setting.y.shape == (10, 2, 1, 4)
    for m, model in enumerate(setting.models.values()):
        for g in range(10):
            assert torch.equal(setting.y[g, m, 0], model(setting.x[g]).argmax(1))
    alone = load_setting(replace(JOB, labels="predicted"))
    assert torch.equal(alone.y, alone.clean)


def test_a_target_takes_the_place_of_all_labels(digits):
    assert load_setting(replace(JOB, groups=Grouping(4), target=3)).y.tolist() == [[3] * 4] * 10
    assert load_setting(replace(JOB, target=3)).y.tolist() == [3] * 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": Grouping(50)}, "images must fill at least one group of 50 each, got 40 images"),
        (
            {"groups": Grouping(30, "class")},
            r"images must fill at least one group of 30 of one class each, got 40 images, at most \d of one class",
        ),
        ({"transforms": ("turn",)}, "must be one of ori"),
        ({"start": 5000}, "start must be an index of the test split of digits, got 5000"),
        ({"target": 10}, r"target must be in \[0, 10\), got 10"),
    ],
)
def test_what_does_not_fit_is_told(digits, change, message):
    with pytest.raises(ValueError, match=message):
        load_setting(replace(JOB, **change))
