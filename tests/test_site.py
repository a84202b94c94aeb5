"""The documentation site builds without a warning, and its reference holds every public name."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    found = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)], cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-3000:]
    return folder


def documented(site: Path) -> set[str]:
    """Return the names in the site's inventory, which other projects' pages link to."""
    raw = (site / "objects.inv").read_bytes()
    body = zlib.decompress(raw.split(b"\n", 4)[4]).decode()
    return {line.split(" ")[0] for line in body.splitlines()}


def exported(module: str) -> set[str]:
    """Return the names that a package re-exports, ``import x as x``, and the path of each where it is defined."""
    text = Path(str(importlib.import_module(module).__file__)).read_text(encoding="utf-8")
    return set(re.findall(r"import (\w+) as \1$", text, re.MULTILINE)) | set(
        getattr(importlib.import_module(module), "__all__", ())
    )


@pytest.mark.parametrize(
    "package", ["", ".training", ".evaluation", ".transforms", ".universal", ".zoo", ".experiments"]
)
def test_every_public_name_is_in_the_reference(site: Path, package: str) -> None:
    names, module = documented(site), f"omnirobust{package}"
    public = exported(module)
    assert len(public) >= 7
    modules = {"losses", "transforms"}  # whose members are
    assert not [name for name in public - modules if f"{module}.{name}" not in names]
    assert modules - public or {"omnirobust.domains.losses.margin", "omnirobust.domains.transforms.Rotate"} <= names


def test_pages_ask_nothing_of_other_servers(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//[^"]+"', text), page
        assert not re.findall(r'<link[^>]+rel="stylesheet"[^>]+href="(?:https?:)?//[^"]+"', text), page


def test_figures_and_tables_of_the_reproduction_are_there(site: Path) -> None:
    text = (site / "reproduction" / "index.html").read_text(encoding="utf-8")
    pictures = re.findall(r'<img[^>]+src="([^"]+)"', text)
    assert len(pictures) >= 5
    assert all((site / "reproduction" / picture).resolve().is_file() for picture in pictures if "data:" not in picture)
    assert text.count("<table>") > 40


def test_the_reference_lists_the_options_that_recipes_share(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "api" / "attacks" / "index.html").read_text(encoding="utf-8"))
    for recipe in ("attack_ensemble", "attack_universal", "attack_transforms", "attack_product"):
        signature = text.split(f"{recipe}(", 1)[1].split("AttackResult", 1)[0]
        assert "steps: int = 50" in signature and "options:" not in signature
    assert text.count("T, the steps of Algorithm 1, &gt;= 0.") == 5
