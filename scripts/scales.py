"""Write the table of rows by images into docs/reproduction.md again, from the results beside it.

    python scripts/scales.py

``omnirobust reproduce --docs docs`` writes it too; this is for results that were published apart.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from omnirobust.paper.registry import experiments
from omnirobust.study.page import by_scale

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "reproduction.md"
TABLE = re.compile(r"\n\nHow many rows of attacks.*?(?=\n\n|\n*\Z)\n\n(\|.*\n)+")
"""The sentence and the table below it."""


def published() -> str:
    """Return the table of the results in ``docs/reproduction``."""
    counted = {}
    for name, experiment in experiments().items():
        found = json.loads((DOCS / "reproduction" / f"{name}.json").read_text(encoding="utf-8"))
        have = {(row["variant"], *row["key"]): row["images"] for row in found["rows"]}
        wanted = found["images_wanted"]
        counted[name] = [
            (have.get((row.variant, *row.key), 0), row.cell.problems(wanted) * row.cell.group)
            for row in experiment.rows
        ]
    return by_scale(counted)


def main() -> None:
    """Put the table at the end of the section on what was run."""
    text = TABLE.sub("\n\n", PAGE.read_text(encoding="utf-8"))
    begin = text.index("\n## What was run\n")
    end = text.index("\n## ", begin + 1)
    PAGE.write_text(text[:end].rstrip("\n") + f"\n\n{published()}\n" + text[end:], encoding="utf-8")


if __name__ == "__main__":
    main()
