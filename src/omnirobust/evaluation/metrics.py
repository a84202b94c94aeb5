"""Rates over examples, and comparisons of two attacks on the same examples, with confidence intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnirobust.core.arguments import check_count, check_number, check_seed
from omnirobust.domains.probe import BEFORE as BEFORE
from omnirobust.domains.probe import clean_notes as clean_notes
from omnirobust.domains.probe import is_guessing as is_guessing


@dataclass(frozen=True)
class Interval:
    """An estimate with the confidence interval around it."""

    estimate: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class PairedComparison:
    """How one attack fares against another on the same examples.

    Attributes:
        difference: rate of the first minus rate of the second, in [-1, 1], with its interval.
        only_first: examples on which the first alone succeeds.
        only_second: examples on which the second alone succeeds.
        examples: how many were compared.
        p_value: of McNemar's exact two-sided test that the two are equally likely to succeed alone.
        level: of the interval, in (0, 1).
    """

    difference: Interval
    only_first: int
    only_second: int
    examples: int
    p_value: float
    level: float

    def describe(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "difference": self.difference.estimate,
            "low": self.difference.low,
            "high": self.difference.high,
            "level": self.level,
            "only_first": self.only_first,
            "only_second": self.only_second,
            "examples": self.examples,
            "p_value": self.p_value,
        }


def lift(rate: float, baseline: float) -> float | None:
    """Return the relative improvement (rate - baseline) / baseline, the paper's "Lift"; None if undefined.

    Args:
        rate: of the attack in question, in [0, 1].
        baseline: of the uniform average, in [0, 1].
    """
    if baseline == 0:
        return 0.0 if rate == 0 else None
    return (rate - baseline) / baseline


def wilson_interval(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Return Wilson's score interval of a rate: all p with |p_hat - p| <= z sqrt(p (1 - p) / n).

    Args:
        successes: in [0, trials].
        trials: n, >= 0; without any the interval is [0, 1].
        level: of confidence, in (0, 1).

    Reference: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    _check_level(level)
    if not 0 <= successes <= trials:
        raise ValueError(f"successes must be in [0, {trials}], got {successes}")
    if trials == 0:
        return Interval(math.nan, 0.0, 1.0)
    return _wilson(successes / trials, trials, level)


def drawn_interval(hits: Tensor, level: float = 0.95) -> Interval:
    """Return an interval of the mean of ``hits``: over examples, and over draws that all of them may share.

        V = s_examples^2 / n + s_draws^2 / D,   Wilson's interval of the mean p at p (1 - p) / V trials

    with the variances of the mean over draws of each example and of the mean over examples of each draw. Their sum is
    a little more than the variance of the mean: what is left of neither counts twice.

    Args:
        hits: (D, n) bool, D draws of n examples; one draw gives ``wilson_interval``.
        level: of confidence, in (0, 1).
    """
    _check_level(level)
    if not hits.numel():
        return Interval(math.nan, 0.0, 1.0)
    draws, examples = hits.shape
    if draws == 1:
        return wilson_interval(int(hits.sum()), examples, level)
    values = hits.double()
    rate = float(values.mean())
    variance = float(values.mean(0).var(correction=0)) / examples + float(values.mean(1).var()) / draws
    trials = rate * (1 - rate) / variance if variance > 0 else examples
    return _wilson(rate, min(trials, examples * draws), level)


def _wilson(rate: float, trials: float, level: float) -> Interval:
    z2 = _quantile(level) ** 2
    centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = math.sqrt(z2 * (rate * (1 - rate) / trials + z2 / (4 * trials**2))) / (1 + z2 / trials)
    # At the ends of the range rounding must not push the rate itself out of its interval.
    return Interval(rate, min(max(centre - half, 0.0), rate), max(min(centre + half, 1.0), rate))


def compare_paired(first: Tensor, second: Tensor, level: float = 0.95) -> PairedComparison:
    """Compare two attacks by their success on the same examples.

    The interval is Newcombe's hybrid score interval for paired proportions (his method 10): Wilson intervals of
    both rates, joined by the correlation of the two outcomes. It holds its level for small samples and for rates
    near 0 and 1, where the usual normal interval does not.

    Args:
        first: success of the attack in question, (N,) bool.
        second: success of the attack it is held against, (N,) bool.
        level: of confidence, in (0, 1).

    Returns:
        The difference of the rates with its interval, and McNemar's exact test.

    Raises:
        ValueError: if the two are not of the same length.

    Reference: Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based
    on paired data".
    """
    _check_level(level)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"first and second must share a shape (N,), got {(*first.shape,)} and {(*second.shape,)}")
    a, b = first.bool(), second.bool()
    counts = [int((m & n).sum()) for m, n in ((a, b), (a, ~b), (~a, b), (~a, ~b))]
    return PairedComparison(
        _newcombe(counts, level), counts[1], counts[2], len(a), mcnemar_p_value(counts[1], counts[2]), level
    )


def mcnemar_p_value(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: a fair coin over the examples that tell the two apart."""
    trials = only_first + only_second
    tail = sum(math.comb(trials, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**trials)


def paired_mean_difference(
    first: Tensor, second: Tensor, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Compare the means of two measurements of the same examples: percentile bootstrap over examples.

    The interval of a single example is NaN to NaN: it says nothing of others.

    Args:
        first: a value an example, (N,), N >= 1.
        second: likewise, (N,).
        level: of confidence, in (0, 1).
        resamples: bootstrap samples, >= 1.
        seed: of the resampling.

    Raises:
        ValueError: if the two are empty or not of the same length.
    """
    _check_level(level)
    check_count("resamples", resamples)
    check_seed("seed", seed)
    if first.ndim != 1 or first.shape != second.shape or not len(first):
        raise ValueError(f"first and second must share a shape (N,), N >= 1, got {(*first.shape,)}, {(*second.shape,)}")
    differences = (first.double() - second.double()).numpy()
    if len(differences) == 1:
        return Interval(float(differences[0]), math.nan, math.nan)
    draws = np.random.default_rng(seed).integers(0, len(differences), (resamples, len(differences)))
    low, high = np.quantile(differences[draws].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(differences.mean()), float(low), float(high))


def success_rates(fooled: Tensor) -> dict[str, float]:
    """Return ASR_all and ASR_avg of ``fooled`` (N, K) bool."""
    if not len(fooled):
        return {"asr_all": 0.0, "asr_avg": 0.0}
    return {"asr_all": float(fooled.all(1).double().mean()), "asr_avg": float(fooled.to(torch.float64).mean())}


def _newcombe(counts: list[int], level: float) -> Interval:
    both, only_a, only_b, neither = counts
    n = sum(counts)
    if n == 0:
        return Interval(math.nan, -1.0, 1.0)
    a, b = wilson_interval(both + only_a, n, level), wilson_interval(both + only_b, n, level)
    phi = _correlation(both, only_a, only_b, neither)
    below, above = (a.estimate - a.low, b.high - b.estimate), (a.high - a.estimate, b.estimate - b.low)
    difference = (only_a - only_b) / n
    return Interval(difference, difference - _joined(*below, phi), difference + _joined(*above, phi))


def _joined(u: float, v: float, phi: float) -> float:
    return math.sqrt(max(u * u - 2 * phi * u * v + v * v, 0.0))


def _correlation(both: int, only_a: int, only_b: int, neither: int) -> float:
    """Return phi, towards zero by the continuity correction where it is positive; 0 where a margin is empty."""
    n = both + only_a + only_b + neither
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if margins == 0:
        return 0.0
    excess = both * neither - only_a * only_b
    if excess > 0:
        excess = max(excess - n / 2, 0.0)
    return excess / math.sqrt(margins)


def _quantile(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def _check_level(level: float) -> None:
    check_number("level", level, "in (0, 1)", lambda level: 0 < level < 1)
