"""Files that hold code are refused in a sentence whose three lines, in a file of one's own, load them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import omnirobust as orb
from omnirobust import zoo
from omnirobust.jobs.names import load_models

X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()


def exported(path: Path) -> None:
    sizes = {"input": {0: torch.export.Dim("n")}}
    torch.export.save(torch.export.export(net(), (X,), dynamic_shapes=sizes), path)


def scripted(path: Path) -> None:
    torch.jit.script(net()).save(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "write"), [("n.pt2", exported), ("n.pt", scripted), ("n.pth", scripted), ("n.ts", scripted)]
)
def test_the_three_lines_of_the_sentence_load_it(
    tmp_path, monkeypatch, name: str, write: Callable[[Path], Tensor]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path(name))
    with pytest.raises(ValueError, match=rf"^source must be safetensors files, got {name}, .* can run code") as refused:
        zoo.load_model(name)
    lines = re.findall(r"'(import torch|def net\(\):| {4}return .*?\))'", str(refused.value))
    assert len(lines) == 3
    Path("FILE.py").write_text("\n".join(lines))
    (found,) = load_models(("FILE.py:net",), "digits").values()
    assert torch.allclose(found(X), net()(X), atol=1e-6)
    result = orb.attack_ensemble({"n": found}, X, net()(X).argmax(1), orb.Linf(0.1), steps=3)
    assert torch.equal(result.fooled[:, 0], net()(result.adversarial).argmax(1) != net()(X).argmax(1))


def test_a_function_may_return_the_program_itself(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    exported(Path("n.pt2"))
    Path("FILE.py").write_text("import torch\ndef net(): return torch.export.load('n.pt2')")
    assert torch.allclose(zoo.load_model("FILE.py:net")(X), net()(X), atol=1e-6)


def test_a_file_of_weights_alone_is_told_how_to_be_saved(tmp_path) -> None:
    torch.save(net().state_dict(), tmp_path / "n.pt")
    (tmp_path / "m.pt").write_bytes(b"no archive")
    for name in ("n.pt", "m.pt", "nowhere.pt"):
        with pytest.raises(ValueError, match=r"save the model's state_dict with safetensors.torch.save_file$"):
            zoo.load_model(f"{tmp_path}/{name}")
