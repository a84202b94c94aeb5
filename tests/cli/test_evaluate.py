from __future__ import annotations

import json
import sys

import pytest
import torch

from omnirobust.cli import arguments, main
from omnirobust.jobs import AttackRecord, EvaluationRecord
from omnirobust.zoo import data


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main([word for argument in arguments for word in argument.split()])
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


def test_an_evaluation_from_the_command_line(digits, tmp_path, capsys):
    code, out, err = run(
        capsys, "evaluate --data digits --model c a --threat linf:0.06 l2:0.3 --steps 3 --images 8 --seed 2",
        f"--restarts 2 --batch-size 4 --precision bf16 --start 5 --out {tmp_path}/run",
    )  # fmt: skip
    assert (code, err) == (0, "")
    record = EvaluationRecord.open(tmp_path / "run")
    for name in ("c", "a"):
        found = record.metrics["models"][name]
        for rate in (found["clean"], found["union"], *found["accuracy"].values()):
            assert f"{100 * rate['estimate']:.2f}" in out
    assert "Union of a against c" in out and f"Report:  {tmp_path}/run/report.html" in out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert list(config["threats"]) == ["linf:0.06", "l2:0.3"]
    keys = ("steps", "restarts", "seed", "batch_size", "precision", "attacks")
    assert [config[key] for key in keys] == [3, 2, 2, 4, "bf16", "default"]
    assert config["data"]["start"] == 5 and config["data"]["images"] == 8


def test_the_page_can_be_written_again(digits, tmp_path, capsys):
    run(capsys, f"evaluate --data digits --model c --threat l0:1 --steps 2 --images 4 --out {tmp_path}/run")
    first = (tmp_path / "run" / "report.html").read_text()
    (tmp_path / "run" / "report.html").unlink()
    code, out, _ = run(capsys, f"report {tmp_path}/run")
    assert code == 0 and "report.html" in out and (tmp_path / "run" / "report.html").read_text() == first


def test_autoattack_without_its_package_is_one_sentence(digits, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    code, out, err = run(
        capsys, f"evaluate --data digits --model c --threat l2:1 --attack autoattack --images 4 --out {tmp_path}/run"
    )
    assert (code, out) == (2, "")
    assert err == (
        "omnirobust: attacks='autoattack' needs the package pyautoattack: pip install 'omnirobust[autoattack]'\n"
    )


def test_threats_are_read_as_written():
    found = arguments.threats(["linf:8/255", "l2:2", "l1:1e1", "l0:.5"])
    assert [(t.name, t.eps) for t in found.values()] == [("linf", 8 / 255), ("l2", 2.0), ("l1", 10.0), ("l0", 0.5)]
    assert list(found) == ["linf:8/255", "l2:2", "l1:1e1", "l0:.5"]


def test_the_usual_radii_go_by_a_name():
    found = arguments.threats(["robustbench:cifar10", "l0:5"])
    assert list(found) == ["linf:8/255", "l2:0.5", "l1:12", "l0:5"]
    assert [(t.name, t.eps) for t in found.values()] == [("linf", 8 / 255), ("l2", 0.5), ("l1", 12.0), ("l0", 5.0)]
    of_imagenet = arguments.threats(["robustbench:imagenet"]).values()
    assert [(t.name, t.eps) for t in of_imagenet] == [("linf", 4 / 255), ("l2", 2.0), ("l1", 255.0)]
    with pytest.raises(ValueError, match=r"NORM:RADIUS, robustbench:cifar10, .*, got 'robustbench:mnist'"):
        arguments.threats(["robustbench:mnist"])
    with pytest.raises(ValueError, match=r"threat must be given once each, got l2:0\.5 twice"):
        arguments.threats(["robustbench:cifar10", "l2:0.5"])


@pytest.mark.parametrize("text", ["linf", "linf:", "l3:1", "l2:-1", "l2:a", "l2:1/2/3", "l2:inf", "L2:1"])
def test_threats_that_are_none_are_told(text):
    with pytest.raises(ValueError, match=r"threat must be NORM:RADIUS such as linf:0\.2, l2:2 or linf:8/255, got"):
        arguments.threats([text])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--model c --threat l2:1/0", "threat must have a finite radius, got 'l2:1/0'"),
        ("--model c --threat l2:1 l2:1", "threat must be given once each, got l2:1 twice"),
        ("--model c --threat l2:1 --steps 0", "steps must be >= 1, got 0"),
        ("--model nothing --threat l2:1", "nothing"),
        ("--model c", "Missing option '--threat'"),
        ("--threat l2:1", "Missing option '--model'"),
        ("--model c --threat l2:1 --attack pgd", "'pgd' is not one of 'default', 'autoattack'"),
    ],
)
def test_bad_input_is_one_sentence(digits, tmp_path, capsys, given, message):
    code, out, err = run(capsys, f"evaluate --data digits {given} --out {tmp_path}/run")
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1 and err.startswith("omnirobust: ")


