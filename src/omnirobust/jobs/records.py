"""Read finished runs back: what tables and reports are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from omnirobust.core.ranges import digest
from omnirobust.core.threat_models import ThreatModel, told_range
from omnirobust.jobs.folder import CONFIG, RunFolder
from omnirobust.zoo.data import ImageData

PERTURBATIONS, EXAMPLES, HISTORY = "perturbations.safetensors", "examples.parquet", "history.safetensors"
SPREAD, EVALUATED, ROWS = "weights.parquet", "evaluation", "rows.parquet"
"""Files of results: the last three are of a training, the weights of its epochs, the run that judges it, and the rows
of the set that it was trained and validated on, where they were chosen."""


def row_in_set(images: ImageData) -> dict[str, list[int]]:
    """Return a column of the rows of the set that images were chosen from; none where they are in its order."""
    return {} if images.rows is None else {"row_in_set": images.rows.tolist()}


@dataclass(frozen=True)
class Record:
    """A finished run, as its folder holds it.

    Attributes:
        folder: the run folder.
        metrics: what ``metrics.json`` says.
    """

    folder: RunFolder
    metrics: dict[str, Any]

    JOBS: ClassVar[tuple[str, ...]] = ()
    """What the configuration calls such runs."""
    KIND: ClassVar[str] = "a job"
    NEEDED: ClassVar[str] = ""
    """What the metrics hold, unless they are of an earlier version."""

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open the folder of a finished run.

        Raises:
            FileNotFoundError: if there is no run, or it has not ended.
            ValueError: if it is another kind of run, of an earlier version, or damaged.
        """
        folder = RunFolder.open(path)
        if folder.config.get("job") not in cls.JOBS:
            raise ValueError(f"run must be that of {cls.KIND}, got {path}, a run of {folder.config.get('job')!r}")
        metrics = folder.read_json("metrics.json")
        if cls.NEEDED not in metrics:
            raise ValueError(f"run must be one of this version, got {path}: delete it and give its command again")
        folder.check_belongs(CONFIG, metrics)
        return cls(folder, metrics)

    @property
    def config(self) -> dict[str, Any]:
        """The resolved settings."""
        return self.folder.config

    @cached_property
    def perturbations(self) -> dict[str, Tensor]:
        """Clean images, labels, and the perturbations, see the kinds of runs."""
        return self.tensors(PERTURBATIONS)

    @cached_property
    def examples(self) -> dict[str, list[Any]]:
        """One entry an image, by column name."""
        return self.table(EXAMPLES)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Read tensors of this very run."""
        self.folder.check_belongs(name, self.metrics)
        return self.folder.read_tensors(name)

    def table(self, name: str) -> dict[str, list[Any]]:
        """Read a table of this very run, column by column."""
        self.folder.check_belongs(name, self.metrics)
        return self.folder.read_table(name)


@dataclass(frozen=True)
class AttackRecord(Record):
    """A finished attack: each one's perturbations are ``ATTACK.delta`` and ``ATTACK.adversarial``, group by group."""

    JOBS = ("attack ensemble", "attack universal", "attack transforms")
    KIND, NEEDED = "an attack", "axes"

    @property
    def models(self) -> list[str]:
        """Names of the models attacked."""
        return self.metrics["models"]

    @property
    def task(self) -> str:
        """What was attacked: "ensemble", "universal" or "transforms"."""
        if self.groups is not None:
            return "universal"
        return "transforms" if self.transforms else "ensemble"

    @property
    def axes(self) -> dict[str, list[str]]:
        """The factors whose product the domains are, row-major: models, transforms, examples; those in use."""
        return self.metrics["axes"]

    @property
    def transforms(self) -> list[str]:
        """Names of the transformations; none if images were attacked as they are."""
        return list(self.config.get("transforms", ()))

    @property
    def groups(self) -> dict[str, Any] | None:
        """How images share perturbations: size, by, seed, count, left_out, clip; None if each has its own."""
        return self.config.get("groups")

    @property
    def target(self) -> dict[str, Any] | None:
        """The class to reach: number "class", "name", and how many images were in it before; None if untargeted."""
        return self.metrics.get("target")

    @property
    def measure(self) -> str | None:
        """What is counted of each domain beside its accuracy: "target_success", "agreement", or nothing."""
        if self.target is not None:
            return "target_success"
        return "agreement" if self.config.get("labels") == "predicted" else None

    @property
    def rate(self) -> str:
        """What the paper calls the share of perturbations that fool every domain."""
        return "ASR_all" if self.task == "ensemble" else "ASR_gp"

    @property
    def attacks(self) -> list[str]:
        """Names of the rules compared: "average" first."""
        return list(self.metrics["attacks"])

    @cached_property
    def history(self) -> dict[str, Tensor]:
        """Each attack's ``.losses``, ``.weights``, ``.fooled``, ``.all_fooled``; ``.rows.weights`` (T+1, N, K)."""
        return self.tensors(HISTORY)


