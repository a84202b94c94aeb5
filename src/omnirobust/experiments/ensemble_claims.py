"""Experiment name to what the paper claims of it."""

from __future__ import annotations

from omnirobust.experiments.claims import Claim
from omnirobust.experiments.figure_claims import FIGURE_1, FIGURE_2, FIGURE_A1
from omnirobust.experiments.table_claims import TABLE_1A, TABLE_A2, TABLE_A4

CLAIMS: dict[str, tuple[Claim, ...]] = {
    "table-1a": TABLE_1A,
    "table-a2": TABLE_A2,
    "table-a4": TABLE_A4,
    "figure-1": FIGURE_1,
    "figure-2": FIGURE_2,
    "figure-a1": FIGURE_A1,
}
