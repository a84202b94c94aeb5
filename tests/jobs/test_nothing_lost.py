"""What is stopped goes on and loses nothing; what killed processes left is taken away, what live ones write is not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
import torch
from safetensors.torch import save_file

import omnirobust as orb
from omnirobust._files import claimed, sweep
from omnirobust.cli import main
from omnirobust.jobs import (
    AttackJob,
    EvaluationJob,
    EvaluationRecord,
    TrainingJob,
    TrainingRecord,
    load_models,
    run_attack,
    run_evaluation,
    run_training,
)
from omnirobust.jobs import train as train_module
from omnirobust.jobs.report.robustness import stacked
from omnirobust.training import Scheme
from omnirobust.zoo import Recipe

THREATS = (orb.Linf(0.1), orb.L2(0.5))
TRAINING = TrainingJob(
    "digits", Scheme("minmax", THREATS, steps=1), Recipe(3, "adam", 1e-3, 0.0, (), 30), model="a", images=60,
    test_images=4, test_steps=1, device="cpu",
)  # fmt: skip
ATTACK = AttackJob("digits", ("a",), orb.Linf(0.1), images=6, options={"steps": 1, "batch_size": 2}, device="cpu")
EVALUATION = EvaluationJob("digits", ("a",), {"linf:0.1": orb.Linf(0.1)}, steps=1, images=6, batch_size=2, device="cpu")


def epochs(folder: Path) -> dict[int, int]:
    return dict(Counter(TrainingRecord.open(folder).table("weights.parquet")["epoch"]))


def sentence(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("omnirobust: ")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    return run_training(TRAINING, tmp_path_factory.mktemp("whole") / "run").folder.path


def test_weights_of_all_epochs_outlive_a_training_that_is_stopped_while_it_is_judged(trained, tmp_path, monkeypatch):
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "run_evaluation", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_training(TRAINING, tmp_path / "run")
    record = run_training(TRAINING, tmp_path / "run")
    assert epochs(tmp_path / "run") == {1: 60, 2: 60, 3: 60}
    assert record.table("weights.parquet") == TrainingRecord.open(trained).table("weights.parquet")
    assert not {".lock", "parts", "weights"} & {f.name for f in (tmp_path / "run").iterdir()}


def test_weights_outlive_a_training_of_an_earlier_version_that_is_called_again(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    run_training(TRAINING, tmp_path / "run")
    assert epochs(tmp_path / "run") == {1: 60, 2: 60, 3: 60}
    (tmp_path / "run" / "metrics.json").unlink()
    table = TrainingRecord.open(trained).table("weights.parquet")
    (tmp_path / "run" / "weights").mkdir()
    import pyarrow
    from pyarrow import parquet

    for epoch in (1, 2):  # as they were kept, epoch by epoch
        rows = [i for i, e in enumerate(table["epoch"]) if e == epoch]
        part = {name: [values[i] for i in rows] for name, values in table.items()}
        parquet.write_table(pyarrow.table(part), tmp_path / "run" / "weights" / f"{epoch:06d}.parquet")
    (tmp_path / "run" / "weights.parquet").unlink()
    run_training(TRAINING, tmp_path / "run")
    assert epochs(tmp_path / "run") == {1: 60, 2: 60, 3: 60}


def test_of_two_trainings_in_one_folder_the_second_waits_and_finds_what_the_first_made(trained, tmp_path):
    told, second = [], []

    def again() -> None:
        second.append(run_training(TRAINING, tmp_path / "run", lambda what, *_: told.append(what)))

    def after_epoch(epoch: int, *_: object) -> None:
        if epoch == 1:
            thread.start()
            while not told:
                thread.join(0.01)

    thread = Thread(target=again)
    first = run_training(TRAINING, tmp_path / "run", after_epoch=after_epoch)
    thread.join(300)
    assert set(told) == {f"another command is at work in {tmp_path / 'run'}: waiting for its end"}
    assert second == [first]
    assert epochs(tmp_path / "run") == {1: 60, 2: 60, 3: 60}


def test_what_killed_processes_left_is_gone_after_the_next_run_and_what_live_ones_write_stays(digits, tmp_path):
    out = tmp_path / "run"
    whole = run_attack(ATTACK, out)
    before = {f.name for f in out.iterdir()}
    (out / "parts" / "average").mkdir(parents=True)
    for file in ("parts/average/00000.safetensors", "report.html.4000001.part", "metrics.json.4000002.part"):
        (out / file).write_text("half")
    (tmp_path / ".run.4000003.part").mkdir()
    (tmp_path / ".run.4000003.part" / "config.json").write_text("{}")
    others = [tmp_path / ".run2.4000003.part", out / "mine.part", tmp_path / "x.4000004.part"]
    for other in others:
        other.write_text("another's")
    live = out / "report.html.4000005.part"
    with claimed(live, os.O_RDWR | os.O_CREAT):
        assert run_attack(ATTACK, out) == whole
        assert live.exists()
        assert {f.name for f in out.iterdir()} == before | {live.name, "mine.part"}
    assert all(other.exists() for other in others)
    assert not (tmp_path / ".run.4000003.part").exists()
    sweep(out)
    assert not live.exists()


def test_a_lock_goes_with_the_process_that_holds_it(tmp_path):
    part = tmp_path / "file.4000001.part"
    code = f"""
