"""The files of an evaluation: its finished batches, and what is written once all are done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from omnirobust.attacks.results import joined_notes
from omnirobust.core.threat_models import ThreatModel
from omnirobust.evaluation.fresh import Drawn
from omnirobust.evaluation.metrics import BEFORE, Interval, clean_notes, compare_paired, paired_mean_difference
from omnirobust.evaluation.robustness import RobustnessReport
from omnirobust.jobs.folder import RunFolder
from omnirobust.jobs.records import EXAMPLES, PERTURBATIONS, row_in_set, write_threats
from omnirobust.zoo.chunks import ChunkStore
from omnirobust.zoo.data import ImageData

Reports = Mapping[str, RobustnessReport]


def write_part(store: ChunkStore, part: str, report: RobustnessReport) -> None:
    """Keep the report of one batch."""
    tensors = {"clean_correct": report.clean_correct, "correct": report.correct, "margin": report.margin}
    tensors |= {f"delta.{name}": delta for name, delta in report.delta.items()}
    if report.drawn is not None:
        tensors |= {f"drawn.{name}": value for name, value in vars(report.drawn).items()}
    facts = {"names": report.names, "breaks": report.breaks, "notes": report.notes, "settings": report.settings}
    store.put(part, tensors, facts)


def read_part(store: ChunkStore, part: str, images: int) -> RobustnessReport | None:
    """Return the report of a batch of ``images``; None if it is not there or damaged, so that it is made again."""
    if (found := store.get(part)) is None:
        return None
    tensors, facts = found
    try:
        report = RobustnessReport(
            names=tuple(facts["names"]),
            clean_correct=tensors["clean_correct"],
            correct=tensors["correct"],
            margin=tensors["margin"],
            delta={name: tensors[f"delta.{name}"] for name in facts["names"]},
            breaks=facts["breaks"],
            notes=tuple(facts["notes"]),
            settings=facts["settings"],
            drawn=Drawn(*(tensors[f"drawn.{f.name}"] for f in fields(Drawn))) if "drawn.clean" in tensors else None,
        )
    except (KeyError, TypeError):  # whole, but no report
        return None
    return report if len(report.correct) == images else None


def joined_reports(parts: Sequence[RobustnessReport]) -> RobustnessReport:
    """Join the reports of the batches of one model, in order."""
    first = parts[0]
    return RobustnessReport(
        names=first.names,
        clean_correct=torch.cat([p.clean_correct for p in parts]),
        correct=torch.cat([p.correct for p in parts]),
        margin=torch.cat([p.margin for p in parts]),
        delta={name: torch.cat([p.delta[name] for p in parts]) for name in first.names},
        breaks={name: dict(sum((Counter(p.breaks[name]) for p in parts), Counter())) for name in first.names},
        notes=joined_notes([n for n in p.notes if not n.startswith(BEFORE)] for p in parts),  # a part is not the whole
        settings=first.settings,
        drawn=_joined_draws(parts),
    )


def _joined_draws(parts: Sequence[RobustnessReport]) -> Drawn | None:
    """Join the draws of a random model; where a part showed nothing random, all of its draws are the same."""
    made = [len(p.drawn.clean) for p in parts if p.drawn is not None]
    if not made:
        return None
    D = made[0]
    return Drawn.joined([
        p.drawn
        or Drawn(p.clean_correct.expand(D, -1), p.correct.expand(D, *p.correct.shape), (~p.correct).to(p.margin))
        for p in parts
    ])  # fmt: skip


def write_results(
    folder: RunFolder, images: ImageData, reports: Reports, predicted: Tensor, threats: Mapping[str, ThreatModel]
) -> None:
    """Write perturbations, one row an image, and last, as the sign that the run has ended, the metrics.

    ``predicted`` are the models' classes of the images as they are, (N, models).
    """
    tensors: dict[str, Tensor] = {"clean": images.x, "labels": images.y}
    columns: dict[str, list[Any]] = {"row": list(range(len(images))), "label": images.y.tolist()}
    columns |= row_in_set(images)
    for model, report in reports.items():
        columns[f"{model}.correct.clean"] = report.clean_correct.tolist()
        for k, name in enumerate(report.names):
            tensors[f"{model}.{name}.delta"] = report.delta[name]
            columns[f"{model}.correct.{name}"] = report.correct[:, k].tolist()
            columns[f"{model}.margin.{name}"] = report.margin[:, k].tolist()
            if report.drawn is not None:
                columns[f"{model}.right.{name}"] = report.withstood([name]).tolist()
    folder.write_tensors(PERTURBATIONS, tensors)
    folder.write_table(EXAMPLES, columns)
    written = write_threats(folder, threats)
    folder.conclude(_metrics(images, reports, predicted), (PERTURBATIONS, EXAMPLES, *written))


def _metrics(images: ImageData, reports: Reports, predicted: Tensor) -> dict[str, Any]:
    first, *others = reports
    classes = len(images.classes)
    before = [
        clean_notes(said, images.y, classes, rate=report.clean)
        for report, said in zip(reports.values(), predicted.T, strict=True)
    ]
    return {
        "images": len(images),
        **({"missing": {"judged on": list(images.missing)}} if images.missing else {}),
        "models": {name: _of_model(report, said) for (name, report), said in zip(reports.items(), before, strict=True)},
        "comparisons": [_compare(reports, first, other) for other in others],
    }


def _of_model(report: RobustnessReport, before: list[str]) -> dict[str, Any]:
    return {
        "clean": _ends(report.clean_interval()),
        "accuracy": {name: _ends(report.interval(name)) for name in report.names},
        "union": _ends(report.interval()),
        "average": report.average,
        "breaks": report.breaks,
        "notes": [*report.notes, *before],
    }


def _ends(interval: Interval) -> dict[str, float]:
    return {"estimate": interval.estimate, "low": interval.low, "high": interval.high}


def _compare(reports: Reports, first: str, other: str) -> dict[str, Any]:
    """Compare the union accuracies of two models, image by image; a random one by its share of draws."""
    of_other, of_first = (reports[name].withstood() for name in (other, first))
    compared = compare_paired(of_other > 0.5, of_first > 0.5).describe()
    if any(reports[name].drawn is not None for name in (other, first)):
        gap = paired_mean_difference(of_other, of_first)
        compared |= {"difference": gap.estimate, "low": gap.low, "high": gap.high}
    return {"of": other, "with": first, **compared}
