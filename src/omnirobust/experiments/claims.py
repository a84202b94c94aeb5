"""Judge the paper's claims on measured rows: a predicate on rates, its certainty by resampling the images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from omnirobust.evaluation import lift
from omnirobust.experiments.cells import Measured
from omnirobust.experiments.spec import Key

Verdict: TypeAlias = Literal["true", "false", "undecided", "not measured"]


class Rates:
    """Rates of the rows of one variant, as fractions, over the images or over a resample of them.

    Args:
        rows: name to what was measured, all on the same N images.
        letters: name to the letters of the judged models, J of them.
        counts: how often each image is drawn, (N,), summing to N; None: once.
    """

    def __init__(
        self, rows: Mapping[Key, Measured], letters: Mapping[Key, tuple[str, ...]], counts: Tensor | None = None
    ) -> None:
        self._rows, self._letters, self._counts = rows, letters, counts

    def resampled(self, counts: Tensor) -> Rates:
        """Return the same rows over a resample."""
        return Rates(self._rows, self._letters, counts)

    def keys(self) -> tuple[Key, ...]:
        """The names of the rows."""
        return tuple(self._rows)

    @property
    def images(self) -> int:
        """N."""
        return min((len(row) for row in self._rows.values()), default=0)

    def asr_all(self, *key: str) -> float:
        """ASR_all: the share of images that fool every judge."""
        return float(self._mean(self._rows[key].fooled.all(1)))

    def asr_any_iterate(self, *key: str) -> float:
        """The share of images for which some iterate fooled every attacked model."""
        return float(self._mean(self._rows[key].any_iterate))

    def asr_avg(self, *key: str) -> float:
        """ASR_avg: the share of (image, judge) pairs that are fooled."""
        return float(self._mean(self._rows[key].fooled).mean())

    def accuracy(self, *key: str) -> dict[str, float]:
        """The accuracy of each judge on the attacked images, by letter."""
        return dict(zip(self._letters[key], (1 - self._mean(self._rows[key].fooled)).tolist(), strict=True))

    def lift(self, *key: str) -> float:
        """Relative gain of ASR_all over the average in the same place; 0 where it is undefined."""
        return lift(self.asr_all(*key), self.asr_all(key[0], "avg", *key[2:])) or 0.0

    def weights(self, *key: str) -> dict[str, float]:
        """The mean weight of each model at the end, by letter, of a row that judges the models it attacks."""
        return dict(zip(self._letters[key], self._mean(self._rows[key].weights).tolist(), strict=True))

    def weights_path(self, *key: str) -> Tensor:
        """The mean weights at every iterate, (T+1, K)."""
        return self._mean(self._rows[key].weights_path)

    def _mean(self, values: Tensor) -> Tensor:
        if self._counts is None:
            return values.double().mean(0)
        share = self._counts.to(torch.float32) / self._counts.sum()
        return (
            (share @ values.flatten(1).float() if values.ndim > 1 else share @ values.float())
            .double()
            .view(values.shape[1:])
        )


@dataclass(frozen=True)
class Claim:
    """What the paper says of an experiment, as a predicate on its rows.

    Attributes:
        name: short, unique within its experiment.
        text: the claim, in one sentence.
        holds: whether rates satisfy it; a KeyError means that a row it needs was not measured.
        shows: the numbers that decide it, in a few words.
    """

    name: str
    text: str
    holds: Callable[[Rates], bool]
    shows: Callable[[Rates], str]


@dataclass(frozen=True)
class Judgement:
    """A claim, judged on one variant.

    Attributes:
        claim: which.
        variant: on which version of the attack.
        verdict: "true" or "false" if the images at hand say so and at least 95 % of their resamples agree.
        support: share of the resamples in which it holds, in [0, 1]; None if not measured.
        shown: the numbers that decide it.
    """

    claim: Claim
    variant: str
    verdict: Verdict
    support: float | None
    shown: str


def judge(claim: Claim, variant: str, rates: Rates, *, resamples: int = 400, seed: int = 0) -> Judgement:
    """Judge a claim on the images measured, and on resamples of them drawn with replacement (bootstrap).

    All rows are resampled together: comparisons between them are paired.
    """
    try:
        held = claim.holds(rates)
        shown = claim.shows(rates)
    except KeyError:
        return Judgement(claim, variant, "not measured", None, "")
    generator = torch.Generator().manual_seed(seed)
    N = rates.images
    agreed = 0
    for _ in range(resamples):
        drawn = torch.randint(N, (N,), generator=generator)
        agreed += claim.holds(rates.resampled(torch.bincount(drawn, minlength=N)))
    support = agreed / max(resamples, 1)
    verdict: Verdict = "undecided"
    if held and support >= 0.95:
        verdict = "true"
    elif not held and support <= 0.05:
        verdict = "false"
    return Judgement(claim, variant, verdict, support, shown)
