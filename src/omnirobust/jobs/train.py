"""The job of training a model against several threat models: from names to a run folder with a network that loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from omnirobust._device import resolved
from omnirobust.evaluation.metrics import clean_notes
from omnirobust.jobs.attack import describe_data
from omnirobust.jobs.evaluate import EvaluationJob, run_evaluation
from omnirobust.jobs.folder import RunFolder
from omnirobust.jobs.frame import JobProgress, default_folder, run_job
from omnirobust.jobs.names import predict, split_name, split_network, trained_file
from omnirobust.jobs.records import EVALUATED, ROWS, SPREAD, TrainingRecord, told_threat, write_threats
from omnirobust.jobs.shards import wait
from omnirobust.jobs.train_files import (
    EPOCHS,
    NETWORK,
    join_weights,
    note_epoch,
    write_epochs,
    write_network,
    write_rows,
)
from omnirobust.jobs.train_job import TrainingJob
from omnirobust.jobs.train_setting import TrainingSetting, load_training
from omnirobust.training.accuracy import accuracy_of, told_of
from omnirobust.training.batches import batches
from omnirobust.training.fit import FitResult, Progress, fit
from omnirobust.training.logs import MetricLogger, make_loggers
from omnirobust.training.schemes import Scheme
from omnirobust.training.workers import Alone, Launched, Workers
from omnirobust.zoo.chunks import fingerprint
from omnirobust.zoo.data import load
from omnirobust.zoo.hub import DataUnavailableError

_LOOKED_AT = 1000
"""Images, those held out if there are any, on which a network that nobody judges is looked at."""


def run_training(
    job: TrainingJob,
    out: str | Path | None = None,
    progress: JobProgress | None = None,
    options: str | None = None,
    team: Workers | None = None,
    after_epoch: Progress | None = None,
) -> TrainingRecord:
    """Train, judge the result, write everything into a run folder, and return its record.

    Called again with the same settings it goes on after the last whole epoch, to the same parameters.

    Args:
        job: the settings.
        out: the run folder; None for a folder under ``runs/`` named after the settings.
        progress: called after every batch.
        options: the text of a file that gives these settings on the command line, kept in the run folder.
        team: processes that call this at the same time, each with a share of every mini-batch; None for this one alone.
        after_epoch: called by the first of them after each epoch, as in ``fit``.

    Raises:
        ValueError: if data, model, scheme and folder do not fit. Nothing has been written by then.
        FileNotFoundError: if a file or a trained model is missing.
        TrainingDivergedError: if a loss is NaN or infinite; the folder holds the model of the last good epoch.
    """
    team = Alone() if team is None else team
    setting = load_training(job)
    config = _describe(setting)
    path = out if out is not None else default_folder(config, "train")
    loggers = _loggers(job, path, config, team)

    def together(folder: RunFolder) -> tuple[FitResult, dict[str, Any] | None]:
        if team.rank == 0:
            note_epoch(folder, job.scheme.names)
        result = _fit(setting, folder, team, loggers, progress, after_epoch)
        if team.rank == 0:
            _write_network(setting, folder, result)
        wait(team)
        return result, _judge(setting, folder, team, progress)

    def conclude(folder: RunFolder, done: tuple[FitResult, dict[str, Any] | None]) -> None:
        result, found = done
        join_weights(folder, job.scheme.names, result.epochs)
        of_speed = [note for note in result.notes if note.startswith(("compile:", "memory:"))]
        told = {"notes": of_speed + ([] if found is not None else _told(setting))}
        write_rows(folder, {"train": setting.train, "validation": setting.validation})
        more = [name for name in (SPREAD, ROWS) if folder.file(name).exists()]
        more += write_threats(folder, dict(zip(job.scheme.names, job.scheme.threats, strict=True)))
        folder.conclude(_metrics(setting, result, found) | _clean(setting) | told, [EPOCHS, NETWORK, *more])

    return run_job(
        path, config, options, team, progress, together=together, conclude=conclude, record=TrainingRecord.open
    )


def _loggers(job: TrainingJob, out: str | Path, config: Mapping[str, Any], team: Workers) -> list[MetricLogger]:
    if not job.tensorboard or team.rank:
        return []
    if (Path(out) / "config.json").exists():
        RunFolder.create(out, config)  # not a word into the folder of another training
    return make_loggers(["tensorboard"], out)


def _fit(
    setting: TrainingSetting, folder: RunFolder, team: Workers, loggers: Sequence[MetricLogger],
    progress: JobProgress | None, after_epoch: Progress | None,
) -> FitResult:  # fmt: skip
    """Train to the end, from the checkpoint if there is one; after each epoch the network is there to be used."""
    job, model = setting.job, setting.model
    fabric = team.fabric if isinstance(team, Launched) else None
    if fabric is None:
        model.to(resolved(job.device))
    ahead = [0]

    def on_epoch(epoch: int, epochs: int, row: Mapping[str, float]) -> None:
        note_epoch(folder, job.scheme.names)
        write_network(folder, model, _card(setting, epoch, row, done=False))
        ahead[0] = epoch
        if after_epoch is not None:
            after_epoch(epoch, epochs, row)

    def on_batch(done: int, batches: int, loss: float) -> None:
        if progress is not None:
            progress(f"epoch {_next_epoch(folder, ahead)} of {job.recipe.epochs}", done, batches)

    return fit(
        model, (setting.train.x, setting.train.y), job.scheme, epochs=job.recipe.epochs,
        optimizer=job.recipe.make_optimizer, lr_factor=job.recipe.lr_factor, batch_size=job.recipe.batch_size,
        validation=None if setting.validation is None else (setting.validation.x, setting.validation.y),
        stop_at=job.recipe.stop_at, patience=job.patience, keep=job.resolved_keep, out=folder.path, seed=job.seed,
        precision=job.recipe.precision, fabric=fabric, loggers=loggers, progress=on_epoch, on_batch=on_batch,
        compile=job.compile, memory=job.memory,
    )  # fmt: skip


def _next_epoch(folder: RunFolder, ahead: list[int]) -> int:
    """Return the number of the epoch under way; the first one after a resume is read from the log."""
    if not ahead[0] and folder.file("epochs.csv").exists():
        ahead[0] = len(folder.file("epochs.csv").read_text(encoding="utf-8").splitlines()) - 1
    return ahead[0] + 1


def _write_network(setting: TrainingSetting, folder: RunFolder, result: FitResult) -> None:
    """Write the network that is kept, and the log of all epochs."""
    number = result.best if setting.job.resolved_keep == "best" else result.epochs
    write_network(folder, result.model, _card(setting, number, result.history[number - 1], done=True))
    write_epochs(folder, result.history)


def _judge(
    setting: TrainingSetting, folder: RunFolder, team: Workers, progress: JobProgress | None
) -> dict[str, Any] | None:
    """Measure robust accuracy on test images, of the start too where there was one; None without threats."""
    job = setting.job
    if not job.scheme.threats or not job.test_images:
        return None
    network = setting.source.get("code")  # named by the user, who need not name it again
    names = [str(folder.path) if network is None else f"{folder.path}:{network}"]
    if job.start is not None:
        names.append(_judged_start(job.start, setting))
    threats = dict(zip(job.scheme.names, job.scheme.threats, strict=True))
    judged = EvaluationJob(
        job.data, tuple(names), threats, steps=job.test_steps, images=job.test_images, label=job.label,
        resize=job.resize, seed=job.seed, device=job.device,
    )  # fmt: skip
    called = _called_before(folder.file(EVALUATED), len(names))
    return run_evaluation(judged, folder.file(EVALUATED), progress, None, team, called).metrics


def _called_before(evaluation: Path, count: int) -> list[str] | None:
    """Return what a begun evaluation calls its models: the folder of the run may have had another name by then."""
    if not (evaluation / "config.json").is_file():
        return None
    models = RunFolder.open(evaluation).config.get("models")
    return list(models) if isinstance(models, dict) and len(models) == count else None


def _clean(setting: TrainingSetting) -> dict[str, Any]:
    """Measure accuracy on test images, if there are any, where there are no threats to judge by."""
    job = setting.job
    if job.scheme.threats or not job.test_images:
        return {}
    try:
        test = load(job.data, "test", limit=job.test_images, label=job.label, resize=job.resize)
    except (DataUnavailableError, ValueError):  # no split of that name
        return {}
    right = accuracy_of(setting.model, batches("data", (test.x, test.y), "test", 512, None))
    return {"clean": {"right": round(right * len(test)), "images": len(test)}}


def _told(setting: TrainingSetting) -> list[str]:
    """Return what must be known of the network where no evaluation says it: ``told_of`` and ``clean_notes``."""
    seen = setting.validation if setting.validation is not None and len(setting.validation) else setting.train
    x, y = seen.x[:_LOOKED_AT], seen.y[:_LOOKED_AT]
    device = next(setting.model.parameters()).device
    said = predict({"model": setting.model}, x, device)[:, 0]
    return [*told_of(setting.model, x), *clean_notes(said, y, len(seen.classes))]


def _judged_start(start: str, setting: TrainingSetting) -> str:
    """Return the start as models are named: weights together with their network, where that was named beside them."""
    name, source = split_name(start)
    weights, network = split_network(source)
    if trained_file(weights) is None or (setting.job.model is None and not network):
        return start
    return f"{name}{'=' if name else ''}{weights}:{setting.source.get('code') or setting.source['architecture']}"


def _metrics(setting: TrainingSetting, result: FitResult, found: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "train_images": len(setting.train),
        "validation_images": 0 if setting.validation is None else len(setting.validation),
        "epochs": result.epochs,
        "stopped": result.stopped,
        "kept": result.best if setting.job.resolved_keep == "best" else result.epochs,
        "history": [dict(row) for row in result.history],
        "test": found,
        **_missing(setting),
    }


def _missing(setting: TrainingSetting) -> dict[str, Any]:
    """Return the classes that no image trained or validated on is of, where there are some."""
    parts = {"trained on": setting.train, "for validation": setting.validation}
    found = {what: list(part.missing) for what, part in parts.items() if part is not None and part.missing}
    return {"missing": found} if found else {}


def _card(setting: TrainingSetting, epoch: int, row: Mapping[str, float], done: bool) -> dict[str, Any]:
    """Return what stands beside the weights of one epoch."""
    return {
        "network": dict(setting.source),
        "training": _describe(setting),
        "epoch": epoch,
        "finished": done,
        **{name: row[name] for name in ("validation", "robust", "robust_average") if name in row},
        "torch_version": torch.__version__,
    }


def _describe(setting: TrainingSetting) -> dict[str, Any]:
    """Return the resolved settings as plain values; data and first weights by their fingerprints."""
    job = setting.job
    held_out = setting.validation
    return {
        "job": "train",
        "data": describe_data(setting.train, 0, job.label, job.resize),
        "validation": 0 if held_out is None else fingerprint({"x": held_out.x, "y": held_out.y}),
        "model": {"name": _unplaced(job.model), "from": _unplaced(job.start), **setting.source},
        "scheme": _describe_scheme(job.scheme),
        "recipe": asdict(job.recipe) | {"milestones": list(job.recipe.milestones)},
        "first_weights": setting.first_weights,
        "patience": job.patience,
        "keep": job.resolved_keep,
        "test": {"images": job.test_images, "steps": job.test_steps},
        "seed": job.seed,
        **({"compile": True} if job.compile else {}),
    }


def _unplaced(name: str | None) -> str | None:
    """Return a name without the folder that its file lies in: a run may go on from another working directory."""
    if name is None:
        return None
    called, source = split_name(name)
    if called:
        return f"{called}={_unplaced(source)}"
    file, colon, rest = name.partition(":")
    placed = file.endswith((".py", ".safetensors")) or Path(file).is_dir()
    rest = str(_unplaced(rest)) if ":" in rest else rest
    return f"{Path(file).resolve().name}{colon}{rest}" if placed else name


def _describe_scheme(scheme: Scheme) -> dict[str, Any]:
    threats = {
        name: told_threat(t) | {"eps": float(t.eps)} for name, t in zip(scheme.names, scheme.threats, strict=True)
    }
    return {
        "kind": scheme.kind, "threats": threats, "steps": scheme.steps, "rule": repr(scheme.weight_rule),
        "dpar": scheme.dpar, "persist": scheme.persisting, "adversarial_ratio": scheme.adversarial_ratio,
        "preset": scheme.preset, "start": scheme.start, "step_sizes": scheme.step_sizes,
        **({"dpar_warmup": scheme.dpar_warmup} if scheme.dpar_warmup else {}),
        **({"pairing": scheme.pairing, "natural_share": scheme.natural_share} if scheme.kind == "ramp" else {}),
    }  # fmt: skip
