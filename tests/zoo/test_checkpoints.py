"""Trained models are found, loaded frozen, and missed or refused with a sentence."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from omnirobust import zoo
from omnirobust.zoo import checkpoints
from omnirobust.zoo.architectures import build
from omnirobust.zoo.cards import Card
from omnirobust.zoo.checkpoints import MissingWeightsError, parse_name, save

CARD = Card(
    name="digits/d", architecture="d", shape=(1, 8, 8), classes=10, data="digits", data_note="", recipe={}, seed=0,
    epochs=1, finished=True, validation_accuracy=None, clean_accuracy=0.9, fgsm_accuracy=0.1, torch_version="2",
)  # fmt: skip


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIROBUST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(checkpoints, "_packaged", lambda: tmp_path / "packaged")


def stored(name: str = "digits/d", cache: Path | None = None) -> torch.nn.Module:
    model = build("d", (1, 8, 8), 10)
    save(model, replace(CARD, name=name), cache)
    return model


def test_a_stored_model_comes_back_frozen_in_eval_mode() -> None:
    model, x = stored().eval(), torch.rand(5, 1, 8, 8)
    loaded = zoo.load("digits/d")
    assert torch.equal(loaded(x), model(x))
    assert not any(module.training for module in loaded.modules())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert zoo.card("digits/d") == CARD
    assert zoo.names() == ("digits/d",)


def test_seeds_are_models_of_their_own() -> None:
    x = torch.rand(5, 1, 8, 8)
    first, second = stored().eval(), stored("digits/d@seed2").eval()
    assert torch.equal(zoo.load("digits/d@seed2")(x), second(x))
    assert torch.equal(zoo.load("digits/d@seed0")(x), first(x))
    assert zoo.names() == ("digits/d", "digits/d@seed2")


def test_the_cache_comes_before_the_packaged_weights(tmp_path: Path) -> None:
    x = torch.rand(5, 1, 8, 8)
    packaged = stored().eval()
    (tmp_path / "cache" / "zoo").rename(tmp_path / "packaged")
    assert torch.equal(zoo.load("digits/d")(x), packaged(x))
    assert zoo.names() == ("digits/d",)
    cached = stored().eval()
    assert torch.equal(zoo.load("digits/d")(x), cached(x))
    assert torch.equal(zoo.load("digits/d", cache=tmp_path / "other")(x), packaged(x))


def test_channels_last_weights_are_stored_like_any(tmp_path: Path) -> None:
    model = build("d", (1, 8, 8), 10).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save(model, CARD)
    x = torch.rand(5, 1, 8, 8)
    assert torch.allclose(zoo.load("digits/d")(x), model.eval()(x), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "command"),
    [("mnist/a", "omnirobust zoo train mnist/a$"), ("MNIST/b@seed1", "omnirobust zoo train mnist/b --seed 1$")],
)
def test_missing_weights_say_how_to_train_them(name: str, command: str) -> None:
    for access in (zoo.load, zoo.card):
        with pytest.raises(MissingWeightsError, match=command):
            access(name)


@pytest.mark.parametrize("name", ["mnist", "mnist/z", "imagenet/a", "mnist/a@1", "mnist/a@seed-1", "../mnist/a", ""])
def test_unknown_names(name: str) -> None:
    with pytest.raises(ValueError, match=r"name must be one of mnist/a, .* each perhaps with @seedN, got"):
        zoo.load(name)


def test_names_fall_apart_into_data_letter_and_seed() -> None:
    parsed = parse_name("CIFAR10/B@seed12")
    assert (parsed.data, parsed.letter, parsed.seed, str(parsed)) == ("cifar10", "b", 12, "cifar10/b@seed12")


@pytest.mark.parametrize("keep", [0, 5, 2000])
def test_truncated_weights_are_named(tmp_path: Path, keep: int) -> None:
    stored()
    file = tmp_path / "cache" / "zoo" / "digits" / "d" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"weights.safetensors are damaged .* train digits/d again"):
        zoo.load("digits/d")


def test_ones_own_file(tmp_path: Path) -> None:
    model, x = build("lenet", (3, 32, 32), 5).eval(), torch.rand(2, 3, 32, 32)
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    loaded = zoo.load_model_file(tmp_path / "mine.safetensors", "c", (3, 32, 32), 5)
    assert torch.equal(loaded(x), model(x))
    with pytest.raises(ValueError, match="of another network: check architecture, shape and classes"):
        zoo.load_model_file(tmp_path / "mine.safetensors", "c", (3, 32, 32), 6)
    with pytest.raises(FileNotFoundError, match=r"path must be a safetensors file, got .*none"):
        zoo.load_model_file(tmp_path / "none", "c", (3, 32, 32), 5)
