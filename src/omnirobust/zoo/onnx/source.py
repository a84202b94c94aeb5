"""How a model in ONNX is named: FILE.onnx, or FILE.onnx:queries where no gradient is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

SUFFIX, ONLY_ASKED = ".onnx", "queries"


class OnnxSource(NamedTuple):
    """A file, and whether it is only asked."""

    path: Path
    only_asked: bool


def split_onnx(source: str) -> OnnxSource | None:
    """Read FILE.onnx and FILE.onnx:queries; None of all else."""
    if Path(source).suffix == SUFFIX:
        return OnnxSource(Path(source), False)
    name, _, rest = source.rpartition(":")
    return OnnxSource(Path(name), True) if rest == ONLY_ASKED and Path(name).suffix == SUFFIX else None
