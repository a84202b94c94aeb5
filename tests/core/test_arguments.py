"""True and False are no numbers, and only they are flags, wherever an argument is either."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import omnirobust as orb
from omnirobust import evaluation, training, transforms, universal
from omnirobust.core.adaptive import Adaptive, Detour
from omnirobust.core.arguments import check_count, check_number, check_seed, check_whole, is_number
from omnirobust.core.projections import project_lp_box
from omnirobust.domains import losses
from omnirobust.domains.groups import make_groups
from omnirobust.evaluation.metrics import paired_mean_difference, wilson_interval
from omnirobust.jobs.evaluate import EvaluationJob
from omnirobust.jobs.job import AttackJob, Grouping
from omnirobust.jobs.train_job import TrainingJob
from omnirobust.paper.losses import ClippedMargin
from omnirobust.zoo.recipes import Recipe

X, Y = torch.rand(6, 1, 3, 3, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
NET = nn.Sequential(nn.Flatten(), nn.Linear(9, 3))
BALL = orb.Linf(0.1)


def attack(**given: Any) -> Any:
    return orb.attack_ensemble(NET, X, Y, BALL, **({"steps": 1} | given))


def learn(**given: Any) -> Any:
    return universal.learn_universal(NET, X, Y, BALL, **({"epochs": 1} | given))


def judge(**given: Any) -> Any:
    return evaluation.evaluate_robustness(NET, X, Y, BALL, **({"steps": 1} | given))


def scheme(**given: Any) -> training.Scheme:
    return training.Scheme(**({"kind": "minmax", "threats": (orb.Linf(0.1), orb.L2(0.2))} | given))


def fit(**given: Any) -> Any:
    return training.fit(NET, (X, Y), training.Scheme(), **({"epochs": 1, "validation": (X, Y)} | given))


def box(**given: Any) -> Tensor:
    return project_lp_box(**({"a": X, "p": 2, "eps": 0.1, "lower": -1.0, "upper": 1.0} | given))


def minimal(**given: Any) -> Any:
    return evaluation.minimal_l2(NET, X, Y, **({"steps": 1, "binary_steps": 1} | given))


def nearest(**given: Any) -> Any:
    return evaluation.minimal_eps(NET, X, Y, "linf", **({"steps": 1} | given))


def score(**given: Any) -> Any:
    return universal.score_universal(NET, X, Y, X[0] * 0, **given)


def grid(**given: Any) -> Any:
    return orb.DomainGrid(NET, X, Y, **({"loss": losses.margin} | given))


def recipe(**given: Any) -> Recipe:
    return Recipe(**({"epochs": 1} | given))


def attack_job(**given: Any) -> AttackJob:
    return AttackJob("mnist", ("a",), BALL, **given)


def evaluation_job(**given: Any) -> EvaluationJob:
    return EvaluationJob("mnist", ("a",), {"a": BALL}, **given)


def training_job(**given: Any) -> TrainingJob:
    return TrainingJob("mnist", training.Scheme(), Recipe(epochs=1, holdout=1), "a", **given)


CALLS: dict[Callable[..., Any], tuple[str, ...]] = {
    attack: ("step_size", "steps", "restarts", "seed", "batch_size", "samples", "draws", "memory", "first_row"),
    learn: ("step_size", "epochs", "batch_size", "samples", "seed", "memory"),
    score: ("draws", "seed", "batch_size"),
    grid: ("samples", "memory", "seed"),
    judge: ("steps", "restarts", "seed", "batch_size", "samples", "draws", "first_row"),
    minimal: ("steps", "binary_steps", "step_size", "batch_size"),
    nearest: ("steps", "resolution", "batch_size"),
    fit: ("epochs", "batch_size", "seed", "stop_at", "patience"),
    scheme: ("steps", "dpar", "adversarial_ratio", "dpar_warmup"),
    box: ("p", "eps", "lower", "upper"),
    recipe: ("epochs", "lr", "batch_size", "holdout", "weight_decay", "stop_at"),
    attack_job: ("images", "start"),
    evaluation_job: ("images", "start", "steps", "restarts", "seed", "batch_size", "samples", "draws"),
    training_job: ("images", "patience", "test_images", "test_steps", "seed"),
    lambda p: orb.ThreatModel(p, 0.1): ("p",),
    lambda eps: orb.Linf(eps): ("eps",),
    lambda beta=1.0, gamma=0.5: orb.ProjectedAscent(beta, gamma): ("beta", "gamma"),
    lambda eta=1.0, gamma=0.5: orb.ExponentiatedGradient(eta, gamma): ("eta", "gamma"),
    Adaptive: ("momentum", "rho", "window", "memory", "first_step"),
    Detour: ("radius", "begin", "share"),
    universal.ClippedCrossEntropy: ("cap",),
    ClippedMargin: ("kappa", "threshold"),
    lambda kappa: losses.margin(X.flatten(1), Y, kappa): ("kappa",),
    lambda level: wilson_interval(1, 2, level): ("level",),
    lambda **given: paired_mean_difference(X.flatten(), X.flatten(), **given): ("level", "resamples", "seed"),
    lambda **given: make_groups(Y, **({"size": 2} | given)): ("size", "seed"),
    lambda **given: Grouping(**given): ("seed",),
    transforms.Brightness: ("amount",),
    transforms.Gamma: ("gamma",),
    lambda p: transforms.Brightness(0.1, p=p): ("p",),
}
CASES = [(call, name) for call, names in CALLS.items() for name in names]


@pytest.mark.parametrize(("call", "name"), CASES)
@pytest.mark.parametrize("flag", [True, False])
def test_true_and_false_are_no_numbers(call, name, flag):
    with pytest.raises((ValueError, TypeError), match=rf"^{name} must \D.*, got (bool|{flag}( \(bool\))?)$"):
        call(**{name: flag})


def test_nor_are_they_within_pairs_sequences_and_tensors():
    for bounds in ((False, True), (0.0, True), [False, 1.0]):
        with pytest.raises(TypeError, match=r"^bounds must be two numbers \(lo, hi\), got [\[(]"):
            orb.Linf(0.1, bounds=bounds)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"^step_sizes must be 2 numbers > 0, one a threat model, got \(True, 1.0\)"):
        scheme(step_sizes=(True, 1.0))
    for eps in (torch.ones(6, dtype=torch.bool), torch.tensor(True)):
        with pytest.raises(TypeError, match=r"^eps must be a number or a tensor of numbers, got one of torch.bool"):
            orb.Linf(eps)
    with pytest.raises(TypeError, match=r"^upper must be a number or a tensor of numbers, got one of torch.bool"):
        box(upper=X > 0)
    with pytest.raises(ValueError, match=r"^eps must be a sequence of numbers"):
        evaluation.robustness_curve(NET, X, Y, orb.Linf, (False, True))
    with pytest.raises(ValueError, match=r"^group size must be >= 1, got True"):
        Grouping(True)
    with pytest.raises(ValueError, match=r"^bounds must be"):
        transforms.Gamma(1.1, bounds=(False, True))


@pytest.mark.parametrize("given", ["no", 0, 1, None, np.bool_(True)])
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (fit, "resume"),
        (attack, "targeted"),
        (attack, "stop_when_fooled"),
        (learn, "targeted"),
        (score, "targeted"),
        (grid, "targeted"),
        (grid, "shared"),
        (minimal, "targeted"),
        (nearest, "targeted"),
    ],
)
def test_only_true_and_false_are_flags(call, name, given):
    with pytest.raises(ValueError, match=rf"^{name} must be True(,| or) False"):
        call(**{name: given})


def test_numbers_of_any_type_are_numbers():
    for value in (1, 1.5, np.float32(2), np.int64(3), inf):
        assert is_number(value)
    for other in (True, np.bool_(True), "1", None, torch.tensor(1.0), 1j):
        assert not is_number(other)
    for value in (3, 3.0, np.int64(3)):
        check_whole("n", value, 3)
        check_seed("n", value)
        check_count("n", value, 3, whole=False)
    for wrong, said in ((2, ">= 3"), (3.5, "a whole number"), (nan, "a whole number"), ("4", "a whole number")):
        with pytest.raises(ValueError, match=f"^n must be {said}, got "):
            check_whole("n", wrong, 3)
    with pytest.raises(ValueError, match=r"^n must be >= 1, got nan$"):
        check_count("n", nan, whole=False)
    with pytest.raises(ValueError, match=r"^n must be > 0, got 'x'$"):
        check_number("n", "x", "> 0", lambda n: n > 0)
    rules = orb.ProjectedAscent(np.float32(0.5), np.float64(0.1)), orb.Linf(np.float32(0.1))  # pyright: ignore[reportArgumentType]
    assert attack(step_size=np.float32(0.1), rule=rules[0]).delta.shape == X.shape
