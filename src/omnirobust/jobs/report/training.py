"""What is said, drawn and put on a page about a robust training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from omnirobust.evaluation import wilson_interval
from omnirobust.jobs.records import TrainingRecord
from omnirobust.jobs.report.cautions import missing
from omnirobust.jobs.report.charts import Chart
from omnirobust.jobs.report.environment import environment
from omnirobust.jobs.report.figures import (
    INK,
    RATES,
    THREATS,
    colour,
    drawn_svg,
    legend_above,
    legend_name,
    weights_per_iteration,
)
from omnirobust.jobs.report.happened import trained
from omnirobust.jobs.report.numbers import threat_names
from omnirobust.jobs.report.robustness import accuracies, comparisons, notes, stacked
from omnirobust.jobs.report.text import count, percent

_RATES = {"validation": "clean", "robust_average": "average over attacks", "robust": "union of attacks"}
"""What is measured on validation images after each epoch, and what the page calls it."""


def render_training(record: TrainingRecord) -> str:
    """Return the page of a training as HTML."""
    judged = record.evaluation
    env = environment()
    env.globals |= {"percent": percent, "stacked": stacked, "threat_names": threat_names}
    figures = [learning_curves(record), loss_curve(record), weight_boxes(record) or mean_weights(record)]
    return env.get_template("training.html.j2").render(
        record=record,
        headline=headline(record),
        lead=told_end(record),
        figures=[figure for figure in figures if figure is not None],
        judged=judged,
        happened=trained(record),
        told=told_notes(record),
        lines=[] if judged is None else [*comparisons(judged), *notes(judged)],
        bars=None if judged is None else accuracies(judged),
        columns=_columns(record),
        settings=json.dumps(record.config, indent=1),
        versions=record.folder.read_json("versions.json"),
    )


def headline(record: TrainingRecord) -> str:
    """Name what was trained against what."""
    threats, kind = _called(record), record.config["scheme"]["kind"]
    if not threats:
        return "A natural training"
    dpar = record.config["scheme"]["dpar"]
    return f"{_KINDS[kind]} against {', '.join(threats)}" + (f", DPAR {dpar:g}" if dpar else "")


def _called(record: TrainingRecord) -> list[str]:
    return list(threat_names(record.config["scheme"]["threats"]).values())


_KINDS = {
    "single": "Adversarial training",
    "average": "Average adversarial training",
    "minmax": "Min-max adversarial training",
    "worst": "Worst-case adversarial training",
    "universal": "Universal adversarial training",
    "msd": "Multi-steepest-descent adversarial training",
    "alternate": "Adversarial training in turns",
    "ramp": "Adversarial training by RAMP",
}


def told_epoch(epoch: int, epochs: int, row: Mapping[str, float]) -> str:
    """Say what an epoch came to, on one line."""
    rates = [f"{name} {percent(row[key])} %" for key, name in _RATES.items() if key in row]
    return f"Epoch {epoch} of {epochs}: " + ", ".join([f"loss {row['loss']:.4f}", *rates, f"{row['seconds']:.1f} s"])


def told_end(record: TrainingRecord) -> str:
    """Say how the training ended, and with which epoch."""
    m, data = record.metrics, record.config["data"]
    why = {"patience": "no later epoch was better", "target": "the target was reached", "epochs": "all were done"}
    note = f" ({data['note']})" if data["note"] else ""
    on = f"{m['train_images']} images of {data['name']}{note}"
    held = f", chosen on {m['validation_images']} others" if record.config["keep"] == "best" else ""
    clean = m.get("clean")
    told = "" if clean is None else f" {_right(clean['right'], clean['images'])}"
    return (
        f"Trained on {on} for {count(m['epochs'], 'epoch')}: {why[m['stopped']]}. {_carried(record)}"
        f"The model is that of epoch {m['kept']}{held}.{told}"
    )


def _carried(record: TrainingRecord) -> str:
    """Say what every image went on from, where it did not begin anew."""
    scheme = record.config["scheme"]
    # by other kinds weights follow from the perturbations at hand, whatever they were
    every = "its weights and perturbations" if scheme["kind"] == "minmax" else "its perturbations"
    what = {"example": "its weights", "all": every}.get(scheme["persist"])
    return "" if what is None else f"Each image carried {what} from one epoch to the next. "


def told_notes(record: TrainingRecord) -> list[str]:
    """Return what must be known of a network that no evaluation has judged, and of what it was trained on."""
    return [*record.metrics.get("notes", []), *missing(record.metrics)]


def _right(right: int, images: int) -> str:
    found = wilson_interval(right, images)
    return (
        f"It has {percent(found.estimate)} % of {images} test images right, 95 % interval {percent(found.low)} to "
        f"{percent(found.high)}; under attack it was not judged."
    )


def learning_curves(record: TrainingRecord) -> Chart | None:
    """Draw accuracy on validation images after each epoch: clean, mean over the attacks, and under all of them."""
    shown = [key for key in _RATES if key in record.history[0]]
    if not shown:
        return None
    names = [_RATES[key] for key in shown]
    lines = [[100 * row[key] for row in record.history] for key in shown]
    svg = _lines(record, lines, names, "accuracy on validation images, %", (0, 102), RATES)
    return Chart(svg, "Accuracy on validation images after each epoch; the dotted line is the epoch kept")


def loss_curve(record: TrainingRecord) -> Chart:
    """Draw the loss that each epoch minimised, clean and attacked images as the scheme weighs them."""
    svg = _lines(record, [[row["loss"] for row in record.history]], ["training loss"], "loss", None, (INK,))
    return Chart(svg, "Mean loss of each epoch on the training images, as they were attacked")


def mean_weights(record: TrainingRecord) -> Chart | None:
    """Draw the mean weight of each threat model over the images of an epoch."""
    keys = [f"weight/{name}" for name in record.threats]
    if record.config["scheme"]["kind"] not in ("minmax", "worst") or keys[-1] not in record.history[0]:
        return None
    lines = [[row[key] for row in record.history] for key in keys]
    svg = _lines(record, lines, _called(record), "mean weight", (0, 1), THREATS)
    return Chart(svg, "Mean weight of each attack over the images of an epoch")


def weight_boxes(record: TrainingRecord) -> Chart | None:
    """Draw how the weights spread over training images after each epoch, as in the paper's Figure 3a."""
    found = record.weights
    if found is None or record.config["scheme"]["kind"] != "minmax":
        return None
    # The figure has its axis begin at 0: epoch 0 is the start, where all weigh the same.
    size = len(next(iter(found.values())))
    start = torch.full((size, len(record.threats)), 1 / len(record.threats))
    series = _filled([start, *(found.get(e) for e in range(1, max(found) + 1))])
    ends = zip(_called(record), series[-1].median(0).values.tolist(), strict=True)
    label = (
        f"Box plot of weights over images per epoch; medians at the end: {', '.join(f'{n} {v:.2f}' for n, v in ends)}"
    )
    svg = weights_per_iteration(torch.stack(series), _called(record), label=label, unit="epoch", hues=THREATS)
    caption = "Weights of the attacks over training images. Boxes: quartiles; whiskers: 5th to 95th percentile"
    return Chart(Markup(svg), caption)


