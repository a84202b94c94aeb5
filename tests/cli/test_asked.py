"""Models that only answer on the command line, from one's own file: objects and functions that return one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omnirobust.cli import main

OWN = """
import omnirobust as orb

class Service:
    asked = 0

    def __call__(self, batch):
        self.asked += len(batch)
        return 8 - batch.flatten(1).sum(1).clamp(0, 20).div(2.5).floor()

labels = orb.BlackBox(Service(), output="labels")

def made():
    return labels

def other():
    return "no model"
"""


def test_a_file_of_ones_own_may_hold_a_model_that_says_labels(
    digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    attack = "attack ensemble --data digits --norm linf --eps 0.3 --images 3 --labels predicted --queries 15"
    with pytest.raises(SystemExit) as stopped:
        main([*attack.split(), "--models", "own.py:labels", "c", "--out", "run"])
    assert not stopped.value.code, capsys.readouterr().err
    told = json.loads(Path("run/config.json").read_text())
    assert told["queries"] == 15 and told["attack"]["direction"].startswith("Rays")
    assert set(json.loads(Path("run/metrics.json").read_text())["attacks"]["min-max"]["accuracy"]) == {"labels", "c"}
    for name, says in (("made", "models must have gradients to be evaluated"), ("other", "got str from own.py:other")):
        with pytest.raises(SystemExit) as stopped:
            main(["evaluate", "--data", "digits", "--threat", "linf:0.05", "--models", f"own.py:{name}", "--out", name])
        assert stopped.value.code == 2 and says in capsys.readouterr().err
