"""Min-max against the average in robust training (Table 4, MLP), for as many of the paper's epochs as fit.

    python benchmarks/table_4.py train --hours 10 --out runs/table-4    # the longer, the more of the 350 epochs
    python benchmarks/table_4.py table                                  # what was measured, and the paired differences

MNIST, all 60,000 training images, linf 0.2 and l2 2.0 together, R = 20 normalised steps, mini-batches of 128, Adam at
0.001, as the paper says; three seeds, each for both schemes from the same initial weights, in the same order and from
the same random starts. Every network is judged after the same epochs, on the same test images and from the same
starts: "pgd" is the attack of the training on 10,000, "strong" is ``evaluate_robustness`` with 20 steps a run on the
first 1,000. Stopped at any point, the same command goes on after the last whole epoch.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import omnirobust as orb
from omnirobust import zoo
from omnirobust._files import replacing
from omnirobust.training import Scheme, attack_batch, fit
from omnirobust.training.schemes import Kind
from omnirobust.zoo import data
from omnirobust.zoo.data import ImageData

FILE = Path(__file__).with_suffix(".json")
THREATS = {"linf": orb.Linf(0.2), "l2": orb.L2(2.0)}
STEPS = 20
SEEDS = (0, 1, 2)
KINDS: tuple[Kind, ...] = ("average", "minmax")
MARKS = (2, 5, 10, 15, 20, 30, 40, 60, 80, 100, 150, 200, 250, 300, 350)
"""Epochs after which networks are judged."""

STRONG = 1000
T_OF_TWO = 4.303
"""Student's t of two degrees of freedom that leaves 2.5 % above it: for the mean of three seeds."""


def read() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


def note(key: str, found: dict[str, Any]) -> None:
    """Write what was found of one network after one epoch."""
    with replacing(FILE) as partial:
        partial.write_text(json.dumps(read() | {key: found}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(key, json.dumps(found), flush=True)


def judged(model: nn.Module, test: ImageData) -> dict[str, float]:
    """Return accuracies on the test images: clean, under each attack of the training, and under the strong ones."""
    model.eval()
    right: dict[str, list[torch.Tensor]] = {}
    for number, (x, y) in enumerate(zip(test.x.split(1000), test.y.split(1000), strict=True)):
        deltas, _ = attack_batch(model, x, y, Scheme("average", tuple(THREATS.values()), STEPS), seed=number)
        for name, delta in zip(("clean", *THREATS), (torch.zeros_like(x), *deltas), strict=True):
            with torch.no_grad():
                right.setdefault(name, []).append(model(x + delta).argmax(1) == y)
    each = {name: torch.cat(parts) for name, parts in right.items()}
    found = {name: share(ok) for name, ok in each.items()}
    found["pgd max"] = share(each["linf"] & each["l2"])
    found["pgd avg"] = round((found["linf"] + found["l2"]) / 2, 5)
    few = orb.evaluation.evaluate_robustness(model, test.x[:STRONG], test.y[:STRONG], THREATS, steps=20)
    found["strong max"] = round(few.union, 5)
    found["strong avg"] = round(few.average, 5)
    return found


def share(ok: torch.Tensor) -> float:
    return round(float(ok.double().mean()), 5)


def trained(kind: Kind, seed: int, epochs: int, train: ImageData, out: Path, until: float) -> nn.Module | None:
    """Train one network to so many epochs in all, from where it was left; None if time runs out before."""
    torch.manual_seed(seed)
    model = zoo.build("a", train.shape, 10)

    def look(done: int, last: int, row: object) -> None:
        if done < last and time.monotonic() > until:
            raise TimeoutError

    try:
        fit(
            model, (train.x, train.y), Scheme(kind, tuple(THREATS.values()), STEPS), epochs=epochs, seed=seed,
            out=out / f"{kind}-{seed}", compile=True, progress=look,
        )  # fmt: skip
    except TimeoutError:
        return None
    return model


def train(hours: float, out: Path) -> None:
    """Take all networks from mark to mark, so that at any time all seeds of both schemes are equally far."""
    images, test = data.load("mnist", "train"), data.load("mnist", "test")
    until = time.monotonic() + 3600 * hours
    for epochs in MARKS:
        for seed in SEEDS:
            for kind in KINDS:
                if (key := f"{kind}/{seed}/{epochs}") in read():
                    continue
                began = time.process_time()
                model = trained(kind, seed, epochs, images, out, until)
                if model is None or time.monotonic() > until:
                    print(f"time is over; the networks lie in {out}, the numbers in {FILE}")
                    return
                spent = time.process_time() - began
                note(key, judged(model, test) | {"core seconds since the last mark": round(spent)})


def pairs(column: str) -> Iterator[tuple[int, list[float], list[float]]]:
    """Yield epochs, and the values of both schemes, of seeds that have both."""
    found = read()
    for epochs in MARKS:
        keys = [[f"{kind}/{seed}/{epochs}" for kind in KINDS] for seed in SEEDS]
        both = [[found[key][column] for key in pair] for pair in keys if all(key in found for key in pair)]
        if both:
            yield epochs, [pair[0] for pair in both], [pair[1] for pair in both]


def table() -> None:
    """Print means over seeds, and the paired difference with its interval of 95 % over three seeds."""
    print("| epochs | accuracy | average | min-max | min-max - average, points |\n| --- | --- | --- | --- | --- |")
    for column in ("clean", "pgd max", "pgd avg", "strong max", "strong avg"):
        for epochs, average, minmax in pairs(column):
            leads = [100 * (ours - theirs) for theirs, ours in zip(average, minmax, strict=True)]
            mean, over = statistics.mean(leads), ", ".join(f"{lead:+.2f}" for lead in leads)
            if len(leads) == len(SEEDS):
                half = T_OF_TWO * statistics.stdev(leads) / math.sqrt(len(leads))
                over = f"{mean - half:+.2f} to {mean + half:+.2f}; seeds {over}"
            levels = f"{100 * statistics.mean(average):.2f} | {100 * statistics.mean(minmax):.2f}"
            print(f"| {epochs} | {column} | {levels} | {mean:+.2f} ({over}) |")
    spent = sum(found["core seconds since the last mark"] for found in read().values())
    print(f"\n{spent / 3600:.1f} core hours of training")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "table"))
    parser.add_argument("--hours", type=float, default=10.0, help="stop after so many hours by the clock")
    parser.add_argument("--out", type=Path, default=Path("runs/table-4"), help="folder of the checkpoints")
    given = parser.parse_args()
    if given.what == "train":
        train(given.hours, given.out)
    else:
        table()


if __name__ == "__main__":
    main()
