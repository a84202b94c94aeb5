"""One line on what came out of an experiment."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omnirobust.attacks.presets import PAPER
from omnirobust.experiments import Cell, Claim, Experiment, Row
from omnirobust.study.outcome import Outcome
from omnirobust.study.page import by_scale, in_brief, overview

CELL = Cell(("mnist/a",), "linf", 0.1, PAPER["linf"], steps=1)
CLAIM = Claim("met", "It holds.", lambda r: r.asr_all("linf", "avg") >= 0, lambda r: "so")


@pytest.mark.parametrize(
    ("variants", "images", "said"),
    [
        (("one",), (12,), "1 undecided of 1 claim; 1 of 1 rows measured"),
        (("one", "two"), (12, 12), "1 undecided of 1 claim (variant one); 2 of 2 rows measured"),
        (("one", "two"), (6, 12), "1 undecided of 1 claim (variant one); 2 of 2 rows measured, 1 of them in part"),
        (("one", "two"), (0, 12), "1 undecided of 1 claim (variant two); 1 of 2 rows measured"),
        (("one", "two"), (0, 0), "1 not measured of 1 claim; 0 of 2 rows measured"),
    ],
)
def test_a_line_counts_claims_once_and_tells_rows_apart(cell_cache, variants, images, said):
    rows = tuple(Row(("linf", "avg"), variant, replace(CELL, seed=i)) for i, variant in enumerate(variants))
    measured = {(r.variant, r.key): cell_cache.measure(r.cell, n) for r, n in zip(rows, images, strict=True) if n}
    outcome = Outcome(Experiment("mine", "Of my own", rows, claims=(CLAIM,)), measured, 12, 0.0)
    assert in_brief(outcome) == f"mine (Of my own): {said}"


def test_rows_are_counted_by_how_many_images_they_have():
    rows = [(0, 1000), (0, 1000), (12, 1000), (200, 1000), (200, 200), (999, 999), (400, 1000), (1000, 500)]
    found = by_scale({"mine": rows, "other": [(0, 10)]}).splitlines()
    assert found[-3:] == [
        "| mine | 8 | 2 | 2 | 1 | 3 |",
        "| other | 1 | 1 | 0 | 0 | 0 |",
        "| **all** | 9 | 3 | 2 | 1 | 3 |",
    ]


def test_the_overview_ends_with_the_rows_by_scale(cell_cache):
    rows = tuple(Row(("linf", "avg"), variant, replace(CELL, seed=i)) for i, variant in enumerate(("one", "two")))
    measured = {(rows[0].variant, rows[0].key): cell_cache.measure(rows[0].cell, 12)}
    outcome = Outcome(Experiment("mine", "Of my own", rows, claims=(CLAIM,)), measured, 12, 0.0)
    assert overview([outcome], "", "", []).endswith("\n| mine | 2 | 1 | 0 | 0 | 1 |\n")
