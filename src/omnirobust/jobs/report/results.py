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
from omnirobust.zoo.data import ImageData

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
    _check(said.get("average"), said.get("data"))
    if isinstance(result, AttackResult):
        return write_attack(result, out, **said)
    return write_evaluation(result, out, **said)


def _check(average: object, data: object) -> None:
    """Refuse what is no result and no set where one may be given."""
    if average is not None and not isinstance(average, AttackResult):
        raise ValueError(
            f"average must be the result of an attack under rule=Uniform(), or None, got {type(average).__name__}"
        )
    if data is not None and not isinstance(data, ImageData):
        raise ValueError(
            f"data must be the set that the inputs are of, as data.load gives it, or None, got {type(data).__name__}"
        )
