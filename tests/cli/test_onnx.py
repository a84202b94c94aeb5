"""ONNX files on the command line: as models with gradients, as models that only answer, and where they are refused."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch

from omnirobust import zoo
from omnirobust.cli import main

ATTACK = "attack ensemble --data digits --norm linf --eps 0.1 --images 6"


@pytest.fixture
def here(digits, tmp_path: Path, monkeypatch) -> Path:
    """Return a folder that holds digits/c as net.onnx, with a Softmax at its end."""
    monkeypatch.chdir(tmp_path)
    whole = torch.nn.Sequential(zoo.load("digits/c"), torch.nn.Softmax(1)).eval()
    with pytest.warns(DeprecationWarning, match="ONNX"):
        torch.onnx.export(whole, (torch.rand(1, 1, 8, 8),), "net.onnx", dynamo=False)
    return tmp_path


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main([word for argument in arguments for word in argument.split()])
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


def config(folder: str) -> dict:
    return json.loads(Path(folder, "config.json").read_text())


def metrics(folder: str) -> dict:
    return json.loads(Path(folder, "metrics.json").read_text())


def test_a_file_beside_the_network_it_was_exported_from(here, capsys) -> None:
    code, out, err = run(capsys, ATTACK, "--models net.onnx c --steps 5 --out run")
    assert (code, err) == (0, "")
    assert "model 'net' ends in a Softmax, which was cut off" in out and "copy in torch" in out
    found = metrics("run")["attacks"]["min-max"]
    assert found["accuracy"]["net"] == found["accuracy"]["c"]
    assert config("run")["models"]["net"]["weights"].endswith(", gradients of a copy")


def test_a_file_that_is_only_asked_within_its_questions(here, capsys) -> None:
    code, out, err = run(capsys, ATTACK, "--models net.onnx:queries --queries 20 --out run")
    assert (code, err) == (0, "") and "model 'net' only answers, through onnxruntime." in out
    told = config("run")
    assert told["queries"] == 20 and told["attack"]["steps"] == 20 and told["attack"]["direction"].startswith("Search")
    assert told["attack"]["stop_when_fooled"] is True
    first = Path("run/metrics.json").read_text()
    assert run(capsys, ATTACK, "--models net.onnx:queries --queries 20 --out run")[0] == 0
    assert Path("run/metrics.json").read_text() == first


def test_another_file_of_that_name_is_another_run(here, capsys) -> None:
    assert run(capsys, ATTACK, "--models net.onnx --steps 1 --out run")[0] == 0
    model = onnx.load("net.onnx")
    (bias,) = [v for v in model.graph.initializer if list(v.dims) == [10]]
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
    onnx.save(model, "net.onnx")
    code, _, err = run(capsys, ATTACK, "--models net.onnx --steps 1 --out run")
    assert code == 2 and "run" in err and err.count("\n") == 1


def test_an_evaluation_needs_gradients(here, capsys) -> None:
    evaluate = "evaluate --data digits --images 6 --threat linf:0.05 --steps 2"
    code, out, err = run(capsys, evaluate, "--models net.onnx c --out run")
    assert (code, err) == (0, "") and "copy in torch" in out
    found = metrics("run")["models"]
    assert found["net"]["accuracy"] == found["c"]["accuracy"]
    code, out, err = run(capsys, evaluate, "--models net.onnx:queries --out other")
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert "models must have gradients to be evaluated, got net, which" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (f"{ATTACK} --models c --queries 20", "queries must be left out where every model has gradients, got 20"),
        (f"{ATTACK} --models net.onnx:queries --queries 1", "queries must be >= 2, got 1"),
        (f"{ATTACK} --models net.onnx --resize 9 9", "net.onnx takes inputs of shape (1, 8, 8), got (1, 9, 9)"),
        (f"{ATTACK} --models nowhere.onnx", "models must name an existing file, got nowhere.onnx"),
        ("train --data digits --from net.onnx --threat linf:0.05 --epochs 1", "from must be a trained model"),
    ],
)
def test_what_does_not_fit_is_one_sentence(here, capsys, arguments: str, message: str) -> None:
    code, out, err = run(capsys, arguments)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1
