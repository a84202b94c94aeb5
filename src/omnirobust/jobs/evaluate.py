"""The job of judging models: robust accuracy of each under several threats, and how the models compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor, nn

from omnirobust._device import check_name, resolved
from omnirobust.core.arguments import check_count, check_seed
from omnirobust.core.choices import Attacks
from omnirobust.core.threat_models import ThreatModel
from omnirobust.domains.classifier import Precision
from omnirobust.evaluation.robustness import RobustnessReport, evaluate_robustness
from omnirobust.jobs.attack import describe_data
from omnirobust.jobs.evaluation_files import joined_reports, read_part, write_part, write_results
from omnirobust.jobs.folder import RunFolder
from omnirobust.jobs.frame import JobProgress, default_folder, run_job
from omnirobust.jobs.names import (
    check_answers,
    describe_code,
    describe_models,
    load_models,
    moved,
    named_code,
    predict,
)
from omnirobust.jobs.records import EvaluationRecord, told_threat
from omnirobust.jobs.shards import Share, share_out
from omnirobust.training.workers import Alone, Workers
from omnirobust.zoo.data import ImageData, load
from omnirobust.zoo.sources import Source

_Tell: TypeAlias = Callable[[int, int, int, int], None]

_UNITS = 1000
"""Progress counts these many for each batch, whose own count depends on its attacks."""


@dataclass(frozen=True)
class EvaluationJob:
    """Settings of one evaluation.

    Attributes:
        data: name of the data set.
        models: names of the models to judge, see ``load_models``.
        threats: by name, what attackers may do.
        attacks: "default" or "autoattack".
        steps: of every run of a gradient attack, >= 1.
        restarts: runs of every gradient attack, >= 1.
        images: how many images to take, >= 1; None for all from ``start``.
        start: index of the first image.
        split: of the data.
        label: the column of the classes, where the data has several; None for its only one.
        resize: (height, width) that images are resized to; None to take them as they are.
        seed: keys noise.
        batch_size: images attacked together, and saved together when done, >= 1.
        precision: "fp32" or "bf16", during gradient attacks.
        device: where to attack, as in ``AttackJob``.
        samples: draws of a random model a step, >= 1.
        draws: fresh draws on which a random model is judged, >= 1; None for 10.
    """

    data: str
    models: tuple[str, ...]
    threats: Mapping[str, ThreatModel]
    attacks: Attacks = "default"
    steps: int = 100
    restarts: int = 1
    images: int | None = 200
    start: int = 0
    split: str = "test"
    label: str | None = None
    resize: tuple[int, int] | None = None
    seed: int = 0
    batch_size: int = 250
    precision: Precision = "fp32"
    device: str = "auto"
    samples: int = 1
    draws: int | None = None

    def __post_init__(self) -> None:
        check_name(self.device)
        for name, least in (
            ("steps", 1), ("restarts", 1), ("images", 1), ("batch_size", 1), ("start", 0), ("samples", 1),
            ("draws", 1),
        ):  # fmt: skip
            if (value := getattr(self, name)) is not None:
                check_count(name, value, least, whole=False)
        check_seed("seed", self.seed)
        if any(isinstance(threat.eps, Tensor) for threat in self.threats.values()):
            raise ValueError("threats must have one radius each, for the whole job")


def run_evaluation(
    job: EvaluationJob,
    out: str | Path | None = None,
    progress: JobProgress | None = None,
    options: str | None = None,
    team: Workers | None = None,
    called: Sequence[str] | None = None,
) -> EvaluationRecord:
    """Judge every model, write everything into a run folder, and return its record.

    Called again with the same settings the job goes on with the batch in which it was interrupted, and ends with the
    same files.

    Args:
        job: the settings.
        out: the run folder; None for a folder under ``runs/`` named after the settings.
        progress: called after every batch of every attack.
        options: the text of a file that gives these settings on the command line, kept in the run folder.
        team: processes that call this at the same time and share the batches; None for this one alone.
        called: what files and page call the models, one each; None for what ``load_models`` calls them.

    Raises:
        ValueError: if a setting, a model or the data does not fit.
        FileNotFoundError: if models of the zoo have not been trained.
        ModuleNotFoundError: if AutoAttack is asked for and not installed.
    """
    team = Alone() if team is None else team
    images = load(
        job.data, job.split, limit=job.images, start=job.start, label=job.label, resize=job.resize,
        in_order=job.images is None and not job.start,
    )  # fmt: skip
    if not len(images):
        raise ValueError(f"images must hold at least one, got none from {job.start} of {job.data}, {job.split}")
    models = moved(load_models(job.models, job.data, images), resolved(job.device))
    _check_gradients(models)
    check_answers(dict(zip(job.models, models.values(), strict=True)), images.x, resolved(job.device), images.y)
    if called is not None:
        models = dict(zip(called, models.values(), strict=True))
    config = describe_evaluation(job, images, models)

    def together(folder: RunFolder) -> None:
        if team.count > 1:
            share_out(_shares(job, models, images, folder, team, progress), team)

    def conclude(folder: RunFolder, _: None) -> None:
        told = {name: _told(progress, name) for name in models}
        judged = {
            name: _judge(job, number, model, images, folder, told[name])
            for number, (name, model) in enumerate(models.items())
        }
        write_results(folder, images, judged, predict(models, images.x, resolved(job.device)), job.threats)

    return run_job(
        out if out is not None else default_folder(config, "evaluate"), config, options, team, progress,
        together=together, conclude=conclude, record=EvaluationRecord.open,
    )  # fmt: skip


def _check_gradients(models: Mapping[str, Source]) -> None:
    for name, model in models.items():
        if not isinstance(model, nn.Module):
            why = "; ".join(getattr(model.f, "source_notes", ()))
            raise ValueError(
                f"models must have gradients to be evaluated, got {name}, which {why or 'only answers'}: attack it by "
                "omnirobust attack ensemble"
            )


def _shares(
    job: EvaluationJob, models: dict[str, Source], images: ImageData, folder: RunFolder, team: Workers,
    progress: JobProgress | None,
) -> list[Share]:  # fmt: skip
    """Return all batches of all models, one share each; those of this process tell how far it is with its own."""
    units = [(number, batch) for number in range(len(models)) for batch in range(len(_starts(job, images)))]
    own, told = units[team.rank :: team.count], _told(progress, "this process")

    def share(number: int, batch: int) -> None:
        def tell(_: int, __: int, done: int, total: int) -> None:
            told(own.index((number, batch)), len(own), done, total)

        _batch(job, number, list(models.values())[number], images, folder, batch, tell)

    return [partial(share, *unit) for unit in units]


def _judge(
    job: EvaluationJob, number: int, model: Source, images: ImageData, folder: RunFolder, tell: _Tell
) -> RobustnessReport:
    """Evaluate one model batch by batch, those that the folder has not got already."""
    batches = range(len(_starts(job, images)))
    return joined_reports([_batch(job, number, model, images, folder, batch, tell) for batch in batches])


def _batch(
    job: EvaluationJob, number: int, model: Source, images: ImageData, folder: RunFolder, batch: int, tell: _Tell
) -> RobustnessReport:
    """Evaluate one model on one batch, if the folder has not got it already."""
    starts = _starts(job, images)
    begin, part = starts[batch], f"{number}-{batch:05d}"
    rows = slice(begin, begin + job.batch_size)
    done = read_part(folder.parts, part, len(images.y[rows]))
    if done is None:
        device = resolved(job.device)
        done = evaluate_robustness(
            model, images.x[rows].to(device), images.y[rows].to(device),
            {name: threat.select(rows, images.x.ndim - 1) for name, threat in job.threats.items()}, attacks=job.attacks,
            steps=job.steps, restarts=job.restarts, seed=job.seed, precision=job.precision, first_row=job.start + begin,
            samples=job.samples, draws=job.draws,
            progress=partial(tell, batch, len(starts)),
        ).to("cpu")  # fmt: skip
        write_part(folder.parts, part, done)
    tell(batch, len(starts), 1, 1)
    return done


def _starts(job: EvaluationJob, images: ImageData) -> range:
    return range(0, len(images), job.batch_size)


def _told(progress: JobProgress | None, name: str) -> _Tell:
    """Return a function that reports (batch, batches, done of it, of how many) as steps of one bar."""

    def tell(batch: int, batches: int, done: int, total: int) -> None:
        if progress is not None:
            progress(name, batch * _UNITS + done * _UNITS // max(total, 1), batches * _UNITS)

    return tell


def describe_evaluation(job: EvaluationJob, images: ImageData, models: dict[str, Source]) -> dict[str, Any]:
    """Return the resolved settings as plain values; data and weights by their fingerprints."""
    return {
        "job": "evaluate",
        "data": describe_data(images, job.start, job.label, job.resize),
        "models": describe_models(models),
        **describe_code(map(named_code, job.models)),
        "threats": {name: told_threat(threat) for name, threat in job.threats.items()},
        "attacks": job.attacks,
        "steps": job.steps,
        "restarts": job.restarts,
        "seed": job.seed,
        "batch_size": job.batch_size,
        "precision": job.precision,
        **({} if (job.samples, job.draws) == (1, None) else {"samples": job.samples, "draws": job.draws}),
    }
