"""Put a finished run on one page that needs nothing but itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from omnirobust._files import replacing
from omnirobust.jobs.folder import RunFolder
from omnirobust.jobs.records import AttackRecord, EvaluationRecord, TrainingRecord, open_records
from omnirobust.jobs.report.breakdown import Breakdown, Pairs, breakdowns, pairs
from omnirobust.jobs.report.charts import Chart, charts
from omnirobust.jobs.report.environment import environment
from omnirobust.jobs.report.gallery import Example, examples
from omnirobust.jobs.report.groups import Group, shown_groups
from omnirobust.jobs.report.happened import happened
from omnirobust.jobs.report.pictures import marginals, weighed_groups
from omnirobust.jobs.report.robustness import render_evaluation
from omnirobust.jobs.report.text import (
    CHOSEN,
    amount,
    column,
    count,
    definition,
    definitions,
    headline,
    legend,
    measure,
    notes,
    percent,
    radius,
    title,
    unit,
    whom,
    won,
)
from omnirobust.jobs.report.training import render_training

_NORMS = {"linf": "l∞", "l2": "l2", "l1": "l1", "l0": "l0"}


@dataclass(frozen=True)
class Section:
    """One attack on the page."""

    name: str
    heading: str
    record: AttackRecord
    notes: list[str]
    figures: list[Chart]
    marginals: Chart | None
    weighed: Chart | None
    examples: list[Example]
    groups: list[Group]
    breakdowns: list[Breakdown]
    pairs: Pairs | None
    versions: dict[str, object]

    @property
    def settings(self) -> str:
        """The resolved settings, as text."""
        return json.dumps(self.record.config, indent=1)


def build_report(run: str | Path) -> Path:
    """Write ``report.html`` into the folder of a finished run, and return its path.

    Raises:
        FileNotFoundError: if there is no run, or it has not ended.
        ValueError: if it is damaged.
    """
    return write_page(run, Path(run) / "report.html")


def write_page(run: str | Path, file: Path) -> Path:
    """Write the page of a finished run to ``file``, see ``build_report``."""
    job = RunFolder.open(run).config.get("job")
    if job in EvaluationRecord.JOBS:
        page = render_evaluation(EvaluationRecord.open(run))
    elif job in TrainingRecord.JOBS:
        page = render_training(TrainingRecord.open(run))
    else:
        page = render(open_records(run))
    with replacing(file) as partial:
        partial.write_text(page, encoding="utf-8")
    return file


def render(records: list[AttackRecord]) -> str:
    """Return the page of one or several attacks as HTML."""
    env = environment()
    env.globals |= {
        of.__name__: of
        for of in (amount, percent, count, unit, whom, column, definition, definitions, happened, legend, measure, won)
    }
    shown = 12 if len(records) == 1 else 6
    sections = [_section(record, shown) for record in records]
    return env.get_template("page.html.j2").render(
        sections=sections, chosen=CHOSEN, data=records[0].config["data"], headline=headline(records[0])
    )


def _section(record: AttackRecord, shown: int) -> Section:
    attack, ensemble = record.config["attack"], record.task == "ensemble"
    return Section(
        name=attack["norm"],
        heading=f"{_NORMS[attack['norm']]} ball of radius {radius(attack['eps'])}",
        record=record,
        notes=[title(record) + ".", *notes(record)],
        figures=charts(record),
        marginals=marginals(record),
        weighed=weighed_groups(record),
        examples=examples(record, shown) if record.groups is None else [],
        groups=[] if record.groups is None else shown_groups(record, shown // 2),
        breakdowns=[] if ensemble else breakdowns(record),
        pairs=None if ensemble else pairs(record),
        versions=record.folder.read_json("versions.json"),
    )
