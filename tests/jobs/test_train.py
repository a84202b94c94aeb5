"""A training by name refuses before it writes, and its files read back what was written."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import yaml

import omnirobust as orb
from omnirobust.cli import main
from omnirobust.jobs import TrainingJob, TrainingRecord, load_models, run_training
from omnirobust.jobs.report.training import told_end
from omnirobust.training import Scheme
from omnirobust.training.loop import TrainingDivergedError
from omnirobust.zoo import Recipe

RECIPE = Recipe(1, batch_size=32, holdout=16)
TWO = (orb.Linf(0.1), orb.L2(0.5))


def job(scheme: Scheme, seed: int = 0) -> TrainingJob:
    return TrainingJob(
        "digits",
        scheme,
        RECIPE,
        model="a",
        images=64,
        test_images=4,
        test_steps=2,
        seed=seed,
        device="cpu",
    )


def test_the_files_read_back(tmp_path) -> None:
    record = run_training(job(Scheme("minmax", TWO, steps=2)), tmp_path / "run")
    assert record.weights is not None and record.weights[1].shape == (64, 2)
    assert torch.allclose(record.weights[1].sum(1), torch.ones(64))
    mean = record.weights[1].mean(0).tolist()
    assert mean == pytest.approx([record.history[0][f"weight/{name}"] for name in record.threats], abs=1e-5)
    assert record.evaluation is not None and record.evaluation.threats == ["linf:0.1", "l2:0.5"]
    assert record.metrics["train_images"] == 64 and record.metrics["validation_images"] == 16


def test_a_natural_training_has_neither_weights_nor_an_evaluation(tmp_path) -> None:
    record = run_training(job(Scheme("natural")), tmp_path / "run")
    assert record.weights is None and record.evaluation is None and "robust" not in record.history[0]
    test = orb.data.load("digits", "test", limit=record.metrics["clean"]["images"])
    model = orb.zoo.load_model(str(tmp_path / "run"), shape=test.shape, classes=10)
    right = int((model(test.x).argmax(1) == test.y).sum())
    assert record.metrics["clean"] == {"right": right, "images": len(test)}
    assert f"It has {100 * right / len(test):.2f} % of {len(test)} test images right" in told_end(record)


def test_a_network_that_says_one_class_for_everything_is_named(tmp_path, capsys) -> None:
    """A learning rate that throws the network to one class, in one epoch of few images."""
    main_of = ["train", "--data", "digits", "--model", "a", "--lr", "30", "--epochs", "1", "--images", "64"]
    with pytest.raises(SystemExit):
        main([*main_of, "--test-images", "0", "--validation", "40", "--out", str(tmp_path / "run")])
    told = TrainingRecord.open(tmp_path / "run").metrics["notes"]
    assert len(told) == 1 and told[0].startswith("Before any attack the model ")
    assert told[0] in " ".join(capsys.readouterr().out.split())


def test_another_seed_is_another_run(tmp_path) -> None:
    run_training(job(Scheme("natural")), tmp_path / "run")
    with pytest.raises(ValueError, match="out must be a new folder or that of a run with the same settings"):
        run_training(job(Scheme("natural"), seed=1), tmp_path / "run")


def test_another_kind_of_run_is_no_training(tmp_path) -> None:
    record = run_training(job(Scheme("single", TWO[:1], steps=1)), tmp_path / "run")
    assert record.evaluation is not None
    with pytest.raises(ValueError, match="run must be that of a training"):
        TrainingRecord.open(record.evaluation.folder.path)


def test_the_options_file_makes_the_same_run_again(tmp_path, capsys) -> None:
    line = "train --data digits --model a --threat l2:0.5 --epochs 2 --milestone 1 --images 64 --test-images 0"
    for words in (line.split(), ["train", "--config", f"{tmp_path}/one/config.yaml"]):
        name = "one" if "--data" in words else "two"
        with pytest.raises(SystemExit) as stopped:
            main([*words, "--out", f"{tmp_path}/{name}"])
        assert not stopped.value.code, capsys.readouterr().err
    one, two = (tmp_path / name for name in ("one", "two"))
    assert yaml.safe_load((one / "config.yaml").read_text())["milestone"] == [1]
    assert (one / "config.json").read_text() == (two / "config.json").read_text()
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()


def test_a_training_that_diverges_at_once_leaves_no_folder_so_that_another_rate_goes_through(tmp_path) -> None:
    wild = replace(job(Scheme("natural")), recipe=replace(RECIPE, lr=1e30))
    with pytest.raises(TrainingDivergedError):
        run_training(wild, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    run_training(job(Scheme("natural")), tmp_path / "run")


NETWORKS = """
import torch
from torch import nn
class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(64, 10)
    def forward(self, x):
        return self.l(x.flatten(1))
class Tied(Head):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)
        self.b.weight = self.a.weight
    def forward(self, x):
        return self.l(self.b(self.a(x.flatten(1)).relu()).relu())
