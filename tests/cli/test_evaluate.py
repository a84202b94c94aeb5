from __future__ import annotations

import json
import sys

import pytest

from omnirobust.cli import arguments, main
from omnirobust.jobs import EvaluationRecord


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
