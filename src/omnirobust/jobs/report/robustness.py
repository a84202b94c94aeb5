"""What is said, drawn and put on a page about the robust accuracy of models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from omnirobust.jobs.records import EvaluationRecord
from omnirobust.jobs.report.cautions import missing, other_radius
from omnirobust.jobs.report.charts import Chart
from omnirobust.jobs.report.environment import environment
from omnirobust.jobs.report.figures import colour, drawn_svg, legend_above, legend_name
from omnirobust.jobs.report.happened import judged
from omnirobust.jobs.report.numbers import threat_names
from omnirobust.jobs.report.text import count, percent

_LETTERS = 48
"""That fit below the bars, side by side."""


def render_evaluation(record: EvaluationRecord) -> str:
    """Return the page of an evaluation as HTML."""
    env = environment()
    env.globals |= {"percent": percent, "stacked": stacked, "threat_names": threat_names}
    return env.get_template("evaluation.html.j2").render(
        record=record,
        models=record.metrics["models"],
        headline=f"Robust accuracy of {count(len(record.metrics['models']), 'model')} "
        f"under {count(len(record.threats), 'threat')}",
        heading=heading(record),
        happened=judged(record),
        lines=[*comparisons(record), *notes(record)],
        figure=accuracies(record),
        settings=json.dumps(record.config, indent=1),
        versions=record.folder.read_json("versions.json"),
    )


def heading(record: EvaluationRecord) -> str:
    """Name the run: data, images, attacks."""
    data, config = record.config["data"], record.config
    note = f" ({data['note']})" if data["note"] else ""
    ours = f"{config['steps']} steps, {count(config['restarts'], 'restart')}"
    told = {"autoattack": "AutoAttack", "default": f"default attacks, {ours}"}
    asked = config["attacks"]
    attacks = told[asked] if isinstance(asked, str) else f"{', '.join(asked)}, {ours}"
    return f"{data['name']}{note}, {record.metrics['images']} {data['split']} images from {data['start']}, {attacks}"


def stacked(rate: Mapping[str, float]) -> Markup:
    """Write a rate in per cent, with its interval below it."""
    span = Markup('{} <span class="range">{} to {}</span>')
    return span.format(*(percent(rate[key]) for key in ("estimate", "low", "high")))


def comparisons(record: EvaluationRecord) -> list[str]:
    """Say of every model but the first how its union accuracy compares, image by image."""
    return [_compared(c) for c in record.metrics["comparisons"]]


def notes(record: EvaluationRecord) -> list[str]:
    """Return what a reader of the numbers must know, by model, and what they are."""
    models = record.metrics["models"]
    told = [f"{name}: {note}" for name, found in models.items() for note in found["notes"]]
    return [
        *told,
        *missing(record.metrics),
        *_saturated(record),
        "An attack only shows what is not robust: these accuracies are upper bounds.",
    ]


def _saturated(record: EvaluationRecord) -> list[str]:
    """Say under which threats no model is right on anything, or none loses anything, and name the radius to try."""
    return [line for name in record.threats if (line := _saturated_by(record, name)) is not None]


def _saturated_by(record: EvaluationRecord, name: str) -> str | None:
    threat, models = record.config["threats"][name], record.metrics["models"].values()
    rates = [(found["accuracy"][name]["estimate"], found["clean"]["estimate"]) for found in models]
    if not any(clean for _, clean in rates) or threat["eps"] is None:  # a perturbation that was given has no radius
        return None
    wins = all(rate == 0 for rate, _ in rates)
    if not wins and any(rate < clean for rate, clean in rates):
        return None
    called = threat_names(record.config["threats"])[name]
    said = f"Under {called} {'nothing is left right' if wins else 'nothing falls'}: this radius tells models little."
    other = other_radius(threat, wins=wins)
    return said if other is None else f"{said} Try {other[0]}, --threat {threat['norm']}:{other[1]}."


def accuracies(record: EvaluationRecord) -> Chart:
    """Draw clean, robust and union accuracy of every model as bars with their intervals."""
    models: dict[str, Any] = record.metrics["models"]
    groups = ["clean", *threat_names(record.config["threats"]).values(), "union"]
    width = 0.8 / len(models)

    def draw(ax: Axes) -> None:
        for k, (name, found) in enumerate(models.items()):
            rates = [found["clean"], *found["accuracy"].values(), found["union"]]
            at = [g + (k - (len(models) - 1) / 2) * width for g in range(len(groups))]
            high = [100 * r["estimate"] for r in rates]
            below, above = ([100 * abs(r[end] - r["estimate"]) for r in rates] for end in ("low", "high"))
            ax.bar(at, high, width=0.9 * width, color=colour(k), label=legend_name(name))
            ax.errorbar(at, high, yerr=[below, above], fmt="none", ecolor="#1b1f24", elinewidth=1, capsize=2)
        slant = sum(map(len, groups)) > _LETTERS
        ticks = [legend_name(name, _LETTERS // 2) for name in groups]
        ax.set_xticks(range(len(groups)), ticks, rotation=30 * slant, ha="right" if slant else "center")
        ax.set(ylabel="accuracy, %", ylim=(0, 102))
        ax.grid(visible=False, axis="x")
        legend_above(ax)

    said = "; ".join(f"{n}: clean {percent(m['clean']['estimate'])} %, union {percent(m['union']['estimate'])} %"
                     for n, m in models.items())  # fmt: skip
    svg = drawn_svg(draw, f"Bars of the accuracy of every model under every threat. {said}")
    return Chart(Markup(svg), "Accuracy before attacks, under each threat and under all; whiskers: 95 % intervals")


def _compared(c: Mapping[str, Any]) -> str:
    gap, low, high = (percent(c[key], sign=True) for key in ("difference", "low", "high"))
    verdict = "more robust" if c["low"] > 0 else "less robust" if c["high"] < 0 else "not told apart"
    return (
        f"Union of {c['of']} against {c['with']}, image by image: {gap} points ({low} to {high}), {verdict}; "
        f"{c['of']} alone withstands on {count(c['only_first'], 'image')}, {c['with']} alone on {c['only_second']}."
    )
