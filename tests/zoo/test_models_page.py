"""What the page on models shows runs as it stands there, and its table is counted."""

import re
from pathlib import Path

import pytest
import torch

import omnirobust as orb
from omnirobust import zoo

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_piece_of_the_page_on_models_runs(timm, digits, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    pieces = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    files = {name: piece for piece in pieces for name in re.findall(r"\A# (\w+\.py)\n", piece)}
    assert list(files) == ["my_net.py", "my_models.py"]
    for name, piece in files.items():
        Path(name).write_text(piece)
    pieces = [piece for piece in pieces if piece not in files.values()]
    assert len(pieces) == 11
    space: dict[str, object] = {"orb": orb}
    for piece in pieces:
        exec(compile(piece, "models.md", "exec"), space)
    assert space["attacked"].shape == (20, 1, 8, 8) and space["success"].shape == (2, 20)  # type: ignore[attr-defined]
    assert space["both"].names == ("8 pixels", "28 pixels")  # type: ignore[attr-defined]
    assert space["result"].names == ("asked", "c")  # type: ignore[attr-defined]
    forest, felled = space["forest"], space["felled"]
    said = forest.predict(felled.adversarial.flatten(1).numpy())  # type: ignore[attr-defined]
    assert torch.equal(felled.fooled[:, 0], torch.from_numpy(said) != space["images"].y)  # type: ignore[attr-defined]
    assert len(space["moved"]) == 20  # type: ignore[arg-type]
    assert "True" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("letter", "abcdefgh")
def test_the_table_counts_parameters(letter: str) -> None:
    (printed,) = re.findall(rf"^\| {letter.upper()} \|.*\| ([\d,]+) \|$", PAGE, re.MULTILINE)
    assert sum(p.numel() for p in zoo.build(letter, (3, 32, 32), 10).parameters()) == int(printed.replace(",", ""))


def test_every_kind_of_string_is_on_the_page() -> None:
    for kind in ("timm:NAME", "hf:ORG/NAME", "FILE.py:NAME", "package.module:NAME", "FILE.safetensors:ARCHITECTURE",
                 "FILE.onnx", "FILE.onnx:queries", "rb:NAME"):  # fmt: skip
        assert f"`{kind}`" in PAGE
