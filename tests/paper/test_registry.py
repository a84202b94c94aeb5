"""Every experiment has its printed rows, its claims, known variants and rows that can be told apart."""

import pytest

from omnirobust.paper import VARIANTS, experiments
from omnirobust.paper.printed import PRINTED
from omnirobust.paper.registry import CLAIMS


@pytest.mark.parametrize("name", PRINTED)
def test_every_printed_row_is_measured(name):
    assert set(PRINTED[name]) <= set(experiments()[name].keys("paper"))


@pytest.mark.parametrize("name", experiments())
def test_each_experiment_has_claims_and_known_variants_and_unique_rows(name):
    experiment = experiments()[name]
    assert CLAIMS[name]
    assert set(experiment.variants) <= set(VARIANTS)
    names = [(row.variant, row.key) for row in experiment.rows]
    assert len(set(names)) == len(names)
    assert len({claim.name for claim in CLAIMS[name]}) == len(CLAIMS[name])
    assert {len(row.key) for row in experiment.rows} == {len(experiment.heads) + (experiment.kind == "sweep")}
