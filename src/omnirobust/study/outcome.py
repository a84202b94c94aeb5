"""What came out of an experiment: the measured rows, their rates, and the claims judged on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from omnirobust.domains.losses import wants_reach
from omnirobust.evaluation import Interval, compare_paired, lift, wilson_interval
from omnirobust.study.attack_cells import Cell
from omnirobust.study.claims import RESAMPLES, Judgement, Key, Rates, Statistic, bootstrap, judge
from omnirobust.study.protocol import Summary
from omnirobust.study.spec import Experiment, Printed, Row
from omnirobust.study.store import Measured
from omnirobust.study.training_cells import Robustness


@dataclass(frozen=True)
class Outcome:
    """An experiment with what was measured of it.

    Attributes:
        experiment: the rows, as they were run.
        measured: (variant, key) to what was measured; rows that were not are absent.
        wanted: how many images each row should have.
        seconds: wall-clock time of the attacks, cached ones included.
        untrained: models of its rows that have not been trained.
        pictures: the images of the first groups, (G, E, C, H, W), for experiments that show them.
    """

    experiment: Experiment
    measured: Mapping[tuple[str, Key], Measured]
    wanted: int
    seconds: float
    untrained: tuple[str, ...] = ()
    pictures: Tensor | None = None

    @property
    def summary(self) -> Summary:
        """What is said of it in one line; claims are counted on the first variant."""
        rows, first = self.experiment.rows, self.variants[:1]
        counts = sorted({self.images(row) for row in rows} - {0})
        return Summary(
            self.experiment.name,
            self.experiment.title,
            f"{counts[0]:,} to {counts[-1]:,}" if len(counts) > 1 else f"{counts[0]:,}" if counts else "0",
            sum(self.images(row) > 0 for row in rows),
            len(rows),
            self.seconds,
            tuple(j.verdict for j in self.judgements if (j.variant,) == first),
            len(self.experiment.claims),
            f"variant {first[0]}" if len(self.experiment.variants) > 1 and first else "",
            begun=self.begun,
            untrained=self.untrained,
            scales=tuple((self.images(r), r.cell.problems(self.wanted) * r.cell.group) for r in rows),
        )

    @property
    def complete(self) -> bool:
        """Whether every row whose models are there was measured on all images."""
        return not self.missing

    @property
    def missing(self) -> int:
        """How many rows are yet to be measured, in part or whole, leaving out those whose models are to be trained."""
        return sum(not self.whole(row) and not self.waits(row) for row in self.experiment.rows)

    @property
    def begun(self) -> int:
        """How many of those that are missing were measured on some images."""
        return sum(
            not self.whole(row) and not self.waits(row) and self.problems(row) > 0 for row in self.experiment.rows
        )

    def whole(self, row: Row) -> bool:
        """Say whether a row was measured on all images."""
        return self.problems(row) >= row.cell.problems(self.wanted)

    def waits(self, row: Row) -> bool:
        """Say whether a row waits for a model to be trained."""
        return not set(self.untrained).isdisjoint(row.cell.takes)

    @property
    def variants(self) -> tuple[str, ...]:
        """The versions of the attack of which something was measured, in the experiment's order."""
        return tuple(v for v in self.experiment.variants if any(v == found for found, _ in self.measured))

    def images(self, row: Row) -> int:
        """Return on how many images a row was measured."""
        return self.problems(row) * row.cell.group

    def problems(self, row: Row) -> int:
        """Return on how many problems a row was measured: images, or groups of them."""
        found = self.measured.get((row.variant, row.key))
        return 0 if found is None else len(found)

    def rates(self, variant: str) -> Rates:
        """Return the rates of a variant over the images that all its measured rows of the same data share."""
        return self._rates[variant]

    @cached_property
    def _rates(self) -> dict[str, Rates]:
        return {variant: self._rates_of(variant) for variant in self.experiment.variants}

    def _rates_of(self, variant: str) -> Rates:
        rows = [row for row in self.experiment.rows if row.variant == variant]
        measured = [row for row in rows if self.images(row)]
        # On the images that all have: differences are paired, and a claim on unequal sets may be due to the sets.
        shared: dict[str, int] = {}
        for row in measured:
            data = row.cell.data
            shared[data] = min(shared.get(data, self.images(row)), self.images(row))
        kept = {
            row.key: self.measured[variant, row.key].rows(slice(row.cell.problems(shared[row.cell.data])))
            for row in measured
        }
        return Rates(kept, {row.key: row.cell.columns for row in rows})

    def printed(self, key: Key) -> Printed | None:
        """Return the printed row, if there is one."""
        return self.experiment.printed.get(key)

    @property
    def held(self) -> str:
        """The variant that is held against what is printed: the first."""
        return self.experiment.variants[0]

    @cached_property
    def judgements(self) -> tuple[Judgement, ...]:
        """Every claim, judged on every variant that has rows."""
        return tuple(
            judge(claim, variant, self.rates(variant), self._resamples[variant])
            for variant in self.variants
            for claim in self.experiment.claims
        )

    @cached_property
    def _resamples(self) -> dict[str, tuple[Rates, ...]]:
        return {variant: tuple(bootstrap(self.rates(variant), RESAMPLES)) for variant in self.variants}

    def statistics(self, variant: str) -> dict[str, Interval]:
        """Return what the weights of a variant come to, by name, with 95 % intervals over resampled groups."""
        rates = self.rates(variant)
        known = [s for s in self.experiment.statistics if _measurable(s, rates)]
        drawn = [[s.value(some) for s in known] for some in self._resamples[variant]]
        found: dict[str, Interval] = {}
        for s, values in zip(known, zip(*drawn, strict=True), strict=True):
            ordered = torch.tensor(values, dtype=torch.float64)
            found[s.name] = Interval(s.value(rates), float(ordered.quantile(0.025)), float(ordered.quantile(0.975)))
        return found

    def interval(self, variant: str, key: Key) -> Interval:
        """Return ASR_all (of groups, ASR_gp) of a row, with Wilson's 95 % interval."""
        hit = self.measured[variant, key].fooled.all(1)
        return wilson_interval(int(hit.sum()), len(hit))

    def robust(self, variant: str, key: Key) -> Interval:
        """Return the share of images that no column of a row fools, with Wilson's 95 % interval."""
        kept = ~self.measured[variant, key].fooled.any(1)
        return wilson_interval(int(kept.sum()), len(kept))

    def gain(self, variant: str, key: Key) -> Interval | None:
        """Return how much higher ASR_all is than the average's in the same place, paired over images."""
        other = self.measured.get((variant, (key[0], "avg", *key[2:])))
        mine = self.measured.get((variant, key))
        if mine is None or other is None or key[1] == "avg":
            return None
        shared = min(len(mine), len(other))
        return compare_paired(mine.fooled[:shared].all(1), other.fooled[:shared].all(1)).difference

    def lift(self, variant: str, key: Key) -> float | None:
        """Return the relative gain over the average in the same place, on the images that both have.

        None where there is no average, or it fools nothing.
        """
        other = self.measured.get((variant, (key[0], "avg", *key[2:])))
        mine = self.measured.get((variant, key))
        if mine is None or other is None or key[1] == "avg":
            return None
        shared = min(len(mine), len(other))
        return lift(*(float(m.fooled[:shared].all(1).double().mean()) for m in (mine, other)))

    def describe(self) -> dict[str, Any]:
        """Return rows and judgements as plain values, for JSON."""
        rows = [self._describe_row(row) for row in self.experiment.rows if self.images(row)]
        claims = [
            {
                "claim": j.claim.name,
                "text": j.claim.text,
                "variant": j.variant,
                "verdict": j.verdict,
                "support": j.support,
                "shown": j.shown,
            }
            for j in self.judgements
        ]
        return {
            "experiment": self.experiment.name,
            "title": self.experiment.title,
            "images_wanted": self.wanted,
            "complete": self.complete,
            "to_be_trained": list(self.untrained),
            "seconds": round(self.seconds, 1),
            "rows": rows,
            "claims": claims,
        }

    def _describe_row(self, row: Row) -> dict[str, Any]:
        facts: dict[str, Any] = {"key": list(row.key), "variant": row.variant, "images": self.images(row)}
        if isinstance(row.cell, Robustness):
            return facts | self._describe_robustness(row)
        own = self.measured[row.variant, row.key]
        if own.distortion.shape[1]:
            return facts | {"median": float(own.distortion.median()), "found": float(own.fooled.double().mean())}
        return facts | self._describe_attack(row, row.cell)

    def _describe_robustness(self, row: Row) -> dict[str, Any]:
        found, printed = self.robust(row.variant, row.key), self.printed(row.key)
        facts = {
            "accuracy": _accuracy(row, self.measured[row.variant, row.key]),
            "robust": found.estimate,
            "robust_low": found.low,
            "robust_high": found.high,
            "steps": row.cell.steps,
        }
        return (
            facts if printed is None else facts | {"printed": {"source": printed.source, "accuracy": printed.accuracy}}
        )

    def _describe_attack(self, row: Row, cell: Cell) -> dict[str, Any]:
        found, printed = self.interval(row.variant, row.key), self.printed(row.key)
        own = self.measured[row.variant, row.key]
        joint = "asr_all" if cell.task is None else "asr_gp"
        weights = own.weights.double().mean(0).tolist()
        names = cell.models if cell.task is None else cell.columns
        facts: dict[str, Any] = {
            joint: found.estimate,
            f"{joint}_low": found.low,
            f"{joint}_high": found.high,
            "asr_avg": float(own.fooled.double().mean()),
            "accuracy": _accuracy(row, own),
            "mean_weights": dict(zip(names, weights, strict=True)),
            "steps": cell.steps,
            "gradient_evaluations": (cell.steps + wants_reach(cell.attack.loss)) * len(weights),
        }
        if cell.task is None:
            facts["asr_all_any_iterate"] = float(own.any_iterate.double().mean())
        else:
            facts["problems"] = len(own)
        gain = self.gain(row.variant, row.key)
        if gain is not None:
            facts["gain_over_average"] = {"estimate": gain.estimate, "low": gain.low, "high": gain.high}
            facts["lift"] = self.lift(row.variant, row.key)
        if printed is not None:
            facts["printed"] = {
                "source": printed.source,
                joint: printed.asr_all,
                "asr_avg": printed.asr_avg,
                "lift": printed.lift,
                "accuracy": printed.accuracy,
            }
        return facts


def _accuracy(row: Row, measured: Measured) -> dict[str, float]:
    return dict(zip(row.cell.columns, (1 - measured.fooled.double().mean(0)).tolist(), strict=True))


def _measurable(statistic: Statistic, rates: Rates) -> bool:
    try:
        statistic.value(rates)
    except KeyError:
        return False
    return True
