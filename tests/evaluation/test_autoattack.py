from __future__ import annotations

import random
import sys

import numpy as np
import pytest
import torch
from torch import nn

import omnirobust as orb
from omnirobust import zoo
from omnirobust.evaluation import STRONG, AutoAttack, evaluate_robustness
from omnirobust.zoo import data

FIRST = [AutoAttack(parts=("apgd-ce",))]


class Linear(nn.Module):
    """Four classes of 1 x 3 x 3 images, logits W x."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(classes, 9, generator=torch.Generator().manual_seed(0)))

    def forward(self, x):
        return x.flatten(1) @ self.W.T


@pytest.fixture
def problem():
    model = Linear()
    x = torch.rand(12, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize(
    "threat",
    [
        pytest.param(orb.Linf(0.06), id="linf"),
        pytest.param(orb.L2(0.25), marks=pytest.mark.slow, id="l2"),
        pytest.param(orb.L1(0.6), marks=pytest.mark.slow, id="l1"),
    ],
)
def test_on_trained_digits_ours_leaves_no_more_standing(digits_cache, threat):
    model, digits = zoo.load("digits/c", digits_cache).eval(), data.load("digits", split="test", limit=20)
    theirs = evaluate_robustness(model, digits.x, digits.y, threat, attacks=[AutoAttack(parts=("apgd-ce", "apgd-t"))])
    ours = evaluate_robustness(model, digits.x, digits.y, threat, steps=50)
    assert 0 < theirs.union < 0.9 * theirs.clean
    assert ours.union <= theirs.union


def test_the_standard_version_runs_its_four_parts_on_what_stands(problem, monkeypatch):
    model, x, y = problem
    from pyautoattack import AutoAttack as Peer

    seen = []

    def record(self, images, labels, batch_size):
        seen.append((self.attacks_to_run, len(images), self.norm, self.epsilon, self.seed))
        fall = images.clone()
        fall[0] = 1 - images[0]
        return fall, labels

    monkeypatch.setattr(Peer, "run_standard_evaluation", record)
    report = evaluate_robustness(model, x, y, orb.Linf(1.0), attacks="autoattack", seed=3)
    assert [parts for parts, *_ in seen] == [["apgd-ce"], ["apgd-t"], ["fab-t"], ["square"]]
    sizes = [size for _, size, *_ in seen]
    assert sizes[0] == 12 and sizes == sorted(sizes, reverse=True)
    assert {rest for _, _, *rest in map(tuple, seen) for rest in [tuple(rest)]} == {("Linf", 1.0, 3)}
    assert set(report.breaks["linf:1"]) <= {f"autoattack {p}" for p in ("apgd-ce", "apgd-t", "fab-t", "square")}
    assert report.settings["attacks"] == ["autoattack"]


def test_what_leaves_the_ball_does_not_count(problem, monkeypatch):
    model, x, y = problem
    from pyautoattack import AutoAttack as Peer

    monkeypatch.setattr(Peer, "run_standard_evaluation", lambda self, images, labels, batch_size: (1 - images, labels))
    small = evaluate_robustness(model, x, y, orb.Linf(1e-4), attacks=FIRST)
    large = evaluate_robustness(model, x, y, orb.Linf(1.0), attacks=FIRST)
    assert small.union == 1.0 and large.union < 1.0
    assert float(small.delta["linf:0.0001"].abs().max()) <= 1e-4


@pytest.mark.processors
def test_another_data_range_is_mapped(problem):
    model, x, y = problem
    plain = evaluate_robustness(model, x, y, orb.L2(0.3), attacks=FIRST)
    wide = evaluate_robustness(
        lambda v: model((v + 1) / 2), 2 * x - 1, y, orb.L2(0.6, bounds=(-1, 1)), attacks=FIRST
    )  # fmt: skip
    assert torch.equal(plain.correct, wide.correct) and 0 < plain.union < 1
    # (v + 1) / 2 rounds, and a hundred steps make more of it: seen 1.4e-4 on one processor, 5e-6 on another
    torch.testing.assert_close(wide.delta["l2:0.6"], 2 * plain.delta["l2:0.3"], atol=5e-3, rtol=0)


def test_its_surroundings_are_left_alone(problem):
    model, x, y = problem
    model.train()
    torch.manual_seed(5)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    tracer = sys.gettrace()
    evaluate_robustness(model, x, y, orb.Linf(0.1), attacks=FIRST)
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]  # noqa: NPY002
    assert sys.gettrace() is tracer
    assert model.training and model.W.requires_grad and model.W.grad is None


def test_the_same_seed_gives_the_same(problem):
    model, x, y = problem
    runs = [evaluate_robustness(model, x, y, orb.L1(0.5), attacks=FIRST, seed=2) for _ in range(2)]
    assert torch.equal(runs[0].delta["l1:0.5"], runs[1].delta["l1:0.5"])


def test_under_l0_the_default_attacks_stand_in_and_it_says_so(problem):
    model, x, y = problem
    report = evaluate_robustness(model, x, y, orb.L0(1), attacks="autoattack", steps=20)
    ours = evaluate_robustness(model, x, y, orb.L0(1), steps=20)
    assert report.notes == ("l0:1: autoattack does not exist here; the default attacks ran instead.",)
    assert torch.equal(report.correct, ours.correct)


def test_it_joins_other_attacks(problem):
    model, x, y = problem
    report = evaluate_robustness(model, x, y, [orb.L0(1), orb.L2(0.2)], attacks=[*STRONG[:1], *FIRST], steps=5)
    assert report.notes == ()
    assert report.settings["attacks"] == ["margin", "autoattack (apgd-ce)"]


def test_few_classes_leave_out_what_needs_more(problem):
    _, x, _ = problem
    model = Linear(classes=3)
    report = evaluate_robustness(
        model, x, model(x).argmax(1), orb.Linf(0.05), attacks=[AutoAttack(("apgd-t", "fab-t"))]
    )
    assert "autoattack apgd-t" not in report.breaks["linf:0.05"]
    assert report.union < 1


def test_without_the_package_one_sentence_says_how_to_get_it(problem, monkeypatch):
    model, x, y = problem
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"needs the package pyautoattack: pip install 'omnirobust\[autoattack\]'"
    ):
        evaluate_robustness(model, x, y, orb.L2(0.1), attacks="autoattack")
    evaluate_robustness(model, x, y, orb.L0(1), attacks="autoattack", steps=1)


@pytest.mark.parametrize(
    ("threat", "flat", "message"),
    [
        (orb.Linf(0.1, mask=torch.ones(3, 3, dtype=torch.bool)), False, "knows no masks"),
        (orb.Linf(torch.full((12,), 0.1)), False, "needs one eps for all inputs"),
        (orb.Linf(0.1), True, r"needs images \(B, C, H, W\), got x of shape \(12, 9\)"),
    ],
)
def test_what_it_does_not_know_is_told_before_anything_runs(problem, threat, flat, message):
    model, x, y = problem
    with pytest.raises(ValueError, match=message):
        evaluate_robustness(model, x.flatten(1) if flat else x, y, threat, attacks="autoattack")


def test_unknown_parts_are_named():
    with pytest.raises(ValueError, match=r"parts must be among apgd-ce, .*, got 'pgd'"):
        AutoAttack(parts=("pgd",))


def test_inputs_that_it_hands_back_are_no_sign_of_masked_gradients(problem):
    model, x, y = problem
    report = evaluate_robustness(model, x, y, orb.Linf(1e-6), attacks="autoattack", steps=2)
    assert report.union > 0 and report.notes == ()
