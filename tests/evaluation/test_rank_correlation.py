from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from omnirobust.evaluation.rank_correlation import correlation, spearman

# Table A9, linf: weights, smallest eps and C&W distance of the images of the eight groups that are legible.
WEIGHTS = [
    [0.0, 0.0, 0.0, 0.0, 1.0],
    [0.479, 0.208, 0.145, 0.168, 0.0],
    [0.087, 0.142, 0.277, 0.247, 0.246],
    [0.0, 0.342, 0.001, 0.144, 0.514],
    [0.864, 0.0, 0.084, 0.0, 0.052],
    [0.079, 0.251, 0.156, 0.0, 0.514],
    [0.0, 0.0, 0.651, 0.0, 0.349],
    [0.239, 0.0, 0.0, 0.761, 0.0],
]
EPS_MIN = [
    [0.113, 0.167, 0.073, 0.121, 0.199],
    [0.167, 0.157, 0.113, 0.114, 0.093],
    [0.075, 0.068, 0.091, 0.105, 0.096],
    [0.015, 0.09, 0.076, 0.095, 0.106],
    [0.171, 0.088, 0.143, 0.117, 0.086],
    [0.1, 0.097, 0.096, 0.038, 0.132],
    [0.084, 0.088, 0.122, 0.06, 0.094],
    [0.115, 0.103, 0.047, 0.125, 0.1],
]
DIST = [
    [1.839, 1.954, 1.347, 1.698, 3.041],
    [1.545, 1.982, 2.178, 2.349, 1.05],
    [1.09, 1.182, 1.327, 1.458, 0.943],
    [0.113, 1.113, 1.357, 1.474, 1.197],
    [2.267, 1.656, 2.053, 1.359, 0.861],
    [1.733, 1.967, 1.741, 1.031, 2.413],
    [1.558, 1.229, 1.939, 0.297, 1.303],
    [0.94, 1.836, 1.384, 1.079, 2.027],
]


def theirs(a, b) -> float:
    return float(stats.spearmanr(a, b).statistic)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=30))
def test_spearman_with_ties_is_scipys(pairs):
    a, b = (torch.tensor(values, dtype=torch.float32) for values in zip(*pairs, strict=True))
    ours = spearman(a, b)
    if len(a.unique()) == 1 or len(b.unique()) == 1:
        assert math.isnan(ours)
    else:
        assert ours == pytest.approx(theirs(a, b), abs=1e-12)


def test_infinity_ranks_above_all_else():
    a = torch.tensor([0.1, 0.5, 0.2, 0.4])
    assert spearman(a, torch.tensor([1.0, math.inf, 2.0, 3.0])) == pytest.approx(1.0)


def test_the_papers_table_gives_the_figures_that_follow_from_it():
    weights, eps, dist = (torch.tensor(v) for v in (WEIGHTS, EPS_MIN, DIST))
    by_eps, by_dist = correlation(weights, eps), correlation(weights, dist)
    assert by_eps.pooled.estimate == pytest.approx(theirs(weights.flatten(), eps.flatten()), abs=1e-9)
    assert round(by_eps.pooled.estimate, 3) == 0.504
    assert round(by_dist.pooled.estimate, 3) == 0.205
    assert by_eps.hardest.estimate == 7 / 8
    assert by_dist.hardest.estimate == 4 / 8
    assert by_eps.chance == pytest.approx(1 / 5)
    inside = [theirs(w, e) for w, e in zip(weights, eps, strict=True)]
    assert by_eps.within.estimate == pytest.approx(np.mean(inside), abs=1e-9)
    assert (by_eps.groups, by_eps.constant, by_eps.verdict) == (8, 0, "holds")


def test_the_intervals_are_those_of_scipys_bootstrap_over_groups():
    g = torch.Generator().manual_seed(0)
    weights = torch.rand(60, 4, generator=g).round(decimals=1)
    difficulty = 0.5 * weights + torch.rand(60, 4, generator=g).round(decimals=1)
    ours = correlation(weights, difficulty, resamples=1500)

    def pooled(index):
        return theirs(weights[index].flatten(), difficulty[index].flatten())

    inside = np.array([theirs(w, d) for w, d in zip(weights, difficulty, strict=True)])

    def within(index):
        return np.nanmean(inside[index])

    for interval, statistic in ((ours.pooled, pooled), (ours.within, within)):
        sample = (np.arange(60),)
        expected = stats.bootstrap(
            sample, statistic, n_resamples=300, method="percentile", vectorized=False, rng=1
        ).confidence_interval
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=0.03)


