"""Put a finished run on one page that needs nothing but itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from omnirobust._files import replacing
from omnirobust.jobs.record import AttackRecord, open_records
from omnirobust.report.figures import success_per_iteration, weights_per_iteration
from omnirobust.report.gallery import Example, examples
from omnirobust.report.words import notes, percent, title

_NORMS = {"linf": "l∞", "l2": "l2", "l1": "l1", "l0": "l0"}


@dataclass(frozen=True)
class Figure:
    """A plot and what is said below it."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Section:
    """One attack on the page."""

    name: str
    heading: str
    record: AttackRecord
    notes: list[str]
    figures: list[Figure]
    examples: list[Example]
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
    records = open_records(run)
    page = render(records)
    file = Path(run) / "report.html"
    with replacing(file) as partial:
        partial.write_text(page, encoding="utf-8")
    return file


def render(records: list[AttackRecord]) -> str:
    """Return the page of one or several attacks as HTML."""
    environment = Environment(
        loader=PackageLoader("omnirobust.report"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["percent"] = percent
    count = 12 if len(records) == 1 else 6
    sections = [_section(record, count) for record in records]
    return environment.get_template("page.html.j2").render(sections=sections, data=records[0].config["data"])


def _section(record: AttackRecord, count: int) -> Section:
    attack = record.config["attack"]
    return Section(
        name=attack["norm"],
        heading=f"{_NORMS[attack['norm']]} ball of radius {attack['eps']:g}",
        record=record,
        notes=[title(record) + ".", *notes(record)],
        figures=_figures(record),
        examples=examples(record, count),
        versions=record.folder.read_json("versions.json"),
    )


def _figures(record: AttackRecord) -> list[Figure]:
    history, models, norm = record.history, record.models, record.config["attack"]["norm"]
    figures = []
    for name in record.attacks:
        all_fooled = history[f"{name}.all_fooled"]
        best = int(all_fooled.argmax())
        label = (
            f"{norm}, {name}: success rate per iteration, a line for each model and one for all at once. "
            f"That one ends at {percent(float(all_fooled[-1]))} % and is highest at iteration {best}: "
            f"{percent(float(all_fooled[best]))} %"
        )
        svg = success_per_iteration(history[f"{name}.fooled"], all_fooled, models, label=label)
        figures.append(Figure(Markup(svg), f"Success of each iterate: {name}"))
    last = record.attacks[-1]
    if f"{last}.rows.weights" in history and last != "average":
        weights = history[f"{last}.rows.weights"]
        medians = ", ".join(f"{m} {w:.2f}" for m, w in zip(models, weights[-1].median(0).values.tolist(), strict=True))
        label = f"{norm}, {last}: box plot of the weights over the images per iteration; medians at the end: {medians}"
        svg = weights_per_iteration(weights, models, label=label)
        caption = f"Weights over the images: {last}. Boxes: quartiles; whiskers: 5th to 95th percentile"
        figures.append(Figure(Markup(svg), caption))
    return figures