import os, sys, time
from pathlib import Path
from omnirobust._files import claimed
with claimed(Path({str(part)!r}), os.O_RDWR | os.O_CREAT):
    print("claimed", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "claimed\n"
        sweep(tmp_path)
        assert part.exists()
        process.kill()
        process.wait()
    sweep(tmp_path)
    assert not part.exists()


def test_an_empty_folder_with_what_a_killed_start_left_is_taken(digits, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    for name in ("versions.json", "config.json.4000001.part", "versions.json.4000001.part"):
        (out / name).write_text("{")
    run_attack(ATTACK, out)
    assert not list(out.glob("*.part"))


@pytest.mark.parametrize("kind", ["attack", "evaluation"])
def test_a_flipped_byte_of_a_part_is_found_and_the_part_made_again(digits, tmp_path, monkeypatch, kind):
    module, job, run = {
        "attack": ("attack", ATTACK, run_attack), "evaluation": ("evaluate", EVALUATION, run_evaluation)
    }[kind]  # fmt: skip
    whole = run(job, tmp_path / "whole")

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"omnirobust.jobs.{module}.write_results", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(job, tmp_path / "run")
    parts = sorted((tmp_path / "run" / "parts").rglob("*.safetensors"))
    for place, part in enumerate(parts):
        content = bytearray(part.read_bytes())
        content[-(1 + 7 * place)] ^= 16
        part.write_bytes(content)
    assert len(parts) >= 3
    again = run(job, tmp_path / "run")
    assert all(torch.equal(value, whole.perturbations[name]) for name, value in again.perturbations.items())
    assert again.metrics == whole.metrics
    assert all(torch.equal(value, whole.perturbations[name]) for name, value in again.perturbations.items())


def test_a_flipped_byte_of_a_network_is_told(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    file = tmp_path / "run" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="damaged or of another"):
        load_models([str(tmp_path / "run")], "digits")


def test_checkpoints_that_load_but_are_none_of_ours_are_told(trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    file = tmp_path / "run" / "checkpoint.pt"
    whole = torch.load(file, weights_only=True)
    flipped = bytearray(file.read_bytes())
    place = flipped.index(next(iter(whole["model"].values())).numpy().tobytes()[:16])
    flipped[place + 2] ^= 8
    for bad in ({"a": 1}, [1], torch.ones(3), {**whole, "history": [3]}, {**whole, "epoch": "two"},
                {**whole, "model": {"x": torch.ones(2)}}, {**whole, "optimizer": {}}, {**whole, "settings": {}},
                {key: value for key, value in whole.items() if key != "attacker"}):  # fmt: skip
        torch.save(bad, file)
        if isinstance(bad, dict) and bad.get("settings") == {}:
            continue  # it says nothing that is wrong
        with pytest.raises(ValueError, match=r"^The checkpoint \S+checkpoint\.pt (is none of|belongs to another)"):
            run_training(TRAINING, tmp_path / "run")
    file.write_bytes(flipped)
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged: delete it"):
        run_training(TRAINING, tmp_path / "run")


def test_files_that_are_whole_but_not_of_one_run_are_told(digits, trained, tmp_path, capsys):
    run_attack(ATTACK, tmp_path / "a1")
    run_attack(replace(ATTACK, images=4), tmp_path / "a2")
    run_evaluation(EVALUATION, tmp_path / "e1")
    run_evaluation(replace(EVALUATION, images=4), tmp_path / "e2")
    shutil.copytree(trained, tmp_path / "t1")
    other = replace(TRAINING, images=30, seed=1)
    run_training(other, tmp_path / "t2")
    for kind, names in (
        ("a", ("config.json", "metrics.json", "perturbations.safetensors", "history.safetensors", "examples.parquet")),
        ("t", ("config.json", "metrics.json", "weights.parquet", "evaluation")),
        ("e", ("config.json", "metrics.json")),
    ):
        for name in names:
            mixed = tmp_path / f"{kind}-{name}"
            shutil.copytree(tmp_path / f"{kind}1", mixed)
            source = tmp_path / f"{kind}2" / name
            if source.is_dir():
                shutil.rmtree(mixed / name)
                shutil.copytree(source, mixed / name)
            else:
                shutil.copy(source, mixed / name)
            told = sentence(capsys, "report", str(mixed))
            assert "not of one run" in told or "not the one that judged" in told, (kind, name, told)
    for kind, name in (("a", "examples.parquet"), ("e", "examples.parquet"), ("e", "perturbations.safetensors")):
        mixed = tmp_path / f"both-{kind}-{name}"
        shutil.copytree(tmp_path / f"{kind}1", mixed)
        shutil.copy(tmp_path / f"{kind}2" / name, mixed / name)
        assert "not of one run" in sentence(capsys, "report", str(tmp_path / f"{kind}1"), str(mixed))


def test_a_folder_that_is_deleted_meanwhile_is_told_and_does_not_come_back(digits, tmp_path):
    out = tmp_path / "run"

    def delete(*_: object) -> None:
        shutil.rmtree(out, ignore_errors=True)

    for job, run in ((ATTACK, run_attack), (EVALUATION, run_evaluation)):
        with pytest.raises(FileNotFoundError, match=r"^The folder \S+run is gone: it was deleted or moved"):
            run(job, out, delete)
        assert not out.exists()
    with pytest.raises(FileNotFoundError, match=r"^The folder \S+run is gone"):
        run_training(TRAINING, out, delete)
    with pytest.raises(FileNotFoundError, match=r"^The folder \S+run is gone"):
        run_training(TRAINING, out, after_epoch=delete)
    assert not out.exists()


def test_a_run_of_an_earlier_version_is_read(tmp_path, capsys):
    """Written here as evaluations were, without digests."""
    out = tmp_path / "run"
    out.mkdir()
    data = {"name": "digits", "split": "test", "start": 0, "images": 2, "note": "", "fingerprint": "0" * 16}
    config = {
        "job": "evaluate", "data": data, "models": {"a": {"weights": "1" * 16}},
        "threats": {"linf:0.1": {"norm": "linf", "eps": 0.1, "bounds": [0.0, 1.0]}}, "attacks": "default", "steps": 5,
        "restarts": 1, "seed": 0, "batch_size": 10, "precision": "fp32",
    }  # fmt: skip
    rate = {"estimate": 0.5, "low": 0.1, "high": 0.9}
    model = {"clean": rate, "accuracy": {"linf:0.1": rate}, "union": rate, "average": 0.5,
             "breaks": {"linf:0.1": {"margin": 1}}, "notes": []}  # fmt: skip
    metrics = {"images": 2, "models": {"a": model}, "comparisons": []}
    for name, value in (("config", config), ("metrics", metrics), ("versions", {"torch": "2.13.0"})):
        (out / f"{name}.json").write_text(json.dumps(value))
    save_file({"clean": torch.zeros(2, 1, 8, 8), "labels": torch.tensor([3, 4]),
               "a.linf:0.1.delta": torch.full((2, 1, 8, 8), 0.1)}, out / "perturbations.safetensors")  # fmt: skip
    record = EvaluationRecord.open(out)
    assert record.perturbations["a.linf:0.1.delta"].shape == (2, 1, 8, 8)
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(out)])
    assert stopped.value.code == 0
    assert stacked(rate) in (out / "report.html").read_text()
