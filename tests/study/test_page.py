"""One line on what came out of an experiment."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omnirobust.attacks.presets import PAPER
from omnirobust.experiments import Cell, Claim, Experiment, Row
from omnirobust.study.outcome import Outcome
from omnirobust.study.page import in_brief

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
def test_a_line_counts_claims_once_and_tells_rows_apart(laboratory, variants, images, said):
    rows = tuple(Row(("linf", "avg"), variant, replace(CELL, seed=i)) for i, variant in enumerate(variants))
    measured = {(r.variant, r.key): laboratory.measure(r.cell, n) for r, n in zip(rows, images, strict=True) if n}
    outcome = Outcome(Experiment("mine", "Of my own", rows, claims=(CLAIM,)), measured, 12, 0.0)
    assert in_brief(outcome) == f"mine (Of my own): {said}"
