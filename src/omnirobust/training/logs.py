"""Metrics as files that other programs show: CSV and TensorBoard, through Lightning Fabric's loggers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class MetricLogger(Protocol):
    """What is asked of a logger, Fabric's or one's own."""

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Take the metrics of one epoch, whose number is ``step``."""
        ...


def make_loggers(names: Iterable[str], folder: str | Path) -> list[Any]:
    """Return Fabric's loggers for ``names``, "csv" or "tensorboard", which write below ``folder``.

    CSV goes to folder/csv/metrics.csv, TensorBoard's events to folder/tensorboard, written within seconds of an epoch
    and all at the end of the process, or by ``finalize("success")``.

    Raises:
        ValueError: for another name, or where the package that writes TensorBoard's files is missing.
    """
    from lightning_fabric.loggers.csv_logs import CSVLogger
    from lightning_fabric.loggers.tensorboard import TensorBoardLogger

    made = []
    for name in names:
        if name == "csv":
            made.append(CSVLogger(folder, name="", version="csv", flush_logs_every_n_steps=1))
        elif name == "tensorboard":
            try:
                # without a suffix, runs that start within a second would write to one file
                suffix = f".{time.time_ns()}"
                made.append(
                    TensorBoardLogger(folder, name="", version="tensorboard", flush_secs=5, filename_suffix=suffix)
                )
            except ModuleNotFoundError as error:
                raise ValueError("loggers: tensorboard needs a package: pip install tensorboardX") from error
        else:
            raise ValueError(f"loggers must be among csv, tensorboard, got {name!r}")
    return made


def replay(loggers: Sequence[MetricLogger], history: Sequence[Mapping[str, float]]) -> None:
    """Tell the epochs of an interrupted run again to the loggers that start their file anew, which Fabric's CSV does.

    TensorBoard keeps what it was told.
    """
    for logger in loggers:
        if type(logger).__name__ == "CSVLogger":
            for row in history:
                log([logger], row)


def log(loggers: Sequence[MetricLogger], row: Mapping[str, float]) -> None:
    """Hand one epoch's metrics to all loggers, and have them written."""
    metrics = {name: value for name, value in row.items() if name != "epoch"}
    for logger in loggers:
        logger.log_metrics(metrics, step=int(row["epoch"]))
        save = getattr(logger, "save", None)
        if save is not None:
            save()
