"""Correlations are SciPy's, shares are counts; claims tell weights that follow distortion from those that do not."""

import numpy as np
import pytest
import scipy.stats
import torch

from omnirobust.paper.group_claims import (
    MEASURES,
    NORMS,
    STATISTICS,
    TABLE_A9,
    agreement,
    correlation,
)
from omnirobust.paper.printed import STATISTICS as PRINTED
from omnirobust.study.claims import Rates, bootstrap, judge
from omnirobust.study.store import Measured


def measured(weights, distortion=None):
    n, k = weights.shape
    return Measured.of(
        {
            "fooled": torch.ones(n, k, dtype=torch.bool),
            "any_iterate": torch.ones(n, dtype=torch.bool),
            "weights": weights,
            "fooled_path": torch.ones(n, 1, k, dtype=torch.bool),
            "weights_path": weights.unsqueeze(1).half(),
            "labels": torch.zeros(n, k, dtype=torch.int64),
            "distortion": torch.zeros(n, 0) if distortion is None else distortion,
        }
    )


def rates_of(columns):
    rows = {}
    for name, values in columns.items():
        alone = name in MEASURES
        key = (name, "alone" if alone else "minmax")
        rows[key] = measured(torch.zeros_like(values), values) if alone else measured(values)
    return Rates(rows, dict.fromkeys(rows, ("1", "2", "3", "4", "5")))


def random_columns(groups, noise):
    g = torch.Generator().manual_seed(0)
    base = torch.rand(groups, 5, generator=g)
    columns = {name: base + noise * torch.rand(groups, 5, generator=g) for name in (*NORMS, *MEASURES)}
    return columns | {name: (columns[name] - 0.4).clamp_min(0) for name in NORMS}  # many weights are exactly zero


def test_statistics_are_those_of_scipy_and_of_counting():
    columns = random_columns(30, 1.0)
    rates = rates_of(columns)
    for s in STATISTICS:
        if s.kind == "correlation":
            a, b = (columns[name].flatten().numpy() for name in s.name.split(" and "))
            assert s.value(rates) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-6), s.name
    tops = {name: values.numpy().argmax(1) for name, values in columns.items()}
    assert agreement(rates, "l1", "dist") == pytest.approx((tops["l1"] == tops["dist"]).mean())
    assert agreement(rates, *NORMS) == pytest.approx(np.all([tops[n] == tops["l0"] for n in NORMS], axis=0).mean())


def test_resamples_draw_whole_groups():
    columns = random_columns(30, 1.0)
    rates = rates_of(columns)
    counts = torch.zeros(30, dtype=torch.int64)
    counts[3], counts[7] = 28, 2
    drawn = rates.resampled({30: counts})
    picked = torch.tensor([3] * 28 + [7] * 2)
    expected = scipy.stats.spearmanr(columns["l2"][picked].flatten(), columns["eps_min"][picked].flatten()).statistic
    assert correlation(drawn, "l2", "eps_min") == pytest.approx(expected, abs=1e-6)


def test_every_statistic_has_its_printed_value():
    for printed in PRINTED.values():
        assert {s.name for s in STATISTICS} == set(printed)


@pytest.mark.parametrize(("noise", "verdict"), [(0.05, "true"), (50.0, "false")])
def test_claims(noise, verdict):
    rates = rates_of(random_columns(150, noise))
    drawn = list(bootstrap(rates, 40))
    for claim in TABLE_A9:
        if noise > 1 and claim.name == "weights-tell-dist":
            continue  # a correlation near zero may lie on either side
        assert judge(claim, "paper", rates, drawn).verdict == verdict, claim.name


def test_claims_need_every_column():
    columns = random_columns(120, 0.1)
    columns.pop("eps_min")
    rates = rates_of(columns)
    verdicts = {claim.name: judge(claim, "paper", rates, list(bootstrap(rates, 10))).verdict for claim in TABLE_A9}
    assert verdicts["weights-tell-eps-min"] == "not measured"
    assert verdicts["weights-tell-dist"] == "true"
