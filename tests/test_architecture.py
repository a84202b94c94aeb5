"""The rooms of the package: what imports what, how much lies where, and the picture of it."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "omnirobust"


@pytest.fixture(scope="module")
def rooms() -> Any:
    spec = importlib.util.spec_from_file_location("rooms", ROOT / "scripts" / "rooms.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_imports_run_one_way():
    checked = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "0 broken" in checked.stdout


def test_no_files_import_each_other_in_a_circle(rooms):
    found = rooms.imports()
    assert "omnirobust.core.solver" in found["omnirobust.attacks.restarts"]
    TopologicalSorter(found).prepare()  # raises where there is a circle


def test_the_picture_of_the_rooms_is_what_the_imports_say(rooms):
    assert f"{rooms.BEGIN}{rooms.picture()}{rooms.END}" in rooms.PAGE.read_text(encoding="utf-8")


def test_ten_rooms_and_little_beside_them():
    """At most 16 entries at the top, names of modules in one line not counted, and 24 files in any folder."""
    entries = [e for e in PACKAGE.iterdir() if e.name not in ("__pycache__", "py.typed")]
    kept = [e for e in entries if e.is_dir() or not _is_another_name(e)]
    assert len([e for e in kept if e.is_dir()]) == 10
    assert len(kept) <= 16, sorted(e.name for e in kept)
    for folder in [PACKAGE, *(f for f in PACKAGE.rglob("*") if f.is_dir() and f.name != "__pycache__")]:
        assert len(list(folder.glob("*.py"))) <= 24, folder


def _is_another_name(file: Path) -> bool:
    """Say whether a module is nothing but another name of others, from which it imports all that they have."""
    body = ast.parse(file.read_text(encoding="utf-8")).body[1:]
    stars = [n for n in body if isinstance(n, ast.ImportFrom) and n.names[0].name == "*"]
    return bool(stars) and len(body) <= 6


def test_importing_a_leaf_does_not_load_the_command_line():
    told = "print({m.split('.')[0] for m in sys.modules} & {'typer', 'matplotlib'})"
    code = f"import sys, omnirobust.core.projections; {told}"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "set()"
