"""In what two runs differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

NOTHING = "nothing"
"""What ``differences`` says of a setting that one side does not have."""


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the settings in which two configurations differ: path, and either value as JSON or "nothing"."""
    ours, theirs = _leaves(first), _leaves(second)
    pairs = ((key, ours.get(key, NOTHING), theirs.get(key, NOTHING)) for key in dict.fromkeys([*ours, *theirs]))
    return [(key, value, other) for key, value, other in pairs if value != other]


def _leaves(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    leaves: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            leaves |= _leaves(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = json.dumps(value)
    return leaves
