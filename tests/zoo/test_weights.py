"""The weights that come with the package are the paper's MNIST models, trained to the paper's accuracy."""

import os
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from omnirobust import zoo
from omnirobust.data import load
from omnirobust.zoo import checkpoints

TABLE_A2 = {"mnist/a": 0.9820, "mnist/b": 0.9949, "mnist/c": 0.9925, "mnist/d": 0.9933}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIROBUST_CACHE", str(tmp_path))


def test_a_to_d_are_there_and_nothing_else() -> None:
    assert zoo.names() == tuple(TABLE_A2)
    files = {file.name for file in checkpoints._packaged().rglob("*") if file.is_file()}
    assert files == {"card.json", "weights.safetensors"}


@pytest.mark.parametrize("name", TABLE_A2)
def test_cards_are_finished_and_within_half_a_point_of_table_a2(name: str) -> None:
    card = zoo.card(name)
    assert card.name == name
    assert card.finished
    assert card.clean_accuracy >= TABLE_A2[name] - 0.005
    assert card.recipe == {"name": "paper"} | asdict(zoo.RECIPES[name]) | {"milestones": []}
    assert card.epochs == 50 or (card.validation_accuracy or 0) >= (zoo.RECIPES[name].stop_at or 1)


@pytest.mark.parametrize("name", TABLE_A2)
def test_models_load_frozen_and_tell_images_apart(name: str) -> None:
    model = zoo.load(name)
    with torch.no_grad():
        logits = model(torch.rand(64, 1, 28, 28, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (64, 10)
    assert logits.isfinite().all()
    assert logits.std(0).min() > 0.1
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.skipif(
    not (Path(os.environ.get("OMNIROBUST_DATA", "")) / "mnist").is_dir() or not os.environ.get("OMNIROBUST_DATA"),
    reason="needs MNIST in OMNIROBUST_DATA",
)
@pytest.mark.parametrize("name", TABLE_A2)
def test_cards_tell_the_truth(name: str) -> None:
    test = load("mnist", limit=500)
    with torch.no_grad():
        right = (zoo.load(name)(test.x).argmax(1) == test.y).double().mean()
    # 500 images tell an accuracy to half a point or so: four of those away is another model.
    assert float(right) == pytest.approx(zoo.card(name).clean_accuracy, abs=0.02)
