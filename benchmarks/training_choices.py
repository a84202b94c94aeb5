"""Compare two settings of training by what withstands strong attacks afterwards: the same seeds, data and test images.

    python benchmarks/training_choices.py persist|bf16|dpar [--model a] [--images N] [--epochs N] [--seeds N]

"persist": weights carried per example against weights begun anew on each mini-batch. "bf16": attack and training in
mixed precision against fp32. "dpar": the regulariser at 0.1 after one epoch against at once, three threats, attacked
images alone. The first is compared with the second by Acc_adv^max in fp32, under the many attacks of
``evaluate_robustness``.
"""

from __future__ import annotations

import argparse
import math

import torch
from scipy.stats import t as student
from torch import Tensor

import omnirobust as orb
from omnirobust import zoo
from omnirobust.evaluation.metrics import paired_mean_difference
from omnirobust.training import Scheme
from omnirobust.zoo import data

TWO = (orb.Linf(0.2), orb.L2(2.0))
THREE = (*TWO, orb.L1(10.0))
CHOICES: dict[str, tuple[tuple[str, Scheme, str], tuple[str, Scheme, str]]] = {
    "persist": (
        ("carried", Scheme("minmax", TWO, 10, persist="example"), "fp32"),
        ("anew", Scheme("minmax", TWO, 10), "fp32"),
    ),
    "bf16": (("bf16", Scheme("minmax", TWO, 10), "bf16"), ("fp32", Scheme("minmax", TWO, 10), "fp32")),
    "dpar": (
        ("after an epoch", Scheme("minmax", THREE, 5, dpar=0.1, adversarial_ratio=1.0, dpar_warmup=1), "fp32"),
        ("at once", Scheme("minmax", THREE, 5, dpar=0.1, adversarial_ratio=1.0), "fp32"),
    ),
}


def stands(letter: str, setting: tuple[str, Scheme, str], seed: int, images: int, epochs: int, test: int) -> Tensor:
    """Train one network, print how it fares, and return which test images withstand everything, (test,) bool."""
    name, scheme, precision = setting
    train, held_out = data.load("mnist", "train", limit=images), data.load("mnist", "test", limit=test)
    torch.manual_seed(seed)
    model = zoo.build(letter, train.shape, 10)
    mixed = "bf16" if precision == "bf16" else "fp32"
    orb.training.fit(model, (train.x, train.y), scheme, epochs=epochs, seed=seed, precision=mixed)
    threats = dict(zip(scheme.names, scheme.threats, strict=True))
    report = orb.evaluation.evaluate_robustness(model.eval(), held_out.x, held_out.y, threats, steps=20)
    rates = (report.clean, report.union, report.average)
    print(f"| {seed} | {name} | {' | '.join(f'{100 * rate:.1f}' for rate in rates)} |", flush=True)
    return report.correct.all(1)


def over_seeds(differences: Tensor) -> str:
    """Return the mean of one difference a seed, with Student's 95 % interval."""
    mean, count = float(differences.mean()), len(differences)
    if count < 2:
        return f"{mean:.1f}"
    reach = float(student.ppf(0.975, count - 1)) * float(differences.std()) / math.sqrt(count)
    return f"{mean:.1f} ({mean - reach:.1f} to {mean + reach:.1f})"


def main() -> None:
    """Train both settings with every seed, and print the differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("choice", choices=CHOICES)
    parser.add_argument("--model", default="a")
    for name, value in (("images", 5000), ("epochs", 6), ("seeds", 5), ("test", 500)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    first, second = CHOICES[given.choice]
    print("| seed | setting | clean | Acc_adv^max | Acc_adv^avg |\n|---|---|---|---|---|", flush=True)
    both: list[tuple[Tensor, Tensor]] = []
    for seed in range(given.seeds):
        one, other = (
            stands(given.model, setting, seed, given.images, given.epochs, given.test) for setting in (first, second)
        )
        both.append((one, other))
    one, other = (100 * torch.stack(side).double() for side in zip(*both, strict=True))
    images = paired_mean_difference(one.mean(0), other.mean(0))
    print(f"\nAcc_adv^max, {first[0]} less {second[0]}, in points, 95 % intervals:")
    print(f"over {given.seeds} seeds {over_seeds((one - other).mean(1))};", end=" ")
    print(f"over {given.test} images, these networks {images.estimate:.1f} ({images.low:.1f} to {images.high:.1f})")


if __name__ == "__main__":
    main()
