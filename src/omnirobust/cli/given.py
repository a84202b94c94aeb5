"""What a command was given, and the line and the file that give it again, from any working directory."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnirobust._files import AGAIN, from_home
from omnirobust.cli.yaml_files import dump

COMMAND = "command"
"""The key under which a file says which command its settings are for."""

_OF_FILES = ("data", "model", "models", "transfer", "transforms", "from", "rule", "bounds", "scale", "mask")
"""Options whose values may name files and folders."""

_VALUES = ("bounds", "scale", "mask")
"""Those whose values are numbers or files of them."""

_TABLES = (".parquet", ".safetensors", ".npz", ".csv", ".npy")

_MODELS = ("models", "transfer", "from")
"""Those whose values may be NAME=SOURCE."""


@dataclass(frozen=True)
class Given:
    """What a command was given, from the command line and from files together.

    Attributes:
        command: words of the command, such as ("attack", "ensemble").
        settings: plain values by option name, those that are None and those of ``APART`` left out.
        changed: names of those that are not the default.
    """

    command: tuple[str, ...]
    settings: dict[str, Any]
    changed: frozenset[str] = frozenset()

    def line(self) -> str:
        """Return the command as one types it, with what is not the default, radii as fractions where they are some."""
        words: list[str] = ["omnirobust", *self.command]
        for name, value in self.settings.items():
            if name in self.changed:
                values = value if isinstance(value, list) else [] if value is True else [value]
                words += [f"--{name.replace('_', '-')}", *(_typed(v) for v in values)]
        return shlex.join(words)

    def text(self) -> str:
        """Return the YAML file that gives the same settings again, from any working directory."""
        head = f"# omnirobust {' '.join(self.command)} --config THIS_FILE\n"
        own = {name: anywhere(name, value) for name, value in self.settings.items()}
        content = {COMMAND: " ".join(self.command), **own}
        tail = f"{AGAIN}{line}\n" if (line := self.line()).isprintable() else ""  # a comment holds one line of text
        return head + dump(content, sort_keys=False, default_flow_style=None, width=100) + tail

    def words(self) -> list[str]:
        """Return the command line that gives the same settings again."""
        return [*self.command, *(f"--set={name}={_flow(value)}" for name, value in self.settings.items())]


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
    if option in _VALUES or (option == "data" and value.endswith((".parquet", ".safetensors", ".npz"))):
        return str(from_home(value).absolute()) if Path(value).suffix in _TABLES else value
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
    if option not in _OF_FILES or option in ("data", *_VALUES) or not isinstance(value, str) or ":" not in value:
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


def _typed(value: Any) -> str:
    """Write a value so that it reads back as it is."""
    if not isinstance(value, float):
        return str(value)
    plain, levels = f"{value:g}", f"{value * 255:g}"
    if float(plain) == value:
        return plain
    return f"{levels}/255" if float(levels) / 255 == value else repr(value)


def _flow(value: Any) -> str:
    """Write a value as YAML on one line."""
    text = dump(value, default_flow_style=True, width=float("inf"))
    return text.strip("\n").removesuffix("\n...")
