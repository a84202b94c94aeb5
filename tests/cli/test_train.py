from __future__ import annotations

import csv
import json
import os
import signal
import sys
import time
from pathlib import Path
from socket import socket

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import omnirobust as orb
from omnirobust import zoo
from omnirobust.cli import main
from omnirobust.jobs import TrainingRecord, load_models
from omnirobust.jobs import train as train_job
from omnirobust.training import Scheme, fit
from omnirobust.training.state import CHECKPOINT, read_checkpoint
from omnirobust.zoo import data

SMALL = "--images 96 --validation 32 --test-images 8 --test-steps 2 --steps 2 --batch-size 32 --device cpu"
TWO = "--threat linf:0.1 --threat l2:0.5"


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main([word for argument in arguments for word in argument.split()])
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


def forked(err: Path, *words: str) -> int:
    """Run the command line in a process of its own, which need not load the libraries again; return its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        sys.stdout, sys.stderr = Path(os.devnull).open("w"), err.open("w", buffering=1)  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        main(words)
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    finally:
        os._exit(code)


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_training_from_the_command_line(digits, tmp_path, capsys):
    """The line of the design, smaller: what it writes is what the library trains, and other commands take it."""
    code, out, err = run(
        capsys, f"train --data digits --model digits/a {TWO} --scheme minmax --dpar 0.1 --epochs 3 {SMALL}",
        f"--dpar-warmup 2 --keep last --out {tmp_path}/robust",
    )  # fmt: skip
    assert (code, err) == (0, "")
    folder = tmp_path / "robust"
    train = data.load("digits", "train")
    torch.manual_seed(0)
    model = zoo.build("a", train.shape, 10)
    scheme = Scheme("minmax", (orb.Linf(0.1), orb.L2(0.5)), steps=2, dpar=0.1, dpar_warmup=2)
    held_out = (train.x[-32:], train.y[-32:])
    result = fit(model, (train.x[:96], train.y[:96]), scheme, epochs=3, batch_size=32, validation=held_out)
    assert all(torch.equal(value, weights(folder)[name]) for name, value in result.model.state_dict().items())

    record = TrainingRecord.open(folder)
    assert record.metrics["kept"] == 3 and record.metrics["stopped"] == "epochs"
    with (folder / "epochs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["robust"]) for row in rows] == [row["robust"] for row in result.history]
    assert record.weights is not None and list(record.weights) == [1, 2, 3]
    assert result.weights is not None and torch.equal(record.weights[3].float(), result.weights)
    config = json.loads((folder / "config.json").read_text())
    assert list(config["scheme"]["threats"]) == ["linf:0.1", "l2:0.5"] and config["data"]["images"] == 96
    assert f"Results: {folder}" in out and f"Model:   {folder}/model.safetensors" in out
    assert "Epoch 3 of 3: loss" in out and "union" in out

    loaded = load_models([str(folder)], "digits")["robust"]
    assert all(torch.equal(value, weights(folder)[name]) for name, value in loaded.state_dict().items())
    code, out, err = run(
        capsys, f"evaluate --data digits --model {folder}/model.safetensors --threat l2:0.3 --steps 2 --images 4",
        f"--out {tmp_path}/judged",
    )  # fmt: skip
    assert (code, err) == (0, "") and any(line.split()[:1] == ["robust"] for line in out.splitlines())


@pytest.mark.parametrize(
    ("options", "kind", "called"),
    [
        ("msd", "msd", "Multi-steepest-descent adversarial training against"),
        ("alternate", "alternate", "Adversarial training in turns against"),
        ("ramp --pairing 2 --natural-share 0.25", "ramp", "Adversarial training by RAMP against"),
    ],
)
def test_rivals_from_the_command_line(digits, tmp_path, capsys, options, kind, called):
    line = f"train --data digits --model digits/a {TWO} --scheme {options} --epochs 2 {SMALL} --keep last"
    code, _, err = run(capsys, line, f"--out {tmp_path}/run")
    assert code == 0, err
    extra = {"pairing": 2.0, "natural_share": 0.25} if kind == "ramp" else {}
    scheme = Scheme(kind, (orb.Linf(0.1), orb.L2(0.5)), steps=2, **extra)
    train = data.load("digits", "train")
    torch.manual_seed(0)
    model = zoo.build("a", train.shape, 10)
    fit(model, (train.x[:96], train.y[:96]), scheme, epochs=2, batch_size=32)
    assert all(torch.equal(value, weights(tmp_path / "run")[name]) for name, value in model.state_dict().items())
    told = TrainingRecord.open(tmp_path / "run").config["scheme"]
    assert told["kind"] == kind and all(told[name] == value for name, value in extra.items())
    assert ("pairing" in told) == (kind == "ramp")
    assert called in (tmp_path / "run" / "report.html").read_text()


def test_compiling_is_on_record_and_so_is_what_could_not_be(digits, tmp_path, capsys):
    line = f"train --data digits --model a --threat l1:1 --epochs 1 {SMALL} --test-images 0 --out {tmp_path}/run"
    code, out, err = run(capsys, f"{line} --compile")
    record = TrainingRecord.open(tmp_path / "run")
    assert (code, err) == (0, "") and record.config["compile"] is True
    (note,) = (note for note in record.metrics["notes"] if note.startswith("compile:"))
    assert "only plain steps under linf and l2 are compiled" in note and note in out


def test_a_budget_of_memory_that_is_not_kept_is_told_and_is_no_setting(digits, tmp_path, capsys):
    line = f"train --data digits --model a --threat linf:0.1 {SMALL} --test-images 0 --keep last --out {tmp_path}/run"
    code, out, err = run(capsys, f"{line} --epochs 1 --memory 1")
    record = TrainingRecord.open(tmp_path / "run")
    assert (code, err) == (0, "") and "memory" not in record.config
    (note,) = (note for note in record.metrics["notes"] if note.startswith("memory:"))
    assert note.endswith("bytes, more than the 1 given: they went one at a time.") and note in out


def test_the_page_can_be_written_again(digits, tmp_path, capsys):
    run(capsys, f"train --data digits --model a {TWO} --epochs 2 {SMALL} --out {tmp_path}/run")
    first = (tmp_path / "run" / "report.html").read_text()
    (tmp_path / "run" / "report.html").unlink()
    code, out, _ = run(capsys, f"report {tmp_path}/run")
    assert code == 0 and "report.html" in out and (tmp_path / "run" / "report.html").read_text() == first
    assert "Min-max adversarial training against linf:0.1, l2:0.5" in first and "Box plot of weights" in first
    assert "http" not in first.split("</style>")[1].replace("http://www.w3.org", "")


@pytest.mark.parametrize(
    ("options", "carried"),
    [("--persist example", "its weights"), ("--preset paper", "its weights and perturbations")],
)
def test_a_killed_training_goes_on_to_the_same_network(digits, tmp_path, capsys, monkeypatch, options, carried):
    line = f"train --data digits --model a {TWO} --scheme minmax {options} --epochs 4 {SMALL} --keep last"
    write = train_job.write_network

    def killed(folder, model, card):
        write(folder, model, card)
        if card["epoch"] == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(train_job, "write_network", killed)
    pid = forked(tmp_path / "err", *line.split(), "--out", f"{tmp_path}/killed")
    monkeypatch.undo()
    monkeypatch.setenv("OMNIROBUST_CACHE", str(digits))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "metrics.json").exists()
    assert load_models([f"{tmp_path}/killed"], "digits")  # usable while it trains
    for name in ("killed", "whole"):
        assert run(capsys, f"{line} --out {tmp_path}/{name}")[0] == 0
    killed, whole = weights(tmp_path / "killed"), weights(tmp_path / "whole")
    assert all(torch.equal(killed[name], whole[name]) for name in whole)
    ours, theirs = (TrainingRecord.open(tmp_path / name) for name in ("killed", "whole"))
    assert ours.weights is not None and theirs.weights is not None and list(ours.weights) == [1, 2, 3, 4]
    assert all(torch.equal(ours.weights[e], theirs.weights[e]) for e in ours.weights)
    kept = [read_checkpoint(tmp_path / name / CHECKPOINT, "")["attacker"] for name in ("killed", "whole")]
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[1])
    assert ours.config["scheme"]["persist"] == ("all" if "deltas" in kept[0] else "example")
    page = (tmp_path / "whole" / "report.html").read_text()
    assert f"Each image carried {carried} from one epoch to the next." in page
    assert [row["robust"] for row in ours.history] == [row["robust"] for row in theirs.history]


def test_of_the_worst_attack_images_carry_no_weights(digits, tmp_path, capsys):
    line = f"train --data digits --model a {TWO} --scheme worst --persist all --epochs 1 {SMALL} --out {tmp_path}/run"
    assert run(capsys, line)[0] == 0
    told = (tmp_path / "run" / "report.html").read_text()
    assert "Each image carried its perturbations from one epoch to the next." in told


def test_an_interrupted_training_says_how_to_go_on(digits, tmp_path):
    line = f"train --data digits --model a {TWO} --epochs 2000 {SMALL} --out {tmp_path}/run"
    pid = forked(tmp_path / "err", *line.split())
    while not (tmp_path / "run" / "epochs.csv").exists():
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)  # it is at work still
        time.sleep(0.02)
    os.kill(pid, signal.SIGINT)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    sentence = "omnirobust: Interrupted. Give the same command again to go on from where it stopped.\n"
    assert (tmp_path / "err").read_text() == sentence


def test_fine_tuning_begins_with_the_weights_given_and_is_judged_beside_them(digits, tmp_path, capsys):
    run(capsys, f"train --data digits --model c --threat linf:0.1 --epochs 1 {SMALL} --out {tmp_path}/first")
    code, out, err = run(
        capsys, f"train --data digits --from {tmp_path}/first {TWO} --epochs 1 --lr 1e-12 {SMALL}",
        f"--out {tmp_path}/second",
    )  # fmt: skip
    assert (code, err) == (0, "") and "Union of first against second" in out
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert all(torch.allclose(first[name], second[name], atol=1e-9) for name in first)
    code, out, _ = run(
        capsys, f"train --data digits --from digits/c {TWO} --epochs 1 --lr 1e-12 {SMALL} --out {tmp_path}/third"
    )
    start = dict(zoo.load("digits/c").state_dict())
    assert code == 0
    assert all(torch.allclose(start[name], value, atol=1e-9) for name, value in weights(tmp_path / "third").items())


def test_a_network_of_ones_own_is_trained_and_found_again(digits, tmp_path, capsys, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    given = f"train --data digits --model mine.py:build {TWO} --scheme average --dpar 0.1 --epochs 1 {SMALL}"
    assert run(capsys, f"{given} --out {tmp_path}/own")[0] == 0
    monkeypatch.chdir("/")
    model = load_models([f"{tmp_path}/own:{tmp_path}/mine.py:build"], "digits")["own"]
    assert torch.equal(dict(model.state_dict())["1.weight"], weights(tmp_path / "own")["1.weight"])


def test_two_processes_train_what_one_does(digits, tmp_path, capsys, monkeypatch):
    """As torch's launcher would start them, but forked; tests/cli/test_launch.py has it start real ones."""
    line = f"train --data digits --model a {TWO} --epochs 1 {SMALL} --keep last"
    started = []

    def start(words, processes, _):
        assert words[:2] == ["-m", "omnirobust"]
        with socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        told = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        for rank in range(processes):
            with pytest.MonkeyPatch.context() as patch:
                ranks = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "TORCHELASTIC_RUN_ID": "forked"}
                for name, value in (told | ranks).items():
                    patch.setenv(name, str(value))
                started.append(forked(tmp_path / f"err{rank}", *words[2:]))

    monkeypatch.setattr("omnirobust.cli.launch._launch", start)
    assert run(capsys, f"{line} --devices=2 --out={tmp_path}/2") == (0, "", "")
    assert run(capsys, f"{line} --out {tmp_path}/1")[0] == 0
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in started] == [0, 0]
    assert [(tmp_path / f"err{rank}").read_text() for rank in range(2)] == ["", ""]
    one, two = weights(tmp_path / "1"), weights(tmp_path / "2")
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


