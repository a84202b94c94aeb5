"""A progress bar for whoever asks for one; silent otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

ProgressHook: TypeAlias = Callable[[int, int], None]


def check_hook(progress: object) -> None:
    """Raise a ValueError unless ``progress`` is True, False or a callable."""
    if not isinstance(progress, bool) and not callable(progress):
        raise ValueError(f"progress must be True, False or a callable of (done, total), got {progress!r:.80}")


@contextmanager
def bar(progress: bool | ProgressHook, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that counts steps, shown on the terminal (True), to a callable, or nowhere (False).

    Raises:
        ValueError: if ``progress`` is none of these.
    """
    check_hook(progress)
    if callable(progress):
        yield _reporting(progress, total)
    elif progress:
        from rich.progress import Progress

        with Progress() as shown:
            task = shown.add_task("attack", total=total)
            yield lambda n: shown.update(task, advance=n)
    else:
        yield lambda n: None


def _reporting(hook: ProgressHook, total: int) -> Callable[[int], None]:
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        if n:
            done += n
            hook(done, total)

    return advance
