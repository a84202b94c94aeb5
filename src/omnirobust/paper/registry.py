"""Every experiment by name: its rows, its printed values, and what the paper claims of it."""

from __future__ import annotations

from dataclasses import replace

from omnirobust.paper import ensembles, interpretability, printed_groups
from omnirobust.paper import groups as universals
from omnirobust.paper import printed as tables
from omnirobust.paper import transforms as transformed
from omnirobust.paper.cifar_claims import TABLE_1B, TABLE_A3
from omnirobust.paper.ensemble_claims import TABLE_1A, TABLE_A2, TABLE_A4
from omnirobust.paper.figure_claims import FIGURE_1, FIGURE_2, FIGURE_A1
from omnirobust.paper.group_claims import TABLE_2
from omnirobust.paper.printed import Printed
from omnirobust.paper.transform_claims import TABLE_3, TABLE_A5, TABLE_A6
from omnirobust.paper.weight_claims import TABLE_A9
from omnirobust.study.claims import Claim
from omnirobust.study.spec import Experiment, Key

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

PRINTED: dict[str, dict[Key, Printed]] = tables.PRINTED | {
    "table-2": printed_groups.TABLE_2,
    "table-3": printed_groups.TABLE_3,
    "table-a5": printed_groups.TABLE_A5,
    "table-a6": printed_groups.TABLE_A6,
}
"""Experiment name to its printed rows; figures print no numbers, and Tables A9 and A10 those of other images."""


def experiments() -> dict[str, Experiment]:
    """Return every experiment of the paper by name, in the order in which they are worth computing."""
    weights = [interpretability.table(name) for name in interpretability.DIGITS]
    others = (universals.table_2(), *transformed.tables(), *weights)
    every = (*ensembles.experiments().values(), *others)
    return {e.name: replace(e, claims=CLAIMS[e.name], printed=PRINTED.get(e.name, {})) for e in every}
