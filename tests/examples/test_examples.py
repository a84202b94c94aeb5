"""The examples run, and print and draw what they say."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the names in their annotations
    spec.loader.exec_module(module)
    return module


def test_universal(digits, capsys) -> None:
    command = "--model digits/a --eps 0.3 --train 300 --test 200 --epochs 4 --threads 1"
    script("universal").main(command.split())
    rows = [re.split(r"\s*\|\s*", line)[1:-1] for line in capsys.readouterr().out.splitlines()[3:]]
    assert [row[0] for row in rows][:2] == ["no perturbation", "uSGD (Shafahi et al.)"]
    fooled = {row[0]: (float(row[1]), float(row[2])) for row in rows}
    assert all(0 <= worst <= mean <= 100 for mean, worst in fooled.values())
    assert fooled["average over images"][0] > fooled["no perturbation"][0] + 20


def test_patch(digits, tmp_path, capsys) -> None:
    patch = script("patch")
    command = f"--models digits/a digits/c --side 3 --train 200 --test 60 --epochs 2 --threads 1 --out {tmp_path}"
    patch.main(command.split())
    out = capsys.readouterr().out
    rows = [re.split(r"\s*\|\s*", line)[1:-1] for line in out.splitlines() if line.startswith("| ")]
    assert rows[0] == ["view", "grey square", "no views", "average of views", "min-max over views"]
    assert [row[0] for row in rows[1:-1]] == list(patch.VIEWS)
    assert all(0 <= float(value) <= 100 for row in rows[1:] for value in row[1:])
    weights = [float(w) for w in re.findall(r"^weight (\S+)", out, re.MULTILINE)]
    assert sum(weights) == pytest.approx(1, abs=0.03)
    with Image.open(tmp_path / "patch.png") as printed:
        assert printed.size == (591, 591)  # 5 cm at 300 dots an inch
        assert printed.info["dpi"][0] == pytest.approx(300, abs=1)
        assert len(printed.getcolors() or ()) <= 9
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert min(sheet.size) > 400


def test_the_square_holds_the_learned_colours_on_every_image(digits) -> None:
    patch = script("patch")
    mask = patch.square((1, 8, 8), 3)
    assert mask.sum() == 9 and not mask[0, -1].any() and not mask[0, :, -1].any() and mask[0, 4, 4]
    model, x = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), torch.rand(40, 1, 8, 8)
    y = torch.arange(40) % 10
    found = patch.learn({"m": model}, x.masked_fill(mask, 0.5), y, mask, 1, 3)["no views"]
    seen = found.apply(x.masked_fill(mask, 0.5))
    assert torch.equal(seen[:, :, mask[0]], seen[:1, :, mask[0]].expand(40, -1, -1))
    assert torch.equal(seen[:, :, ~mask[0]], x[:, :, ~mask[0]])


def test_a_target_is_left_out_of_the_score(digits, tmp_path, capsys) -> None:
    command = f"--models digits/a --side 3 --train 100 --test 60 --epochs 1 --threads 1 --target 8 --out {tmp_path}"
    script("patch").main(command.split())
    grey = float(next(line for line in capsys.readouterr().out.splitlines() if "as is" in line).split("|")[2])
    assert grey < 50  # of images of other classes, a grey square makes few look like eights


def test_photographs_says_what_is_missing(monkeypatch) -> None:
    example = script("photographs")
    monkeypatch.setattr(example, "PACKAGES", {"torch": "torch", "no_such_package_at_all": "no-such-package==0.1.0"})
    with pytest.raises(SystemExit) as left:
        example.main([])
    assert left.value.code == "this example needs 1 more package: pip install --no-deps no-such-package==0.1.0"


def test_photographs(monkeypatch, tmp_path, capsys) -> None:
    example = script("photographs")
    g = torch.Generator().manual_seed(0)
    x = torch.rand(3, 3, 26, 26, generator=g)
    nets = {}
    for k, name in enumerate(example.SIDES):
        torch.manual_seed(k)
        nets[name] = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 5, stride=4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 6)
        )
    y = torch.tensor([0, 1, 2])
    for name, value in (("PACKAGES", {}), ("FRAME", 26), ("networks", lambda: nets), ("photographs", lambda n: (x, y))):
        monkeypatch.setattr(example, name, value)
    command = ["--steps", "2", "--out", str(tmp_path)]
    example.main(command)
    first = capsys.readouterr().out
    tables = dict(re.findall(r"^([a-z-]+) \(\d+ s of processor time\)\n\n((?:\|.*\n)+)", first, re.MULTILINE))
    assert list(tables) == list(example.PARTS)
    assert len(tables["smallest"].splitlines()) == 5
    rows = [line.split(" | ") for line in tables["targeted"].splitlines()[2:]]
    folder = tmp_path / "3-photographs-2-steps-fp32"
    for row, eps, rule in zip(rows, (1, 1, 2, 2), ("average", "min-max") * 2, strict=True):
        found = example.load_file(folder / f"targeted-{eps}-{rule}.safetensors")["x"]
        assert (found - x).abs().max() <= eps / 255 + 1e-6
        with torch.no_grad():
            hit = torch.stack([net(found).argmax(1) == y.roll(-1) for net in nets.values()])
        assert [int(n.strip(" |")) for n in row[1:]] == [*hit.sum(1).tolist(), int(hit.all(0).sum())]
    assert Image.open(folder / "patch-min-max.png").size == (590, 590)
    assert first.splitlines()[-1] == f"results: {folder}"
    nets.clear()  # nothing is attacked again
    example.main(command)
    told = [line for line in first.splitlines() if "100%" not in line]
    assert capsys.readouterr().out.splitlines() == told
