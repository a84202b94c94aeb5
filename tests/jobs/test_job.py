from dataclasses import replace

import pytest
import torch

import omnirobust as orb
from omnirobust.attacks.presets import DEFAULT_OF, PAPER, PAPER_TRANSFORMS, PAPER_UNIVERSAL
from omnirobust.jobs import AttackJob, Grouping

THREATS = {"linf": orb.Linf, "l2": orb.L2, "l1": orb.L1, "l0": orb.L0}
JOB = AttackJob("digits", ("a", "c"), orb.Linf(0.1))


@pytest.mark.parametrize("norm", list(THREATS))
@pytest.mark.parametrize(
    ("parts", "task", "paper"),
    [
        ({}, "ensemble", PAPER),
        ({"groups": Grouping(3)}, "universal", PAPER_UNIVERSAL),
        ({"transforms": ("flh",)}, "transforms", PAPER_TRANSFORMS),
        ({"groups": Grouping(3), "transforms": ("flh",)}, "universal", PAPER_UNIVERSAL),
    ],
)
def test_settings_are_those_of_the_preset_of_the_task_unless_said(norm, parts, task, paper):
    job = AttackJob("digits", ("a",), THREATS[norm](1), **parts)
    assert job.plan.task == task
    assert job.plan.settings == DEFAULT_OF[task][norm]
    assert replace(job, options={"preset": "paper"}).plan.settings == paper[norm]
    own = replace(job, options={"preset": "paper", "direction": orb.Sign()}).plan.settings
    assert own.direction == orb.Sign()
    assert own.step_size is None
    assert own.loss == paper[norm].loss


def test_settings_are_what_the_library_resolves(models, x, y):
    models = {name: model.double() for name, model in models.items()}
    for parts, attack in (
        (
            {"groups": Grouping(3)},
            lambda p: orb.attack_universal(models, x.unflatten(0, (3, 3)), y.view(3, 3), orb.Linf(0.1), **p),
        ),
        (
            {"transforms": ("flh",)},
            lambda p: orb.attack_transforms(models, x, y, {"flh": lambda t: t.flip(3)}, orb.Linf(0.1), **p),
        ),
    ):
        for preset in (None, "paper"):
            job = replace(JOB, options={"preset": preset, "steps": 0}, **parts)
            settings = attack({"preset": preset, "steps": 0}).settings
            told = job.plan.describe() | {key: settings[key] for key in ("transforms", "draws")}
            assert settings == told


def test_the_paper_clips_by_intersection_and_the_user_by_image_unless_said():
    job = replace(JOB, groups=Grouping(3))
    assert job.plan.clip == "image"
    assert replace(job, options={"preset": "paper"}).plan.clip == "intersection"
    assert replace(job, clip="image", options={"preset": "paper"}).plan.clip == "image"
    assert replace(job, clip="intersection").plan.clip == "intersection"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": 0}, "images must be >= 1, got 0"),
        ({"options": {"steps": -1}}, "steps must be a whole number >= 0, got -1"),
        ({"options": {"batch_size": 0}}, "batch_size must be a whole number >= 1 or None, got 0"),
        ({"options": {"restarts": 0}}, "restarts must be a whole number >= 1, got 0"),
        ({"options": {"draws": 0}}, "draws must be a whole number >= 1 or None, got 0"),
        ({"clip": "image"}, "clip must be left out unless images share a perturbation, got image"),
        ({"clip": "both", "groups": Grouping(3)}, "clip must be image or intersection, got 'both'"),
        ({"transfer": ("a",)}, "transfer must name models that are not attacked, got a"),
        ({"target": 1, "labels": "predicted"}, "labels must be true with a target"),
        ({"threat_model": orb.Linf(torch.tensor([0.1, 0.2]))}, "eps must be one number"),
        ({"options": {"preset": "papier"}}, "preset must be 'paper', 'transfer' or None"),
    ],
)
def test_bad_settings_are_one_sentence(change, message):
    with pytest.raises(ValueError, match=message):
        replace(JOB, **change)


@pytest.mark.parametrize("name", ["stepz", "store", "targeted"])
def test_options_that_a_job_does_not_have_are_refused_by_name(name):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        replace(JOB, options={name: 1})


def test_more_domains_go_through_in_smaller_batches_unless_said():
    assert JOB.batch_size == 250
    assert replace(JOB, groups=Grouping(3)).batch_size == replace(JOB, transforms=("flh",)).batch_size == 50
    assert replace(JOB, groups=Grouping(3), options={"batch_size": 7}).batch_size == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "group size must be >= 1, got 0"),
        ((3, "colour"), "groups must be by 'random', 'class' or 'given', got 'colour'"),
    ],
)
def test_bad_groupings_are_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        Grouping(*arguments)
