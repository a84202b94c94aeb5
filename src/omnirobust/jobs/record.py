"""Read finished runs back: what tables and reports are made from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from omnirobust.runs import RunFolder

JOBS = ("attack ensemble", "attack universal", "attack transforms")
"""Kinds of runs that a record can be made of."""


@dataclass(frozen=True)
class AttackRecord:
    """A finished attack, as its run folder holds it.

    Attributes:
        folder: the run folder.
        metrics: what ``metrics.json`` says.
    """

    folder: RunFolder
    metrics: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> AttackRecord:
        """Open the folder of a finished attack.

        Raises:
            FileNotFoundError: if there is no run, or it has not ended.
            ValueError: if it is another kind of run, of an earlier version, or damaged.
        """
        folder = RunFolder.open(path)
        if folder.config.get("job") not in JOBS:
            raise ValueError(f"run must be that of an attack, got {path}, a run of {folder.config.get('job')!r}")
        metrics = folder.read_json("metrics.json")
        if "one_class" not in metrics:
            raise ValueError(f"run must be one of this version, got {path}: delete it and give its command again")
        return cls(folder, metrics)

    @property
    def config(self) -> dict[str, Any]:
        """The resolved settings."""
        return self.folder.config

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
    def perturbations(self) -> dict[str, Tensor]:
        """Clean images, labels, and each attack's ``.delta`` and ``.adversarial``; group by group where they share."""
        return self.folder.read_tensors("perturbations.safetensors")

    @cached_property
    def history(self) -> dict[str, Tensor]:
        """Each attack's ``.losses``, ``.weights``, ``.fooled``, ``.all_fooled``; ``.rows.weights`` (T+1, N, K)."""
        return self.folder.read_tensors("history.safetensors")

    @cached_property
    def examples(self) -> dict[str, list[Any]]:
        """One entry an image, by column name."""
        return self.folder.read_table("examples.parquet")


def open_records(path: str | Path) -> list[AttackRecord]:
    """Open a run: that of an attack, or one that consists of several.

    Raises:
        FileNotFoundError: if there is no run, or it has not ended.
        ValueError: if it is another kind of run, or damaged.
    """
    folder = RunFolder.open(path)
    return [AttackRecord.open(folder.path / part) for part in folder.config.get("parts", ["."])]
