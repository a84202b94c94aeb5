"""The main job: attack an ensemble by the average and by min-max, check what was saved, compare the two."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from omnirobust._models import Precision
from omnirobust._types import WeightRule
from omnirobust.attacks import attack_ensemble
from omnirobust.data import ImageData, load
from omnirobust.directions import Direction
from omnirobust.jobs.models import describe_models, load_models, predict
from omnirobust.jobs.record import AttackRecord
from omnirobust.jobs.summary import Setting, write_results
from omnirobust.losses import Loss
from omnirobust.results import AttackResult
from omnirobust.runs import RunFolder
from omnirobust.settings import DEFAULT, PAPER, AttackSettings
from omnirobust.solver import Keep
from omnirobust.starts import Start
from omnirobust.stores import fingerprint
from omnirobust.threat_models import ThreatModel
from omnirobust.weights import Uniform

JobProgress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, how many steps of it are done, and how many there are."""


@dataclass(frozen=True)
class EnsembleJob:
    """Settings of one attack on an ensemble of models.

    Attributes:
        data: name of the data set.
        models: names of the models to attack, see ``load_models``.
        threat_model: what the attacker may do; its radius is one number.
        steps: T, >= 0.
        images: how many images to attack, >= 1; None for all from ``start``.
        start: index of the first image.
        split: of the data.
        preset: "paper" for the paper's settings, None for the tuned default of the norm.
        rule: weight rule held against the average; None for that of the preset.
        rule_name: what tables call it.
        direction, step_size, loss, init, keep: instead of those of the preset.
        seed: keys the noise.
        batch_size: images attacked together, and saved together when done, >= 1.
        precision: "fp32" or "bf16".
        stop_when_fooled: drop images that fool every model.
        restarts: independent runs, >= 1.
        labels: "true", or "predicted" for each model's own prediction.
        target: class to reach instead of the label to leave; None for untargeted.
        transfer: names of models that are not attacked, but scored.
    """

    data: str
    models: tuple[str, ...]
    threat_model: ThreatModel
    steps: int = 50
    images: int | None = 200
    start: int = 0
    split: str = "test"
    preset: Literal["paper"] | None = None
    rule: WeightRule | None = None
    rule_name: str = "min-max"
    direction: Direction | None = None
    step_size: float | None = None
    loss: Loss | None = None
    init: Start | None = None
    keep: Keep | None = None
    seed: int = 0
    batch_size: int = 250
    precision: Precision = "fp32"
    stop_when_fooled: bool = False
    restarts: int = 1
    labels: Literal["true", "predicted"] = "true"
    target: int | None = None
    transfer: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("images", 1), ("start", 0), ("batch_size", 1), ("restarts", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be >= {least}, got {value}")
        if self.labels not in ("true", "predicted"):
            raise ValueError(f"labels must be true or predicted, got {self.labels!r}")
        if isinstance(self.threat_model.eps, Tensor):
            raise ValueError("eps must be one number for the whole job, got a tensor")
        if self.preset not in (None, "paper"):
            raise ValueError(f"preset must be 'paper' or None, got {self.preset!r}")
        if self.target is not None and self.labels == "predicted":
            raise ValueError("labels must be true with a target: a targeted attack does not look at the labels")
        if repeated := set(self.models) & set(self.transfer):
            raise ValueError(f"transfer must name models that are not attacked, got {', '.join(sorted(repeated))}")

    def resolved(self) -> AttackSettings:
        """Return the preset with what this job says instead."""
        base = (PAPER if self.preset == "paper" else DEFAULT)[self.threat_model.name]
        if self.direction is not None:  # a step size belongs to its direction
            base = replace(base, direction=self.direction, step_size=None)
        given = {
            "rule": self.rule,
            "step_size": self.step_size,
            "loss": self.loss,
            "start": self.init,
            "keep": self.keep,
        }
        return replace(base, **{name: value for name, value in given.items() if value is not None})

    def rules(self) -> dict[str, WeightRule]:
        """Return what is compared: the average, and the rule of this job under its name."""
        rule = self.resolved().rule
        both: dict[str, WeightRule] = {"average": Uniform()}
        return both if isinstance(rule, Uniform) else both | {self.rule_name: rule}


def run_ensemble(job: EnsembleJob, out: str | Path | None = None, progress: JobProgress | None = None) -> AttackRecord:
    """Attack, write everything into a run folder, and return its record.

    The average is run with otherwise equal settings, so that the two are compared pair by pair. Called again with the
    same settings the job goes on where it was interrupted, and ends with the same files.

    Args:
        job: the settings.
        out: the run folder; None for a folder under ``runs/`` named after the settings.
        progress: called after every step.

    Raises:
        ValueError: if a setting, a model or the data does not fit.
        FileNotFoundError: if models of the zoo have not been trained.
    """
    setting = _load(job)
    config = describe_job(job, setting.images, setting.models, setting.others)
    folder = RunFolder.create(out if out is not None else default_folder(config), config)
    if not folder.file("metrics.json").exists():
        results = {}
        for name, rule in job.rules().items():
            results[name] = _attack(job, setting, rule, folder, name, progress)
        write_results(folder, setting, results)
        folder.clear_stores()
    return AttackRecord.open(folder.path)


def default_folder(config: Mapping[str, Any]) -> Path:
    """Name a folder under ``runs/`` after the settings: the same settings find the same folder."""
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=4).hexdigest()
    data, attack = config["data"]["name"], config["attack"]
    return Path("runs") / f"{Path(data).name.replace(':', '-')}-{attack['norm']}-{attack['eps']:g}-{digest}"


def describe_job(
    job: EnsembleJob, images: ImageData, models: dict[str, nn.Module], others: dict[str, nn.Module]
) -> dict[str, Any]:
    """Return the resolved settings as plain values; data and weights by their fingerprints."""
    settings, threat = job.resolved(), job.threat_model
    return {
        "job": "attack ensemble",
        "data": {
            "name": job.data,
            "split": job.split,
            "start": job.start,
            "images": len(images),
            "note": images.note,
            "fingerprint": fingerprint({"x": images.x, "y": images.y}),
        },
        "models": describe_models(models),
        "transfer": describe_models(others),
        "labels": job.labels,
        "target": job.target,
        "rules": {name: repr(rule) for name, rule in job.rules().items()},
        "attack": {
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
        },
    }


def _load(job: EnsembleJob) -> Setting:
    images = load(job.data, job.split, limit=job.images, start=job.start)
    if not len(images):
        raise ValueError(f"start must be an index of the {job.split} split of {job.data}, got {job.start}")
    models = load_models(job.models, job.data)
    others = load_models(job.transfer, job.data) if job.transfer else {}
    if job.target is not None and not 0 <= job.target < len(images.classes):
        raise ValueError(f"target must be in [0, {len(images.classes)}), got {job.target}")
    clean = predict(models | others, images.x)
    y = images.y if job.target is None else torch.full_like(images.y, job.target)
    if job.labels == "predicted":
        y = clean[:, : len(models)]
    return Setting(job.threat_model, images, models, others, clean, y, targeted=job.target is not None)


def _attack(
    job: EnsembleJob, setting: Setting, rule: WeightRule, folder: RunFolder, name: str, progress: JobProgress | None
) -> AttackResult:
    settings = job.resolved()
    return attack_ensemble(
        setting.models,
        setting.images.x,
        setting.y,
        job.threat_model,
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
        first_row=job.start,
        store=folder.store(name),
    )
