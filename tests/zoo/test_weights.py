"""The weights that come with the package are models of the paper, trained to about the paper's accuracy."""

import os
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from omnirobust import zoo
from omnirobust.zoo import checkpoints
from omnirobust.zoo.data import load
from omnirobust.zoo.recipes import recipe_of

TABLE_A2 = {
    "cifar10/a": 0.5536, "cifar10/b": 0.8418, "cifar10/c": 0.6495, "cifar10/d": 0.7489,
    "mnist/a": 0.9820, "mnist/b": 0.9949, "mnist/c": 0.9925, "mnist/d": 0.9933,
}  # fmt: skip
SHORT_OF_IT = {"mnist": 0.005, "cifar10": 0.01, "cifar10/b": 0.055}
"""How far below Table A2 is close enough: the CIFAR-10 at hand is re-encoded as JPEG, and our recipe is short; that of
B is 16 epochs instead of 250, most of them on smaller images."""


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIROBUST_CACHE", str(tmp_path))


def test_they_are_there_and_nothing_else() -> None:
    assert zoo.names() == tuple(TABLE_A2)
    files = {file.name for file in checkpoints._packaged().rglob("*") if file.is_file()}
    assert files == {"card.json", "weights.safetensors"}


@pytest.mark.parametrize("name", TABLE_A2)
def test_cards_are_finished_and_close_to_table_a2(name: str) -> None:
    card, (kind, recipe) = zoo.card(name), recipe_of(name)
    assert card.name == name
    assert card.finished
    assert card.clean_accuracy >= TABLE_A2[name] - SHORT_OF_IT.get(name, SHORT_OF_IT[card.data])
    written = {"sides": [], "fall": 0, "flip": False} | dict(card.recipe)  # cards are older than these
    precision = (
        written["precision"] if recipe.precision == "bf16" else "fp32"
    )  # a processor without bf16 trains in fp32
    lists = {"milestones": list(recipe.milestones), "sides": [list(pair) for pair in recipe.sides]}
    assert written == {"name": kind} | asdict(recipe) | lists | {"precision": precision}
    assert card.epochs == recipe.epochs or (card.validation_accuracy or 0) >= (recipe.stop_at or 1)
    assert card.data_note == ("re-encoded as JPEG" if card.data == "cifar10" else "")


@pytest.mark.parametrize("name", TABLE_A2)
def test_models_load_frozen_and_tell_images_apart(name: str) -> None:
    model = zoo.load(name)
    with torch.no_grad():
        logits = model(torch.rand(64, *zoo.card(name).shape, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (64, 10)
    assert logits.isfinite().all()
    assert logits.std(0).min() > 0.1
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.skipif(not os.environ.get("OMNIROBUST_DATA"), reason="needs MNIST and CIFAR-10 in OMNIROBUST_DATA")
@pytest.mark.parametrize("name", TABLE_A2)
def test_cards_tell_the_truth(name: str) -> None:
    test = load(name.split("/")[0], limit=1000)
    with torch.no_grad():
        right = (zoo.load(name)(test.x).argmax(1) == test.y).double().mean()
    # 1,000 images tell an accuracy to 0.3 points on MNIST, 1.5 on CIFAR-10: three of those away is another model.
    assert float(right) == pytest.approx(zoo.card(name).clean_accuracy, abs=0.01 if "mnist" in name else 0.045)
