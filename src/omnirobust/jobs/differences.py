"""What the numbers of a run depend on, and in what two runs differ."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

NOTHING = "nothing"
"""What ``differences`` says of a setting that one side does not have."""


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the settings in which two configurations differ: path, and either value as JSON or "nothing"."""
    ours, theirs = _leaves(first), _leaves(second)
    pairs = ((key, ours.get(key, NOTHING), theirs.get(key, NOTHING)) for key in dict.fromkeys([*ours, *theirs]))
    return [(key, value, other) for key, value, other in pairs if value != other]


def check_same(wanted: Mapping[str, Any], found: Mapping[str, Any], path: Path) -> None:
    """Refuse a folder whose run has other settings.

    Raises:
        ValueError: naming the first that differs.
    """
    for key, value, made in differences(wanted, found):
        raise ValueError(
            f"out must be a new folder or that of a run with the same settings, got {path}, "
            f"made with {key} {made}, not {value}"
        )


def version_of(package: str) -> str:
    """Return the version of a package; "not installed" where it is run from its sources, or not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def versions() -> dict[str, Any]:
    """Return what the numbers of a run may depend on beside its settings."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        **{name: version_of(name) for name in ("omnirobust", "torch", "numpy", "datasets", "safetensors")},
    }


def _leaves(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    leaves: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            leaves |= _leaves(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = json.dumps(value)
    return leaves
