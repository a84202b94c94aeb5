"""What all jobs have in common: a run folder, what is done already, several processes, and a record at the end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from omnirobust.jobs.folder import RunFolder
from omnirobust.jobs.records import Record
from omnirobust.jobs.shards import meeting_place, others_may_stop, wait
from omnirobust.training.loop import TrainingDivergedError
from omnirobust.training.workers import Workers

JobProgress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, how many steps of it are done, and how many there are."""

T = TypeVar("T")
R = TypeVar("R", bound=Record)


def default_folder(config: Mapping[str, Any], *words: str) -> Path:
    """Name a folder under ``runs/`` after the settings: the same settings find the same folder.

    Args:
        config: the resolved settings.
        words: what its name says beside the data's, if the settings name any.
    """
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=4).hexdigest()
    data = [Path(config["data"]["name"]).name.replace(":", "-")] if "data" in config else []
    return Path("runs") / "-".join([*data, *words, digest])


def run_job(
    out: str | Path,
    config: Mapping[str, Any],
    options: str | None,
    team: Workers,
    progress: JobProgress | None,
    *,
    together: Callable[[RunFolder], T],
    conclude: Callable[[RunFolder, T], None],
    record: Callable[[Path], R],
) -> R:
    """Run a job in its folder, unless it has been run there already, and return its record.

    Args:
        out: the run folder.
        config: the resolved settings, whose folder it is.
        options: the text of a file that gives these settings on the command line, kept in the folder; or None.
        team: the processes that call this at the same time.
        progress: told when another command is at work in the folder and has to be waited for.
        together: what every process does.
        conclude: what the first one makes of it when all have done so: the results, the metrics last.
        record: opens the finished run.

    Raises:
        ValueError: if the folder is another run's, or a process does not see what the first one made.
        OthersStoppedError: if another process stopped.
    """
    with _run_folder(team, out, config, progress) as folder:
        if not _finished(team, folder):
            if team.rank == 0:
                folder.write_options(options)
            found = together(folder)
            wait(team)
            if team.rank == 0:
                conclude(folder, found)
            wait(team)
        if team.rank == 0:
            folder.clear_parts()
    return record(folder.path)


@contextmanager
def _run_folder(
    team: Workers, out: str | Path, config: Mapping[str, Any], progress: JobProgress | None
) -> Iterator[RunFolder]:
    """Yield the run folder; what is found not to fit before there is any result leaves nothing behind."""
    there = Path(out).exists()
    folder = meeting_place(team, out, config)

    def waiting() -> None:
        if progress is not None:
            progress(f"another command is at work in {folder.path}: waiting for its end", 0, 1)

    with folder.held(waiting) if team.rank == 0 else nullcontext():
        try:
            yield folder
        except (ValueError, TrainingDivergedError):
            if team.rank == 0:
                folder.withdraw(keep=there)
            raise


def _finished(team: Workers, folder: RunFolder) -> bool:
    """Say whether the run has ended already, as the first process sees it."""
    with others_may_stop():
        return bool(team.broadcast(folder.finished))
