"""The demo: four small classifiers of embedded digits, trained in seconds and attacked together in all four norms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from omnirobust import zoo
from omnirobust.core.threat_models import L0, L1, L2, Linf, ThreatModel
from omnirobust.jobs.attack import JobProgress, run_attack
from omnirobust.jobs.folder import RunFolder
from omnirobust.jobs.frame import default_folder
from omnirobust.jobs.job import AttackJob
from omnirobust.jobs.names import describe_models, load_models
from omnirobust.jobs.records import AttackRecord
from omnirobust.training.fit import Progress

THREATS: tuple[ThreatModel, ...] = (Linf(0.15), L2(0.8), L1(2.5), L0(3))
"""Radii for 8x8 digits at which the average leaves room above it."""


@dataclass(frozen=True)
class DemoJob:
    """Settings of the demo.

    Attributes:
        models: names of the models, trained first if they are not there.
        threats: what the attacker may do, one attack each.
        images: how many test images to attack, >= 1.
        steps: T.
        seed: keys the noise.
    """

    models: tuple[str, ...] = ("a", "b", "c", "d")
    threats: tuple[ThreatModel, ...] = THREATS
    images: int = 500
    steps: int = 50
    seed: int = 0

    def part(self, threat: ThreatModel) -> AttackJob:
        """Return the attack of one norm."""
        return AttackJob(
            data="digits",
            models=self.models,
            threat_model=threat,
            images=self.images,
            device="cpu",  # it takes less time than to wake a GPU
            options={"steps": self.steps, "seed": self.seed},
        )


def run_demo(
    job: DemoJob | None = None, out: str | Path | None = None, progress: JobProgress | None = None
) -> list[AttackRecord]:
    """Train what is missing, attack in every norm by average and min-max, and return the records.

    Args:
        job: the settings; None for the usual ones.
        out: the run folder; None for ``runs/demo-...``.
        progress: called after every epoch and step.
    """
    job = DemoJob() if job is None else job
    with _one_thread():
        return _run(job, out, progress)


def _run(job: DemoJob, out: str | Path | None, progress: JobProgress | None) -> list[AttackRecord]:
    train_missing([f"digits/{name}" for name in job.models], progress)
    config = {
        "job": "demo",
        "parts": [threat.name for threat in job.threats],
        "images": job.images,
        "steps": job.steps,
        "seed": job.seed,
        "models": describe_models(load_models(job.models, "digits")),
        "eps": {threat.name: float(threat.eps) for threat in job.threats},
    }
    folder = RunFolder.create(default_folder(config, "demo") if out is None else out, config)
    for threat in job.threats:
        run_attack(job.part(threat), folder.path / threat.name, _titled(progress, threat))
    return [AttackRecord.open(folder.path / threat.name) for threat in job.threats]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: on images this small several threads wait for each other more than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train_missing(names: list[str], progress: JobProgress | None = None) -> None:
    """Train the models of the zoo that are not on this machine, or whose training was interrupted."""
    for name in names:
        if name not in zoo.names() or not zoo.card(name).finished:
            zoo.train(name, device="cpu", progress=_epochs(progress, name))


def _epochs(progress: JobProgress | None, name: str) -> Progress | None:
    if progress is None:
        return None
    return lambda epoch, epochs, _: progress(f"train {name}", epoch, epochs)


def _titled(progress: JobProgress | None, threat: ThreatModel) -> JobProgress | None:
    if progress is None:
        return None
    return lambda what, done, total: progress(f"{threat.name}: {what}", done, total)