RANDOM = """
import torch
from torch import nn

class Noisy(nn.Module):
    def forward(self, v):
        lead = torch.zeros(len(v), 10)
        lead[:, 0] = 1.0
        return lead + 1e-6 * v.flatten(1).sum(1, keepdim=True) + 0.5 * torch.randn(len(v), 10)

def noisy():
    return Noisy()

def again():
    return Noisy()
"""


def test_a_random_model_from_the_command_line(tmp_path, capsys):
    """Class 0 leads by one, with noise of 0.5 on ten classes: whatever the image and the attack, it keeps 51 %."""
    normal, grid = torch.distributions.Normal(0.0, 0.5), torch.linspace(-4, 4, 8001, dtype=torch.float64)
    truth = float((normal.log_prob(grid).exp() * normal.cdf(grid + 1) ** 9).sum() * 1e-3)
    (tmp_path / "own.py").write_text(RANDOM)
    digits = data.load("digits", "test", limit=160)
    zeros = float((digits.y == 0).float().mean())
    others = (1 - truth) / 9
    clean = zeros * truth + (1 - zeros) * others
    code, out, err = run(
        capsys, f"evaluate --data digits --model {tmp_path}/own.py:noisy --threat linf:0.01 l2:0.1 --steps 1",
        f"--images 160 --batch-size 80 --draws 20 --samples 2 --out {tmp_path}/run",
    )  # fmt: skip
    assert code == 0, err
    (found,) = EvaluationRecord.open(tmp_path / "run").metrics["models"].values()
    for rate in (found["clean"], found["union"], *found["accuracy"].values()):
        assert rate["estimate"] == pytest.approx(clean, abs=0.04) and rate["low"] < clean < rate["high"]
        assert f"{100 * rate['estimate']:.2f}" in out
    assert any("is random" in note and "20 fresh draws" in note for note in found["notes"]) and "is random" in out
    assert "is random" in (tmp_path / "run" / "report.html").read_text()
    table = EvaluationRecord.open(tmp_path / "run").examples
    right = next(values for name, values in table.items() if ".right." in name)
    assert len(right) == 160 and len(set(right)) > 3

    code, out, err = run(
        capsys, f"attack ensemble --data digits --models {tmp_path}/own.py:noisy --norm linf --eps 0.01 --steps 2",
        f"--images 160 --draws 20 --transfer {tmp_path}/own.py:again --out {tmp_path}/attack",
    )  # fmt: skip
    assert code == 0 and "is random" in out, err
    metrics = AttackRecord.open(tmp_path / "attack").metrics
    attack = metrics["attacks"]["average"]
    of_transfer = {"transfer_accuracy": attack, "clean_accuracy": metrics}
    for what, names in (("clean_accuracy", ["noisy", "again"]), ("transfer_accuracy", ["again"])):
        rates, between = of_transfer[what][what], of_transfer[what][f"{what}_interval"]
        for name in names:
            assert rates[name] == pytest.approx(clean, abs=0.04) and between[name][0] < clean < between[name][1]
            assert len({rates[name], between[name][0], between[name][1]}) == 3
    of_again = 100 * metrics["clean_accuracy"]["again"]
    said = " ".join(out.split())
    assert f"Accuracy of again, which is random, is a mean over fresh draws: {of_again:.2f} % clean" in said
    assert attack["asr_avg"] == pytest.approx(1 - zeros * truth - (1 - zeros) * others, abs=0.03)
    assert abs(attack["recheck"]["asr_all"] - attack["asr_all"]) < 0.1
