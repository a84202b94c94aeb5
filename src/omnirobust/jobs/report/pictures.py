"""Pictures of a run's weights: what every model and transformation weighs, and groups of images with their weights."""

from __future__ import annotations

import torch
from markupsafe import Markup
from torch import Tensor

from omnirobust.jobs.records import AttackRecord
from omnirobust.jobs.report.charts import Chart
from omnirobust.jobs.report.figures import AXES
from omnirobust.jobs.report.images import shown_range
from omnirobust.jobs.report.text import unit
from omnirobust.jobs.report.weights import as_svg, group_picture, marginal_picture
from omnirobust.jobs.summary import image_domains

_GROUPS = 12
_WIDEST = 10
"""Images a group may have to be shown side by side."""

_NAMES = {"models": "model", "transforms": "transformation"}


def marginals(record: AttackRecord) -> Chart | None:
    """Draw the last attack's mean weight of every model and transformation, and of their pairs.

    None where there is nothing to compare: for an ensemble, whose table says it, and where images alone are weighed.
    """
    axes = {_NAMES[axis]: members for axis, members in record.axes.items() if axis in _NAMES}
    last = record.attacks[-1]
    if record.task == "ensemble" or not axes or last == "average":
        return None
    weights, hues = _weights(record, last).sum(1), {_NAMES[axis]: AXES[axis] for axis in record.axes if axis in _NAMES}
    means = [f"{name} {w:.2f}" for name, w in zip(_domains(record), weights.mean(0).tolist(), strict=True)]
    label = f"{record.config['attack']['norm']}, {last}: mean weights: {', '.join(means)}"
    caption = f"Mean weights over the {unit(record)}s: {last}. Lines: quartiles; dashed: the weight if none were harder"
    return Chart(Markup(as_svg(marginal_picture(axes, weights, hues), label)), caption)


def weighed_groups(record: AttackRecord) -> Chart | None:
    """Draw the first groups of images with their weights under the last attack, and the share of domains that resist.

    None where images have perturbations of their own, or groups are too large to be seen.
    """
    last = record.attacks[-1]
    if record.groups is None or record.groups["size"] > _WIDEST or last == "average":
        return None
    images = record.perturbations["clean"][:_GROUPS]
    if images.ndim != 5 or images.shape[2] not in (1, 3):
        return None
    weights = _weights(record, last).sum(2)[:_GROUPS]
    facts = {"resist": 1 - _values(record, last, "fooled").mean(2)[:_GROUPS]} if len(_domains(record)) > 1 else {}
    titles = [f"group {g}" for g in range(len(images))]
    figure = group_picture(images, {"weight": weights}, facts, titles=titles, bounds=shown_range(record), grey=True)
    label = (
        f"{record.config['attack']['norm']}, {last}: {len(images)} groups of images, and below each image its weight; "
        f"the heaviest of a group weighs {float(weights.amax(1).mean()):.2f} in the mean"
    )
    share = "; resist: share of its domains on which the attack fails" if facts else ""
    return Chart(Markup(as_svg(figure, label)), f"Groups and the weights of their images: {last}{share}")


def _domains(record: AttackRecord) -> list[str]:
    return image_domains(record.models, record.transforms)


def _weights(record: AttackRecord, attack: str) -> Tensor:
    return _values(record, attack, "weight")


def _values(record: AttackRecord, attack: str, what: str) -> Tensor:
    """Return a column a domain of the table of images as (B, E, domains of an image), float64."""
    size = 1 if record.groups is None else record.groups["size"]
    columns = [record.examples[f"{attack}.{what}.{domain}"] for domain in _domains(record)]
    return torch.tensor(columns, dtype=torch.float64).T.unflatten(0, (-1, size))
