"""Folders of pictures on the command line: parts of every class, other sizes, no classes; the run says so."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from omnirobust.cli import main
from omnirobust.jobs.folder import RunFolder
from omnirobust.zoo import data

CODE = """
import torch

def one():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))

def two():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Pictures of several sizes, 12 for training and 6 for testing of each of three classes, and two models."""
    monkeypatch.setenv("OMNIROBUST_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for name in ("circle", "square", "train"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for i in range(count):
                picture = Image.fromarray(rng.integers(0, 256, (4, 4 + i % 2), dtype=np.uint8))
                picture.save(tmp_path / "set" / split / name / f"{i}.png")
    (tmp_path / "own.py").write_text(CODE)
    return tmp_path


def run(*words, out="run"):
    """Return the exit code of a command."""
    with pytest.raises(SystemExit) as left:
        main([*map(str, words), "--out", out, "--device", "cpu"])
    return left.value.code


def config(part="."):
    return json.loads((Path("run") / part / "config.json").read_text())


COMMON = ("--data", "./set", "--models", "own.py:one", "--models", "own.py:two", "--norm", "linf", "--eps", "0.1",
          "--steps", "1", "--resize", "4", "4")  # fmt: skip


def test_an_attack_takes_images_of_every_class_and_says_so(folder, capsys):
    assert run("attack", "ensemble", *COMMON, "--images", 6, "--start", 3) == 0
    told = capsys.readouterr().out
    assert "taken in a fixed order of their own, stratified by class, seed 0" in told and "No image" not in told
    found = config()["data"]
    assert (found["choice"], found["resize"]) == ("stratified by class, seed 0", [4, 4]) and "label" not in found
    from safetensors.torch import load_file

    attacked = load_file("run/perturbations.safetensors")
    expected = data.load("./set", start=3, limit=6, resize=(4, 4))
    assert torch.equal(attacked["clean"], expected.x) and expected.y.bincount().tolist() == [2, 2, 2]
    rows = RunFolder.open("run").read_table("examples.parquet")["row_in_set"]
    assert torch.equal(data.load("./set", resize=(4, 4), in_order=True).x[rows], expected.x) and len(set(rows)) == 6
    assert run("attack", "ensemble", "--config", "run/config.yaml", out="again") == 0
    assert json.loads((folder / "again" / "config.json").read_text()) == config()


def test_missing_classes_are_named(folder, capsys):
    assert run("attack", "ensemble", *COMMON, "--images", 1) == 0
    present = int(data.load("./set", limit=1, resize=(4, 4)).y)
    names = [name for i, name in enumerate(("circle", "square", "train")) if i != present]
    assert f"No image attacked is of class {names[0]}, {names[1]}." in capsys.readouterr().out


def test_evaluate_and_train_choose_alike(folder, capsys):
    threat = ("--threat", "linf:0.1", "--resize", 4, 4)
    assert run("evaluate", "--data", "./set", "--model", "own.py:one", *threat, "--steps", 1, "--images", 4) == 0
    assert config()["data"]["choice"] and config()["data"]["resize"] == [4, 4]
    train = ("train", "--data", "./set", "--model", "own.py:one", *threat, "--steps", 1, "--epochs", 1)
    every = ("--validation", 6, "--images", 24, "--test-images", 3, "--test-steps", 1)
    assert run(*train, *every, out="trained") == 0
    from omnirobust.jobs import TrainingJob
    from omnirobust.jobs.train_setting import _split  # the parts that were trained and validated on
    from omnirobust.training import Scheme
    from omnirobust.zoo import Recipe

    recipe = Recipe(1, "adam", 1e-3, 0.0, (), 8, holdout=6)
    job = TrainingJob("./set", Scheme("natural"), recipe, model="own.py:one", images=24, resize=(4, 4))
    parts = _split(job, data.load("./set", "train", limit=100, resize=(4, 4)))
    assert [part.y.bincount().tolist() for part in parts] == [[8, 8, 8], [2, 2, 2]]
    rows = RunFolder.open("trained").read_table("rows.parquet")
    assert (
        rows["row_in_set"] == [*parts[0].rows.tolist(), *parts[1].rows.tolist()] and len(set(rows["row_in_set"])) == 30
    )
    assert rows["part"] == ["train"] * 24 + ["validation"] * 6
    assert len(RunFolder.open("run").read_table("examples.parquet")["row_in_set"]) == 4
    held = json.loads((folder / "trained" / "config.json").read_text())
    assert held["data"]["images"] == 24 and held["data"]["choice"] and held["data"]["resize"] == [4, 4]
    assert json.loads((folder / "trained" / "evaluation" / "config.json").read_text())["data"]["resize"] == [4, 4]


def test_no_classes_are_needed_where_predictions_are_left(folder, capsys):
    (folder / "bare" / "test").mkdir(parents=True)
    for picture in (folder / "set" / "test" / "circle").iterdir():
        picture.rename(folder / "bare" / "test" / picture.name)
    words = ("attack", "ensemble", "--data", "./bare", *COMMON[2:])
    assert run(*words) == 2
    assert "must have classes, got none in test" in capsys.readouterr().err
    assert run(*words, "--labels", "predicted") == 0
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    assert "6 images have no label: accuracy counts what one says" in config()["data"]["note"]
    assert metrics["clean_accuracy"]["one"] == 1.0 and "missing" not in metrics


def test_a_column_of_classes_is_named_for_train_attack_and_evaluate(tmp_path, monkeypatch, capsys):
    """A table as that of CIFAR-100, with classes and groups of them whose names have brackets."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as HubImage

    monkeypatch.setenv("OMNIROBUST_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    for split, count in (("train", 48), ("test", 12)):
        fine = [i % 6 for i in range(count)]
        columns = {
            "img": [Image.fromarray(np.full((4, 4), 40 * f, np.uint8)) for f in fine],
            "fine_label": fine, "coarse_label": [f // 2 for f in fine],
        }  # fmt: skip
        kinds = {
            "fine_label": ClassLabel(names=[f"f[{i}]" for i in range(6)]),
            "coarse_label": ClassLabel(names=["a[1]", "b", "c"]),
        }
        Dataset.from_dict(columns, features=Features({"img": HubImage(), **kinds})).to_parquet(f"set/{split}.parquet")
    common = ("--data", "./set", "--label", "coarse_label")
    train = ("train", "--data", "./set", "--model", "mlp", "--threat", "linf:0.1", "--steps", 1, "--epochs", 1,
             "--validation", 6, "--test-images", 6, "--test-steps", 1)  # fmt: skip
    assert run(*train, out="trained") == 2
    assert "label must name one of the columns of classes of set, fine_label, coarse_label" in capsys.readouterr().err
    assert run(*train, "--label", "coarse_label", out="trained") == 0
    attack = ("attack", "ensemble", *common, "--models", "trained", "--norm", "linf", "--eps", "0.1", "--steps", 1)
    assert run(*attack, "--images", 6) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["classes"] == ["a[1]", "b", "c"] and config()["data"]["label"] == "coarse_label"
    assert "a[1]" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert run("evaluate", *common, "--model", "trained", "--threat", "linf:0.1", "--steps", 1, out="judged") == 0
    assert run(*attack[:2], "--data", "./set", "--label", "fine_label", *attack[6:], out="free") == 2
    assert not (tmp_path / "free").exists()
