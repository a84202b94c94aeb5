import sys
from pathlib import Path

import pytest
import torch

from omnirobust.zoo.own_code import digests, is_own, load_own, source_digest

OWN = """
def double(x):
    return 2 * x
none = None
"""


def test_code_comes_from_a_file_and_from_a_package(tmp_path, monkeypatch):
    file = tmp_path / "own_code_for_test.py"
    file.write_text(OWN)
    name, double = load_own(f"{file}:double", "transforms")
    assert (name, double(3)) == ("double", 6)
    monkeypatch.syspath_prepend(tmp_path)
    name, double = load_own("own_code_for_test:double", "transforms")
    assert (name, double(4)) == ("double", 8)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        (
            "own.py:missing",
            ValueError,
            r"models must name something that exists, got own.py:missing, but own.py has no",
        ),
        ("own.py:none", ValueError, "models must name something that exists, got own.py:none"),
        ("nowhere.py:net", FileNotFoundError, "models must name an existing file, got nowhere.py"),
        ("no_such_package:net", ValueError, "models must name an importable module, got no_such_package"),
        ("broken.py:net", ValueError, "models must name code that runs, got broken.py:net: NameError: name 'nope'"),
        ("script.py:net", ValueError, r"models must name code that runs, got script.py:net: SystemExit: 7 \(line 3\)"),
    ],
)
def test_what_is_not_there_is_told(tmp_path, monkeypatch, name, kind, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("net = nope")
    (tmp_path / "script.py").write_text("import sys\n\nsys.exit(7)\n")
    with pytest.raises(kind, match=message):
        load_own(name, "models")


def test_an_edited_file_is_told_apart(tmp_path, monkeypatch):
    file = tmp_path / "edited_for_test.py"
    file.write_text(OWN)
    names = ["a", "rot:-30..30", f"{file}:double", "flh:p=0.8"]
    before = digests(names)
    assert list(before) == [file.name] and digests(names) == before
    (tmp_path / "apart").mkdir()
    other = tmp_path / "apart" / file.name
    other.write_text("pass")
    assert digests([*names, f"{other}:x"]) not in (before, digests([f"{other}:x"]))
    file.write_text(OWN.replace("2 * x", "3 * x"))
    assert digests(names) != before
    monkeypatch.syspath_prepend(tmp_path)
    assert list(digests(["edited_for_test:double"])) == ["edited_for_test"]


def test_a_file_may_hold_dataclasses_and_import_what_lies_beside_it(tmp_path):
    (tmp_path / "beside_this_test.py").write_text("SHARE = 0.25\n")
    file = tmp_path / "with_dataclass_for_test.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom beside_this_test import SHARE\n"
        "@dataclass(frozen=True)\nclass Part:\n    share: float = SHARE\n"
        "def late():\n    import late_beside_this_test\n    return late_beside_this_test.NUMBER\n"
    )
    (tmp_path / "late_beside_this_test.py").write_text("NUMBER = 7\n")
    assert load_own(f"{file}:Part", "rule")[1]().share == 0.25
    assert load_own(f"{file}:late", "rule")[1]() == 7


def test_sources_are_told_apart_where_there_is_one(tmp_path):
    file = tmp_path / "sources_for_test.py"
    seen = []
    for text in (OWN, OWN, OWN.replace("2 * x", "3 * x")):
        file.write_text(text)
        double = load_own(f"{file}:double", "loss")[1]
        assert is_own(double)
        seen.append(source_digest(double))
    assert seen[0] == seen[1] != seen[2]
    typed: dict = {"__name__": "__main__"}
    exec("def typed(x): pass", typed)
    assert is_own(typed["typed"]) and source_digest(typed["typed"]) == "unknown"
    assert not any(map(is_own, (load_own, torch.relu, int, Path)))


def test_a_module_of_the_working_folder_is_found_and_hides_nothing_installed(tmp_path, monkeypatch):
    """The installed command, other than ``python -m``, does not look into the working folder by itself."""
    (tmp_path / "own_beside_the_caller.py").write_text(OWN)
    (tmp_path / "safetensors.py").write_text("double = 3")
    monkeypatch.setattr("sys.path", [p for p in sys.path if p not in ("", str(Path.cwd()))])
    monkeypatch.chdir(tmp_path)
    assert load_own("own_beside_the_caller:double", "models")[1](4) == 8
    assert list(digests(["own_beside_the_caller:double"])) == ["own_beside_the_caller"]
    with pytest.raises(ValueError, match="but safetensors has no double"):
        load_own("safetensors:double", "models")
    with pytest.raises(ValueError, match="models must name a file or a module before the colon, got none"):
        load_own(":double", "models")
