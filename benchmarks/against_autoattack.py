"""Our evaluation beside AutoAttack's standard version, on the same images of MNIST.

    python benchmarks/against_autoattack.py --cells runs/reproduction/cells --out benchmarks/autoattack.md

Of the zoo's LeNet and of networks trained for Table 4 by the quick budget; those that are not among the cells are
trained first, ten minutes a LeNet. Needs ``omnirobust[autoattack]``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

import omnirobust as orb
from omnirobust import zoo
from omnirobust.evaluation import RobustnessReport, evaluate_robustness
from omnirobust.paper.training_budgets import TRAINING_BUDGETS
from omnirobust.paper.trainings import training_experiments
from omnirobust.study.cell_cache import CellCache
from omnirobust.zoo import data

TRAINED = {"table-4a": ("MLP", ("minmax", "minmax_dpar")), "table-4b": ("LeNet", ("avg", "minmax", "minmax_dpar"))}
OF_THE_ZOO = {"linf 0.08": orb.Linf(0.08), "l2 1.2": orb.L2(1.2), "l1 6": orb.L1(6.0)}
OF_THE_TRAINING = {"linf 0.2": orb.Linf(0.2), "l2 2": orb.L2(2.0)}


def models(cells: Path) -> Iterator[tuple[str, nn.Module, dict[str, orb.ThreatModel]]]:
    """Yield the name of every network, the network, and what attackers of it may do."""
    yield "LeNet, natural", zoo.load("mnist/c"), OF_THE_ZOO
    cache = CellCache(cells)
    for table, (name, kinds) in TRAINED.items():
        for training, _ in training_experiments()[table].work(TRAINING_BUDGETS["quick"]):
            if training.seed == 0 and training.method in kinds:
                model = cache.measure(training, 0).model
                yield f"{name}, {training.method.replace('_', ' + ')}", model, OF_THE_TRAINING


def row(what: str, ours: torch.Tensor, theirs: torch.Tensor) -> str:
    """Return a row of the table: accuracies, and how many images stand under one alone."""
    alone = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    share = f"{100 * ours.double().mean():.1f} | {100 * theirs.double().mean():.1f}"
    return f"| {what} | {share} | {alone[0]} | {alone[1]} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=Path, default=Path("runs/reproduction/cells"))
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    images, rows = data.load("mnist", "test", limit=asked.images), []
    for name, model, threats in models(asked.cells):
        found, seconds = list[RobustnessReport](), list[float]()
        for attacks in ("default", "autoattack"):
            begin = time.process_time()
            found.append(evaluate_robustness(model.eval(), images.x, images.y, threats, attacks=attacks))
            seconds.append(time.process_time() - begin)
        ours, theirs = found
        rows += [row(f"{name}: {t}", ours.correct[:, k], theirs.correct[:, k]) for k, t in enumerate(threats)]
        both = ours.correct.all(1), theirs.correct.all(1)
        rows.append(row(f"{name}: all at once", *both) + f" {seconds[1] / seconds[0]:.1f} |")
        text = f"""# Beside AutoAttack

`python benchmarks/against_autoattack.py --images {asked.images}`, torch {torch.__version__}. The first {asked.images} \
test images of MNIST. Accuracy in %, of
ours with 100 steps and of AutoAttack's standard version; how many images stand under one alone; and how many times
the processor time of ours AutoAttack took, for all threats of a network.

| network, threat | ours | AutoAttack | ours alone | AutoAttack alone | times |
|---|---|---|---|---|---|
""" + "\n".join(r if r.count("|") == 7 else f"{r} |" for r in rows)
        print(rows[-len(threats) - 1 :])
        if asked.out is not None:
            asked.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
