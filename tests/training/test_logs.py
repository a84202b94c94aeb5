"""Every epoch's metrics reach CSV and TensorBoard once, over interruptions."""

import csv
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from omnirobust.core.threat_models import L2, Linf
from omnirobust.training import Scheme, fit, make_loggers

SCHEME = Scheme("average", (Linf(0.1), L2(0.1)), 1)
DATA = (torch.rand(12, 3, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 2)


def run(out: Path, epochs: int) -> list[dict[str, float]]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
    loggers = make_loggers(("csv", "tensorboard"), out)
    result = fit(model, DATA, SCHEME, epochs=epochs, validation=DATA, out=out, loggers=loggers)
    for logger in loggers:
        logger.finalize("success")
    return [dict(row) for row in result.history]


def scalars(folder: Path) -> list[tuple[int, str, float]]:
    """Read TensorBoard's record files: length, checksum, event, checksum, over and over."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(folder.glob("events*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack("<Q", data[at : at + 8])
            event = Event.FromString(data[at + 12 : at + 12 + length])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            at += 16 + length
    return found


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_both_hold_every_epoch_once_after_an_interruption(tmp_path: Path) -> None:
    run(tmp_path, 2)
    history = run(tmp_path, 4)
    with (tmp_path / "csv" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
    events = scalars(tmp_path / "tensorboard")
    names = {"loss", "accuracy", "validation", "robust", "robust_average", "seconds", "weight/linf:0.1"}
    names |= {"weight/l2:0.1"}
    assert sorted({step for step, _, _ in events}) == [1, 2, 3, 4]
    assert len(events) == 4 * len(names)
    for wanted, row in zip(history, rows, strict=True):
        assert set(row) == names | {"step"}
        for name in names:
            assert float(row[name]) == pytest.approx(wanted[name])
            told = [
                value for step, tag, value in events if (step, tag) == (int(wanted["epoch"]), name.replace(":", "_"))
            ]
            assert told == pytest.approx([wanted[name]])


def test_ones_own_logger_needs_one_method() -> None:
    told = []

    class Mine:
        def log_metrics(self, metrics: dict[str, float], step: int) -> None:
            told.append((step, set(metrics)))

    fit(nn.Linear(3, 2), DATA, Scheme("natural"), epochs=2, loggers=[Mine()])
    assert told == [(1, {"loss", "accuracy", "seconds"}), (2, {"loss", "accuracy", "seconds"})]


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="loggers must be among csv, tensorboard, got 'wandb'"):
        make_loggers(["csv", "wandb"], tmp_path)


def test_training_does_not_load_fabric_unasked() -> None:
    code = "import sys, omnirobust.training; print('lightning_fabric' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "False"
