"""What models are called: as the user says, NAME=SOURCE, or by the end of their source that tells them apart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from omnirobust.zoo.onnx.source import split_onnx
from omnirobust.zoo.own_code import HUBS
from omnirobust.zoo.trained import WEIGHTS, split_name, split_network, trained_file


def told_apart(sources: Sequence[str], argument: str = "models") -> list[str]:
    """Return what to call each of some models: no two alike.

    Args:
        sources: each SOURCE, or NAME=SOURCE; see ``load_model``.
        argument: what messages call them.

    Raises:
        ValueError: if two have the same NAME, or are the same source.
    """
    if twice := [source for source, count in Counter(sources).items() if count > 1]:
        name, source = split_name(twice[0])
        raise ValueError(f"{argument} must be named once each, got {name or _names(source)[0]} twice")
    choices = [(name,) if name else _names(source) for name, source in map(split_name, sources)]
    at = [0] * len(choices)
    while True:
        found = [names[i] for names, i in zip(choices, at, strict=True)]
        alike = [i for i, name in enumerate(found) if found.count(name) > 1]
        longer = [i for i in alike if at[i] + 1 < len(choices[i])]
        if not alike:
            return found
        if not longer:
            raise ValueError(f"{argument} must be named once each, got {found[alike[0]]} twice")
        for i in longer:
            at[i] += 1


def _names(source: str) -> tuple[str, ...]:
    """Return what a source may be called, the shortest first, itself last."""
    return (*dict.fromkeys(_ends(source)), source)


def _ends(source: str) -> Iterable[str]:
    if source.startswith(HUBS):
        return _tails(Path(source.partition(":")[2]).parts)
    if (asked := split_onnx(source)) is not None:
        tails = _tails(asked.path.resolve().with_suffix("").parts[1:])
        return [*tails, *(f"{tail}:queries" for tail in tails if asked.only_asked)]
    weights, network = split_network(source)
    file = (
        trained_file(weights) if network or Path(weights).suffix == ".safetensors" or Path(weights).is_dir() else None
    )
    if file is not None:
        place = file.resolve().parent if file.name == WEIGHTS else file.resolve().with_suffix("")
        tails = _tails(place.parts[1:])
        return [*tails, *(f"{tail}:{network}" for tail in tails if network)]
    where, colon, attribute = source.rpartition(":")
    if not colon:
        return [source]
    parts = Path(where).resolve().with_suffix("").parts[1:] if where.endswith(".py") else re.split(r"\.", where)
    return [attribute, *(f"{tail}:{attribute}" for tail in _tails(parts, "/" if where.endswith(".py") else "."))]


def _tails(parts: Sequence[str], by: str = "/") -> list[str]:
    return [by.join(parts[-n:]) for n in range(1, len(parts) + 1)]
