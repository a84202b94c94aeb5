"""Where trained models and decoded data are kept, and how files are written so that a kill leaves no half of one."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path

from filelock import FileLock, Timeout

try:
    import fcntl
except ImportError:  # there are no such locks on Windows: nothing is taken for left over
    fcntl = None

AGAIN = "# again: "
"""How the line of a file of options begins that holds the command as one types it."""

_PART = re.compile(r".+\.\d+\.part")


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
def replacing(file: Path, within: Path | None = None) -> Iterator[Path]:
    """Yield a path to write to; it takes the place of ``file`` once the block has ended without an error.

    Args:
        file: the file.
        within: a folder that must be there already; None makes all that lead to the file.

    Raises:
        FileNotFoundError: if ``within`` is not there any more.
        OSError: if it cannot be written; it names ``file``, where the system names none or the path yielded.
    """
    if within is not None and not within.is_dir():
        raise FileNotFoundError(
            f"The folder {within} is gone: it was deleted or moved while a job was at work in it; give the same "
            "command again to begin anew"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = part_of(file)
    try:
        with claimed(partial, os.O_RDWR | os.O_CREAT):
            yield partial
            partial.replace(file)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(partial), partial):
            raise
        raise OSError(error.errno, error.strerror, str(file)) from error
    finally:
        partial.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """Return what this process calls a file, or folder, that is to become ``path``."""
    return path.with_name(f"{path.name}.{os.getpid()}.part")


@contextmanager
def claimed(path: Path, flags: int = os.O_RDONLY) -> Iterator[None]:
    """Hold a lock on what is being written, by which ``sweep`` tells it from what a killed process left behind."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(path, flags, 0o666)
    try:
        with suppress(OSError):  # some disks know no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Delete what killed processes left half written in a folder and below."""
    for part in sorted(folder.rglob("*.part")) if folder.is_dir() else ():
        _discard(part)


def sweep_siblings(folder: Path) -> None:
    """Delete what killed processes left of a folder that they were making, beside it."""
    with suppress(OSError):
        for sibling in list(folder.parent.iterdir()):
            if sibling.name.startswith(f".{folder.name}."):
                _discard(sibling)


def _discard(part: Path) -> None:
    """Delete a file or folder that was being written, unless a process is still at it, or it is something else."""
    if fcntl is None or not _PART.fullmatch(part.name):
        return
    with suppress(OSError):  # it is claimed, gone, or not ours to delete
        descriptor = os.open(part, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(part) if part.is_dir() else part.unlink()
        finally:
            os.close(descriptor)


@contextmanager
def locked(file: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock ``file``; another process that holds it is waited for, after a call of ``waiting``.

    The lock is one of the operating system: it goes with the process that holds it, however that ends.
    """
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message on an unknown name: the known one that it is like, if there is one."""
    found = get_close_matches(name, sorted(known), 1)
    return f"; did you mean {found[0]}?" if found else ""
