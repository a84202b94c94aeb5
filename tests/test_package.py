"""What the package offers by name, before and after anything of it was imported."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import omnirobust as orb


def test_every_name_that_type_checkers_see_is_there_and_is_what_they_see() -> None:
    tree = ast.parse(Path(orb.__file__).read_text(encoding="utf-8"))
    (checked,) = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in checked.body if isinstance(node, ast.ImportFrom)]
    assert len(imports) > 30
    for node in imports:
        (name,) = [alias.name for alias in node.names]
        module = importlib.import_module(str(node.module))
        assert getattr(orb, name) is getattr(module, name)
        assert name in dir(orb)


def test_modules_are_attributes_and_what_is_not_there_is_told() -> None:
    homes = {
        "zoo": "zoo",
        "data": "zoo.data",
        "losses": "domains.losses",
        "weights": "core.weights",
        "runs": "jobs.folder",
    }
    for name, home in homes.items():
        assert getattr(orb, name) is importlib.import_module(f"omnirobust.{home}")
    assert not hasattr(orb, "attack_everything") and not hasattr(orb, "__wrapped__")


@pytest.mark.parametrize("name", ["adapters", "data", "losses", "report", "runs", "transforms", "universal"])
def test_modules_of_earlier_names_are_what_they_were(name) -> None:
    home = getattr(orb, name)
    assert importlib.import_module(f"omnirobust.{name}") is home
    assert getattr(orb, name) is home and home.__name__ != f"omnirobust.{name}"


def test_the_package_is_named_without_importing_torch() -> None:
    code = "import sys, omnirobust; assert 'torch' not in sys.modules; omnirobust.Linf; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
