"""Every experiment by name: its rows, its printed values, and what the paper claims of it."""

from __future__ import annotations

from dataclasses import replace

from omnirobust.paper import ensembles, groups, printed, transforms
from omnirobust.paper.ensemble_claims import TABLE_1A, TABLE_1B, TABLE_A2, TABLE_A3, TABLE_A4
from omnirobust.paper.figure_claims import FIGURE_1, FIGURE_2, FIGURE_A1
from omnirobust.paper.group_claims import TABLE_2, TABLE_A9
from omnirobust.paper.transforms import TABLE_3, TABLE_A5, TABLE_A6
from omnirobust.study.claims import Claim
from omnirobust.study.spec import Experiment

CLAIMS: dict[str, tuple[Claim, ...]] = {
    "table-1a": TABLE_1A,
    "table-1b": TABLE_1B,
    "table-a3": TABLE_A3,
    "table-a2": TABLE_A2,
    "table-a4": TABLE_A4,
    "figure-1": FIGURE_1,
    "figure-2": FIGURE_2,
    "figure-a1": FIGURE_A1,
    "table-2": TABLE_2,
    "table-3": TABLE_3,
    "table-a5": TABLE_A5,
    "table-a6": TABLE_A6,
    "table-a9": TABLE_A9,
    "table-a10": TABLE_A9,
}
"""Experiment name to what the paper claims of it."""


def experiments() -> dict[str, Experiment]:
    """Return every experiment of the paper by name, in the order in which they are worth computing."""
    weights = [groups.weights_table(name) for name in groups.DIGITS]
    others = (groups.table_2(), *transforms.tables(), *weights)
    every = (*ensembles.experiments().values(), *others)
    return {e.name: replace(e, claims=CLAIMS[e.name], printed=printed.PRINTED.get(e.name, {})) for e in every}


VARIANTS: dict[str, str] = {
    "paper": "the paper's attack, each model to leave its own clean prediction (as in the released code)",
    "paper-by-class": "the paper's attack on groups of images of one class, as the released code makes them on MNIST",
    "paper-clip": "the paper's attack on groups at random, each image clamped to the data range on its own",
    "paper-true": "the paper's attack, true labels",
    "default": "this library's default attack with as many gradient evaluations: in Table 1(a) with its loss, which "
    "asks for one more of each model, in all others with the standardised margin that was the default before; labels "
    "as in `paper`; groups at random, each image clamped to the data range on its own",
    "default-by-class": "this library's default attack on groups of images of one class",
    "default-true": "this library's default attack, true labels",
    "paper-acd": "the paper's attack on the models A, C and D alone",
    "paper-acd-true": "the same, true labels",
    "default-acd": "this library's default attack on A, C and D alone",
    "default-acd-true": "the same, true labels",
    "released": "the paper's attack with the released code's loss, which masks every wrong logit with 0",
}
"""Name of each version of the attack, the first to be computed first, and what it means."""
