"""Results that a Python user holds, written as the command line writes its runs.

What writes them lies above the results in the order of imports: it is imported by its name when a method is called, as
the package imports what it offers.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

_HOME = "omnirobust.jobs.report.results"


def save(result: Any, out: str | Path, **said: Any) -> Path:
    """Write a result as the folder of a run, and return its path."""
    return import_module(_HOME).save(result, out, **said)


def report(result: Any, file: str | Path, **said: Any) -> Path:
    """Write the page of a result, and return its path."""
    return import_module(_HOME).report(result, file, **said)