def _filled(series: Sequence[Tensor | None]) -> list[Tensor]:
    """Repeat the epoch before where one is missing."""
    filled: list[Tensor] = []
    for values in series:
        filled.append(filled[-1] if values is None else values)
    return filled


def _lines(
    record: TrainingRecord, lines: Sequence[Sequence[float]], names: Sequence[str], ylabel: str,
    ylim: tuple[float, float] | None, hues: Sequence[str],
) -> Markup:  # fmt: skip
    """Draw lines over the epochs."""
    epochs = [int(row["epoch"]) for row in record.history]

    def draw(ax: Axes) -> None:
        for k, (values, name) in enumerate(zip(lines, names, strict=True)):
            ax.plot(epochs, values, color=colour(k, hues), label=legend_name(name), marker="o", markersize=3)
        if record.config["keep"] == "best":
            ax.axvline(record.metrics["kept"], color="#59616b", linestyle="dotted", linewidth=1.2)
        ax.set(xlabel="epoch", ylabel=ylabel, xlim=(0.5, max(epochs) + 0.5))
        if ylim is not None:
            ax.set_ylim(*ylim)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(names) > 1:
            legend_above(ax)

    ends = ", ".join(f"{name} {values[-1]:.3g}" for values, name in zip(lines, names, strict=True))
    return Markup(drawn_svg(draw, f"{ylabel} per epoch; at the end: {ends}"))


def _columns(record: TrainingRecord) -> list[tuple[str, list[str]]]:
    """Return the table of the epochs, column by column."""
    rates = [
        (name, [percent(row[key]) for row in record.history])
        for key, name in _RATES.items()
        if key in record.history[0]
    ]
    weights = [
        (f"weight {shown}", [f"{row[f'weight/{name}']:.3f}" for row in record.history])
        for name, shown in threat_names(record.config["scheme"]["threats"]).items()
        if f"weight/{name}" in record.history[0]
    ]
    return [
        ("epoch", [str(int(row["epoch"])) for row in record.history]),
        ("loss", [f"{row['loss']:.4f}" for row in record.history]),
        *rates,
        *weights,
        ("seconds", [f"{row['seconds']:.1f}" for row in record.history]),
    ]
