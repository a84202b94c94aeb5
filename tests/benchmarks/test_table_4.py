"""The longer trainings of Table 4: the interval against SciPy's, and a training that stops at a mark and goes on."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

from omnirobust.training import FitResult, fit
from omnirobust.zoo import data


@pytest.fixture
def table_4(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    module = importlib.import_module("table_4")
    monkeypatch.setattr(module, "FILE", tmp_path / "table_4.json")
    yield module
    sys.modules.pop("table_4", None)


def test_the_interval_is_student_s_over_paired_seeds(table_4: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    levels = 0.5 + 0.02 * np.random.default_rng(0).random((2, 3))
    columns = ("clean", "pgd max", "pgd avg", "strong max", "strong avg")
    table_4.FILE.write_text(
        json.dumps(
            {
                f"{kind}/{seed}/5": dict.fromkeys(columns, levels[k, seed]) | {"core seconds since the last mark": 600}
                for k, kind in enumerate(table_4.KINDS)
                for seed in table_4.SEEDS
            }
            | {"average/0/10": dict.fromkeys(columns, 0.5) | {"core seconds since the last mark": 0}}
        )
    )
    table_4.table()
    out = capsys.readouterr().out
    leads = 100 * (levels[1] - levels[0])
    low, high = stats.t.interval(0.95, 2, leads.mean(), stats.sem(leads))
    assert f"{leads.mean():+.2f} ({low:+.2f} to {high:+.2f}; seeds" in out
    assert out.count("| 5 |") == 5 and "| 10 |" not in out  # one of the pair alone is no pair
    assert "1.0 core hours" in out


def test_all_networks_reach_a_mark_and_go_on_from_it(
    table_4: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = {split: data.load("digits", split, limit=600) for split in ("train", "test")}
    asked = []

    def plain(*given: Any, compile: bool, **more: Any) -> FitResult:  # noqa: A002
        asked.append((compile, more["epochs"]))
        return fit(*given, **more)

    def shares(model: Any, test: data.ImageData) -> dict[str, float]:
        return {"clean": float((model(test.x).argmax(1) == test.y).double().mean())}

    for name, value in {"SEEDS": (0,), "MARKS": (1,), "STEPS": 1, "fit": plain, "judged": shares}.items():
        monkeypatch.setattr(table_4, name, value)
    monkeypatch.setattr(table_4.data, "load", lambda name, split: digits[split])
    table_4.train(1.0, tmp_path / "runs")
    first = json.loads(table_4.FILE.read_text())
    assert sorted(first) == ["average/0/1", "minmax/0/1"]
    monkeypatch.setattr(table_4, "MARKS", (1, 3))
    table_4.train(1.0, tmp_path / "runs")
    found = json.loads(table_4.FILE.read_text())
    assert sorted(found) == [f"{kind}/0/{mark}" for kind in table_4.KINDS for mark in (1, 3)]
    assert all(found[f"{kind}/0/3"]["clean"] > found[f"{kind}/0/1"]["clean"] for kind in table_4.KINDS)
    assert asked == [(True, 1)] * 2 + [(True, 3)] * 2
    table_4.train(1.0, tmp_path / "none")  # all is there: nothing is trained
    assert len(asked) == 4
