"""The examples run: on made-up data and untrained models, in seconds."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from omnirobust import zoo
from omnirobust.zoo.data import ImageData

EXAMPLES = Path(__file__).parents[1] / "examples"


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random images of CIFAR-10's shape, with the labels that the one untrained model gives that stands for all."""
    torch.manual_seed(0)
    model = zoo.architectures.build("c", (3, 32, 32), 10).eval()

    def load(name: str, split: str, limit: int) -> ImageData:
        x = torch.rand(limit, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            return ImageData(x, model(x).argmax(1), name, split, tuple("abcdefghij"))

    monkeypatch.setattr("omnirobust.zoo.data.load", load)
    monkeypatch.setattr("omnirobust.zoo.load", lambda name: model)


def test_the_product_of_models_transformations_and_photographs(
    small_world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    picture = tmp_path / "product.png"
    given = ["product.py", "--groups", "2", "--images", "2", "--steps", "2", "--out", str(picture)]
    monkeypatch.setattr(sys, "argv", given)
    load_example("product").main()
    out = capsys.readouterr().out
    assert "min-max: " in out and "of 2 groups fool all 24 domains" in out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_group_robust_learning(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    example = load_example("group_robust")
    x, groups = example.grouped(torch.full((200, 1, 8, 8), 0.25), list(example.GROUPS.values()), seed=3)
    assert groups.bincount().tolist() == [176, 8, 8, 8]
    assert (x[groups == 0] == 0.25).all() and (x[groups == 3] == 0.75).all()
    assert x[groups == 2].std() > 0.1 and x.min() >= 0 and x.max() <= 1
    means = example.group_means(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 2]))
    assert means.tolist() == [[2.0, 0.0, 5.0, 0.0]]
    example.main(["--data", "digits", "--images", "120", "--epochs", "1", "--seeds", "2"])
    out = capsys.readouterr().out
    assert all(f"| {name} | " in out for name in (*example.GROUPS, "worst group"))
