"""One perturbation for a whole data set: min-max over classes or images, the average, and plain uSGD.

    python examples/universal.py [--model mnist/c] [--norm linf] [--eps 0.3] [--train 5000] [--test 5000] [--epochs 5]

Every method takes the same mini-batches, so as many gradients as the others; all are scored on the test split.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

import omnirobust as orb
from omnirobust import data, zoo
from omnirobust.universal import UniversalPerturbation, learn_universal, score_universal, usgd

THREATS = {"linf": orb.Linf, "l2": orb.L2, "l1": orb.L1, "l0": orb.L0}

LOSS = orb.losses.standardised_margin
"""That of the published tables; ``learn_universal`` by itself takes ``losses.relative_margin``."""

METHODS: dict[str, Callable[..., UniversalPerturbation]] = {
    "uSGD (Shafahi et al.)": usgd,
    "average over images": partial(learn_universal, loss=LOSS, over="data", rule=orb.Uniform()),
    "average over classes": partial(learn_universal, loss=LOSS, over="classes", rule=orb.Uniform()),
    "min-max over images": partial(learn_universal, loss=LOSS, over="images"),
    "min-max over classes": partial(learn_universal, loss=LOSS, over="classes"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Learn by every method and print a table."""
    given = _parser().parse_args(arguments)
    torch.set_num_threads(given.threads or torch.get_num_threads())
    name = given.model.split("/")[0]
    train, test = data.load(name, "train", limit=given.train), data.load(name, "test", limit=given.test)
    model, threat = zoo.load(given.model), THREATS[given.norm](given.eps)
    rows = [("no perturbation", torch.zeros(test.shape), 0.0)]
    for label, method in METHODS.items():
        began = time.perf_counter()
        found = method(model, train.x, train.y, threat, epochs=given.epochs, seed=given.seed)
        rows.append((label, found.delta, time.perf_counter() - began))
    print(f"{given.model}, {given.norm} {given.eps:g}, {len(train)} training and {len(test)} test images")
    print("| method | fooled, % | worst class, % | which | seconds |")
    print("|---|---|---|---|---|")
    for label, delta, seconds in rows:
        score = score_universal(model, test.x, test.y, delta)
        worst = test.classes[min(score.by_class, key=score.by_class.__getitem__)]
        print(f"| {label} | {100 * score.asr:.1f} | {100 * score.worst_class:.1f} | {worst} | {seconds:.0f} |")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="mnist/c", help="a trained model of the zoo")
    parser.add_argument("--norm", choices=THREATS, default="linf")
    parser.add_argument("--eps", type=float, default=0.3)
    parser.add_argument("--train", type=int, default=5000, help="training images")
    parser.add_argument("--test", type=int, default=5000, help="test images")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0 for torch's choice")
    return parser


if __name__ == "__main__":
    main()
