"""Say in one sentence which row of an experiment failed, and where, when code of its author's own raises."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from types import FrameType

from omnirobust.data import DataUnavailableError
from omnirobust.study.spec import Row


@contextmanager
def telling(name: str, row: Row, hook: Callable[[int], None]) -> Iterator[None]:
    """Turn what measuring a row of an experiment of one's own raises into a sentence that names the row.

    Args:
        name: of the experiment.
        row: that is measured.
        hook: is told of progress; what it raises is no matter of the row's, and passes.

    Raises:
        ValueError: for any failure of the author's code, or of the library on what that code gave. Files, data and
            weights that are not there keep their errors.
    """
    try:
        yield
    except (OSError, DataUnavailableError):
        raise
    except Exception as error:  # whatever the author's own code raises
        if any(frame.f_code is getattr(hook, "__code__", None) for frame, _ in walk_tb(error.__traceback__)):
            raise
        rule = f" with rule {type(row.cell.attack.rule).__name__}" if row.cell.rule is None else ""
        told = f"got {row.variant!r}, {row.key!r}{rule}: {_said(error)}"
        raise ValueError(f"rows of {name} must run, {told}") from error


def _said(error: Exception) -> str:
    """Return the first line of an error; unless the library said it, with its kind and place, in own code if it can."""
    frames = list(walk_tb(error.__traceback__))
    own = [(frame, line) for frame, line in frames if _is_own(frame)]
    said = next(iter(str(error).strip().splitlines()), "")
    if not own and isinstance(error, (ValueError, RuntimeError)):
        return said
    frame, line = (own or frames)[-1]
    place = f"({Path(frame.f_code.co_filename).name}, line {line})"
    return f"{type(error).__name__}: {said} {place}" if said else f"{type(error).__name__} {place}"


def _is_own(frame: FrameType) -> bool:
    """Say whether a frame is of the author's code: neither of this library, nor of Python, nor of what is installed."""
    root = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    installed = "site-packages" in Path(frame.f_code.co_filename).parts
    return root not in ("omnirobust", *sys.stdlib_module_names) and not installed
