"""The recipes are those of Appendix C.1."""

import pytest
import torch

from omnirobust.zoo.recipes import RECIPES, Recipe


@pytest.mark.parametrize("letter", "abcd")
def test_mnist_as_printed(letter: str) -> None:
    recipe = RECIPES[f"mnist/{letter}"]
    assert recipe.epochs == 50
    optimizer = recipe.make_optimizer([torch.nn.Parameter(torch.zeros(2))])
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.defaults["lr"] == 0.001
    assert optimizer.defaults["weight_decay"] == 0
    assert {recipe.lr_factor(epoch) for epoch in range(50)} == {1.0}
    assert recipe.batch_size == 128


@pytest.mark.parametrize("letter", "abcd")
def test_cifar10_as_printed(letter: str) -> None:
    recipe = RECIPES[f"cifar10/{letter}"]
    assert recipe.epochs == 250
    optimizer = recipe.make_optimizer([torch.nn.Parameter(torch.zeros(2))])
    assert type(optimizer) is torch.optim.SGD
    printed = {"lr": 0.01, "momentum": 0.8, "nesterov": True, "weight_decay": 5e-4}
    assert {key: optimizer.defaults[key] for key in printed} == printed
    factors = {epoch: recipe.lr_factor(epoch) for epoch in (0, 99, 100, 174, 175, 249)}
    assert factors == pytest.approx({0: 1, 99: 1, 100: 0.1, 174: 0.1, 175: 0.01, 249: 0.01})
    assert recipe.batch_size == 128


def test_only_b_on_mnist_may_end_early_and_judges_by_held_out_images() -> None:
    early = {name: (r.holdout, r.stop_at) for name, r in RECIPES.items() if r.stop_at is not None or r.holdout}
    assert early == {"mnist/b": (5000, 0.992)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be >= 1, got 0"),
        ({"epochs": 1, "batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"epochs": 1, "weight_decay": -1e-4}, "weight_decay must be >= 0, got -0.0001"),
        ({"epochs": 1, "holdout": -1}, "holdout must be >= 0, got -1"),
        ({"epochs": 1, "lr": 0.0}, "lr must be > 0, got 0.0"),
        ({"epochs": 1, "optimizer": "lion"}, "optimizer must be adam or sgd, got 'lion'"),
        ({"epochs": 1, "stop_at": 0.9}, "holdout must be >= 1 with stop_at, got 0"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**settings)  # type: ignore[arg-type]
