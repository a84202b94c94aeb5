"""The paper's recipes are those of Appendix C.1; ours say where they differ."""

import pytest
import torch

from omnirobust.zoo.recipes import FAST, PAPER, RECIPES, SHORT, Recipe, recipe_of


@pytest.mark.parametrize("letter", "abcd")
def test_mnist_as_printed(letter: str) -> None:
    recipe = PAPER[f"mnist/{letter}"]
    assert recipe.epochs == 50
    optimizer = recipe.make_optimizer([torch.nn.Parameter(torch.zeros(2))])
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.defaults["lr"] == 0.001
    assert optimizer.defaults["weight_decay"] == 0
    assert {recipe.lr_factor(epoch) for epoch in range(50)} == {1.0}
    assert recipe.batch_size == 128


@pytest.mark.parametrize("letter", "abcd")
def test_cifar10_as_printed(letter: str) -> None:
    recipe = PAPER[f"cifar10/{letter}"]
    assert recipe.epochs == 250
    optimizer = recipe.make_optimizer([torch.nn.Parameter(torch.zeros(2))])
    assert type(optimizer) is torch.optim.SGD
    printed = {"lr": 0.01, "momentum": 0.8, "nesterov": True, "weight_decay": 5e-4}
    assert {key: optimizer.defaults[key] for key in printed} == printed
    factors = {epoch: recipe.lr_factor(epoch) for epoch in (0, 99, 100, 174, 175, 249)}
    assert factors == pytest.approx({0: 1, 99: 1, 100: 0.1, 174: 0.1, 175: 0.01, 249: 0.01})
    assert recipe.batch_size == 128


def test_only_b_on_mnist_may_end_early_and_judges_by_held_out_images() -> None:
    early = {name: (r.holdout, r.stop_at) for name, r in RECIPES.items() if r.stop_at is not None}
    assert early == {"mnist/b": (5000, 0.992)}


@pytest.mark.parametrize("letter", "abcd")
def test_ours_on_cifar10_is_short_and_cuts_the_rate_before_it_ends(letter: str) -> None:
    recipe = FAST[f"cifar10/{letter}"]
    assert recipe.epochs <= PAPER[f"cifar10/{letter}"].epochs // 3
    assert recipe.lr_factor(0) == 1
    assert recipe.lr_factor(recipe.epochs - 1) == pytest.approx(1 / 8 if letter == "b" else 0.01)


def test_the_rate_falls_in_equal_parts_and_images_grow_where_a_recipe_says_so() -> None:
    recipe = Recipe(6, fall=3, milestones=(5,), sides=((0, 4), (2, 6)))
    assert [recipe.lr_factor(epoch) for epoch in range(6)] == pytest.approx([1, 1, 1, 3 / 4, 2 / 4, 1 / 40])
    assert [recipe.side(epoch) for epoch in range(4)] == [4, 4, 6, 6]
    assert Recipe(2).side(0) is None
    for sides in ([(3, 8), (0, 4)], [(0, 0)], [(-1, 4)]):
        with pytest.raises(ValueError, match=r"sides must be pairs \(epoch, side\) in ascending epochs"):
            Recipe(4, sides=tuple(sides))


def test_ours_is_the_default_where_there_is_one() -> None:
    assert recipe_of("cifar10/c") == ("fast", FAST["cifar10/c"])
    assert recipe_of("cifar10/c", "paper") == ("paper", PAPER["cifar10/c"])
    assert recipe_of("mnist/c") == ("paper", PAPER["mnist/c"])
    assert recipe_of("cifar10/h") == ("fast", FAST["cifar10/h"])
    assert recipe_of("cifar10/h", "short") == ("short", SHORT["cifar10/h"])
    assert set(RECIPES) == {
        *(f"{data}/{letter}" for data in ("mnist", "cifar10", "digits") for letter in "abcd"),
        *(f"cifar10/{letter}" for letter in "efgh"),
    }
    assert all(recipe_of(name)[1] == recipe for name, recipe in RECIPES.items())


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("mnist/a", "fast", "recipe must be paper for mnist/a, got 'fast'"),
        ("digits/a", "paper", "recipe must be fast for digits/a, got 'paper'"),
        ("cifar10/g", "short", "recipe must be fast or paper for cifar10/g, got 'short'"),
        ("cifar10/e", "slow", "recipe must be fast or paper or short for cifar10/e, got 'slow'"),
        ("cifar10/a", "slow", "recipe must be fast or paper for cifar10/a, got 'slow'"),
    ],
)
def test_a_recipe_that_is_not_there(name: str, kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe_of(name, kind)  # type: ignore[arg-type]


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
