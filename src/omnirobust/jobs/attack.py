"""The main job: attack by the average and by min-max, check what was saved, compare the two."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from omnirobust._types import WeightRule
from omnirobust.attacks import attack_product
from omnirobust.data import ImageData
from omnirobust.jobs.job import AttackJob
from omnirobust.jobs.models import describe_models
from omnirobust.jobs.own_code import digests
from omnirobust.jobs.record import AttackRecord
from omnirobust.jobs.setting import Setting, load_setting
from omnirobust.jobs.summary import write_results
from omnirobust.jobs.transforms import describe_transforms
from omnirobust.results import AttackResult
from omnirobust.runs import RunFolder
from omnirobust.stores import fingerprint

JobProgress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, how many steps of it are done, and how many there are."""


def run_attack(
    job: AttackJob,
    out: str | Path | None = None,
    progress: JobProgress | None = None,
    options: str | None = None,
) -> AttackRecord:
    """Attack, write everything into a run folder, and return its record.

    The average is run with otherwise equal settings, so that the two are compared pair by pair. Called again with the
    same settings the job goes on where it was interrupted, and ends with the same files.

    Args:
        job: the settings.
        out: the run folder; None for a folder under ``runs/`` named after the settings.
        progress: called after every step.
        options: the text of a file that gives these settings on the command line, kept in the run folder.

    Raises:
        ValueError: if a setting, a model, a transformation or the data does not fit.
        FileNotFoundError: if models of the zoo have not been trained.
    """
    setting = load_setting(job)
    config = describe_job(setting)
    folder = RunFolder.create(out if out is not None else default_folder(config), config)
    folder.write_options(options)
    if not folder.file("metrics.json").exists():
        results = {}
        for name, rule in job.rules().items():
            results[name] = _attack(setting, rule, folder, name, progress)
        write_results(folder, setting, results, None if progress is None else partial(progress, "check"))
        folder.clear_stores()
    return AttackRecord.open(folder.path)


def default_folder(config: Mapping[str, Any]) -> Path:
    """Name a folder under ``runs/`` after the settings: the same settings find the same folder."""
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=4).hexdigest()
    data, attack = config["data"]["name"], config["attack"]
    task = config["job"].removeprefix("attack ")
    parts = [Path(data).name.replace(":", "-"), *([] if task == "ensemble" else [task])]
    return Path("runs") / "-".join([*parts, attack["norm"], f"{attack['eps']:g}", digest])


def describe_job(setting: Setting) -> dict[str, Any]:
    """Return the resolved settings as plain values; data and weights by their fingerprints."""
    job, images = setting.job, setting.images
    return {
        "job": f"attack {job.task}",
        "data": describe_data(images, job.start),
        "models": describe_models(setting.models),
        "transfer": describe_models(setting.others),
        **_describe_own_code(job),
        "labels": job.labels,
        "target": job.target,
        "rules": {name: repr(rule) for name, rule in job.rules().items()},
        **_describe_domains(setting),
        "attack": _describe_attack(job),
    }


def _describe_own_code(job: AttackJob) -> dict[str, Any]:
    """Return digests of the files of the user's own code, if there are any."""
    found = digests([*job.models, *job.transfer, *(job.transforms or ())])
    return {"own_code": found} if found else {}


def describe_data(images: ImageData, start: int) -> dict[str, Any]:
    """Return what images these are, the first of them number ``start`` of its split, as plain values."""
    return {
        "name": images.name,
        "split": images.split,
        "start": start,
        "images": len(images),
        "note": images.note,
        "fingerprint": fingerprint({"x": images.x, "y": images.y}),
    }


def _describe_domains(setting: Setting) -> dict[str, Any]:
    """Return what is not there in an attack on models alone."""
    job = setting.job
    parts: dict[str, Any] = {}
    if job.groups is not None:
        parts["groups"] = {
            "size": job.groups.size,
            "by": job.groups.by,
            "seed": job.groups.seed,
            "count": len(setting.images) // setting.E,
            "left_out": setting.left_out,
            "clip": job.resolved_clip,
        }
    if setting.transforms is not None:
        parts["transforms"] = describe_transforms(setting.transforms)
        parts["samples"] = job.samples
        parts["draws"] = job.draws
    return parts


def _describe_attack(job: AttackJob) -> dict[str, Any]:
    settings, threat = job.resolved(), job.threat_model
    return {
        "norm": threat.name,
        "eps": threat.eps,
        "bounds": list(threat.bounds),
        "steps": job.steps,
        "preset": job.preset or "default",
        "direction": repr(settings.direction),
        "step_size": settings.step_size,
        "loss": getattr(settings.loss, "__name__", repr(settings.loss)),
        "start": settings.start,
        "keep": settings.keep,
        "seed": job.seed,
        "batch_size": job.batch_size,
        "precision": job.precision,
        "stop_when_fooled": job.stop_when_fooled,
        "restarts": job.restarts,
    }


def _attack(
    setting: Setting, rule: WeightRule, folder: RunFolder, name: str, progress: JobProgress | None
) -> AttackResult:
    job, settings = setting.job, setting.job.resolved()
    return attack_product(
        setting.models,
        setting.x,
        setting.y,
        job.threat_model,
        transforms=setting.transforms,
        shared=setting.shared,
        clip=job.resolved_clip,
        samples=job.samples,
        draws=job.draws,
        rule=rule,
        steps=job.steps,
        step_size=settings.step_size,
        direction=settings.direction,
        loss=settings.loss,
        targeted=setting.targeted,
        keep=settings.keep,
        stop_when_fooled=job.stop_when_fooled,
        restarts=job.restarts,
        seed=job.seed,
        batch_size=job.batch_size,
        precision=job.precision,
        progress=False if progress is None else lambda done, total: progress(name, done, total),
        init=settings.start,
        history="full",
        first_row=0 if setting.shared else job.start,
        store=folder.store(name),
    )
