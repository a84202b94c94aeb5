"""Claims of one's own are tried before anything is measured, and judged by what their functions return."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from omnirobust.attacks.presets import PAPER
from omnirobust.experiments import Cell, Claim, Distortion, Experiment, Row, Transformed, Universal, reproduce
from omnirobust.study.attack_runner import AttackRunner
from omnirobust.study.claims import Rates, judge
from omnirobust.study.own import _made_up, dry_run

CELL = Cell(("mnist/a", "mnist/b"), "linf", 0.1, PAPER["linf"], steps=3)
ROWS = tuple(Row(("linf", name), "mine", CELL) for name in ("avg", "half"))


def study(holds=lambda r: True, shows=lambda r: "so") -> Experiment:
    return Experiment("mine", "Of my own", ROWS, claims=(Claim("odd", "It is odd.", holds, shows),))


SLIPS = [
    ({"shows": lambda r: 3}, "shows of claim 'odd' must return a text, got int 3"),
    ({"shows": lambda r: None}, "shows of claim 'odd' must return a text, got None"),
    ({"holds": lambda r: None}, "holds of claim 'odd' must return True or False, got None"),
    ({"holds": lambda r: r.asr_all("linf", "avg")}, "holds of claim 'odd' must return True or False, got float 0."),
    ({"holds": lambda r: torch.ones(2) > 0}, "holds of claim 'odd' must return True or False, got Tensor"),
]
BROKEN = [
    ({"shows": lambda r: r.nope}, "'odd': AttributeError: 'Rates' object has no attribute 'nope'"),
    ({"holds": lambda: True}, "'odd': TypeError: .*takes 0 positional arguments but 1 was given"),
    (
        {"holds": lambda r: r.asr_all("linf", "never") > 0},
        "must ask for keys of its rows, got .'linf', 'never'. in 'odd'",
    ),
    ({"holds": lambda r: undefined}, "'odd': NameError: name 'undefined' is not defined"),  # noqa: F821
]


@pytest.mark.parametrize(("functions", "sentence"), [*SLIPS, *BROKEN])
def test_a_claim_that_cannot_be_judged_is_told_before_anything_is_measured(
    tmp_path, cell_cache, monkeypatch, functions, sentence
):
    monkeypatch.setattr(AttackRunner, "attack", lambda *words: pytest.fail("measured"))
    with pytest.raises(ValueError, match=sentence):
        reproduce([study(**functions)], images=12, out=tmp_path, cache=cell_cache)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("functions", "sentence"), SLIPS)
def test_so_it_is_at_judging_where_only_what_was_measured_shows_it(functions, sentence):
    rates = Rates({row.key: _made_up(row.cell, 0) for row in ROWS}, {row.key: row.cell.columns for row in ROWS})
    (claim,) = study(**functions).claims
    with pytest.raises(ValueError, match=sentence):
        judge(claim, "mine", rates, ())
    resampled = replace(claim, holds=lambda r: True if r is not drawn else None, shows=lambda r: "so")
    drawn = rates.resampled({})
    with pytest.raises(ValueError, match="holds of claim 'odd' must return True or False, got None"):
        judge(resampled, "mine", rates, [drawn])


@pytest.mark.parametrize(
    "holds",
    [
        lambda r: torch.tensor(r.asr_all("linf", "avg") > 2),
        lambda r: np.bool_(False),
        lambda r: {}["a key of no row, nor of the shape of one"],
        lambda r: next(k for k in r.keys() if r.asr_all(*k) > 0.99),  # noqa: SIM118 - not a mapping
        lambda r: 1 / (r.asr_all("linf", "avg") - r.asr_all("linf", "avg")) > 0,
    ],
)
def test_what_only_numbers_made_up_may_spoil_is_let_through(holds):
    dry_run(study(holds))


def test_a_row_of_another_version_is_not_measured_and_no_slip():
    rows = (ROWS[0], replace(ROWS[1], variant="yours"))
    dry_run(replace(study(lambda r: r.asr_all("linf", "half") > 0), rows=rows))


@pytest.mark.parametrize(
    "task", [None, Universal(3), Transformed((("same", lambda x, key: x),)), Distortion(Universal(3))]
)
def test_numbers_made_up_answer_all_that_rates_are_asked(task):
    cell = CELL if task is None else replace(CELL, models=("mnist/a",), task=task)
    key, asked = ("linf", "avg"), []

    def shows(r: Rates) -> str:
        asked.append([r.asr_all(*key), r.asr_avg(*key), r.lift(*key), *r.accuracy(*key).values()])
        asked.append([*r.weights(*key).values(), float(r.values(*key).sum()), float(r.weights_path(*key).sum())])
        return "so"

    dry_run(replace(study(shows=shows), rows=(Row(key, "mine", cell),)))
    (rates, weights) = asked
    assert 0 < rates[0] <= rates[1] < 1 and len(rates) == 3 + len(cell.columns)
    assert sum(weights[: len(cell.columns)]) == pytest.approx(1)
