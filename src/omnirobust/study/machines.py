"""What measured the cells of a folder: a note beside them for each kind of machine."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from pathlib import Path

import torch

from omnirobust._files import replacing
from omnirobust.runs import version_of


def note_machine(cells: str | Path, device: torch.device | str = "cpu") -> None:
    """Remember beside the cells that this machine measured some of them."""
    text = machine(device)
    file = Path(cells) / "machines" / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as partial:
            partial.write_text(json.dumps({"machine": text}) + "\n", encoding="utf-8")


def machines(cells: str | Path) -> tuple[str, ...]:
    """Return every machine that measured cells of a folder; one whose note is damaged is left out."""
    found: list[str] = []
    for file in sorted((Path(cells) / "machines").glob("*.json")):
        try:
            found.append(str(json.loads(file.read_text(encoding="utf-8"))["machine"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return tuple(found)


def machine(device: torch.device | str = "cpu") -> str:
    """Say what this machine is, without its name."""
    where = torch.device(device)
    chip = torch.cuda.get_device_name(where) if where.type == "cuda" else "no accelerator"
    return (
        f"{platform.system()}, {platform.machine()}, {os.cpu_count()} processor cores, {chip}; Python "
        f"{platform.python_version()}, torch {torch.__version__}, omnirobust {version_of('omnirobust')}"
    )