@dataclass(frozen=True)
class EvaluationRecord(Record):
    """A finished evaluation: the worst perturbations found of every image are ``MODEL.THREAT.delta``."""

    JOBS = ("evaluate",)
    KIND, NEEDED = "an evaluation", "models"

    @property
    def threats(self) -> list[str]:
        """Names of the threats."""
        return list(self.config["threats"])


@dataclass(frozen=True)
class TrainingRecord(Record):
    """A finished training; it has no perturbations and no examples of its own."""

    JOBS = ("train",)
    KIND, NEEDED = "a training", "history"

    @property
    def threats(self) -> list[str]:
        """Names of the threat models trained against."""
        return list(self.config["scheme"]["threats"])

    @property
    def history(self) -> list[dict[str, float]]:
        """One row an epoch, see ``FitResult``."""
        return self.metrics["history"]

    @cached_property
    def weights(self) -> dict[int, Tensor] | None:
        """The weights after every epoch, by its number, (examples, K); None where there is one threat model at most."""
        if not self.folder.file(SPREAD).exists():
            return None
        columns = self.table(SPREAD)
        values = torch.tensor([columns[name] for name in self.threats]).t()
        epochs = torch.tensor(columns["epoch"])
        return {int(epoch): values[epochs == epoch] for epoch in epochs.unique()}

    @cached_property
    def evaluation(self) -> EvaluationRecord | None:
        """How the result fares on test images; None for a training without threat models or test images."""
        path = self.folder.file(EVALUATED)
        if not path.exists():
            return None
        found = EvaluationRecord.open(path)
        if found.metrics != self.metrics["test"]:
            raise ValueError(
                f"The run {path} is not the one that judged {self.folder.path}: delete it and train again."
            )
        return found


def open_records(path: str | Path) -> list[AttackRecord]:
    """Open a run: that of an attack, or one that consists of several.

    Raises:
        FileNotFoundError: if there is no run, or it has not ended.
        ValueError: if it is another kind of run, or damaged.
    """
    folder = RunFolder.open(path)
    return [AttackRecord.open(folder.path / part) for part in folder.config.get("parts", ["."])]


THREATS = "threats.safetensors"
"""Bounds, scales and masks that are tensors, as THREAT.lower, .upper, .scale and .mask."""


def told_threat(threat: ThreatModel) -> dict[str, Any]:
    """Return a threat model as plain values, its tensors by their digests: a run on others is another run."""
    masked = {} if threat.mask is None else {"mask": int(threat.mask.sum()), "mask_digest": digest(threat.mask)}
    eps = threat.eps.tolist() if isinstance(threat.eps, Tensor) else threat.eps
    return {"norm": threat.name, "eps": eps, **told_range(threat), **masked}


def write_threats(folder: RunFolder, threats: Mapping[str, ThreatModel]) -> tuple[str, ...]:
    """Write the tensors of threat models, and return the names of the files: none where there are no tensors."""
    tensors: dict[str, Tensor] = {}
    for name, threat in threats.items():
        parts = dict(zip(("lower", "upper"), threat.bounds, strict=True)) | {"scale": threat.scale, "mask": threat.mask}
        tensors |= {f"{name}.{part}": v.cpu().contiguous() for part, v in parts.items() if isinstance(v, Tensor)}
    if not tensors:
        return ()
    folder.write_tensors(THREATS, tensors)
    return (THREATS,)
