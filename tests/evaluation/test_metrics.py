import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap, norm

from omnirobust.evaluation import compare_paired, lift, paired_mean_difference, wilson_interval
from omnirobust.evaluation.metrics import clean_notes, mcnemar_p_value, success_rates


def outcomes(both: int, only_a: int, only_b: int, neither: int) -> tuple[torch.Tensor, torch.Tensor]:
    a = [True] * (both + only_a) + [False] * (only_b + neither)
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return torch.tensor(a), torch.tensor(b)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_agrees_with_scipy(n, data, level):
    k = data.draw(st.integers(0, n))
    ours, theirs = wilson_interval(k, n, level), binomtest(k, n).proportion_ci(level, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert ours.low <= ours.estimate <= ours.high


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_agrees_with_scipy(b, c):
    expected = binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar_p_value(b, c) == pytest.approx(expected, rel=1e-9)


def test_interval_without_a_correlation_is_that_of_the_squared_wilson_distances():
    # 25 of 100 in each cell: phi is 0, both rates are 1/2, so that both distances equal Wilson's half-width.
    half = norm.ppf(0.975) / (2 * math.sqrt(100 + norm.ppf(0.975) ** 2))
    interval = compare_paired(*outcomes(25, 25, 25, 25)).difference
    assert interval.estimate == 0
    assert (interval.low, interval.high) == pytest.approx((-math.sqrt(2) * half, math.sqrt(2) * half))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=4, max_size=4).filter(lambda cells: sum(cells) > 0))
def test_comparison_is_antisymmetric_and_holds_its_estimate(cells):
    a, b = outcomes(*cells)
    ab, ba = compare_paired(a, b), compare_paired(b, a)
    assert ab.difference.estimate == pytest.approx(float(a.double().mean() - b.double().mean()))
    assert (ab.difference.low, ab.difference.high) == pytest.approx((-ba.difference.high, -ba.difference.low))
    assert -1 <= ab.difference.low <= ab.difference.estimate <= ab.difference.high <= 1
    assert (ab.only_first, ab.only_second, ab.p_value) == (ba.only_second, ba.only_first, ba.p_value)


@pytest.mark.parametrize("probabilities", [(0.85, 0.08, 0.02, 0.05), (0.4, 0.2, 0.1, 0.3), (0.02, 0.06, 0.01, 0.91)])
def test_interval_covers_the_true_difference_as_often_as_it_says(probabilities):
    draws = np.random.default_rng(1).multinomial(80, probabilities, size=600)
    truth = probabilities[1] - probabilities[2]
    intervals = [compare_paired(*outcomes(*map(int, cells))).difference for cells in draws]
    covered = np.mean([i.low <= truth <= i.high for i in intervals])
    assert 0.925 <= covered <= 0.995


def test_identical_outcomes_differ_by_nothing():
    a = torch.tensor([True] * 30 + [False] * 20)
    compared = compare_paired(a, a)
    assert compared.difference.estimate == 0
    assert compared.p_value == 1
    assert not compared.difference.excludes_zero


def test_bootstrap_agrees_with_scipy():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.3, 1, 200), rng.normal(0, 1, 200)
    ours = paired_mean_difference(torch.from_numpy(a), torch.from_numpy(b), resamples=5000)
    theirs = bootstrap((a - b,), np.mean, n_resamples=5000, method="percentile", rng=4).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
    assert ours.estimate == pytest.approx((a - b).mean())


def test_lift_is_relative_to_the_average():
    assert lift(0.9, 0.6) == pytest.approx(0.5)  # (90 - 60) / 60
    assert lift(0.0, 0.0) == 0
    assert lift(0.1, 0.0) is None


def test_success_rates_count_examples_and_pairs():
    fooled = torch.tensor([[True, True], [True, False], [False, False], [True, True]])
    assert success_rates(fooled) == {"asr_all": 0.5, "asr_avg": 0.625}
    assert success_rates(fooled[:0]) == {"asr_all": 0.0, "asr_avg": 0.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson_interval(3, 2), r"successes must be in \[0, 2\], got 3"),
        (lambda: wilson_interval(1, 2, level=1.0), r"level must be in \(0, 1\), got 1.0"),
        (lambda: compare_paired(torch.ones(3), torch.ones(4)), r"must share a shape \(N,\), got \(3,\) and \(4,\)"),
        (lambda: paired_mean_difference(torch.ones(0), torch.ones(0)), "N >= 1"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_one_example_gives_a_difference_without_an_interval():
    found = paired_mean_difference(torch.tensor([0.75]), torch.tensor([0.5]))
    assert found.estimate == 0.25 and math.isnan(found.low) and math.isnan(found.high)


def test_a_model_that_says_one_class_or_guesses_is_told_from_one_that_knows() -> None:
    y = torch.arange(40) % 2
    (said,) = clean_notes(torch.ones_like(y), y, 2)
    assert said.startswith("Before any attack the model says class 1 of every input")
    chance = torch.arange(40) // 2 % 2
    (said,) = clean_notes(chance, y, 2)
    assert said.startswith("Before any attack the model is right on 50.00 % of 40 inputs, no more often than guessing")
    # of 40 guesses between two classes over 26 are right in one case of 40
    knows = torch.where(torch.arange(40) < 13, 1 - y, y)
    assert clean_notes(knows, y, 2) == []
    assert clean_notes(torch.where(torch.arange(40) < 14, 1 - y, y), y, 2) != []


def test_one_class_of_data_and_a_handful_of_inputs_tell_nothing() -> None:
    ones = torch.ones(30, dtype=torch.int64)
    assert clean_notes(ones, ones, 2) == []
    assert clean_notes(torch.tensor([0, 1, 1]), torch.tensor([1, 0, 0]), 2) == []
    assert clean_notes(ones[:0], ones[:0], 2) == []


def test_of_a_random_model_the_accuracy_over_its_draws_decides() -> None:
    y = torch.arange(40) % 2
    lucky, often = torch.where(torch.arange(40) < 5, 1 - y, y), torch.ones_like(y)
    (said,) = clean_notes(lucky, y, 2, rate=0.55)
    assert "is right on 55.00 % of 40 inputs, no more often than guessing" in said
    assert clean_notes(1 - y, y, 2, rate=0.9) == []
    (said,) = clean_notes(often, y, 2, rate=0.6)  # it says another class now and then
    assert "is right on 60.00 %" in said
