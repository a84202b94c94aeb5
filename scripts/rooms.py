"""Draw which rooms of the package import which, from the imports themselves.

python scripts/rooms.py            # print the picture
python scripts/rooms.py --write    # put it into CONTRIBUTING.md
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
PAGE = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- rooms: drawn by scripts/rooms.py -->\n", "<!-- end of rooms -->"


def imports(package: str = "omnirobust", *, late: bool = False) -> dict[str, set[str]]:
    """Return the modules of a package, and which of its others each imports.

    Args:
        package: its name.
        late: whether what functions import once they are called counts, too.
    """
    files = {".".join(f.relative_to(SRC).with_suffix("").parts): f for f in (SRC / package).rglob("*.py")}
    modules = {name.removesuffix(".__init__"): file for name, file in files.items()}
    return {
        name: {found for each in _named(ast.parse(file.read_text("utf-8")), late) for found in _known(each, modules)}
        - {name}
        for name, file in modules.items()
    }


def _named(tree: ast.Module, late: bool) -> Iterator[tuple[str, str]]:
    """Yield what a file imports: module and name; not what is for types alone."""
    functions = [n for n in ast.walk(tree) if late and isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    for node in [*tree.body, *(inner for function in functions for inner in ast.walk(function))]:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def _known(named: tuple[str, str], modules: dict[str, Path]) -> Iterator[str]:
    inner = ".".join(named)
    if inner in modules:
        yield inner
    elif named[0] in modules:
        yield named[0]


def rooms() -> dict[str, set[str]]:
    """Return the folders below the package, and which of its others each imports."""
    found: dict[str, set[str]] = {}
    for module, imported in imports(late=True).items():
        if room := _room(module):
            found.setdefault(room, set()).update(filter(None, map(_room, imported)))
    return {room: below - {room} for room, below in found.items()}


def _room(module: str) -> str:
    name = module.split(".")[1] if "." in module else ""
    return name if name and (SRC / "omnirobust" / name).is_dir() else ""


def picture() -> str:
    """Draw the rooms in their order, with what each is for and what it imports beyond what these import already."""
    below = rooms()
    reached: dict[str, set[str]] = {}
    for room in TopologicalSorter(below).static_order():
        reached[room] = below[room] | {far for near in below[room] for far in reached[near]}
    lines = ["```mermaid", "graph TD"]
    for room in reversed(reached):
        says = ast.get_docstring(ast.parse((SRC / "omnirobust" / room / "__init__.py").read_text("utf-8"))) or ""
        lines.append(f'  {room}["<b>{room}</b><br>{says.splitlines()[0].rstrip(".")}"]')
        direct = below[room] - {far for near in below[room] for far in reached[near]}
        lines += [f"  {room} --> {other}" for other in sorted(direct)]
    return "\n".join([*lines, "```", ""])


def main() -> None:
    """Print the picture, or write it."""
    parser = argparse.ArgumentParser(description="Draw which rooms of the package import which.")
    parser.add_argument("--write", action="store_true", help="put the picture into CONTRIBUTING.md")
    if not parser.parse_args().write:
        sys.stdout.write(picture())
        return
    before, rest = PAGE.read_text("utf-8").split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}{picture()}{END}{rest.split(END)[1]}", "utf-8")


if __name__ == "__main__":
    main()
