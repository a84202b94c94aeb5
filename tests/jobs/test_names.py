import pytest
import torch
from torch import nn

from omnirobust import zoo
from omnirobust.jobs.names import describe_models, load_models, predict

OWN = """
from torch import nn
def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout(0.5))
ready = build()
number = 3
"""


def test_short_names_are_of_the_data(digits):
    models = load_models(("a", "digits/c", "c@seed1"), "digits")
    assert list(models) == ["a", "digits/c", "c@seed1"]
    for name, full in (("a", "digits/a"), ("digits/c", "digits/c"), ("c@seed1", "digits/c@seed1")):
        wanted = zoo.load(full).state_dict()
        assert all(torch.equal(value, wanted[key]) for key, value in models[name].state_dict().items())


def test_models_of_one_s_own_come_from_a_file(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    models = load_models((f"{file}:build", f"{file}:ready"), "digits")
    assert list(models) == ["build", "ready"]
    assert not any(m.training for model in models.values() for m in model.modules())


def test_models_of_one_s_own_come_from_a_package(monkeypatch, tmp_path):
    (tmp_path / "own_models_for_test.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    assert list(load_models(("own_models_for_test:build",), "digits")) == ["build"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}:missing", "has no missing"),
        ("broken.py:net", "must name code that runs, got broken.py:net: NameError: name 'nope' is not defined"),
        ("{}:number", "must be torch modules or functions that return one, got int"),
        ("nowhere.py:net", "must name an existing file, got nowhere.py"),
        ("no_such_package:net", "must name an importable module, got no_such_package"),
    ],
)
def test_what_is_no_model_is_told(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text("net = nope")
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_models((name.format(tmp_path / "own.py"),), "digits")


def test_predictions_and_fingerprints_are_of_each_model():
    torch.manual_seed(0)
    models: dict[str, nn.Module] = {name: nn.Sequential(nn.Flatten(), nn.Linear(4, 3)) for name in "pq"}
    x = torch.rand(7, 1, 2, 2)
    classes = predict(models, x)
    assert torch.equal(classes[:, 1], models["q"](x).argmax(1))
    prints = describe_models(models)
    assert prints["p"] != prints["q"]
    assert prints == describe_models(models)


def test_a_model_for_other_images_is_named():
    models: dict[str, nn.Module] = {"p": nn.Sequential(nn.Flatten(), nn.Linear(4, 3))}
    with pytest.raises(ValueError, match=r"model 'p' cannot take inputs of shape \(7, 1, 3, 3\), .*: mat1 and mat2"):
        predict(models, torch.rand(7, 1, 3, 3))


@pytest.mark.parametrize("error", [KeyError("pixels"), AssertionError(), ValueError("of 24 pixels"), TypeError("no")])
def test_a_model_whose_code_raises_anything_is_named(error):
    class Raising(nn.Module):
        def forward(self, x):
            raise error

    said = str(error) if isinstance(error, ValueError) else type(error).__name__
    with pytest.raises(ValueError, match=rf"model 'p' cannot take inputs of shape \(2, 1, 3, 3\), .*: {said}"):
        predict({"p": Raising()}, torch.rand(2, 1, 3, 3))
