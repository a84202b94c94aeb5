"""What the site shows beside docs/: the README as its first page, the benchmarks' tables, and the project's own pages.

MkDocs calls the functions by name. Links are written as they work in the repository; here they are turned into links
of the site, and those to code into plain names.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"index.md": "README.md", "CHANGELOG.md": "CHANGELOG.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}
PLAIN = ("LICENSE", "CITATION.cff")

_FOLDER_OR_CODE = re.compile(r"\[([^\]]+)\]\((?:\.\./)?(?:docs|benchmarks|examples|src/[^)]*|[^):]*\.py)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside docs/."""
    beside = {f"benchmarks/{file.name}": file for file in sorted((ROOT / "benchmarks").glob("*.md"))}
    beside |= {name: ROOT / source for name, source in PAGES.items()} | {name: ROOT / name for name in PLAIN}
    for name, source in beside.items():
        if name in PLAIN:
            files.append(File.generated(config, f"{name}.txt", content=source.read_text(encoding="utf-8")))
        else:
            files.append(File.generated(config, name, content=source.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links of the repository into links of the site."""
    text = _FOLDER_OR_CODE.sub(r"\1", markdown)
    if page.file.src_uri in PAGES:
        page.meta["hide"] = ["navigation"]  # there is nothing beside them, and their code and pictures are wide
        text = text.replace("](docs/", "](")
        for name in PLAIN:
            text = text.replace(f"]({name})", f"]({name}.txt)")
        return text
    if page.file.src_uri.startswith("benchmarks/"):
        return text.replace("](../docs/", "](../")
    return text.replace("](../benchmarks/", "](benchmarks/")
