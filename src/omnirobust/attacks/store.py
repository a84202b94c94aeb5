"""Finished batches of an attack on disk, which a stopped one goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from omnirobust.attacks.results import AttackResult
from omnirobust.core.history import History, HistoryRows
from omnirobust.zoo.chunks import Chunk, ChunkStore

_HISTORY, _ROWS = "history.", "rows."
"""What precedes the names of tensors that are not fields of the result itself."""


@dataclass(frozen=True)
class ResultStore:
    """Finished batches of one attack, one file each: what ``attack_ensemble(store=...)`` resumes from.

    Attributes:
        folder: where they lie.
        within: see ``ChunkStore``.
    """

    folder: Path
    within: Path | None = None

    def get(self, index: int) -> AttackResult | None:
        """Return the result of batch ``index``; None if it is not there or damaged, so that it is computed again."""
        found = ChunkStore(self.folder).get(f"{index:05d}")
        try:
            return None if found is None else _assemble(*found)
        except (KeyError, TypeError, AttributeError):  # whole, but no result
            return None

    def put(self, index: int, result: AttackResult) -> None:
        """Keep the result of batch ``index``."""
        ChunkStore(self.folder, within=self.within).put(f"{index:05d}", *_taken_apart(result))


def _taken_apart(result: AttackResult) -> Chunk:
    """Return every field of a result and of its history: tensors as tensors, what is plain as facts."""
    tensors: dict[str, Tensor] = {}
    facts: dict[str, Any] = {}
    for prefix, part in (("", result), (_HISTORY, result.history), (_ROWS, result.history.rows)):
        values = {} if part is None else {f.name: getattr(part, f.name) for f in fields(part)}
        tensors |= {prefix + name: value for name, value in values.items() if isinstance(value, Tensor)}
        facts |= {
            name: value for name, value in values.items() if isinstance(value, (str, int, float, tuple, list, dict))
        }
    return Chunk(tensors, facts)


def _assemble(tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> AttackResult:
    """Undo ``_taken_apart`` once JSON has made lists of tuples."""
    own: dict[str, Any] = {"fooled": None, "success": None}  # what is not there was not known
    of_history: dict[str, Any] = {}
    of_rows: dict[str, Any] = {"fooled": None}
    for key, value in tensors.items():
        prefix, _, name = key.rpartition(".")
        {"": own, _HISTORY: of_history, _ROWS: of_rows}[prefix and f"{prefix}."][name] = value
    rows = HistoryRows(**of_rows) if len(of_rows) > 1 else None
    plain: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in facts.items()}
    plain["axes"] = {axis: tuple(members) for axis, members in facts["axes"].items()}
    return AttackResult(**own, history=History(**of_history, problems=plain.pop("problems"), rows=rows), **plain)
