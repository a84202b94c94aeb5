"""The files of a training: the epochs so far, the weights of the threat models, the network with its card."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from omnirobust._files import replacing
from omnirobust.jobs.models import CARD
from omnirobust.jobs.models import WEIGHTS as NETWORK
from omnirobust.jobs.records import SPREAD
from omnirobust.runs import RunFolder
from omnirobust.training.state import CHECKPOINT

EPOCHS = "epochs.csv"

SHOWN = 1000
"""Of how many training examples, evenly spaced, the weights of every epoch are kept."""


def note_epoch(folder: RunFolder, names: Sequence[str]) -> None:
    """Write what the checkpoint knows: a row an epoch, and the weights that examples had in the last one.

    Both come from the checkpoint, not from the epoch that just ended, so that a kill between the two loses nothing.

    Raises:
        ValueError: if the checkpoint is damaged.
    """
    file = folder.file(CHECKPOINT)
    if not file.exists():
        return
    try:
        state = torch.load(file, weights_only=True, map_location="cpu", mmap=True)
    except Exception as error:  # torch reports damage by many types
        raise ValueError(f"The checkpoint {file} is damaged: delete it, and give the same command again.") from error
    write_epochs(folder, state["history"])
    table = state.get("attacker", {}).get("table")
    if len(names) > 1 and table is not None and len(table):
        rows = torch.linspace(0, len(table) - 1, min(SHOWN, len(table))).round().long()
        columns = {"epoch": [state["epoch"]] * len(rows), "row": rows.tolist()}
        columns |= {name: table[rows, k].tolist() for k, name in enumerate(names)}
        folder.write_table(f"weights/{state['epoch']:06d}.parquet", columns)


def write_epochs(folder: RunFolder, history: Sequence[Mapping[str, float]]) -> None:
    """Write one row an epoch as CSV."""
    names = list(dict.fromkeys(name for row in history for name in row))
    with replacing(folder.file(EPOCHS)) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows({**row, "epoch": int(row["epoch"])} for row in history)


def join_weights(folder: RunFolder) -> None:
    """Put the weights of all epochs into one table."""
    parts = sorted(folder.file("weights").glob("*.parquet"))
    if parts:
        tables = [folder.read_table(str(part.relative_to(folder.path))) for part in parts]
        folder.write_table(SPREAD, {name: [v for table in tables for v in table[name]] for name in tables[0]})
        shutil.rmtree(folder.file("weights"))


def write_network(folder: RunFolder, model: nn.Module, card: Mapping[str, Any]) -> None:
    """Write the network's weights, and the card that says how to build it and how it was trained."""
    folder.write_tensors(NETWORK, dict(model.state_dict()))
    folder.write_json(CARD, card)
