"""``--processes N``: the same command in N processes, started by the launcher behind ``torchrun``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from omnirobust.cli.console import tell_error

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from omnirobust.cli.given import Given

_MOST = 64
"""Processes that may be started even where there are fewer cores."""

_BAD_INPUT, _OTHERS_STOPPED = 2, 3
"""Exit codes of a process that has said what is wrong, and of one that stopped since another did."""


def launched(given: Given, processes: int, out: Path | None) -> bool:
    """Run the command in ``processes`` processes to its end, and say whether it was: not so for one process.

    Each gets an equal share of the cores, unless OMP_NUM_THREADS says otherwise. The first one shows what it does.

    Raises:
        SystemExit: if one of them failed.
        ValueError: if ``processes`` is less than 1, or this is already one of several.
    """
    words = [*given.words(), *([] if out is None else [f"--out={out}"])]
    return in_processes(words, processes)


def in_processes(words: Sequence[str], processes: int) -> bool:
    """Run ``omnirobust WORDS`` in ``processes`` processes to its end: see ``launched``."""
    from omnirobust.jobs import shards

    most = max(_MOST, os.cpu_count() or 1)
    if not 1 <= processes <= most:
        raise ValueError(f"processes must be >= 1, and <= {most} on this machine, got {processes}")
    if processes == 1:
        return False
    if shards.launched():
        raise ValueError(f"processes must be left out under torchrun, which has started several, got {processes}")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # it warns where every parameter is used after all
    with TemporaryDirectory(prefix="omnirobust-") as logs:
        _launch(["-m", "omnirobust", *words], processes, logs)
    return True


def _launch(words: list[str], processes: int, logs: str) -> None:
    import logging
    from uuid import uuid4

    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):  # it reports failures with tracebacks
            logging.getLogger(name).setLevel(logging.CRITICAL)
    silent = DefaultLogsSpecs(log_dir=logs, redirects=dict.fromkeys(range(1, processes), Std.ALL))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=0, logs_specs=silent,
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)(*words)
    except SignalException:
        raise KeyboardInterrupt from None
    except ChildFailedError as error:
        sys.exit(_told(error, logs))


def _told(error: ChildFailedError, logs: str) -> int:
    """Say why the first process that failed did, unless the one that shows what it does has said so itself.

    Returns:
        The exit code.
    """
    # Both may be over before the launcher looks: the reason is not that of a process that stopped for another's.
    rank, failure = min(error.failures.items(), key=lambda f: (f[1].exitcode == _OTHERS_STOPPED, f[1].timestamp))
    shown = error.failures.get(0)
    files = Path(logs).rglob(f"{failure.local_rank}/stderr.log")
    said = "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
    if failure.exitcode < 0:
        last = f" Its last words: {said.strip().splitlines()[-1]}" if said.strip() else ""
        killed = f"Process {rank} was killed by signal {-failure.exitcode}."
        tell_error(f"{killed} Give the same command again to go on.{last}")
    elif rank > 0 and (shown is None or shown.exitcode != _BAD_INPUT):
        sys.stderr.write(said)
    return failure.exitcode if failure.exitcode > 0 else _BAD_INPUT