class Extra(Head):
    def get_extra_state(self):
        return {"version": (1, torch.ones(2))}
    def set_extra_state(self, state):
        assert state["version"][0] == 1
class Odd(Extra):
    def get_extra_state(self):
        return {1, 2}
class OneWay(Head):
    def get_extra_state(self):
        return 1
class Sparse(Head):
    def __init__(self):
        super().__init__()
        self.e = nn.Embedding(2, 10, sparse=True)
    def forward(self, x):
        return super().forward(x) + self.e((x.flatten(1)[:, 0] > 0.5).long())
class Written(Head):
    def forward(self, x):
        y = super().forward(x).exp()
        z = y * 1
        return y.mul_(2) + z if self.training else z
class Norm(Head):
    def __init__(self):
        super().__init__()
        self.n, self.aux = nn.BatchNorm1d(10), nn.Linear(3, 3)
        self.frozen = nn.Linear(10, 10).requires_grad_(False)
    def forward(self, x):
        return self.frozen(self.n(super().forward(x)))
"""


def of_own(tmp_path, name, **changes) -> TrainingJob:
    (tmp_path / "nets.py").write_text(NETWORKS)
    return TrainingJob(
        "digits", Scheme("single", (orb.Linf(0.05),), steps=1, adversarial_ratio=1.0),
        Recipe(2, "adam", 1e-3, 0.0, (), 8, holdout=4),
        model=f"{tmp_path / 'nets.py'}:{name}", images=17, test_images=2, test_steps=1, device="cpu", **changes,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["Tied", "Extra", "Norm"])
def test_networks_as_they_are_train_and_load(tmp_path, name):
    job = of_own(tmp_path, name)
    record = run_training(job, tmp_path / "run")
    source = f"{tmp_path / 'run'}:{job.model}"
    (model,) = load_models([source], "digits").values()
    assert record.metrics["epochs"] == 2
    if name == "Tied":
        assert model.a.weight is model.b.weight
    (tmp_path / "run" / "metrics.json").unlink()
    run_training(job, tmp_path / "run")  # and resume
    further = run_training(of_own(tmp_path, name, start=source, seed=1), tmp_path / "further")
    assert further.metrics["epochs"] == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [("Odd", "got set in _extra_state"), ("OneWay", "take its own state_dict back"), ("Sparse", "sparse gradients"),
     ("Written", "a step of training by adam.*inplace")],
)  # fmt: skip
def test_networks_that_cannot_train_are_refused_before_anything_is_written(tmp_path, name, said):
    with pytest.raises(ValueError, match=f"^model must .*{said}"):
        run_training(of_own(tmp_path, name), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run_training(of_own(tmp_path, "Head"), tmp_path / "run")


@pytest.mark.slow
def test_two_processes_train_what_has_no_gradient_now_and_then(tmp_path):
    """A frozen layer, a head that no loss uses, and shares of one example under BatchNorm: 17 images in 8s."""
    (tmp_path / "nets.py").write_text(NETWORKS)
    words = ["train", "--data", "digits", "--model", "nets.py:Norm", "--threat", "linf:0.05", "--steps", "1",
             "--epochs", "2", "--images", "17", "--batch-size", "8", "--validation", "4", "--test-images", "2",
             "--test-steps", "1",
             "--adversarial-ratio", "1", "--device", "cpu", "--devices", "2", "--out", "run"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "omnirobust", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    record = TrainingRecord.open(tmp_path / "run")
    assert record.metrics["epochs"] == 2


def test_a_training_that_was_moved_ends_its_evaluation(tmp_path):
    record = run_training(job(Scheme("minmax", TWO, steps=1)), tmp_path / "a")
    reference = {f.name: f.read_bytes() for f in (tmp_path / "a" / "evaluation").iterdir()}
    for killed in (["metrics.json"], ["metrics.json", "evaluation/metrics.json"]):
        for name in killed:
            record.folder.file(name).unlink()
        shutil.move(tmp_path / "a", tmp_path / "b")
        again = run_training(job(Scheme("minmax", TWO, steps=1)), tmp_path / "b")
        assert again.metrics["test"] == record.metrics["test"]
        assert {f.name: f.read_bytes() for f in (tmp_path / "b" / "evaluation").iterdir()} == reference
        shutil.move(tmp_path / "b", tmp_path / "a")


def test_a_small_set_is_told_how_many_images_may_validate(tmp_path):
    small = replace(job(Scheme("natural")), images=None)
    with pytest.raises(
        ValueError, match=r"validation must leave .* got 1297 of 1297: a fifth of them is --validation 259"
    ):
        run_training(replace(small, recipe=replace(RECIPE, holdout=1297)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    record = run_training(replace(small, recipe=replace(RECIPE, holdout=259)), tmp_path / "run")
    assert record.metrics["train_images"] == 1297 - 259
