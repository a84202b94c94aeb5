"""Tables A9 and A10 as rows: what the weights of a universal perturbation say of the images of its group."""

from __future__ import annotations

from omnirobust._types import Norm
from omnirobust.paper.ensembles import MNIST
from omnirobust.paper.losses import as_measured
from omnirobust.settings import DEFAULT, PAPER_UNIVERSAL
from omnirobust.study.attack_cells import Distortion, Universal
from omnirobust.study.spec import Cell, Experiment, Row

MODEL = "mnist/c"
"""Ours: the paper does not say which model."""

SIZE, STEPS = 5, 20
NORMS: tuple[Norm, ...] = ("l0", "l1", "l2", "linf")
DIGITS = {"table-a9": (0, 1, 2, 3, 4), "table-a10": (5, 6, 7, 8, 9)}

NOTE = """\
Groups of five images of one digit, one perturbation each; the printed figures are of two groups a digit, ours of all
groups attacked. The paper does not say which model, which radii or which steps: we take LeNet (C), the radii of
Table 1(a) and 20 steps of the attack of Table 2, in the intersection box. dist is the least l2 distortion that fools
the model on an image by itself (Carlini and Wagner's attack), eps_min the least linf radius. Correlations are
Spearman's over all images, pooled, with 95 % intervals by resampling groups. Slips of the printed tables: the weights
of two groups of A9 do not sum to 1 (digit 0, group 2, l1: 0.992; digit 3, group 1, l0: 0.859), those of digit 2 are
missing from the text, and five images break eps_min <= dist <= 28 eps_min.\
"""


def groups(name: str) -> Universal:
    """Return the groups of a table."""
    return Universal(SIZE, "class", "intersection", DIGITS[name])


def weights(name: str, variant: str, norm: Norm) -> Cell:
    """Return the cell of the attack whose weights are looked at."""
    attack = as_measured(DEFAULT[norm]) if variant == "default" else PAPER_UNIVERSAL[norm]
    return Cell((MODEL,), norm, MNIST.eps[norm], attack, labels="released", steps=STEPS, task=groups(name))


def distortion(name: str, norm: Norm) -> Cell:
    """Return the cell of the least distortions of the same images."""
    steps = 100 if norm == "l2" else 50
    attack = as_measured(DEFAULT[norm])
    return Cell((MODEL,), norm, 0.0, attack, labels="released", steps=steps, task=Distortion(groups(name)))


def table(name: str) -> Experiment:
    """Return Table A9 or A10."""
    rows = [
        row
        for variant in ("paper", "default")
        for row in (
            *(Row((norm, "minmax"), variant, weights(name, variant, norm)) for norm in NORMS),
            Row(("dist", "alone"), variant, distortion(name, "l2")),
            Row(("eps_min", "alone"), variant, distortion(name, "linf")),
        )
    ]
    digits = f"{DIGITS[name][0]} to {DIGITS[name][-1]}"
    title = f"Weights of the images of a group, and how hard each is by itself, MNIST digits {digits}"
    return Experiment(name, title, tuple(rows), "weights", heads=("norm", "weights"), note=NOTE)
