"""Results that a Python user holds, as the folder of a run or as its page alone."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from omnirobust.attacks.results import AttackResult
from omnirobust.evaluation.report import RobustnessReport
from omnirobust.jobs.folder import RunFolder
from omnirobust.jobs.report.page import build_report, write_page
from omnirobust.jobs.saved import write_attack, write_evaluation

Result: TypeAlias = AttackResult | RobustnessReport


def save(result: Result, out: str | Path, **said: Any) -> Path:
    """Write a result as the folder of a run with its page, and return its path."""
    folder = _written(result, out, **said)
    build_report(folder.path)
    return folder.path


def report(result: Result, file: str | Path, **said: Any) -> Path:
    """Write the page of a result, and return its path.

    Raises:
        ValueError: if ``file`` is a folder, or the result is none that can be written.
    """
    if Path(file).is_dir():
        raise ValueError(f"file must be the path of a page, such as page.html, got the folder {file}")
    with TemporaryDirectory() as place:
        return write_page(_written(result, Path(place) / "run", **said).path, Path(file))


def _written(result: Result, out: str | Path, **said: Any) -> RunFolder:
    if isinstance(result, AttackResult):
        return write_attack(result, out, **said)
    return write_evaluation(result, out, **said)
