"""A training by name refuses before it writes, and its files read back what was written."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import yaml

import omnirobust as orb
from omnirobust.cli import main
from omnirobust.jobs import TrainingJob, TrainingRecord, run_training
from omnirobust.report.training import told_end
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
