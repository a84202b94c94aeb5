"""What models are called: NAME=SOURCE, or as much of the source as tells them apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import omnirobust as orb
from omnirobust import zoo
from omnirobust.jobs import AttackJob, EvaluationJob, load_models, run_attack, run_evaluation
from omnirobust.zoo.naming import told_apart
from omnirobust.zoo.trained import split_name

NET = "from torch import nn\ndef build(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed, folder in enumerate(("a/model", "b/model", "b=c/model")):
        Path(folder).mkdir(parents=True)
        torch.manual_seed(seed)
        weights = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).state_dict()
        save_file(weights, f"{folder}/model.safetensors")
        save_file(weights, f"{folder}/net.safetensors")
        Path(folder, "net.py").write_text(NET)
    return tmp_path


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["a", "digits/a"], ["a", "digits/a"]),
        (["x=a", "y=a"], ["x", "y"]),
        (["b=a", "b"], ["b=a", "b"]),  # there is a folder of that name
        (["a/model:net.py:build", "b/model:net.py:build"], ["a/model", "b/model"]),
        (["a/model/net.safetensors:c", "b/model:net.py:build"], ["net", "model"]),
        (["a/model/net.safetensors:c", "b/model/net.safetensors:c"], ["a/model/net", "b/model/net"]),
        (["a/model/net.py:build", "b/model/net.py:build"], ["a/model/net:build", "b/model/net:build"]),
        (["a/model/net.py:build", "b/model:net.py:build"], ["build", "model"]),
        (["one.two:Net", "one.three:Net"], ["two:Net", "three:Net"]),
        (["timm:resnet18", "hf:microsoft/resnet18"], ["timm:resnet18", "microsoft/resnet18"]),
        (["build=a", "a/model/net.py:build"], ["build", "net:build"]),
    ],
)
def test_names(here, sources, names):
    if sources[0] == "b=a":
        Path("b=a").mkdir()
    assert told_apart(sources) == names


def test_one_file_for_two_networks_and_one_folder_in_two_ways(here):
    found = told_apart(["a/model/net.safetensors:c", "a/model/net.safetensors:lenet"])
    assert len(set(found)) == 2 and found[1].endswith(":lenet")
    assert len(set(told_apart(["a/model:c", "./a/model:c"]))) == 2


@pytest.mark.parametrize("sources", [["a", "a"], ["x=a", "x=a"], ["x=a", "x=b"], ["x=a", "x"]])
def test_the_same_name_twice_is_refused(sources):
    with pytest.raises(ValueError, match=r"^models must be named once each, got [ax] twice$"):
        told_apart(sources)


@pytest.mark.parametrize(
    ("text", "found"),
    [("x=a", ("x", "a")), ("ours, it=m.safetensors:c", ("ours, it", "m.safetensors:c")), ("=a", ("", "=a")),
     ("x=", ("", "x=")), ("b=c/model", ("", "b=c/model")), ("b=c/model:net.py:build", ("", "b=c/model:net.py:build")),
     ("x=b=c/model", ("x", "b=c/model")), ("a/b=c", ("", "a/b=c")), ("f.py:N=3", ("", "f.py:N=3"))],
)  # fmt: skip
def test_what_is_a_name(here, text, found):
    assert split_name(text) == found


def test_models_of_two_folders_are_loaded_attacked_and_judged_under_their_names(here, digits):
    sources = ("a/model:net.py:build", "b/model:net.py:build")
    models = load_models(sources, "digits")
    assert list(models) == ["a/model", "b/model"]
    assert not torch.equal(models["a/model"][1].weight, models["b/model"][1].weight)
    assert list(load_models(["x=digits/a"], "digits")) == ["x"]
    assert isinstance(zoo.load_model("mine=a/model/net.py:build"), nn.Module)
    attack = AttackJob("digits", sources[:1], orb.Linf(0.1), images=2, options={"steps": 1},
                       transfer=(sources[1], "other=digits/a"))  # fmt: skip
    record = run_attack(attack, "run")
    assert list(record.config["models"]) == ["a/model"]
    assert list(record.config["transfer"]) == ["b/model", "other"]
    judged = run_evaluation(
        EvaluationJob("digits", (f"first={sources[0]}", sources[1]), {"linf:0.1": orb.Linf(0.1)}, steps=1, images=2),
        "e",
    )
    assert list(judged.metrics["models"]) == ["first", "model"]


def test_a_model_under_another_name_is_not_transferred_to(here):
    with pytest.raises(ValueError, match=r"^transfer must name models that are not attacked, got a"):
        AttackJob("digits", ("x=a",), orb.Linf(0.1), transfer=("y=a",))


@pytest.mark.parametrize("name", ["a/b", "<b>x</b>", "-x", "q:b", "a\\b", "", "bell\x07"])
def test_a_name_that_is_none_is_told_which_characters_it_may_have(here, name):
    source = f"{name}=a/model/net.py:build"
    for load in (lambda: zoo.load_model(source), lambda: load_models([source], "digits")):
        with pytest.raises(
            ValueError, match=r"NAME=SOURCE, got .*: a NAME begins with a letter, a digit or _, and has no"
        ):
            load()


def test_a_path_with_the_sign_is_no_name(here):
    folder = Path("-lr=0.1")
    folder.mkdir()
    (folder / "nets.py").write_text(NET)
    assert zoo.load_model("-lr=0.1/nets.py:build") is not None
