"""Values of options that name files: made to hold in any working directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from omnirobust._files import from_home

_OF_FILES = ("data", "model", "models", "transfer", "transforms", "from", "rule")
"""Options whose values may name files and folders."""

_MODELS = ("models", "transfer", "from")
"""Those whose values may be NAME=SOURCE."""


def anywhere(option: str, value: Any) -> Any:
    """Return the value of an option with its paths made absolute."""
    if option not in _OF_FILES or not isinstance(value, (str, list)):
        return value
    if isinstance(value, list):
        return [anywhere(option, part) for part in value]
    if option in _MODELS:
        from omnirobust.jobs.names import split_name

        name, value = split_name(value)
        if name:
            return f"{name}={anywhere(option, value)}"
    file, colon, rest = value.partition(":")
    if file == "hf" and Path(rest).is_dir():
        return f"hf:{Path(rest).resolve()}"
    if (file.endswith((".py", ".safetensors")) and Path(file).is_file()) or (rest and _holds_weights(file)):
        return f"{Path(file).resolve()}{colon}{anywhere(option, rest)}"
    return str(from_home(value).resolve()) if _is_folder(option, value) else value


def code_named(option: str, value: Any) -> list[str]:
    """Return the code that the value of an option names, as FILE.py:NAME or package.module:NAME; it would be run."""
    if isinstance(value, list):
        return [code for part in value for code in code_named(option, part)]
    if option not in _OF_FILES or option == "data" or not isinstance(value, str) or ":" not in value:
        return []
    from omnirobust.jobs.names import named_code
    from omnirobust.jobs.transforms import is_own_code

    code = value if option in ("transforms", "rule") else named_code(value)
    return [code] if code and (option != "transforms" or is_own_code(code)) else []


def _is_folder(option: str, value: str) -> bool:
    """Say whether the command takes a value for a folder of the working directory, not for a name that it knows."""
    from omnirobust.zoo.data import HUB_IDS

    if not value:
        return False
    path, root = from_home(value), os.environ.get("OMNIROBUST_DATA")
    if option == "data":
        known = value in ("digits", *HUB_IDS) or (root is not None and (Path(root) / value).is_dir())
        return path.is_dir() and (not known or value.startswith((".", "~")))
    return _holds_weights(value) or (path / "config.json").is_file()


def _holds_weights(folder: str) -> bool:
    return (from_home(folder) / "model.safetensors").is_file()
