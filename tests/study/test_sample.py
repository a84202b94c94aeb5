"""Intervals over seeds and images against scipy, and their coverage on drawn data."""

import pytest
import torch
from scipy import stats

from omnirobust.study.sample import Sample


@pytest.mark.parametrize("level", [0.95, 0.8, 0.996])
@pytest.mark.parametrize(("shape", "spread"), [((2, 40), 0.01), ((2, 40), 3.0), ((3, 9), 0.5), ((10, 1000), 0.1)])
def test_of_seeds_and_images_the_interval_is_welchs(shape, spread, level):
    """Quantiles of Student's distribution at degrees of freedom that are no whole number."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(shape, generator=generator).double() + spread * torch.randn(shape[0], 1, generator=generator)
    found = Sample(tuple(range(shape[0])), values).interval(level)
    a = values.numpy().mean(1).var(ddof=1) / shape[0]
    b = max(values.numpy().mean(0).var(ddof=1), 1 / shape[1]) / shape[1]
    freedom = (a + b) ** 2 / (a**2 / (shape[0] - 1) + b**2 / (shape[1] - 1))
    half = stats.t.ppf((1 + level) / 2, freedom) * (a + b) ** 0.5
    middle = float(values.mean())
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half), rel=1e-9)


@pytest.mark.parametrize("shape", [(1, 50), (6, 1)])
def test_of_one_seed_or_of_one_number_a_training_the_interval_is_students(shape):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = Sample(tuple(range(shape[0])), values).interval(0.9)
    flat = values.flatten().numpy()
    low, high = stats.t.interval(0.9, len(flat) - 1, flat.mean(), stats.sem(flat))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)


def test_the_interval_holds_its_level_over_new_seeds_and_new_images():
    generator = torch.Generator().manual_seed(3)
    hits, rounds = 0, 300
    for _ in range(rounds):
        of_seed, of_image = 0.05 * torch.randn(3, 1, generator=generator), torch.randn(1, 100, generator=generator)
        found = Sample((0, 1, 2), of_seed + of_image + torch.randn(3, 100, generator=generator)).interval()
        hits += found.low <= 0 <= found.high
    # three standard deviations below 95 %; the interval errs to the safe side
    assert hits / rounds >= 0.95 - 3 * (0.95 * 0.05 / rounds) ** 0.5


def test_a_spread_known_beforehand_moderates_few_seeds():
    values = 0.1 + torch.randn(1, 10_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alone, found = Sample((0,), values).interval(), Sample((0,), values).interval(between=0.2)
    spread = (0.2**2 + float(values.var()) / 10_000) ** 0.5
    assert found.high - found.estimate == pytest.approx(stats.t.ppf(0.975, 4) * spread, rel=1e-2)
    assert alone.excludes_zero
    assert not found.excludes_zero
    # two numbers, one a training: s^2 = (4 * 0.1^2 + 1 * 0.5) / 5, five degrees of freedom
    two = Sample((0, 1), torch.tensor([[0.0], [1.0]])).interval(between=0.1)
    assert two.high - 0.5 == pytest.approx(stats.t.ppf(0.975, 5) * ((4 * 0.01 + 0.5) / 5 / 2) ** 0.5, rel=1e-3)


def test_images_that_all_agree_prove_no_certainty():
    found = Sample((0,), torch.ones(1, 100)).interval()
    assert found.low == pytest.approx(1 - 1.98 / 100, abs=1e-3)
    assert Sample((0,), torch.ones(1, 1)).interval().low == float("-inf")
    assert Sample((0, 1), torch.ones(2, 1)).interval().low == 1.0


def test_differences_are_taken_in_pairs_of_what_both_have():
    one = Sample.of({0: torch.tensor([1.0, 2.0, 3.0]), 2: torch.tensor([4.0, 5.0, 6.0])})
    other = Sample.of({2: torch.tensor([1.0, 1.0]), 5: torch.tensor([9.0, 9.0])})
    found = one - other
    assert found.seeds == (2,)
    assert found.values.tolist() == [[3.0, 4.0]]
    assert (one - 1.0).values.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert (0.5 * one).mean == one.mean / 2
    with pytest.raises(KeyError, match="no seed"):
        Sample((0,), torch.ones(1, 2)) + Sample((1,), torch.ones(1, 2))


def test_indicators_hold_both_or_not():
    one, other = (Sample((0,), torch.tensor([flags])) for flags in ([1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]))
    assert one.both(other).values.tolist() == [[1.0, 0.0, 0.0, 0.0]]


def test_what_does_not_fit_is_refused():
    with pytest.raises(KeyError, match="nothing measured"):
        Sample.of({})
    with pytest.raises(ValueError, match=r"values must have shape \(2, N\), got \(1, 3\)"):
        Sample((0, 1), torch.ones(1, 3))
