"""Measure the experiments on robust training: every training once, the most telling first, then what is asked of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from omnirobust.paper.training_budgets import Judging, Training, TrainingBudget
from omnirobust.paper.trainings import TrainingExperiment, urgency
from omnirobust.study.training_cells import TrainingLaboratory

ProgressHook: TypeAlias = Callable[[str, int, int], None]
"""Is told the name of an experiment, and how many of its trainings and judgings are done, of how many."""

_HOWS = ("pgd", "universal", "gradients", "gradients_dpar", "strong")


def measure_trainings(
    laboratory: TrainingLaboratory,
    experiments: Sequence[TrainingExperiment],
    budget: TrainingBudget,
    progress: ProgressHook | None = None,
) -> None:
    """Measure whatever is missing, the most urgent first; a training that was begun goes on.

    Several processes may do so in one folder: each takes trainings that no other one is at, and all end together.
    """
    jobs = [(e.name, t, j) for e in experiments for t, j in e.work(budget)]
    totals = {e.name: sum(1 + len(j) for name, _, j in jobs if name == e.name) for e in experiments}
    done = dict.fromkeys(totals, 0)
    # Sorting is stable: among equally urgent ones the order of experiments and rows stands.
    left, wait = sorted(jobs, key=lambda job: urgency(job[1])), False
    while left:
        busy = []
        for name, training, asked in left:
            if not laboratory.attempt(training, sorted(asked, key=_order), wait=wait and not busy):
                busy.append((name, training, asked))
                continue
            done[name] += 1 + len(asked)
            if progress is not None:
                progress(name, done[name], totals[name])
        left, wait = busy, True


def _order(asked: tuple[Judging, int]) -> int:
    return _HOWS.index(asked[0].how)


def is_measured(laboratory: TrainingLaboratory, training: Training, asked: Sequence[tuple[Judging, int]]) -> bool:
    """Say whether a training and everything that is asked of it are there."""
    if laboratory.trained(training) is None:
        return False
    found = [laboratory.recall(judging, images) for judging, images in asked]
    return all(f is not None and len(f["clean"]) == n for f, (_, n) in zip(found, asked, strict=True))
