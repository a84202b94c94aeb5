"""What it brings that examples carry their perturbations from one epoch to the next (``Scheme.persist`` "all").

    python benchmarks/carried.py printed    # Algorithm 2 by its letter: carried, drawn anew, and SGD before any ascent
    python benchmarks/carried.py equal      # R ascents carried against R drawn anew, at equal gradients
    python benchmarks/carried.py table      # what was measured, as tables

MNIST, linf 0.2 and l2 2.0 together, min-max, first images of the training split, Adam at 0.001, judged on the first
test images: "pgd" is the attack of the training with 20 normalised steps, the last kept; "strong" is
``evaluate_robustness`` with 20 steps a run. Every number is written to ``carried.json`` beside this file as it is
found; one that is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import omnirobust as orb
from omnirobust import zoo
from omnirobust._files import replacing
from omnirobust.training import Scheme, attack_batch, fit
from omnirobust.training.batches import TensorBatches
from omnirobust.zoo import data
from omnirobust.zoo.data import ImageData

FILE = Path(__file__).with_suffix(".json")
THREATS = (orb.Linf(0.2), orb.L2(2.0))
K = len(THREATS)

PRINTED_AT = (5, 10, 20, 40, 80)
"""Epochs after which trainings by the letter are judged."""

SETTINGS = {
    "printed": {"a": {"images": 3000, "batch_size": 128, "pgd": 1000, "strong": 200}},
    "equal": {
        "a": {"images": 3000, "batch_size": 64, "gradients": 301, "pgd": 1000, "strong": 200},
        "c": {"images": 1000, "batch_size": 32, "gradients": 301, "pgd": 500, "strong": 0},
    },
}
"""Images, and gradients of the network that each of them may cost; test images of both evaluations, 0 for none."""

ARMS = (*(("all", R) for R in (1, 2, 3, 5, 10)), *(("none", R) for R in (5, 10, 20, 1, 2, 3)))
"""What is carried, and how many ascents a mini-batch takes; the last three tell what is due to few ascents alone."""

MARKS = (0.25, 0.5, 1.0)
"""Shares of the gradients at which a training is judged."""


def read() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


def note(key: str, found: Mapping[str, Any]) -> None:
    """Write one training's numbers."""
    with replacing(FILE) as partial:
        partial.write_text(json.dumps(read() | {key: found}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(key, json.dumps(found), flush=True)


def judged(model: nn.Module, setting: Mapping[str, int], strong: bool) -> dict[str, float]:
    """Return the accuracy on clean test images, and that under both attacks at once."""
    was, test = model.training, data.load("mnist", "test", limit=setting["pgd"])
    model.eval()
    deltas, _ = attack_batch(model, test.x, test.y, Scheme("average", THREATS, 20), seed=1)
    with torch.no_grad():
        clean = model(test.x).argmax(1) == test.y
        right = torch.stack([model(test.x + delta).argmax(1) == test.y for delta in deltas]).all(0)
    found = {"clean": float(clean.float().mean()), "pgd": float(right.float().mean())}
    if strong and setting["strong"]:
        few, threats = setting["strong"], {"linf": THREATS[0], "l2": THREATS[1]}
        found["strong"] = orb.evaluation.evaluate_robustness(model, test.x[:few], test.y[:few], threats, steps=20).union
    model.train(was)
    return {name: round(value, 4) for name, value in found.items()}


def begun(letter: str, images: int, seed: int) -> tuple[nn.Module, ImageData]:
    train = data.load("mnist", "train", limit=images)
    torch.manual_seed(seed)
    return zoo.build(letter, train.shape, 10), train


def trained(
    letter: str, scheme: Scheme, setting: Mapping[str, int], seed: int, epochs: tuple[int, ...], strong: bool
) -> dict[str, Any]:
    """Train one network, and judge it after some of its epochs; by the strong attacks after the last."""
    model, train = begun(letter, setting["images"], seed)
    found, began = dict[str, Any](), time.perf_counter()

    def look(epoch: int, last: int, row: Mapping[str, float]) -> None:
        if epoch in epochs:
            found[str(epoch)] = judged(model, setting, strong or epoch == last)

    fit(
        model, (train.x, train.y), scheme, epochs=max(epochs), seed=seed, batch_size=setting["batch_size"],
        progress=look,
    )  # fmt: skip
    return {"epochs": found, "seconds": round(time.perf_counter() - began)}


def sgd_first(setting: Mapping[str, int], seed: int, epochs: tuple[int, ...], scheme: Scheme) -> dict[str, Any]:
    """Train in the order of the printed lines, mini-batch by mini-batch: SGD on what rows carry, then R ascents."""
    model, train = begun("a", setting["images"], seed)
    found, optimizer, began = dict[str, Any](), torch.optim.Adam(model.parameters(), lr=1e-3), time.perf_counter()
    still = Scheme("average", THREATS, 1, preset="paper", step_sizes=(1e-30, 1e-30))
    deltas = torch.stack(attack_batch(model, train.x, train.y, still, seed=seed)[0], 1)
    weights = torch.full((len(train.x), K), 1 / K)
    batches = TensorBatches(train.x, train.y, setting["batch_size"], seed)
    for epoch in range(max(epochs)):
        for batch in batches.numbered(epoch):
            _descend(model.train(), optimizer, batch.x, batch.y, deltas[batch.rows], weights[batch.rows])
            ours, weights[batch.rows] = attack_batch(
                model, batch.x, batch.y, scheme, weights=weights[batch.rows], deltas=list(deltas[batch.rows].unbind(1))
            )
            deltas[batch.rows] = torch.stack(ours, 1)
        if epoch + 1 in epochs:
            found[str(epoch + 1)] = judged(model, setting, True)
    return {"epochs": found, "seconds": round(time.perf_counter() - began)}


def _descend(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, deltas: Tensor, weights: Tensor
) -> None:
    optimizer.zero_grad()
    loss = 0.5 * cross_entropy(model(x), y)
    for k in range(K):
        loss = loss + 0.5 * (weights[:, k] * cross_entropy(model(x + deltas[:, k]), y, reduction="none")).mean()
    loss.backward()
    optimizer.step()


def printed(seeds: range) -> None:
    """Train by ``preset="paper"``, 10 ascents: the paper's steps and rates, see ``training.inner_steps``."""
    setting = SETTINGS["printed"]["a"]
    runs: list[tuple[str, Callable[[], dict[str, Any]]]] = []
    for seed in seeds:
        for persist in ("all", "none"):
            scheme = Scheme("minmax", THREATS, 10, preset="paper", persist=persist)
            runs.append(
                (
                    f"printed/{persist}/{seed}",
                    lambda scheme=scheme, seed=seed: trained("a", scheme, setting, seed, PRINTED_AT, True),
                )
            )
        scheme = Scheme("minmax", THREATS, 10, preset="paper")
        runs.append(
            (
                f"printed/sgd first/{seed}",
                lambda scheme=scheme, seed=seed: sgd_first(setting, seed, PRINTED_AT[:3], scheme),
            )
        )
    for key, work in runs:
        if key not in read():
            note(key, work())


def cost(steps: int) -> int:
    """Return the gradients of the network that an image costs in an epoch: K R ascents, and the step on theta."""
    return K * steps + K + 1


def equal(seeds: range, letters: str) -> None:
    """Train by normalised steps, every arm as many epochs as its gradients allow."""
    for seed in seeds:
        for letter in letters:
            setting = SETTINGS["equal"][letter]
            for persist, steps in ARMS:
                if (key := f"equal/{letter}/{persist}/{steps}/{seed}") in read():
                    continue
                at = tuple(max(1, round(share * setting["gradients"] / cost(steps))) for share in MARKS)
                scheme = Scheme("minmax", THREATS, steps, persist=persist)
                note(key, trained(letter, scheme, setting, seed, at, False))


def table() -> None:
    """Print what was measured: means over seeds, and the least and the most."""
    groups: dict[tuple[str, int], list[dict[str, float]]] = {}
    for key, found in read().items():
        for mark, (epoch, values) in enumerate(sorted(found["epochs"].items(), key=lambda item: int(item[0]))):
            groups.setdefault((f"{key.rpartition('/')[0]} | {epoch}", mark), []).append(values)
    print("| what | epochs | seeds | clean | pgd | strong |\n|---|---|---|---|---|---|")
    for (name, _), rows in groups.items():
        cells = [_over([row[column] for row in rows if column in row]) for column in ("clean", "pgd", "strong")]
        print(f"| {name} | {len(rows)} | {' | '.join(cells)} |")


def differences() -> None:
    """Print what carrying adds to as many ascents, seed by seed: means, and the least and the most of the seeds."""
    ends: dict[tuple[str, ...], dict[str, float]] = {}
    for key, found in read().items():
        what, *arm = key.split("/")
        if what == "equal":
            ends[tuple(arm)] = found["epochs"][max(found["epochs"], key=int)]
    print("\n| network | R | seeds | pgd, carried less anew | strong, carried less anew |\n|---|---|---|---|---|")
    for letter in SETTINGS["equal"]:
        for steps in sorted({steps for kept, steps in ARMS if kept == "all"}):
            seeds = sorted(s for of, kept, R, s in ends if (of, kept, R) == (letter, "all", str(steps)))
            pairs = [
                (ends[letter, "all", str(steps), s], other)
                for s in seeds
                if (other := ends.get((letter, "none", str(steps), s)))
            ]
            added = [
                _over([ours[column] - theirs[column] for ours, theirs in pairs if column in ours and column in theirs])
                for column in ("pgd", "strong")
            ]
            print(f"| {letter} | {steps} | {len(pairs)} | {' | '.join(added)} |")


def _over(values: list[float]) -> str:
    if not values:
        return "–"
    return f"{100 * statistics.mean(values):.1f} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("printed", "equal", "table"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--models", default="ac", help="letters of the networks of equal")
    given = parser.parse_args()
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    if given.what == "printed":
        printed(seeds)
    elif given.what == "equal":
        equal(seeds, given.models)
    else:
        table()
        differences()


if __name__ == "__main__":
    main()
