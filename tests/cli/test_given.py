"""What a config says of files holds in any working directory; names stay names."""

from __future__ import annotations

import pytest

from omnirobust.cli.given import anywhere


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text("")
    (tmp_path / "w.safetensors").write_text("")
    for name in ("set", "mnist", "a", "run", "hub"):
        (tmp_path / name).mkdir()
    (tmp_path / "run" / "model.safetensors").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMNIROBUST_DATA", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("data", "set", "HERE/set"),
        ("data", "./mnist", "HERE/mnist"),
        ("data", "mnist", "mnist"),
        ("data", "digits", "digits"),
        ("data", "hub:ORG/NAME", "hub:ORG/NAME"),
        ("models", ["a", "mnist/a", "own.py:net"], ["a", "mnist/a", "HERE/own.py:net"]),
        ("models", ["run", "none.py:net", "package:net"], ["HERE/run", "none.py:net", "package:net"]),
        ("models", "w.safetensors:own.py:net", "HERE/w.safetensors:HERE/own.py:net"),
        ("models", "w.safetensors:c", "HERE/w.safetensors:c"),
        ("models", ["hf:hub", "hf:ORG/NAME", "timm:resnet18"], ["hf:HERE/hub", "hf:ORG/NAME", "timm:resnet18"]),
        ("transforms", ["rot:-30..30", "own.py:f"], ["rot:-30..30", "HERE/own.py:f"]),
        ("models", ["~no-such-user", "~no-such-user/x"], ["~no-such-user", "~no-such-user/x"]),
        ("data", "~no-such-user", "~no-such-user"),
        ("from", "run", "HERE/run"),
        ("out", "run", "run"),
        ("steps", 3, 3),
    ],
)  # fmt: skip
def test_paths_are_made_absolute_and_names_stay(here, option, value, expected):
    def placed(text):
        return text.replace("HERE", str(here)) if isinstance(text, str) else text

    expected = [placed(part) for part in expected] if isinstance(expected, list) else placed(expected)
    assert anywhere(option, value) == expected


def test_a_set_of_the_data_folder_stays_a_name(here, monkeypatch):
    monkeypatch.setenv("OMNIROBUST_DATA", str(here))
    assert anywhere("data", "set") == "set"
