"""What the paper claims of robust training, each claim as differences that must be positive."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from omnirobust.evaluation import Interval
from omnirobust.paper.training_budgets import EPS_L2, Arch, Method, Metric
from omnirobust.paper.training_findings import Against, Findings
from omnirobust.study.claims import ENOUGH, Verdict
from omnirobust.study.sample import Sample

Contrasts: TypeAlias = Mapping[str, Sample]
"""Name to a difference: the claim says that each of them is above zero."""

MULTI: tuple[Method, ...] = ("avg", "avg_dpar", "minmax", "minmax_dpar")
SINGLE: tuple[Method, ...] = ("linf", "l2")
ATTACKED: tuple[Method, ...] = (*SINGLE, *MULTI)


BETWEEN = 0.015
"""Standard deviation between seeds of the difference of two accuracies, where few seeds cannot tell: three seeds of the
MLP at the quick budget gave 0.004 to 0.019 under the attack of the training, 0.007 to 0.038 under the strong one."""

BETWEEN_CLEAN = 0.002
"""The same of clean accuracies: 0.001 to 0.002."""

BETWEEN_MEANS = 0.006
"""The same of a mean over the trainings at six radii."""


@dataclass(frozen=True)
class TrainingClaim:
    """A claim of the paper on robust training.

    Attributes:
        name: short, unique within its experiment.
        text: the claim, in one sentence.
        contrasts: from findings and an evaluation to the differences; a KeyError means that a number is missing.
        scale: what differences are multiplied by to be shown.
        unit: of what is shown.
        digits: behind the point of what is shown.
        between: the standard deviation between seeds that few seeds are moderated by, in units of the differences.
        per_training: whether a difference is one number a training, so that one seed decides nothing.
    """

    name: str
    text: str
    contrasts: Callable[[Findings, Metric], Contrasts]
    scale: float = 100.0
    unit: str = "points"
    digits: int = 1
    between: float = BETWEEN
    per_training: bool = False


@dataclass(frozen=True)
class TrainingJudgement:
    """A claim, judged by one evaluation.

    Attributes:
        claim: which.
        metric: by which attack.
        verdict: "true" if the 95 % interval of every difference lies above zero; "false" if that of one lies below, at
            95 % for all of them together (Bonferroni); else "undecided", as always on fewer than ``ENOUGH`` images.
        seeds: on how many trainings of each kind, those that all of them have; of one see ``between``.
        found: the differences with their 95 % intervals.
    """

    claim: TrainingClaim
    metric: Metric
    verdict: Verdict
    seeds: int
    found: Mapping[str, Interval]

    @property
    def shown(self) -> str:
        """The differences in words, the lowest of them where there are many."""
        lowest = sorted(self.found, key=lambda name: self.found[name].low)[:SHOWN]
        names = [name for name in self.found if len(self.found) <= SHOWN + 1 or name in lowest]
        more = len(self.found) - len(names)
        rest = f", and {more} larger ones" if more else ""
        return f"{', '.join(f'{name} {self._written(name)}' for name in names)}{rest} {self.claim.unit}".strip()

    def _written(self, name: str) -> str:
        band, places = self.found[name], f"+.{self.claim.digits}f"
        value, low, high = (format(self.claim.scale * v, places) for v in (band.estimate, band.low, band.high))
        return f"{value} ({low} to {high})"


SHOWN = 3
"""How many differences are written out where a claim has many."""


def judge(claim: TrainingClaim, findings: Findings, metric: Metric) -> TrainingJudgement:
    """Judge a claim on what was measured."""
    try:
        contrasts = _on_common_seeds(claim.contrasts(findings, metric))
    except KeyError:
        return TrainingJudgement(claim, metric, "not measured", 0, {})
    between = None if claim.per_training else claim.between
    found = {name: sample.interval(between=between) for name, sample in contrasts.items()}
    # all must be above zero, which needs no correction for their number; that one is below, does
    strict = [sample.interval(1 - 0.05 / len(contrasts), between) for sample in contrasts.values()]
    fewest = min(sample.images for sample in contrasts.values())
    verdict: Verdict = "undecided"
    if fewest < ENOUGH and not claim.per_training:
        pass
    elif any(interval.high < 0 for interval in strict):
        verdict = "false"
    elif all(interval.low > 0 for interval in found.values()):
        verdict = "true"
    seeds = len(next(iter(contrasts.values())).seeds)
    return TrainingJudgement(claim, metric, verdict, seeds, found)


def _on_common_seeds(contrasts: Contrasts) -> Contrasts:
    """Keep the seeds that all differences have; a KeyError if there is none."""
    common = set.intersection(*(set(sample.seeds) for sample in contrasts.values()))
    return {name: sample.on(common) for name, sample in contrasts.items()}


def over(
    arch: Arch,
    better: Sequence[Method],
    worse: Sequence[Method],
    against: Against,
    eps: float = EPS_L2,
    margin: float = 0.0,
) -> Callable[[Findings, Metric], Contrasts]:
    """Return how far each training of ``better`` is above each of ``worse``, less ``margin``, which the name says."""
    less = f" {'−' if margin > 0 else '+'} {100 * abs(margin):g}" if margin else ""

    def contrasts(f: Findings, metric: Metric) -> Contrasts:
        return {
            f"{label(one)} − {label(other)}{less}": f.accuracy(arch, one, eps, against, metric)
            - f.accuracy(arch, other, eps, against, metric)
            - margin
            for one in better
            for other in worse
            if one != other
        }

    return contrasts


def label(method: Method) -> str:
    """Return how a training is called on the page."""
    return {"avg_printed": "avg, as printed", "minmax_printed": "min-max, as printed", "usgd": "uSGD"}.get(
        method, method.replace("_dpar", " + DPAR").replace("minmax", "min-max")
    )


def each(
    arch: Arch, pairs: Sequence[tuple[Method, Method]], against: Against
) -> Callable[[Findings, Metric], Contrasts]:
    """Return how far the first of each pair is above the second, at the radii of Table 4."""
    return lambda f, metric: {
        name: value for one, other in pairs for name, value in over(arch, (one,), (other,), against)(f, metric).items()
    }


def over_radii(
    arch: Arch, pairs: Sequence[tuple[Method, Method]], against: Against
) -> Callable[[Findings, Metric], Contrasts]:
    """Return for each pair how far the first is above the second, as a mean over the l2 radii."""

    def contrasts(f: Findings, metric: Metric) -> Contrasts:
        found: dict[str, Sample] = {}
        for one, other in pairs:
            total = f.accuracy(arch, one, f.budget.grid[0], against, metric) * 0.0
            for eps in f.budget.grid:
                total = (
                    total + f.accuracy(arch, one, eps, against, metric) - f.accuracy(arch, other, eps, against, metric)
                )
            found[f"{label(one)} − {label(other)}"] = total * (1 / len(f.budget.grid))
        return found

    return contrasts
