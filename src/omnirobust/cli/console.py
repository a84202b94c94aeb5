"""What the user sees while a command runs: progress, errors in one sentence, where results lie."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from threading import current_thread, main_thread
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO, cast

import typer

if TYPE_CHECKING:
    from omnirobust.core.threat_models import ThreatModel

_QUIET_SECONDS = 60
INTERRUPTED = "Interrupted. Give the same command again to go on from where it stopped."


def one_sentence(error: BaseException) -> str | None:
    """Return what is wrong with the input in one sentence; None if ``error`` is not the user's but a bug."""
    if (usage := getattr(error, "format_message", None)) is not None:
        return " ".join(usage().split())
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
    if isinstance(error, (ValueError, RuntimeError, OSError)) and str(error):
        return str(error).strip().splitlines()[0]
    return None


def tell_error(sentence: str) -> None:
    """Write one line to stderr."""
    typer.echo(f"omnirobust: {sentence}", err=True)


class _Outlet:
    """A stream that takes what is written and drops it, once nobody reads it any more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or drop what nobody reads."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Flush, or drop what nobody reads."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())  # what is buffered goes there, too
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def outlets() -> Iterator[None]:
    """Let the work inside go on to its end where nobody reads a pipe any more, as with ``| head``."""
    out, err = _Outlet(sys.stdout), _Outlet(sys.stderr)
    with redirect_stdout(cast(TextIO, out)), redirect_stderr(cast(TextIO, err)):
        try:
            yield
        finally:
            out.flush()
            err.flush()


@contextmanager
def interruptions() -> Iterator[list[int]]:
    """Yield a list that is not empty once the user has interrupted: libraries that load make other errors of it."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        signal.default_int_handler(number, frame)

    ours = current_thread() is main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def say(*lines: str) -> None:
    """Write lines to stdout."""
    for line in lines:
        typer.echo(line)


def notes(threats: Iterable[ThreatModel], steps: int, images: int | None, taken: int) -> list[str]:
    """Return what is legitimate and yet may not be what was meant, a line each.

    Args:
        threats: what the attacker may do.
        steps: of the attack.
        images: how many were asked for; None for all.
        taken: how many there were.
    """
    found = [
        f"Note: l0 with eps {threat.eps:g} changes at most {int(threat.eps)} pixel values."
        for threat in threats
        if threat.p == 0 and float(threat.eps) % 1
    ]
    if steps == 0:
        found.append("Note: with 0 steps it is the starting point that is judged, not an attack.")
    if images is not None and taken < images:
        found.append(f"Note: {taken} images were taken, all that there are; {images} were asked for.")
    return found


def data_notes(data: Mapping[str, Any]) -> list[str]:
    """Say how the images of a run were chosen, where they are not the first ones, from its configuration."""
    choice = data.get("choice")
    return [f"Note: the images of {data['name']} were taken in a fixed order of their own, {choice}."] if choice else []


def _a_line_a_minute() -> Callable[[str, int, int], None]:
    told = monotonic()

    def advance(what: str, done: int, total: int) -> None:
        nonlocal told
        if monotonic() - told >= _QUIET_SECONDS:
            told = monotonic()
            typer.echo(f"{what}: {done} of {total}", err=True)

    return advance


@contextmanager
def progress_bars(shown: bool = True) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function (what, done, total) that draws a bar for everything it is told of, on stderr.

    Where stderr is no terminal, a line a minute says where things stand. Nothing is written if it is not to be
    ``shown``.
    """
    if not shown:
        yield lambda what, done, total: None
        return
    if not sys.stderr.isatty():
        yield _a_line_a_minute()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(file=sys.stderr)) as bars:
        tasks = {}

        def advance(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield advance
