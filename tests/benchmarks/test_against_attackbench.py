"""What AttackBench finds is kept part by part and put together as it would give it; its counts outlive our calls."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    yield importlib.import_module("against_attackbench")
    sys.modules.pop("against_attackbench", None)


class Bench(nn.Module):
    """Counts as AttackBench's wrapper does: in place, in tensors that are no buffers."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        self.num_forwards, self.num_backwards = torch.zeros(rows).long(), torch.zeros(rows).long()
        self.min_dist = {"l2": torch.full((rows,), torch.inf)}

    def forward(self, x: Tensor) -> Tensor:
        self.num_forwards[0] += len(x)
        self.min_dist["l2"][0] = len(x)
        return self.model(x)


def test_counts_in_place_outlive_the_calls_of_our_search(script: ModuleType) -> None:
    torch.manual_seed(0)
    bench, x = Bench(4), torch.rand(4, 1, 4, 4)
    y = bench.model(x).argmax(1)
    moved = script.ours(bench, x, y, "l2", steps=5)
    assert int(bench.num_forwards[0]) > 4 * 8 and float(bench.min_dist["l2"][0]) < float("inf")
    assert float(moved.min()) >= 0 and float(moved.max()) <= 1


def cell(*sizes: float) -> dict[str, Any]:
    ones = [1] * len(sizes)
    return {
        "correct": [True] * len(sizes), "num_forwards": ones, "num_backwards": ones, "times": [0.5],
        "box_failures": [False] * len(sizes), "batch_failures": [False], "distances": list(sizes), "final": list(sizes),
    }  # fmt: skip


def test_parts_are_joined_in_order_and_only_those_that_all_attacks_have(script: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    for key, found in {
        "mnist/c/l2/adv_lib/fmn/1000-1001": cell(0.3, 0.4),
        "mnist/c/l2/adv_lib/fmn/980-999": cell(0.1, 0.2),
        "mnist/c/l2/adv_lib/fmn/1002-1002": cell(0.5),
        "mnist/c/l2/omnirobust, 50 steps/980-999": cell(0.6, 0.7),
        "mnist/c/l2/omnirobust, 50 steps/1000-1001": cell(0.8, 0.9),
    }.items():
        script.note(file, key, found)
    whole = script.joined(script.read(file))
    assert list(whole) == [("mnist/c", "l2")]
    fmn, ours = (whole["mnist/c", "l2"][name] for name in ("adv_lib/fmn", "omnirobust, 50 steps"))
    assert fmn["distances"]["l2"] == [0.1, 0.2, 0.3, 0.4] and ours["distances"]["l2"] == [0.6, 0.7, 0.8, 0.9]
    assert fmn["times"] == [0.5, 0.5]


def test_what_is_there_is_not_attacked_again(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[int] = []

    def measured(model: nn.Module, x: Tensor, y: Tensor, attack: object, norm: str) -> dict[str, Any]:
        asked.append(len(x))
        return cell(*[1.0] * len(x))

    class Found:
        x, y = torch.rand(25, 1, 4, 4), torch.zeros(25).long()

    monkeypatch.setattr(script, "measured", measured)
    monkeypatch.setattr(script.zoo, "load_model", lambda name: nn.Flatten())
    monkeypatch.setattr(script.data, "load", lambda *given, **more: Found)
    for _ in range(2):
        script.run(["mnist/c"], ["l2"], 25, 0, ["omnirobust, 50 steps"], tmp_path / "found.json")
    assert asked == [20, 5]
