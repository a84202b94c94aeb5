"""The files of a training: the epochs so far, the weights of the threat models, the network with its card."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import compress
from typing import Any

import torch
from torch import nn

from omnirobust._files import replacing
from omnirobust.jobs.folder import RunFolder
from omnirobust.jobs.names import CARD
from omnirobust.jobs.names import WEIGHTS as NETWORK
from omnirobust.jobs.records import ROWS, SPREAD
from omnirobust.training.state import CHECKPOINT, read_checkpoint
from omnirobust.zoo.chunks import write_model
from omnirobust.zoo.data import ImageData

EPOCHS = "epochs.csv"

SHOWN = 1000
"""Of how many training examples, evenly spaced, the weights of every epoch are kept."""


def note_epoch(folder: RunFolder, names: Sequence[str]) -> None:
    """Write what the checkpoint knows: a row an epoch, and the weights that examples had in the last one.

    Both come from the checkpoint, not from the epoch that just ended, so that a kill between the two loses nothing.

    Raises:
        ValueError: if the checkpoint is damaged, or none of a training.
    """
    file = folder.file(CHECKPOINT)
    if not file.exists():
        return
    state = read_checkpoint(file, "delete it, and give the same command again")
    write_epochs(folder, state["history"])
    table = state.get("attacker", {}).get("table")
    if len(names) > 1 and table is not None and len(table):
        rows = torch.linspace(0, len(table) - 1, min(SHOWN, len(table))).round().long()
        folder.parts.put(f"weights/{state['epoch']:06d}", {"row": rows, "weights": table[rows]})


def write_epochs(folder: RunFolder, history: Sequence[Mapping[str, float]]) -> None:
    """Write one row an epoch as CSV."""
    names = list(dict.fromkeys(name for row in history for name in row))
    with (
        replacing(folder.file(EPOCHS), folder.path) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows({**row, "epoch": int(row["epoch"])} for row in history)


def join_weights(folder: RunFolder, names: Sequence[str], epochs: int) -> None:
    """Put the weights of all epochs into one table; what it holds already stays, unless there is a part of the epoch.

    Args:
        folder: of the run.
        names: of the threat models.
        epochs: how many there are.
    """
    found = _kept_weights(folder)
    for epoch in range(1, epochs + 1):
        if (part := folder.parts.get(f"weights/{epoch:06d}")) is not None:
            rows, weights = part.tensors["row"], part.tensors["weights"]
            columns = {"epoch": [epoch] * len(rows), "row": rows.tolist()}
            found[epoch] = columns | {name: weights[:, k].tolist() for k, name in enumerate(names)}
    tables = [found[epoch] for epoch in sorted(found) if epoch <= epochs]
    if tables:
        folder.write_table(SPREAD, {name: [v for table in tables for v in table[name]] for name in tables[0]})


def _kept_weights(folder: RunFolder) -> dict[int, dict[str, list[Any]]]:
    """Return the weights of every epoch from the table of an earlier end, and from parts of an earlier version."""
    found: dict[int, dict[str, list[Any]]] = {}
    for file in (folder.file(SPREAD), *sorted(folder.file("weights").glob("*.parquet"))):
        with suppress(ValueError):  # it is not there, or damaged
            table = folder.read_table(str(file.relative_to(folder.path)))
            for epoch in dict.fromkeys(table["epoch"]):
                chosen = [e == epoch for e in table["epoch"]]
                found[epoch] = {name: list(compress(values, chosen)) for name, values in table.items()}
    return found


def write_rows(folder: RunFolder, parts: Mapping[str, ImageData | None]) -> None:
    """Write which rows of its set each part is, by the part's name, where they were chosen."""
    rows = {name: part.rows.tolist() for name, part in parts.items() if part is not None and part.rows is not None}
    if rows:
        every = [(name, row) for name, own in rows.items() for row in own]
        folder.write_table(ROWS, {"part": [name for name, _ in every], "row_in_set": [row for _, row in every]})


def write_network(folder: RunFolder, model: nn.Module, card: Mapping[str, Any]) -> None:
    """Write the network's weights, and the card that says how to build it and how it was trained."""
    write_model(folder.file(NETWORK), model, folder.path)
    folder.write_json(CARD, card)
