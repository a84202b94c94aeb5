"""Judge claims on measured rows: a predicate on rates, its certainty by resampling the images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from omnirobust.evaluation import lift
from omnirobust.study.protocol import Verdict
from omnirobust.study.store import Measured

Key: TypeAlias = tuple[str, ...]
"""What a row is called, such as ("linf", "minmax")."""

ENOUGH = 100
"""Images below which no claim is decided."""

RESAMPLES = 400
"""How many resamples of the images claims are judged on."""


class Rates:
    """Rates of the rows of one variant, as fractions, over the images or over a resample of them.

    What is said of images holds for groups of images where groups are what is attacked.

    Args:
        rows: name to what was measured; rows of as many images are of the same images.
        letters: name to the letters of the judges, J of them, of every row of the variant; a rate of one that was not
            measured is a KeyError.
    """

    def __init__(self, rows: Mapping[Key, Measured], letters: Mapping[Key, tuple[str, ...]]) -> None:
        self._letters = letters
        self._rows = dict(rows)
        self._flags = {key: _flags(row) for key, row in rows.items()}
        self.sizes = tuple(sorted({len(row) for row in rows.values()}))
        """The numbers of images that rows have, increasing."""
        self._counts: dict[int, Tensor] = {}
        self._shares: dict[int, Tensor] = {}
        self._means: dict[Key, list[float]] = {}
        self._asked: set[Key] = set()

    def resampled(self, counts: Mapping[int, Tensor]) -> Rates:
        """Return the same rows over a resample.

        Args:
            counts: number of images N of a row to how often each of them is drawn, (N,) int64; rows of other numbers of
                images stay as they are.
        """
        # Rows and flags are shared, only the shares of images differ: a resample costs a product a row asked for.
        drawn = object.__new__(Rates)
        drawn.__dict__.update(self.__dict__)
        drawn._counts, drawn._means, drawn._asked = dict(counts), {}, set()
        drawn._shares = {N: (drawn_of / drawn_of.sum()).float() for N, drawn_of in counts.items()}
        return drawn

    def keys(self) -> tuple[Key, ...]:
        """The names of the variant's rows, measured or not."""
        return tuple(self._letters)

    def has(self, *key: str) -> bool:
        """Say whether a row was measured."""
        return key in self._rows

    @property
    def images(self) -> int:
        """The least number of images of a row."""
        return min(self.sizes, default=0)

    @property
    def asked(self) -> tuple[int, ...]:
        """The numbers of images of the rows that were asked for."""
        return tuple({len(self._rows[key]) for key in self._asked})

    def asr_all(self, *key: str) -> float:
        """ASR_all: the share of images that fool every judge. Of groups, ASR_gp."""
        return self._mean(key)[0]

    def asr_avg(self, *key: str) -> float:
        """ASR_avg: the share of (image, judge) pairs that are fooled."""
        fooled = self._mean(key)[1 : 1 + len(self._letters[key])]
        return sum(fooled) / len(fooled)

    def accuracy(self, *key: str) -> dict[str, float]:
        """The accuracy of each judge on the attacked images, by letter."""
        letters = self._letters[key]
        return {m: 1 - f for m, f in zip(letters, self._mean(key)[1 : 1 + len(letters)], strict=True)}

    def robust(self, *key: str) -> float:
        """The share of images that no column fools: right under every threat where a trained model is judged."""
        return 1 - self._mean(key)[-1]

    def lift(self, *key: str) -> float:
        """Relative gain of ASR_all over the average in the same place; 0 where it is undefined."""
        return lift(self.asr_all(*key), self.asr_all(key[0], "avg", *key[2:])) or 0.0

    def weights(self, *key: str) -> dict[str, float]:
        """The mean weight of each model at the end, by letter, of a row that judges the models it attacks."""
        letters = self._letters[key]
        return dict(zip(letters, self._mean(key)[1 + len(letters) : -1], strict=True))

    def weights_path(self, *key: str) -> Tensor:
        """The mean weights at every iterate, (T+1, K)."""
        row = self._row(key)
        path, share = row.weights_path.float(), self._shares.get(len(row))
        return path.mean(0) if share is None else torch.tensordot(share, path, 1)

    def values(self, *key: str) -> Tensor:
        """The weights at the end, or where that is what was measured the least distortions, of every image, (N, K)."""
        row = self._row(key)
        values, counts = row.distortion if row.distortion.shape[1] else row.weights, self._counts.get(len(row))
        return values if counts is None else values.repeat_interleave(counts, 0)

    def _row(self, key: Key) -> Measured:
        self._asked.add(key)
        return self._rows[key]

    def _mean(self, key: Key) -> list[float]:
        row = self._row(key)
        if key not in self._means:
            flags, share = self._flags[key], self._shares.get(len(row))
            mean = flags.double().mean(0) if share is None else share @ flags
            self._means[key] = mean.tolist()
        return self._means[key]


