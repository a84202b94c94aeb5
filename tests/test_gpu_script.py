"""The script for a GPU, on the processor: data is carried and read back, calls stop at their limit and go on."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from omnirobust import zoo
from omnirobust.zoo import data, recipes

FOLDER = Path(__file__).parents[1] / "scripts" / "gpu"


@pytest.fixture
def script(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("OMNIROBUST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMNIROBUST_DATA", str(tmp_path / "none"))
    spec = importlib.util.spec_from_file_location("gpu_run", FOLDER / "run.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_run", module)
    spec.loader.exec_module(module)
    yield module
    for name in ("pack", "speed"):
        sys.modules.pop(name, None)


def images_in_folders(folder: Path, kind: str, count: int) -> None:
    """Write a set in hub layout: a folder of images for each split and class."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in range(2):
            place = folder / split / f"class {label}"
            place.mkdir(parents=True)
            for number in range(count):
                shape = (5, 4) if kind == "png" else (8, 8, 3)
                pixels = rng.integers(0, 256, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.{kind}")


def test_what_is_packed_is_read_back_without_the_hub(script, tmp_path, monkeypatch, capsys):
    images_in_folders(tmp_path / "hub" / "mnist", "png", 3)
    images_in_folders(tmp_path / "hub" / "cifar10", "jpeg", 2)
    every = [(name, split) for name in ("mnist", "cifar10") for split in ("train", "test")]
    expected = {(name, split): data.load(name, split, root=tmp_path / "hub") for name, split in every}
    monkeypatch.setenv("OMNIROBUST_DATA", str(tmp_path / "hub"))
    assert script.main(["pack", "--data", str(tmp_path / "pieces")]) == 0
    assert "0.0 MiB" in capsys.readouterr().out
    assert len(list((tmp_path / "pieces").iterdir())) == 4
    script.unpack(tmp_path / "pieces", tmp_path / "root")
    for (name, split), images in expected.items():
        found = data.load(name, split, root=tmp_path / "root")
        assert torch.equal(found.x, images.x)
        assert torch.equal(found.y, images.y)
        assert (found.classes, found.note) == (images.classes, images.note)
        assert torch.equal(data.load(name, split, root=tmp_path / "root", start=1, limit=2).x, images.x[1:3])


def test_too_much_to_carry_is_refused(script, tmp_path, monkeypatch):
    images_in_folders(tmp_path / "hub" / "mnist", "png", 3)
    import pack

    monkeypatch.setattr(pack, "LIMIT", 100)
    with pytest.raises(ValueError, match="pieces must come to 100 bytes at most"):
        pack.pack(tmp_path / "hub", tmp_path / "pieces", ("mnist",))
    with pytest.raises(ValueError, match="which holds no pieces"):
        pack.unpack(tmp_path / "hub", tmp_path / "root")


def test_calls_stop_at_their_limit_and_go_on(script, tmp_path):
    taken: list[str] = []

    def slow() -> None:
        taken.append("slow")
        if taken.count("slow") < 2:
            assert 500 < signal.getitimer(signal.ITIMER_REAL)[0] <= 600
            signal.raise_signal(signal.SIGALRM)  # as the timer does in the end

    def wrong() -> None:
        raise RuntimeError("out of memory\nmore words")

    todo = [
        script.Step("first", lambda: taken.append("first")),
        script.Step("wrong", wrong),
        script.Step("slow", slow),
        script.Step("last", lambda: taken.append("last")),
    ]
    assert script.go(todo, tmp_path, 600) == script.UNFINISHED
    assert taken == ["first", "slow"]
    assert script.go(todo, tmp_path, 600) == 0
    assert taken == ["first", "slow", "slow", "last"]
    done = json.loads((tmp_path / "results" / "done.json").read_text())
    assert list(done) == ["first", "wrong", "slow", "last"]
    assert done["wrong"]["failed"] == "out of memory"


def test_a_limit_ends_what_takes_longer(script):
    with pytest.raises(script.TimeIsUp), script.time_limit(0.01):
        time.sleep(30)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_training_stopped_by_the_limit_goes_on_to_the_same_weights(script, tmp_path, monkeypatch):
    monkeypatch.setitem(recipes.FAST, "digits/a", replace(recipes.FAST["digits/a"], epochs=4))
    whole = zoo.train("digits/a", recipe="fast", cache=tmp_path / "whole", device="cpu")

    def stop(line: str) -> None:
        if "epoch 2" in line:
            raise script.TimeIsUp

    monkeypatch.setattr(script, "say", stop)
    with pytest.raises(script.TimeIsUp):
        script.train("digits/a", "cpu")
    assert not zoo.card("digits/a").finished
    monkeypatch.setattr(script, "say", lambda line: None)
    script.train("digits/a", "cpu")
    assert zoo.card("digits/a").epochs == whole.epochs == 4
    for name, value in zoo.load("digits/a").state_dict().items():
        assert torch.equal(value, zoo.load("digits/a", tmp_path / "whole").state_dict()[name])
    script.collect(tmp_path)
    cards = json.loads((tmp_path / "results" / "cards.json").read_text())
    assert cards["digits/a"]["finished"]


def test_the_steps_name_every_model_and_experiment(script, tmp_path, capsys):
    from omnirobust.paper.registry import experiments
    from omnirobust.paper.trainings import training_experiments

    names = [step.name for step in script.steps(tmp_path, "cpu", "paper", ())]
    assert names[:8] == [f"train cifar10/{letter}" for letter in "efghabcd"]
    reproduced = {name.removeprefix("reproduce ") for name in names if name.startswith("reproduce")}
    assert reproduced == {*experiments(), *training_experiments()}
    assert names.index("speed") < names.index("reproduce table-4a") < names.index("page") == len(names) - 1
    assert len(names) == len(set(names))
    assert [s.name for s in script.steps(tmp_path, "cpu", "paper", ["speed", "page"])] == ["speed", "page"]


def test_speed_is_measured(script, tmp_path):
    import speed

    speed.measure(tmp_path / "speed.md", torch.device("cpu"), "a", batch=2, rounds=1)
    head, *_, row = (tmp_path / "speed.md").read_text().splitlines()
    assert "the processor" in head
    assert row.startswith("| A | ")
    assert row.count("(") == 3


def test_a_device_that_is_not_there_is_told(script, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    images_in_folders(tmp_path / "hub" / "mnist", "png", 1)
    import pack

    pack.pack(tmp_path / "hub", tmp_path / "pieces", ("mnist",))
    given = ["go", "--data", str(tmp_path / "pieces"), "--out", str(tmp_path / "out")]
    before = dict(os.environ)
    try:
        with pytest.raises(ValueError, match="got cuda: torch finds no CUDA device"):
            script.main(given)
    finally:
        os.environ.update(before)
