"""Tables, signals and bands from the command line, with ranges, units and what may change for each feature."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import load_file, save_file

from omnirobust.cli import arguments, main
from omnirobust.core.threat_models import ThreatModel
from omnirobust.jobs import AttackRecord

NETS = """
import torch
from torch import nn

torch.manual_seed(0)

class Units(nn.Module):
    def forward(self, x):
        return x / torch.tensor([1.0, 100.0, 10.0])

def table():
    return nn.Sequential(Units(), nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))

def signal():
    return nn.Sequential(nn.Conv1d(1, 4, 5, padding=2), nn.ReLU(), nn.AdaptiveAvgPool1d(4), nn.Flatten(),
                         nn.Linear(16, 2))

def bands():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 2))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split, rows in (("train", 40), ("test", 12)):
        x = rng.uniform(0, 1, (rows, 3)) * [1, 100, 10]
        columns = {"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "kind": np.where(x[:, 0] * 100 > x[:, 1], "low", "up")}
        parquet.write_table(pa.table(columns), f"{split}.parquet")
    Path("nets.py").write_text(NETS)
    Path("scale.csv").write_text("c,b,a\n10,100,1\n")
    Path("ranges.csv").write_text("a,b,c\n0,0,-inf\n1,100,inf\n")
    Path("may.csv").write_text("a,b,c\n1,1,0\n")
    return tmp_path


TABLE = ["--data", "{split}.parquet", "--label", "kind", "--bounds", "ranges.csv", "--scale", "scale.csv"]


def run(capsys, *words: str) -> str:
    code = ended(*words)
    told = capsys.readouterr()
    assert code == 0, told.err
    return told.out


def ended(*words: str) -> object:
    with pytest.raises(SystemExit) as caught:
        main([*words])
    return caught.value.code


def test_a_table_is_trained_on_attacked_and_judged(here: Path, capsys) -> None:
    trained = [*TABLE, "--model", "nets.py:table", "--threat", "linf:0.05", "--epochs", "2", "--validation", "10"]
    run(capsys, "train", *trained, "--steps", "2", "--test-steps", "3", "--test-images", "12", "--out", "trained")
    model = ["--models", "trained:nets.py:table"]
    run(capsys, "evaluate", *TABLE, *model, "--threat", "linf:0.05", "--steps", "3", "--out", "judged")
    attack = ["attack", "ensemble", *TABLE, *model, "--mask", "may.csv", "--norm", "l2", "--eps", "0.3", "--steps", "5"]
    run(capsys, *attack, "--out", "attacked")
    record = AttackRecord.open("attacked")
    saved, scale = record.perturbations, torch.tensor([1.0, 100.0, 10.0])
    delta = saved["min-max.delta"]
    assert not bool(delta[:, 2].any()) and bool(delta[:, :2].any())
    u = torch.linalg.vector_norm(delta / scale, dim=1)
    assert float(u.max()) <= 0.3 * (1 + 1e-5) and bool((saved["min-max.adversarial"][:, :2] >= 0).all())
    held = load_file("attacked/threats.safetensors")
    assert held["threat.scale"].tolist() == [1, 100, 10] and held["threat.mask"].tolist() == [True, True, False]
    assert held["threat.upper"].tolist() == [1.0, 100.0, float("inf")]
    told = json.loads(Path("attacked/config.json").read_text())["attack"]  # json of the strict kind: no Infinity
    assert told["bounds"][0]["least"] == "-inf" and told["mask"] == 2
    assert "Infinity" not in Path("attacked/config.json").read_text()
    assert Path("attacked/report.html").read_text().count("data:image/png") > 3
    assert record.metrics["attacks"]["min-max"]["recheck"]["asr_all_uint8"] is None
    assert record.metrics["attacks"]["min-max"]["recheck"]["feasible"] == 1.0
    run(capsys, *attack, "--out", "attacked")  # the same again: nothing to do
    Path("may.csv").write_text("a,b,c\n1,0,1\n")  # as many, others
    assert ended(*attack, "--out", "attacked") == 2
    assert "made with attack.mask_digest" in capsys.readouterr().err


def test_a_signal_without_ends_and_groups_of_it(here: Path, capsys) -> None:
    x = torch.randn(12, 1, 40)
    save_file({"x": x, "y": (x.mean((1, 2)) > 0).long()}, "signal.safetensors")
    common = ["--data", "signal.safetensors", "--models", "nets.py:signal", "--norm", "linf", "--eps", "0.2"]
    run(capsys, "attack", "ensemble", *common, "--bounds=-inf..inf", "--steps", "4", "--restarts", "2", "--out", "one")
    assert bool((AttackRecord.open("one").perturbations["min-max.delta"].abs() <= 0.2).all())
    assert json.loads(Path("one/config.json").read_text())["attack"]["bounds"] == ["-inf", "inf"]
    shared = [
        "attack",
        "universal",
        *common,
        "--bounds",
        "-inf..inf",
        "--scale",
        "2",
        "--steps",
        "4",
        "--group-size",
        "3",
    ]
    run(capsys, *shared, "--out", "groups")
    assert float(AttackRecord.open("groups").perturbations["min-max.delta"].abs().max()) > 0.2


def test_files_are_of_the_shape_of_the_inputs(here: Path) -> None:
    save_file({"x": torch.rand(4, 3, 2, 2), "y": torch.zeros(4).long()}, "bands.safetensors")
    Path("three.csv").write_text("1,2,3\n")
    np.save("two.npy", np.stack([np.zeros(3), np.ones(3)])[:, :, None, None])
    found = arguments.Features("bands.safetensors", scale="three.csv", bounds="two.npy").threat_model("linf", 0.1)
    assert isinstance(found.scale, torch.Tensor) and tuple(found.scale.shape) == (3, 1, 1)
    assert found.around(torch.rand(4, 3, 2, 2)).shape == (4, 3, 2, 2)
    assert arguments.Features("", bounds="0..255", scale="2").threat_model("l2", 1.0) == ThreatModel(
        2, 1.0, (0.0, 255.0), scale=2.0
    )


def test_l0_counts_values_or_pixels_as_asked(here: Path, capsys) -> None:
    generator = torch.Generator().manual_seed(0)
    save_file({"x": torch.rand(6, 3, 4, 4, generator=generator), "y": torch.arange(6) % 2}, "bands.safetensors")
    model = ["--data", "bands.safetensors", "--models", "nets.py:bands"]
    attack = ["attack", "ensemble", *model, "--norm", "l0", "--eps", "2", "--steps", "8"]
    run(capsys, *attack, "--unit", "pixel", "--out", "pixels")
    run(capsys, *attack, "--out", "values")
    moved = {name: AttackRecord.open(name).perturbations["min-max.delta"] != 0 for name in ("pixels", "values")}
    assert int(moved["pixels"].any(1).flatten(1).sum(1).max()) == 2
    assert int(moved["pixels"].flatten(1).sum(1).max()) > 2
    assert int(moved["values"].flatten(1).sum(1).max()) == 2
    assert json.loads(Path("pixels/config.json").read_text())["attack"]["unit"] == "pixel"
    threats = arguments.threats(["l0:2", "linf:0.1"], arguments.Features("bands.safetensors", unit="pixel"))
    assert [threat.unit for threat in threats.values()] == ["pixel", "value"]
    run(capsys, "evaluate", *model, "--threat", "l0:1", "--threat", "linf:0.1", "--unit", "pixel", "--steps", "2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--unit", "pixel"], "unit must be 'value' unless p is 0, which counts, got 'pixel' with p inf"),
        (["--scale", "0"], "scale must be finite and > 0, got 0"),
        (["--scale", "none.csv"], "scale must be a number, or a file .csv, .npy or .safetensors that exists"),
        (["--bounds", "1..0"], "bounds must be (lo, hi) with lo < hi, got (1.0, 0.0)"),
        (["--bounds", "may.csv"], "bounds must be a file of 2 rows, got 1 in may.csv"),
        (["--mask", "scale.csv"], "mask must be a file of 1 and 0, got other numbers in scale.csv"),
        (["--scale", "four.csv"], "scale must have as many values as inputs of shape (3,) have: 3, one a value, got 4"),
        (["--norm", "l0"], "bounds must be finite for l0"),
        (["--preset", "paper"], "preset='paper' needs one finite width for the range of all features"),
        (["--models", "a"], "models must be"),
    ],
)
def test_what_does_not_fit_is_one_sentence(here: Path, capsys, words, message) -> None:
    Path("four.csv").write_text("1,2,3,4\n")
    plain = ["attack", "ensemble", *TABLE, "--models", "nets.py:table", "--norm", "linf", "--eps", "0.1"]
    assert ended(*plain, *words) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_the_options_name_files_from_anywhere(here: Path, capsys) -> None:
    attack = [
        "attack",
        "ensemble",
        *TABLE,
        "--models",
        "nets.py:table",
        "--norm",
        "linf",
        "--eps",
        "0.1",
        "--steps",
        "2",
    ]
    run(capsys, *attack, "--out", "one")
    kept = Path("one/config.yaml").read_text()
    for name in ("{split}.parquet", "ranges.csv", "scale.csv"):
        assert str(here / name) in kept
