"""Where trained models and decoded data are kept, and how files are written so that a kill leaves no half of one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

AGAIN = "# again: "
"""How the line of a file of options begins that holds the command as one types it."""


def from_home(path: str) -> Path:
    """Return the path with its ~ or ~USER replaced by that home; as it is where there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def cache_dir() -> Path:
    """Return the cache folder: $OMNIROBUST_CACHE, or ~/.cache/omnirobust. It need not exist yet."""
    chosen = os.environ.get("OMNIROBUST_CACHE")
    return from_home(chosen) if chosen else Path.home() / ".cache" / "omnirobust"


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield a path to write to; it takes the place of ``file`` once the block has ended without an error.

    Raises:
        OSError: if it cannot be written; it names ``file``, where the system names none or the path yielded.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        yield partial
        partial.replace(file)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(partial), partial):
            raise
        raise OSError(error.errno, error.strerror, str(file)) from error
    finally:
        partial.unlink(missing_ok=True)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message on an unknown name: the known one that it is like, if there is one."""
    found = get_close_matches(name, sorted(known), 1)
    return f"; did you mean {found[0]}?" if found else ""