def test_a_known_correlation_lies_in_its_interval_about_as_often_as_the_level_says():
    # ranks of a pair of which the second is the first, or fresh, with equal chance: E rho = 1/2 inside groups
    hits = 0
    for seed in range(40):
        g = torch.Generator().manual_seed(seed)
        a = torch.rand(40, 5, generator=g)
        copy = torch.rand(40, 1, generator=g) < 0.5
        found = correlation(a, torch.where(copy, a, torch.rand(40, 5, generator=g)), resamples=200, level=0.9).within
        hits += found.low <= 0.5 <= found.high
    assert hits >= 31  # 36 expected


def test_constant_groups_are_counted_and_left_out():
    weights = torch.tensor([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]])
    difficulty = torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, 3.0]])
    found = correlation(weights, difficulty)
    assert found.constant == 2
    assert found.within.estimate == pytest.approx(1.0)
    assert found.hardest.estimate == 1.0  # the second has no largest weight; in the third both are hardest
    assert found.chance == pytest.approx((0.5 + 1.0) / 2)


def test_where_all_is_constant_nothing_is_shown():
    found = correlation(torch.full((4, 3), 1 / 3), torch.rand(4, 3))
    assert found.constant == 4
    assert math.isnan(found.within.estimate) and math.isnan(found.pooled.estimate)
    assert found.verdict == "not shown"


def test_few_groups_show_nothing():
    weights = torch.rand(9, 5, generator=torch.Generator().manual_seed(4))
    assert correlation(weights, weights).verdict == "holds"
    assert correlation(weights[:4], weights[:4]).verdict == "not shown"
    flat = torch.where(torch.arange(9)[:, None] < 6, 0.2, weights)
    assert correlation(flat, weights).verdict == "not shown"


@pytest.mark.parametrize(("sign", "verdict"), [(1, "holds"), (-1, "reversed"), (0, "not shown")])
def test_the_verdict_follows_the_interval_within_groups(sign, verdict):
    g = torch.Generator().manual_seed(2)
    weights = torch.rand(30, 5, generator=g)
    assert correlation(weights, sign * weights + torch.rand(30, 5, generator=g)).verdict == verdict


def test_pooling_mixes_groups_where_within_does_not():
    # inside each group the weights run against the difficulty, between groups nothing distinguishes the weights
    weights = torch.tensor([[0.4, 0.6], [0.4, 0.6], [0.4, 0.6]])
    difficulty = torch.tensor([[2.0, 1.0], [20.0, 10.0], [200.0, 100.0]])
    found = correlation(weights, difficulty)
    assert found.within.estimate == pytest.approx(-1)
    assert -1 < found.pooled.estimate < 0


def test_one_difficulty_for_all_groups_is_that_of_every_group():
    weights, one = torch.rand(12, 4, generator=torch.Generator().manual_seed(3)), torch.tensor([0.3, 0.1, 0.9, 0.5])
    found = correlation(weights, one)
    assert found == correlation(weights, one.expand(12, 4))
    assert found.means.estimate == pytest.approx(theirs(weights.mean(0), one))


def test_infinite_difficulty_counts_as_the_largest_in_the_means():
    weights = torch.tensor([[0.7, 0.3], [0.6, 0.4]])
    found = correlation(weights, torch.tensor([[math.inf, 1.0], [2.0, 1.0]]))
    assert found.means.estimate == pytest.approx(1.0)
    assert found.within.estimate == pytest.approx(1.0)


def test_the_seed_decides_the_interval():
    weights, difficulty = torch.rand(2, 20, 3, generator=torch.Generator().manual_seed(4))
    assert correlation(weights, difficulty, seed=1) == correlation(weights, difficulty, seed=1)
    assert correlation(weights, difficulty, seed=1) != correlation(weights, difficulty, seed=2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spearman(torch.ones(3), torch.ones(4)), r"must share a shape \(N,\), got \(3,\) and \(4,\)"),
        (lambda: spearman(torch.tensor([1.0, math.nan]), torch.ones(2)), "a must not hold NaN"),
        (lambda: correlation(torch.ones(3), torch.ones(3)), r"weights must have shape \(G, K\)"),
        (lambda: correlation(torch.ones(3, 1), torch.ones(3, 1)), r"K >= 2, got \(3, 1\)"),
        (lambda: correlation(torch.ones(3, 2), torch.ones(3)), r"difficulty must have shape \(3, 2\) or \(2,\)"),
        (lambda: correlation(torch.ones(3, 2), torch.ones(3, 2), level=1), r"level must be in \(0, 1\), got 1"),
        (lambda: correlation(torch.ones(3, 2), torch.ones(3, 2), resamples=0), "resamples must be a whole number >= 1"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_one_group_alone_gives_no_interval():
    found = correlation(torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[3.0, 2.0, 1.0]]))
    assert found.within.estimate == pytest.approx(1.0)
    assert all(map(math.isnan, (found.within.low, found.within.high, found.pooled.low)))
    assert found.verdict == "not shown" and not found.within.excludes_zero
