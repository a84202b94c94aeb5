"""When a training ends, and which epoch it leaves: robust overfitting is real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from torch import Tensor

from omnirobust.training.accuracy import accuracy_of, robust_rates_of, told_of
from omnirobust.training.batches import Batches
from omnirobust.training.budget import PassBudget
from omnirobust.training.schemes import Scheme
from omnirobust.training.state import Run
from omnirobust.training.workers import Workers

Stopped: TypeAlias = Literal["epochs", "target", "patience"]
Row: TypeAlias = Mapping[str, float]


def validate(
    run: Run, held_out: Batches, scheme: Scheme, workers: Workers, budget: PassBudget | None = None
) -> dict[str, float]:
    """Return "validation", the clean accuracy, and where the scheme attacks "robust", the union accuracy.

    Under several threat models "robust_average" is the mean of their accuracies. ``run.notes`` are set where they are
    not known yet. Passes with gradients keep to ``budget``.
    """

    def see(x: Tensor) -> None:
        if run.notes is None:
            run.notes = told_of(run.model, x)

    row = {"validation": accuracy_of(run.model, held_out, "validation", see)}
    if scheme.attacks and scheme.kind != "universal":
        settings = run.settings
        precision = "bf16" if settings.precision == "bf16" else "fp32"
        row["robust"], average = robust_rates_of(run.model, held_out, scheme, settings.seed, precision, workers, budget)
        if len(scheme.threats) > 1:
            row["robust_average"] = average
    return row


def score(row: Row) -> float:
    """Return what early stopping watches: robust accuracy where it was measured, else clean; -1 if neither was."""
    return row.get("robust", row.get("validation", -1.0))


def best_epoch(history: Sequence[Row]) -> int:
    """Return the number of the epoch of the highest score, ties by clean accuracy, then the first; 0 before any.

    Where every epoch keeps 0 % under attack, the tie would otherwise go to the least trained of all networks.
    """

    def rank(i: int) -> tuple[float, float, int]:
        return score(history[i]), history[i].get("validation", -1.0), -i

    return max(range(len(history)), key=rank) + 1 if history else 0


def reason_to_stop(history: Sequence[Row], epochs: int, stop_at: float | None, patience: int | None) -> Stopped | None:
    """Say why the training has ended, or return None if it has not."""
    if stop_at is not None and history and score(history[-1]) >= stop_at:
        return "target"
    if patience is not None and len(history) - best_epoch(history) >= patience:
        return "patience"
    return "epochs" if len(history) >= epochs else None
