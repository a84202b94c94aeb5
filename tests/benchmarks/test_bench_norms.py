"""The comparison of trainings counts what a network counts, and its page says what its cells say."""

from __future__ import annotations

import importlib
import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from omnirobust.core.threat_models import L2, Linf
from omnirobust.evaluation import evaluate_robustness
from omnirobust.evaluation.suite import STRONG
from omnirobust.training import fit
from omnirobust.zoo import data

BOTH = (Linf(0.1), L2(0.5))
NAMES = ("average", "worst (MAX)", "min-max", "min-max, carried", "max, carried", "max, anew", "MSD", "E-AT", "RAMP")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, ModuleType]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    found = {name: importlib.import_module(name) for name in ("norms_setting", "norms_page", "bench_norms")}
    monkeypatch.setattr(found["norms_setting"], "FILE", tmp_path / "norms.json")
    yield found
    for name in found:
        sys.modules.pop(name, None)


class Counted(nn.Module):
    """A small network that counts the rows whose gradients are asked for, and the others."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
        self.gradients = self.forwards = 0

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.gradients += len(x)
        else:
            self.forwards += len(x)
        return self.inner(x)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_what_an_epoch_costs_is_counted(modules: dict[str, ModuleType], name: str, ratio: float) -> None:
    setting, g = modules["norms_setting"], torch.Generator().manual_seed(0)
    x, y = torch.rand(12, 1, 4, 4, generator=g), torch.arange(12) % 3
    scheme, counts = setting.rows(BOTH, ratio)[name], []
    for epochs in (1, 2):  # what a training asks besides its epochs drops out of the difference
        model = Counted()
        fit(model, (x, y), scheme, epochs=epochs, batch_size=5)
        counts.append((model.gradients, model.forwards))
    each = tuple((two - one) / len(x) for one, two in zip(*counts, strict=True))
    assert each == setting.cost(scheme)


def test_every_row_is_there_and_epochs_spend_alike(modules: dict[str, ModuleType]) -> None:
    setting = modules["norms_setting"]
    schemes = setting.rows(BOTH, 0.5)
    assert tuple(schemes) == NAMES
    for scheme in schemes.values():
        spent = setting.epochs_of(scheme, 201) * setting.cost(scheme)[0]
        assert abs(spent - 201) <= setting.cost(scheme)[0] / 2


def test_cells_are_measured_once_and_curves_followed(
    modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    setting, bench, page = (modules[name] for name in ("norms_setting", "bench_norms", "norms_page"))
    tiny = setting.Setting(
        "tiny", "digits", 6, 40, 20, 24, 6, BOTH, lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 10))
    )
    monkeypatch.setattr(setting, "SETTINGS", {"tiny": tiny})
    for module in (bench, page):
        monkeypatch.setattr(module, "SETTINGS", setting.SETTINGS)
    monkeypatch.setattr(bench, "CHOICES", dict(list(bench.CHOICES.items())[:1]))
    monkeypatch.setattr(bench, "MARKS", (9, 14, 90))
    weak = partial(evaluate_robustness, attacks=STRONG[:1])
    monkeypatch.setattr(bench, "evaluate_robustness", lambda *part, **_: weak(*part, steps=2))
    monkeypatch.setattr(setting.Setting, "part", _digits)
    bench.measure(tmp_path, ["tiny"], range(1), 0.5)
    cells = setting.read()
    assert sorted(cells) == sorted(f"tiny/0.5/{name}/{seed}" for name in NAMES for seed in (0,))
    for cell in cells.values():
        assert cell["union"] == pytest.approx(cell["right"].count("1") / 6, abs=1e-4) and len(cell["right"]) == 6
    monkeypatch.setattr(bench, "fit", None)  # what is there is not measured again
    bench.measure(tmp_path, ["tiny"], range(1), 0.5)
    monkeypatch.setattr(bench, "fit", fit)
    bench.cost_to_level(["tiny"], range(1), 14)
    bench.choose("tiny", range(1), 0.5)
    curve = setting.read()["cost/tiny/min-max, 2 carried/0"]["curve"]
    assert sorted(map(int, curve)) == [7, 14]  # 7 gradients an epoch: the ends of epochs not beyond 9 and 14
    text = page.page()
    assert text.count("| not measured |") == len(NAMES) and "Gradients to a level: tiny" in text


def _digits(self, split: str, start: int, count: int) -> tuple[Tensor, Tensor]:
    found = data.load("digits", split, limit=count)
    return found.x[..., 1:7, 1:7].contiguous(), found.y


def test_the_page_says_what_the_cells_say(modules: dict[str, ModuleType]) -> None:
    setting, page = modules["norms_setting"], modules["norms_page"].page
    for seed, (one, other) in enumerate((("1100", "1110"), ("1000", "1100"))):
        setting.note(f"mlp/0.5/average/{seed}", {"clean": 0.9, "union": 0.4, "right": one})
        setting.note(f"mlp/0.5/min-max, carried/{seed}", {"clean": 0.8, "union": 0.6, "right": other})
    setting.note("mlp/0.5/average/0", {"autoattack": "10"})
    setting.note("mlp/0.5/average/0", {"epochs": 4})
    setting.note("cost/mlp/min-max, 2 carried/0", {"curve": {"28": 0.2, "56": 0.41, "98": 0.39}})
    text = page()
    row = next(line for line in text.splitlines() if line.startswith("| average |"))
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[:6] == ["average", "10", "23 + 0", "4", "2", "90.0"]
    assert cells[6].startswith("37.5 (") and cells[7].startswith("-25.0 (") and cells[8].startswith("50.0 (")
    assert "| min-max, 2 carried | 0 | 40.0 | 92 | 56 | 0.61 | 28: 20.0, 56: 41.0, 98: 39.0 |" in text
    assert json.loads(setting.FILE.read_text())["mlp/0.5/average/0"]["autoattack"] == "10"
    assert page() == text
