"""What came out of an experiment: the measured rows, their rates, and the paper's claims judged on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omnirobust.evaluation import Interval, compare_paired, wilson_interval
from omnirobust.experiments.cells import Measured
from omnirobust.experiments.claims import Judgement, Rates, judge
from omnirobust.experiments.ensemble_claims import CLAIMS
from omnirobust.experiments.spec import Experiment, Key, Row
from omnirobust.experiments.tables import PRINTED, Printed


@dataclass(frozen=True)
class Outcome:
    """An experiment with what was measured of it.

    Attributes:
        experiment: the rows, as they were run.
        measured: (variant, key) to what was measured; rows that were not are absent.
        wanted: how many images each row should have.
        seconds: wall-clock time of the attacks, cached ones included.
    """

    experiment: Experiment
    measured: Mapping[tuple[str, Key], Measured]
    wanted: int
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether every row was measured on all images."""
        return all(self.images(row) == self.wanted for row in self.experiment.rows)

    @property
    def variants(self) -> tuple[str, ...]:
        """The versions of the attack of which something was measured, in the experiment's order."""
        return tuple(v for v in self.experiment.variants if any(v == found for found, _ in self.measured))

    def images(self, row: Row) -> int:
        """Return on how many images a row was measured."""
        found = self.measured.get((row.variant, row.key))
        return 0 if found is None else len(found)

    def rates(self, variant: str) -> Rates:
        """Return the rates of a variant over the images that all its measured rows share."""
        rows = {key: m for (v, key), m in self.measured.items() if v == variant}
        shared = min((len(m) for m in rows.values()), default=0)
        letters = {row.key: letters_of(row) for row in self.experiment.rows if row.variant == variant}
        return Rates({key: m.rows(slice(shared)) for key, m in rows.items()}, letters)

    def printed(self, key: Key) -> Printed | None:
        """Return the paper's printed row, if there is one."""
        return PRINTED.get(self.experiment.name, {}).get(key)

    def judgements(self) -> tuple[Judgement, ...]:
        """Judge every claim on every variant that has rows."""
        claims = CLAIMS.get(self.experiment.name, ())
        return tuple(
            judge(claim, variant, rates)
            for variant in self.experiment.variants
            if (rates := self.rates(variant)).images
            for claim in claims
        )

    def interval(self, variant: str, key: Key) -> Interval:
        """Return ASR_all of a row, with Wilson's 95 % interval."""
        hit = self.measured[variant, key].fooled.all(1)
        return wilson_interval(int(hit.sum()), len(hit))

    def gain(self, variant: str, key: Key) -> Interval | None:
        """Return how much higher ASR_all is than the average's in the same place, paired over images."""
        other = self.measured.get((variant, (key[0], "avg", *key[2:])))
        mine = self.measured.get((variant, key))
        if mine is None or other is None or key[1] == "avg":
            return None
        shared = min(len(mine), len(other))
        return compare_paired(mine.fooled[:shared].all(1), other.fooled[:shared].all(1)).difference

    def describe(self) -> dict[str, Any]:
        """Return rows and judgements as plain values, for JSON."""
        rates = {variant: self.rates(variant) for variant in self.experiment.variants}
        rows = [self._describe_row(row, rates[row.variant]) for row in self.experiment.rows if self.images(row)]
        claims = [
            {
                "claim": j.claim.name,
                "text": j.claim.text,
                "variant": j.variant,
                "verdict": j.verdict,
                "support": j.support,
                "shown": j.shown,
            }
            for j in self.judgements()
        ]
        return {
            "experiment": self.experiment.name,
            "title": self.experiment.title,
            "images_wanted": self.wanted,
            "complete": self.complete,
            "seconds": round(self.seconds, 1),
            "rows": rows,
            "claims": claims,
        }

    def _describe_row(self, row: Row, rates: Rates) -> dict[str, Any]:
        found, printed = self.interval(row.variant, row.key), self.printed(row.key)
        own = self.measured[row.variant, row.key]
        facts: dict[str, Any] = {
            "key": list(row.key),
            "variant": row.variant,
            "images": self.images(row),
            "asr_all": found.estimate,
            "asr_all_low": found.low,
            "asr_all_high": found.high,
            "asr_all_any_iterate": float(own.any_iterate.double().mean()),
            "asr_avg": float(own.fooled.double().mean()),
            "accuracy": dict(zip(letters_of(row), (1 - own.fooled.double().mean(0)).tolist(), strict=True)),
            "mean_weights": dict(zip(row.cell.models, own.weights.double().mean(0).tolist(), strict=True)),
            "steps": row.cell.steps,
            "gradient_evaluations": row.cell.steps * len(row.cell.models),
        }
        gain = self.gain(row.variant, row.key)
        if gain is not None:
            facts["gain_over_average"] = {"estimate": gain.estimate, "low": gain.low, "high": gain.high}
            facts["lift"] = rates.lift(*row.key)
        if printed is not None:
            facts["printed"] = {
                "source": printed.source,
                "asr_all": printed.asr_all,
                "asr_avg": printed.asr_avg,
                "lift": printed.lift,
                "accuracy": printed.accuracy,
            }
        return facts


def letters_of(row: Row) -> tuple[str, ...]:
    """Return the letters of the models that judge a row, as the paper calls them."""
    return tuple(name.split("/")[-1].split("@")[0].upper() for name in row.cell.judged)
