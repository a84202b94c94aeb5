"""Several processes that share the batches of one job: they meet in its run folder, and Lightning Fabric counts them.

Every batch is found by one process and kept as a file, as in a run by one process; the first process then puts all
files together. So the files that come out are the same, and a run that was stopped goes on under any number.
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from platform import node
from typing import Any, TypeAlias

import torch

from omnirobust.attacks.masking import GradientMaskingError
from omnirobust.attacks.results import AttackResult, BatchStore
from omnirobust.domains.classifier import Precision
from omnirobust.jobs.folder import RunFolder
from omnirobust.training.workers import Alone, Launched, Workers

Share: TypeAlias = Callable[[], None]
"""Finds one batch and keeps it."""


class OthersStoppedError(RuntimeError):
    """Another process of this run stopped: this one cannot go on.

    Attributes:
        exits: the exit code on the command line, by which the launcher tells it from an error of one's own.
    """

    exits = 3


_PATIENCE = timedelta(days=30)
"""How long a process waits for the others, whose batches may take longer."""


def launched() -> bool:
    """Say whether torchrun, or what works like it, started this process among others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """Return the number of this process among those that torchrun started; 0 where it is alone."""
    return int(os.environ.get("RANK", "0")) if launched() else 0


def workers(precision: Precision = "fp32", device: str = "cpu") -> Workers:
    """Return the processes of this job: those that torchrun started, or this one alone.

    Args:
        precision: of a training that they share.
        device: "cpu" or "cuda", where that training runs.

    Raises:
        ValueError: if they do not fit together.
    """
    if not launched():
        return Alone()
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    count, here = int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
    # a head of another loss, or a layer that is skipped by chance, has no gradients
    strategy = DDPStrategy(process_group_backend=backend, timeout=_PATIENCE, find_unused_parameters=True)
    fabric = Fabric(
        accelerator=device, devices=here, num_nodes=count // here, strategy=strategy,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )  # fmt: skip
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it greets
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    fabric.launch()
    atexit.register(_part)
    return Launched(fabric)


def _part() -> None:
    """Close the connections while Python still runs: left to the end of the process, their threads may abort it."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def share_out(units: Sequence[Share], team: Workers) -> None:
    """Let every process run its share, every ``team.count``-th unit, and go on once all are run.

    Raises:
        GradientMaskingError: if no gradient reached any input in any unit: in some of them it may be chance.
        OthersStoppedError: if another process stopped.
    """
    own, blind = units[team.rank :: team.count], []
    for unit in own:
        try:
            unit()
        except GradientMaskingError as error:
            blind.append(error)
    run, seeing = _counted(team, len(own), len(own) - len(blind))
    if blind and run and not seeing:
        raise blind[0]


def _counted(team: Workers, *counts: int) -> list[int]:
    """Return the sums of ``counts`` over all processes, once all are here."""
    with others_may_stop():
        return team.total(torch.tensor(counts)).tolist()


def meeting_place(team: Workers, out: str | Path, config: Mapping[str, Any]) -> RunFolder:
    """Make the run folder that all processes share, or open it again.

    Raises:
        ValueError: if it is another run's, or a process does not see what the first one made.
        OthersStoppedError: if another process stopped.
    """
    if team.rank == 0:
        RunFolder.create(out, config)
    wait(team)
    if not (Path(out) / "config.json").is_file():
        raise ValueError(f"out must be a folder that all processes see, got {out}, which is not there on {node()}")
    return RunFolder.create(out, config)


def wait(team: Workers) -> None:
    """Go on once every process is here.

    Raises:
        OthersStoppedError: if another process stopped.
    """
    with others_may_stop():
        team.wait()


@contextmanager
def others_may_stop() -> Iterator[None]:
    """Tell in plain words of another process that stopped."""
    try:
        yield
    except RuntimeError as error:  # gloo's own words name sockets
        raise OthersStoppedError(
            "Another process of this run stopped: its own message says why. Give the same command again to go on."
        ) from error


@dataclass(frozen=True)
class OneBatch:
    """One batch of a store, as the store of an attack on that batch alone."""

    store: BatchStore
    batch: int

    def get(self, index: int) -> AttackResult | None:
        """Return the result of the batch if it is there."""
        return self.store.get(self.batch + index)

    def put(self, index: int, result: AttackResult) -> None:
        """Keep the result of the batch."""
        self.store.put(self.batch + index, result)
