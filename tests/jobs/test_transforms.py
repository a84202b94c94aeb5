import pytest
import torch

from omnirobust.domains.transforms import PAPER_STOCHASTIC, Chain, Rotate
from omnirobust.jobs.transforms import describe_transforms, load_transforms

OWN = """
import torch
class Invert(torch.nn.Module):
    def forward(self, x):
        return 1 - x
def shift(x, generator):
    return x + 0.1 * torch.rand(len(x), 1, 1, 1, generator=generator)
invert = Invert()
number = 3
"""


def test_names_of_the_library_and_sets_of_the_paper():
    found = load_transforms(["rot:-30..30", "noise:0.1+bri:0.1"])
    assert list(found) == ["rot:-30..30", "noise:0.1+bri:0.1"]
    assert found["rot:-30..30"] == Rotate((-30.0, 30.0))
    assert isinstance(found["noise:0.1+bri:0.1"], Chain)
    assert list(load_transforms(["table-3"])) == ["ori", "flh", "flv", "bri", "gam", "crop"]
    assert list(load_transforms(["table-3", "rot:30"])) == ["ori", "flh", "flv", "bri", "gam", "crop", "rot:30"]
    assert list(load_transforms(["table-a6"]))[-1] == "rot"
    assert load_transforms(["table-a5"]) == dict(PAPER_STOCHASTIC)


def test_transformations_of_one_s_own(tmp_path):
    file = tmp_path / "own_transforms.py"
    file.write_text(OWN)
    found = load_transforms([f"{file}:invert", f"{file}:shift", "ori"])
    assert list(found) == ["invert", "shift", "ori"]
    assert found["invert"](torch.zeros(1, 1, 2, 2)).tolist() == [[[[1, 1], [1, 1]]]]


def test_descriptions_tell_settings_and_sources_apart(tmp_path):
    assert describe_transforms(load_transforms(["rot:30", "flh:p=0.8"])) == {
        "rot:30": "rot:30",
        "flh:p=0.8": "flh:p=0.8",
    }
    assert describe_transforms(load_transforms(["table-a5"]))["crop"] == "crop:0.6..1"
    file, texts = tmp_path / "own_transforms.py", []
    for factor in (2, 2, 3):
        file = tmp_path / f"own_{len(texts)}" / "own.py"
        file.parent.mkdir()
        file.write_text(f"def scale(x):\n    return {factor} * x\n")
        texts.append(describe_transforms(load_transforms([f"{file}:scale"]))["scale"])
    assert texts[0] == texts[1] != texts[2]
    assert "scale" in texts[0]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["turn"], "must be one of ori, flh, flv, .*, got 'turn'"),
        (["turn:30"], "must be one of ori, flh, flv, .*, got 'turn'"),
        (["rot:much"], "must be a number or a range such as 0.6..1.0, got 'much'"),
        (["flh", "flh"], "transforms must be named once each, got flh twice"),
        (["table-3", "bri"], "transforms must be named once each, got bri twice"),
        (["nowhere.py:turn"], "transforms must name an existing file, got nowhere.py"),
        (["own.py:turn"], "transforms must name something that exists, got own.py:turn, but own.py has no turn"),
        (["own.py:number"], "transforms must be callables of a batch of images, got int number"),
        (["own.py:Invert"], "transforms must be callables of a batch of images, got the class Invert"),
        ([":x"], "must be one of ori"),
    ],
)
def test_what_is_no_transformation_is_told(tmp_path, monkeypatch, names, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_transforms(names)
