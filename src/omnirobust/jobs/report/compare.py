"""Hold two runs against each other, example by example where they share examples."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from omnirobust._files import replacing
from omnirobust.evaluation.metrics import PairedComparison, compare_paired
from omnirobust.jobs.differences import NOTHING, differences
from omnirobust.jobs.folder import RunFolder
from omnirobust.jobs.records import AttackRecord, EvaluationRecord, open_records
from omnirobust.jobs.report.environment import environment
from omnirobust.jobs.report.gallery import in_target
from omnirobust.jobs.report.numbers import threat_names
from omnirobust.jobs.report.text import count, percent, radius

Outcomes: TypeAlias = dict[Hashable, bool]
"""What happened to every example, by what tells it apart."""

_APART = ("fingerprint", "weights")
"""Ends of settings that no reader can compare by eye: they are named, not shown."""


@dataclass(frozen=True)
class Line:
    """One measure in two runs.

    Attributes:
        name: what was measured.
        first, second: its rate in each run, on the examples of that run; on the shared ones where it is paired.
        unit: of what it is a rate.
        paired: the second against the first on the examples they share; None if that is not half of the smaller run.
    """

    name: str
    first: float
    second: float
    unit: str
    paired: PairedComparison | None

    @property
    def verdict(self) -> str:
        """Say what the interval allows to say."""
        if self.paired is None:
            return "not paired"
        low, high = self.paired.difference.low, self.paired.difference.high
        return "higher" if low > 0 else "lower" if high < 0 else "not told apart"


@dataclass(frozen=True)
class Compared:
    """Two runs beside each other.

    Attributes:
        runs: their folders, as they were given.
        names: what each is called in a table.
        lines: the measures that both have.
        settings: those in which they differ: name, value in the first, value in the second.
        notes: what the reader must know.
    """

    runs: tuple[Path, Path]
    names: tuple[str, str]
    lines: list[Line]
    settings: list[tuple[str, str, str]]
    notes: list[str]

    @property
    def happened(self) -> str:
        """Say in one plain sentence how the two compare: on success against all, or on what withstands all."""
        main = next((line for line in reversed(self.lines) if line.name.startswith("ASR")), self.lines[-1])
        verdicts = [line.verdict for line in self.lines]
        does = {"not told apart": "cannot be told apart", "not paired": "are of other images"}
        how = f"is {main.verdict}" if main.verdict in ("higher", "lower") else does[main.verdict]
        tail = "" if len(verdicts) == 1 else (
            f"; of {len(verdicts)} measures {verdicts.count('higher')} are higher, {verdicts.count('lower')} lower"
        )  # fmt: skip
        rates = f"{percent(main.second)} % in {self.names[1]} and {percent(main.first)} % in {self.names[0]}"
        return f"{main.name}: {rates}, which {how}{tail}."


def compare_runs(first: str | Path, second: str | Path) -> list[Compared]:
    """Compare two runs of one kind: attacks, evaluations, or runs of as many parts, part by part.

    Differences are second minus first, with the interval of ``compare_paired`` on the examples that both runs hold:
    those of the same number in the same split, with the same pixels and label.

    Raises:
        FileNotFoundError: if one is no run, or has not ended.
        ValueError: if they are of different kinds, share no measure, or are damaged.
    """
    paths = (Path(first), Path(second))
    kinds = [_kind(path) for path in paths]
    if kinds[0] != kinds[1]:
        raise ValueError(f"runs must be of one kind, got {paths[0]}, {kinds[0]}, and {paths[1]}, {kinds[1]}")
    if kinds[0] == "evaluation":
        return [_evaluations(*(EvaluationRecord.open(path) for path in paths))]
    parts = [open_records(path) for path in paths]
    if len(parts[0]) != len(parts[1]):
        raise ValueError(f"runs must have as many parts, got {len(parts[0])} and {len(parts[1])}")
    return [_attacks(a, b) for a, b in zip(*parts, strict=True)]


def write_comparison(compared: Sequence[Compared], out: str | Path) -> Path:
    """Write the page of a comparison, and return its path."""
    env = environment()
    env.globals |= {"percent": percent, "count": count}
    page = env.get_template("comparison.html.j2").render(compared=compared)
    with replacing(Path(out)) as partial:
        partial.write_text(page, encoding="utf-8")
    return Path(out)


def _kind(path: Path) -> str:
    config = RunFolder.open(path).config
    job = config.get("job")
    if job in EvaluationRecord.JOBS:
        return "evaluation"
    if job in AttackRecord.JOBS or "parts" in config:
        return "attack"
    raise ValueError(f"runs must be attacks or evaluations, got {path}, a run of {job!r}")


def _attacks(a: AttackRecord, b: AttackRecord) -> Compared:
    images = (_attacked_images(a), _attacked_images(b))
    lines = []
    for ours, theirs in _paired_names(a.attacks, b.attacks):
        won = [_won(record, name, keys) for record, name, keys in ((a, ours, images[0]), (b, theirs, images[1]))]
        of = _both(ours, theirs)
        if a.rate == b.rate and _aim(a) == _aim(b):
            lines.append(_line(f"{a.rate}, {of}", won[0], won[1], "group" if a.groups is not None else "image"))
        for model in (name for name in _judged(a) if name in _judged(b)):
            right = [_right(record, f"{name}.predicted.{model}", keys)
                     for record, name, keys in ((a, ours, images[0]), (b, theirs, images[1]))]  # fmt: skip
            lines.append(_line(f"accuracy of {model}, {of}", right[0], right[1], "image"))
    return _compared(a.folder, b.folder, lines)


def _evaluations(a: EvaluationRecord, b: EvaluationRecord) -> Compared:
    images = (_evaluated_images(a), _evaluated_images(b))
    threats = [threat for threat in a.threats if threat in b.threats]
    called = threat_names(a.config["threats"])
    measures = {"clean accuracy": ["clean"], **{f"accuracy under {called[threat]}": [threat] for threat in threats}}
    if set(a.threats) == set(b.threats) and len(threats) > 1:
        measures["accuracy under all threats"] = threats
    lines = []
    for ours, theirs in _paired_names(list(a.metrics["models"]), list(b.metrics["models"])):
        for name, columns in measures.items():
            stood = [
                dict(zip(keys, map(all, zip(*(record.examples[f"{model}.correct.{c}"] for c in columns), strict=True)),
                         strict=True))
                for record, model, keys in ((a, ours, images[0]), (b, theirs, images[1]))
            ]  # fmt: skip
            lines.append(_line(f"{name}, {_both(ours, theirs)}", stood[0], stood[1], "image"))
    return _compared(a.folder, b.folder, lines)


def _judged(record: AttackRecord) -> list[str]:
    return [*record.models, *record.metrics["transfer"]]


def _attacked_images(record: AttackRecord) -> list[Hashable]:
    """Return what tells the images apart, in the order of the rows of the table of examples."""
    clean, labels = record.perturbations["clean"], record.perturbations["labels"]
    if record.groups is not None:
        clean, labels = clean.flatten(0, 1), labels.flatten()
    start = record.config["data"]["start"]
    return _keys(record.examples.get("image") or [start + row for row in record.examples["row"]], clean, labels)


def _evaluated_images(record: EvaluationRecord) -> list[Hashable]:
    start, found = record.config["data"]["start"], record.perturbations
    return _keys([start + row for row in record.examples["row"]], found["clean"], found["labels"])


def _keys(numbers: Sequence[int], clean: Tensor, labels: Tensor) -> list[Hashable]:
    pixels = [hashlib.blake2b(image.contiguous().numpy().tobytes(), digest_size=8).hexdigest() for image in clean]
    return list(zip(numbers, pixels, labels.tolist(), strict=True))


def _aim(record: AttackRecord) -> int | None:
    return None if record.target is None else record.target["class"]


def _won(record: AttackRecord, name: str, images: list[Hashable]) -> Outcomes:
    """Return whether each perturbation that counts beats every domain; a group is told apart by its images."""
    size = 1 if record.groups is None else record.groups["size"]
    fooled, apart = record.examples[f"{name}.fooled_all"][::size], in_target(record)
    keys = images if record.groups is None else [tuple(images[i : i + size]) for i in range(0, len(images), size)]
    return {key: won for n, (key, won) in enumerate(zip(keys, fooled, strict=True)) if n not in apart}


def _right(record: AttackRecord, column: str, images: list[Hashable]) -> Outcomes:
    predicted, labels = record.examples[column], record.examples["label"]
    return {key: p == y for key, p, y in zip(images, predicted, labels, strict=True)}


def _paired_names(first: Sequence[str], second: Sequence[str]) -> list[tuple[str, str]]:
    """Pair what is called alike, and what is left if it is one on each side: another rule, or another model."""
    both = [(name, name) for name in first if name in second]
    left = [name for name in first if name not in second], [name for name in second if name not in first]
    return both + (list(zip(*left, strict=True)) if len(left[0]) == len(left[1]) == 1 else [])


def _both(first: str, second: str) -> str:
    return first if first == second else f"{second} against {first}"


def _line(name: str, first: Outcomes, second: Outcomes, unit: str) -> Line:
    shared = [key for key in first if key in second]
    if 2 * len(shared) < min(len(first), len(second)) or not shared:  # a chance few would speak for none of the two
        return Line(name, _rate(first), _rate(second), unit, None)
    ours, theirs = ({key: outcomes[key] for key in shared} for outcomes in (first, second))
    paired = compare_paired(torch.tensor(list(theirs.values())), torch.tensor(list(ours.values())))
    return Line(name, _rate(ours), _rate(theirs), unit, paired)


def _rate(outcomes: Outcomes) -> float:
    return sum(outcomes.values()) / len(outcomes)


def _compared(a: RunFolder, b: RunFolder, lines: list[Line]) -> Compared:
    if not lines:
        raise ValueError(f"runs must share a model or an attack, got {a.path} and {b.path}, which share none")
    settings = [_difference(key, x, y) for key, x, y in differences(a.config, b.config)]
    names = ("first", "second") if a.path.name == b.path.name else (a.path.name, b.path.name)
    return Compared((a.path, b.path), names, lines, settings, _notes(lines))


def _difference(key: str, first: str, second: str) -> tuple[str, str, str]:
    """Return a differing setting as it is told: of a fingerprint that it differs, or which run has what it is of."""
    if key.endswith("eps"):
        first, second = map(_typed, (first, second))
    if not key.endswith(_APART):
        return key, first, second
    if NOTHING in (first, second):
        only = first == NOTHING
        return key.rpartition(".")[0], "not there" if only else "there", "there" if only else "not there"
    return key, "other", "another"


def _typed(eps: str) -> str:
    """Return a radius as it was typed."""
    try:
        return radius(float(eps))
    except ValueError:  # nothing, or one for each image
        return eps


def _notes(lines: list[Line]) -> list[str]:
    said = "Differences are second minus first, in points; intervals: 95 %, paired by what both runs hold."
    shared = {f"{count(line.paired.examples, line.unit)}" for line in lines if line.paired is not None}
    notes = [said, f"Both hold {' and '.join(sorted(shared))}, on which the rates are taken."] if shared else []
    alone = sorted({line.unit for line in lines if line.paired is None})
    apart = "do not share half of the smaller one's"
    return [*notes, *(f"The runs {apart} {unit}s: rates are those of each, without an interval." for unit in alone)]