def _flags(row: Measured) -> Tensor:
    """Return whether all judges and each are fooled, the weights, and whether any is, side by side, (N, 2 + J + K)."""
    fooled = row.fooled.float()
    # all that means are taken of, side by side: a resample of them is then one product
    together, some = fooled.amin(1, keepdim=True), fooled.amax(1, keepdim=True)
    return torch.cat([together, fooled, row.weights.float(), some], 1)


def bootstrap(rates: Rates, count: int = RESAMPLES, seed: int = 0) -> Iterator[Rates]:
    """Yield ``count`` resamples of the images, drawn with replacement (bootstrap).

    All rows of one size are resampled together: comparisons between them are paired.

    Args:
        rates: of the rows.
        count: how many.
        seed: of the drawing.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        drawn = {N: torch.randint(N, (N,), generator=generator) for N in rates.sizes}
        yield rates.resampled({N: torch.bincount(rows, minlength=N) for N, rows in drawn.items()})


@dataclass(frozen=True)
class Claim:
    """What is said of an experiment, as a predicate on its rows.

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
class Statistic:
    """A number that rows come to.

    Attributes:
        name: as the printed ones are named.
        kind: "correlation", or "share" of the groups.
        value: what it is of measured rows; a KeyError means that one was not measured.
    """

    name: str
    kind: Literal["correlation", "share"]
    value: Callable[[Rates], float]


@dataclass(frozen=True)
class Judgement:
    """A claim, judged on one variant.

    Attributes:
        claim: which.
        variant: on which version of the attack.
        verdict: "true" or "false" if the images at hand say so and at least 95 % of their resamples agree; always
            "undecided" on fewer than ``ENOUGH`` images, of which resamples say too little.
        support: share of the resamples in which it holds, in [0, 1]; None if not measured.
        shown: the numbers that decide it.
    """

    claim: Claim
    variant: str
    verdict: Verdict
    support: float | None
    shown: str


def judge(claim: Claim, variant: str, rates: Rates, drawn: Sequence[Rates]) -> Judgement:
    """Judge a claim on the images measured, and on resamples of them.

    A claim on too few images of any row that it asks for is undecided.

    Args:
        claim: what is claimed.
        variant: on which version of the attack.
        rates: of its rows.
        drawn: resamples of them, see ``bootstrap``: the same for all claims, so that each rate is computed once.

    Raises:
        ValueError: if the code of the claim fails, or returns something else than it should.
    """
    seen = rates.resampled({})  # a copy that notes which rows this claim asks for: these decide what is enough
    try:
        held, shown = claim.holds(seen), claim.shows(rates)
        again = [claim.holds(some) for some in drawn]
    except KeyError:
        return Judgement(claim, variant, "not measured", None, "")
    except Exception as error:  # whatever the code of a claim raises
        told = f"{type(error).__name__}: {error}"
        raise ValueError(f"claims must be functions of rates that run, got {claim.name!r}: {told}") from error
    check_answers(claim, shown, (held, *again))
    support = sum(map(bool, again)) / max(len(again), 1)
    verdict: Verdict = "undecided"
    if min(seen.asked, default=0) < ENOUGH:
        pass
    elif held and support >= 0.95:
        verdict = "true"
    elif not held and support <= 0.05:
        verdict = "false"
    return Judgement(claim, variant, verdict, support, shown)


def check_answers(claim: Claim, shown: object, held: Iterable[object]) -> None:
    """Raise a ValueError unless ``shown`` is a text and every member of ``held`` true or false, which name the claim.

    One bool of numpy or torch is one too.
    """
    if not isinstance(shown, str):
        raise ValueError(f"shows of claim {claim.name!r} must return a text, got {_described(shown)}")
    for value in held:
        if not isinstance(value, (bool, np.bool_)) and not _is_flag(value):
            raise ValueError(f"holds of claim {claim.name!r} must return True or False, got {_described(value)}")


def _is_flag(value: object) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and value.dtype == torch.bool


def _described(value: object) -> str:
    return "None" if value is None else f"{type(value).__name__} {value!r}"[:80]


def order(values: dict[str, float]) -> str:
    """Write the names from the largest value to the smallest: "C > D > A > B"."""
    return " > ".join(sorted(values, key=lambda name: -values[name]))


def in_order(values: dict[str, float], names: Sequence[str]) -> bool:
    """Say whether the values fall strictly in the order of the names."""
    return all(values[a] > values[b] for a, b in pairwise(names))


def percent(values: Iterable[float]) -> str:
    """Write fractions as percentages."""
    return ", ".join(f"{100 * v:.1f}" for v in values)
