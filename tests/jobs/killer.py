"""Run commands in children of this process and kill them, at every write or at random moments; used by test_kills.

    python killer.py FOLDER [KILLS [COMMAND ...]]

Every command is run once undisturbed, then, for each of its writes, in another folder, where it is killed before that
write and given again; last in one folder, killed at random moments and at later and later writes. What differs at the
end, or is left over, is printed as JSON: by command, a list of files, and how many writes there were.
"""

import csv
import json
import os
import random
import signal
import sys
import time
from importlib import import_module
from pathlib import Path

import torch

from omnirobust.cli import main

LOADED = (
    "jobs",
    "report",
    "report.compare",
    "study",
    "study.runner",
    "paper",
    "cli.app",
    "cli.tables",
    "training.logs",
)
"""What the parent loads, so that its children need not each."""

JOBS = {
    "attack": "attack ensemble --data digits --models a c --norm linf --eps 0.1 --steps 2 --images 9 --batch-size 4",
    "evaluate": "evaluate --data digits --models a c --threat linf:0.1 --steps 1 --images 6 --batch-size 4",
    "train": "train --data digits --model a --threat linf:0.1 --threat l2:0.5 --scheme minmax --epochs 3 --steps 1 "
    "--images 60 --validation 0 --test-images 4 --test-steps 1 --device cpu",
    "reproduce": "reproduce {own}:digits --images 24 --budget smoke",
}
OWN = """
from omnirobust.study.attack_cells import Cell
from omnirobust.study.spec import Experiment, Row
from omnirobust.attacks.presets import PAPER
from omnirobust.core.weights import Uniform
from dataclasses import replace

average = replace(PAPER["linf"], rule=Uniform())
rows = tuple(
    Row(("linf", name), "paper", Cell(("digits/a", "digits/c"), "linf", 0.1, attack, data="digits", steps=2))
    for name, attack in (("average", average), ("minmax", PAPER["linf"]))
)
digits = Experiment("digits", "Two small models", rows)
"""


def child(words: list[str], dies: int | None = None, after: float | None = None) -> int:
    """Run a command in a child: it dies before it moves file number ``dies`` into place, or ``after`` seconds."""
    Path(words[-1]).parent.mkdir(exist_ok=True)  # runs of one name: tables call a training by its folder
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(f"{words[-1]}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        plain, moved = Path.replace, []

        def replace(path: Path, target: Path) -> Path:
            moved.append(path)
            if len(moved) == dies:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(path, target)

        Path.replace = replace
        try:
            main(words)
        except SystemExit as stopped:
            os._exit(int(stopped.code or 0))
        os._exit(70)
    if after is not None:
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def told(error: Path) -> str:
    return error.read_text() if error.exists() else ""


def content(folder: Path) -> dict[str, object]:
    """Return what must be equal in two runs of a command, by file: what says how long it took is left out."""
    found: dict[str, object] = {}
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        name = str(file.relative_to(folder))
        if name == "epochs.csv":
            found[name] = [{**row, "seconds": ""} for row in csv.DictReader(file.open())]
        elif name == "metrics.json" and (metrics := json.loads(file.read_text())).get("history"):
            found[name] = [{**row, "seconds": 0} for row in metrics["history"]], metrics["epochs"], metrics["test"]
        elif file.suffix == ".json" and "seconds" in (measured := json.loads(file.read_text())):
            found[name] = {**measured, "seconds": 0}
        elif file.suffix == ".pt":
            state = torch.load(file, weights_only=True)["model"]
            found[name] = {key: value.tolist() for key, value in state.items()}
        elif file.suffix == ".safetensors" and "cells" in file.parts:
            from safetensors.torch import load_file

            found[name] = {key: value.tolist() for key, value in load_file(file).items()}
        elif file.suffix in (".html", ".md", ".csv") or name.endswith("results.json"):
            found[name] = "is there"
        else:
            found[name] = file.read_bytes()
    return found


def run(name: str, command: str, folder: Path, kills: int) -> dict[str, object]:
    """Return the files that differ, or are left over, and how many writes a run takes."""
    whole = folder / "whole" / name
    words = [*command.format(own=folder / "own.py").split(), "--out"]
    began = time.monotonic()
    if (code := child([*words, str(whole)])) != 0:
        return {"different": [f"exit code {code}", told(Path(f"{whole}.err"))]}
    took, wrong, move = time.monotonic() - began, list[str](), 1
    while not wrong:  # a fresh run that dies before write number ``move``
        killed = folder / str(move) / name
        if (code := child([*words, str(killed)], dies=move)) != -signal.SIGKILL:
            break
        wrong = [f"write {move}: {file}" for file in again(words, whole, killed)]
        move += 1
    if not wrong:
        killed = folder / "killed" / name
        for _ in range(kills):
            child([*words, str(killed)], after=random.uniform(0, took))
        for each in range(1, 60):  # each goes on from what the one before has left
            if child([*words, str(killed)], dies=each) != -signal.SIGKILL:
                break
        wrong = again(words, whole, killed)
    return {"different": wrong, "writes": move - 1, "code": code}


def again(words: list[str], whole: Path, killed: Path) -> list[str]:
    """Give the command again; return what differs from an undisturbed run then, and what is left over."""
    if (code := child([*words, str(killed)])) != 0:
        return [f"exit code {code}", told(Path(f"{killed}.err"))]
    one, two = content(whole), content(killed)
    hidden = [f for folder in (killed.parent, killed) for f in folder.glob("*") if f.name.startswith(".")]
    left = [f.name for f in hidden] + [f.name for f in killed.rglob("*.part")]
    return [*left, *sorted({file for file in {*one, *two} if one.get(file) != two.get(file)})]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in (*(f"omnirobust.{part}" for part in LOADED), "pyarrow.parquet", "rich.table", "sklearn.datasets"):
        import_module(name)
    where, often = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    random.seed(often)
    (where / "own.py").write_text(OWN)
    chosen = {name: JOBS[name] for name in sys.argv[3:] or JOBS}
    sys.stdout.write(json.dumps({name: run(name, command, where, often) for name, command in chosen.items()}))