OWN = """
import torch
from torch import nn

class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g

class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(64, 10)
    def forward(self, x):
        return self.last(Once.apply(x.flatten(1)))

def no_second():
    return Flat()

def wide():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

def few():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

def endless():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.constant_(net[1].bias, float("nan"))
    return net

def frozen():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).requires_grad_(False)
"""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--model a --threat linf:2", "threat must have a radius below 1, at which it may turn any image of the data"),
        ("--model a --threat l2:8", "threat must have a radius below 8,"),
        ("--model a --threat l0:64", "threat must have a radius below 64,"),
        ("--model a --threat l0:0.5", "threat must have a radius >= 1, got l0:0.5, which changes nothing"),
        ("--model a --threat linf:0", "threat must have a radius > 0, got linf:0, which changes nothing"),
        ("--model a --threat linf:-1", "threat must be NORM:RADIUS such as linf:0.2"),
        ("--model a --scheme minmax", "threats must be at least one for kind minmax, got none"),
        ("--model a --scheme natural --threat l2:1", "threats must be empty for kind natural, got 1"),
        (f"--model a --scheme single {TWO}", "threats must be exactly one for kind single, got 2"),
        (f"--model a --scheme madry {TWO}", "'madry' is not one of 'natural', 'single', 'average', 'minmax'"),
        (f"--model a --scheme average --beta 0.1 {TWO}", "rule must be None unless kind is minmax"),
        (f"--model a --dpar -1 {TWO}", "dpar must be >= 0, got -1.0"),
        ("--model a --dpar 0.1 --threat l2:1", "dpar must be 0 unless two or more attacks can differ"),
        (f"--model a --scheme msd --persist all {TWO}", "persist must be 'none' unless kind is one of single, average"),
        (f"--model a --scheme ramp --dpar 0.1 {TWO}", "dpar must be 0 for kind ramp, got 0.1"),
        (f"--model a --pairing 1 {TWO}", "pairing must be left out unless kind is ramp, got 1.0 with kind 'minmax'"),
        (f"--model OWN:no_second --dpar 0.1 {TWO}", "dpar must be 0 for this model, which has no second derivatives"),
        (f"--model OWN:wide {TWO}", "model must take inputs of shape (2, 1, 8, 8), got an error: mat1 and mat2"),
        (f"--model OWN:few {TWO}", "data must hold labels from 0 to 2, the model's classes, got 0 to 9"),
        (f"--model OWN:endless {TWO}", "model must return finite logits"),
        (f"--model OWN:frozen {TWO}", "model must have parameters that require gradients, got none"),
        (f"--model OWN:missing {TWO}", "has no missing"),
        (f"--model nonesuch {TWO}", "arch"),
        (TWO, "model must name an architecture or code of your own, or from a trained model, got neither"),
        (f"--from nowhere.safetensors {TWO}", "nowhere.safetensors"),
        (f"--model c --from digits/a {TWO}", "from must be a model of the same network, got digits/a"),
        (f"--model a --epochs 0 {TWO}", "epochs must be >= 1, got 0"),
        (f"--model a --lr 0 {TWO}", "lr must be > 0, got 0.0"),
        (f"--model a --images 1297 {TWO}", "images must be at most 1097, the train split less 200 for validation"),
        (f"--model a --validation 0 --patience 2 {TWO}", "validation must be >= 1 with patience 2, got 0"),
        (f"--model a --validation 1297 {TWO}", "validation must leave images to train on, got 1297 of 1297"),
        (f"--model a --devices 0 {TWO}", "processes must be >= 1"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(digits, tmp_path, capsys, given, message):
    (tmp_path / "own.py").write_text(OWN)
    given = given.replace("OWN", f"{tmp_path}/own.py")
    code, out, err = run(capsys, f"train --data digits {given} --test-images 0 --out {tmp_path}/run")
    assert (code, out) == (2, ""), err
    assert message in err and err.count("\n") == 1 and err.startswith("omnirobust: ")
    assert not (tmp_path / "run").exists()


def test_the_folder_of_another_training_is_left_alone(digits, tmp_path, capsys):
    line = f"train --data digits --model a {TWO} --dpar 0.2 --epochs 1 {SMALL} --out {tmp_path}/run"
    run(capsys, line)
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir() if file.is_file()}
    for other in (
        "--seed 1",
        "--dpar 0.1",
        "--dpar-warmup 1",
        "--compile",
        "--lr 0.01",
        "--images 64",
        "--tensorboard --steps 3",
    ):
        code, out, err = run(capsys, f"{line} {other}")
        assert (code, out) == (2, "") and err.count("\n") == 1
        assert "out must be a new folder or that of a run with the same settings" in err
    assert {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir() if file.is_file()} == before


def test_a_loss_that_is_nan_ends_with_one_sentence_and_the_last_good_network(digits, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    code, _, err = run(
        capsys, f"train --data digits --model c {TWO} --epochs 40 --optimizer sgd --lr 1e18 {SMALL} --out {folder}"
    )
    assert code == 2 and err.count("\n") == 1
    assert "The loss became" in err or "NaN or infinite logits" in err, err
    assert "try a smaller learning rate" in err
    assert not (folder / "metrics.json").exists()
    if (folder / "model.safetensors").exists():
        assert all(value.isfinite().all() for value in weights(folder).values())
    assert isinstance(zoo.load("digits/c"), nn.Module)
