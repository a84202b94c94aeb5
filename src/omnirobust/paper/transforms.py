"""Tables 3, A5 and A6 as rows: one perturbation that withstands transformations of its image, on CIFAR-10."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from omnirobust.paper.losses import as_measured
from omnirobust.settings import DEFAULT, PAPER_TRANSFORMS
from omnirobust.study.attack_cells import Transformed
from omnirobust.study.spec import Cell, Experiment, Labels, Row
from omnirobust.transforms import PAPER_DETERMINISTIC, PAPER_STOCHASTIC, ImageTransform
from omnirobust.weights import Uniform

LETTERS = "ABCD"
EPS, STEPS = 0.03, 20

VARIANTS: dict[str, Labels] = {"paper": "released", "paper-true": "true", "default": "released", "default-true": "true"}
"""Version of the attack to its labels."""

NOTE = """\
Images are CIFAR-10 as the hub holds it, re-encoded as JPEG. ASR_gp is the share of images that one perturbation makes
the model misclassify under every transformation, ASR_avg that of (image, transformation) pairs. As in the released
code, the attack is to leave the class that the model gives to the clean image under each transformation, and success is
counted against the true label; with `-true` both are the true label.\
"""

DRAWN = """ Each image is judged on one fresh draw of every transformation, and each step takes one. The text lists
rotation among the random transformations, the table has none: five columns.\
"""


def transformed(variant: str, letter: str, scheme: str, transforms: Mapping[str, ImageTransform]) -> Cell:
    """Return the cell of one attack on a model by the average (EOT, "avg") or by min-max ("minmax")."""
    attack = as_measured(DEFAULT["linf"]) if variant.startswith("default") else PAPER_TRANSFORMS["linf"]
    if scheme == "avg":
        attack = replace(attack, rule=Uniform())
    model, task = f"cifar10/{letter.lower()}", Transformed(tuple(transforms.items()))
    return Cell((model,), "linf", EPS, attack, labels=VARIANTS[variant], data="cifar10", steps=STEPS, task=task)


def tables() -> tuple[Experiment, ...]:
    """Return Tables 3, A6 and A5."""
    first_six = {name: PAPER_DETERMINISTIC[name] for name in ("ori", "flh", "flv", "bri", "gam", "crop")}
    return (
        _table("table-3", "Robust to six transformations: average (EOT) against min-max", first_six, NOTE),
        _table("table-a6", "The same with rotation", PAPER_DETERMINISTIC, NOTE),
        _table("table-a5", "Robust to five random transformations", PAPER_STOCHASTIC, NOTE + DRAWN),
    )


def _table(name: str, title: str, transforms: Mapping[str, ImageTransform], note: str) -> Experiment:
    rows = [
        Row((letter, scheme), variant, transformed(variant, letter, scheme, transforms))
        for variant in VARIANTS
        for letter in LETTERS
        for scheme in ("avg", "minmax")
    ]
    return Experiment(name, f"{title}, CIFAR-10", tuple(rows), heads=("model", "weights"), note=note)
