"""Pictures of domain weights: groups of images with what each weighs, as Tables A9 and A10 show them, and factors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import StringIO
from itertools import combinations
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from omnirobust.core.threat_models import Bounds
from omnirobust.jobs.report.figures import STYLE, colour, inline, legend_name

_INK, _FAINT = "#1b1f24", "#a3a9b1"
_WEIGHTS = LinearSegmentedColormap.from_list("weights", ["#ffffff", "#b9d8ec", "#5ba3d0"])
_FACTS = LinearSegmentedColormap.from_list("facts", ["#ffffff", "#fde3c0", "#f5b26b"])
_GREYS = LinearSegmentedColormap.from_list("greys", ["#ffffff", "#dde0e5", "#a9b0ba"])
_LINE = 0.3
"""Height of a line of numbers, in widths of an image."""

_INCH = 0.62
"""Width of an image on the page, in inches."""

_LETTER = 0.1
"""Width of a letter of the names of the lines, in widths of an image."""

_TICK = 24
"""Letters of a name beside a bar or a map."""

_MOST_BARS = 12
"""Members of a factor that a panel can hold with their names."""


class _Line(NamedTuple):
    """One line of numbers below the images."""

    name: str
    values: Tensor
    shade: Tensor
    fact: bool
    colours: LinearSegmentedColormap


def group_picture(
    images: Tensor,
    weights: Mapping[str, Tensor],
    facts: Mapping[str, Tensor] | None = None,
    *,
    titles: Sequence[str] | None = None,
    bounds: Bounds = (0.0, 1.0),
    across: int = 2,
    grey: bool = False,
) -> Figure:
    """Draw groups of images with their weights under every norm, and facts of each image below.

    The darker a cell, the larger its value: weights in blue from 0 to 1, facts in orange from the least to the largest
    of all images. The largest of each line of a group is bold.

    Args:
        images: (G, E, C, H, W), one channel or three.
        weights: (G, E) each, in [0, 1], by the name of the norm or attack.
        facts: (G, E) each, larger = harder, by name; infinite where nothing was found.
        titles: of the groups, G of them.
        bounds: (lo, hi), the range of the images.
        across: groups side by side, >= 1.
        grey: both in grey, for pages on which colours mean models.

    Raises:
        ValueError: if a shape does not fit.

    Reference: the paper, Appendix F, Tables A9 and A10.
    """
    facts = facts or {}
    _check_groups(images, {**weights, **facts}, titles, across)
    G, E = images.shape[:2]
    shades = (_GREYS, _GREYS) if grey else (_WEIGHTS, _FACTS)
    lines = [_Line(name, w, w.double(), False, shades[0]) for name, w in weights.items()]
    lines += [_Line(name, f, _spread(f), True, shades[1]) for name, f in facts.items()]
    across = min(across, G)
    down = math.ceil(G / across)
    head = 0.0 if titles is None else _LINE
    room = 0.25 + _LETTER * max((len(line.name) for line in lines), default=0)
    width, height = room + across * (E + 0.35), head + 1 + len(lines) * _LINE + 0.25
    with mpl.rc_context(_style("groups")):
        figure = Figure(figsize=(width * _INCH, down * height * _INCH))
        FigureCanvasSVG(figure)
        ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        ax.set(xlim=(-room, width - room), ylim=(down * height, 0))
        ax.axis("off")
        for g in range(G):
            row, column = divmod(g, across)
            left, top = column * (E + 0.35), row * height + 0.08
            if titles is not None:
                ax.text(left, top + head / 2, titles[g], va="center", ha="left", weight="bold", color=_INK, size=9)
            _draw_group(ax, images[g], [(line, g) for line in lines], left, top + head, bounds)
            if column == 0:
                _name_lines(ax, lines, top + head + 1)
    return figure


def marginal_picture(
    axes: Mapping[str, Sequence[str]], weights: Tensor, hues: Mapping[str, Sequence[str]] | None = None
) -> Figure:
    """Draw how much every member of every factor weighs, and how much every pair of members of two factors.

    Bars are means over problems, their whiskers the quartiles; the dashed line is the weight that all would have if
    none were harder. Maps show the mean weight of each pair of members.

    Args:
        axes: the factors, name to members, row-major: ``AttackResult.axes``.
        weights: (B, K), B >= 1, K the product of the factors' sizes.
        hues: by factor, a colour for each member, over and over, and maps in grey; None for one colour a factor.

    Raises:
        ValueError: if ``weights`` does not fit ``axes``.
    """
    sizes = [len(members) for members in axes.values()]
    if not sizes or weights.ndim != 2 or not len(weights) or weights.shape[1] != math.prod(sizes):
        wanted = " x ".join(f"{len(m)} {name}" for name, m in axes.items()) or "no factors"
        raise ValueError(f"weights must have shape (B, K), B >= 1, K = {wanted}, got {(*weights.shape,)}")
    grid = weights.detach().double().cpu().numpy().reshape(len(weights), *sizes)
    pairs = list(combinations(range(len(sizes)), 2))
    heights = [max(1.6, 0.5 + 0.3 * min(n, _MOST_BARS)) for n in sizes]
    # A single map stands beside the bars, several below them.
    beside = len(sizes) if len(pairs) == 1 else 0
    rows = [max(heights), *([0.9 + 0.3 * max(sizes[a] for a, _ in pairs)] if pairs and not beside else [])]
    columns = max(len(sizes), len(pairs)) + (1 if beside else 0)
    with mpl.rc_context(_style("marginal")):
        longest = max(len(m) for members in axes.values() for m in members)
        figure = Figure(figsize=(max((2.5 + 0.07 * longest) * columns, 4.2), sum(rows) + 0.3), layout="constrained")
        FigureCanvasSVG(figure)
        spec = figure.add_gridspec(len(rows), columns, height_ratios=rows)
        for i, (name, members) in enumerate(axes.items()):
            shades = [colour(i) if hues is None else colour(k, hues[name]) for k in range(len(members))]
            _bars(figure.add_subplot(spec[0, i]), name, members, _summed(grid, i), shades)
        for k, pair in enumerate(pairs):
            first, second = ((name, _short(name, members)) for name, members in (list(axes.items())[i] for i in pair))
            mean, shade = _summed(grid, *pair).mean(0), _WEIGHTS if hues is None else _GREYS
            _map(figure.add_subplot(spec[len(rows) - 1, beside + k]), first, second, mean, shade)
    return figure


def as_svg(figure: Figure, label: str) -> str:
    """Return a picture as SVG text that can stand within a page.

    Args:
        figure: what the other functions return.
        label: what a screen reader says; it must differ between the pictures of one page.
    """
    text = StringIO()
    with mpl.rc_context(_style(label)):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return inline(text.getvalue(), label)


def _style(label: str) -> Any:
    return {**STYLE, "axes.grid": False, "font.size": 9, "svg.hashsalt": label, "image.interpolation": "none"}


def _check_groups(images: Tensor, tables: Mapping[str, Tensor], titles: Sequence[str] | None, across: int) -> None:
    if images.ndim != 5 or not all(images.shape) or images.shape[2] not in (1, 3):
        raise ValueError(f"images must have shape (G, E, C, H, W), C = 1 or 3, got {(*images.shape,)}")
    shape = (*images.shape[:2],)
    for name, values in tables.items():
        if (*values.shape,) != shape:
            raise ValueError(f"{name!r} must have shape {shape}, got {(*values.shape,)}")
    if titles is not None and len(titles) != shape[0]:
        raise ValueError(f"titles must be {shape[0]}, got {len(titles)}")
    if across < 1:
        raise ValueError(f"across must be >= 1, got {across}")


def _spread(values: Tensor) -> Tensor:
    """Scale finite values to [0, 1] over all images; infinite ones are 1, and so are all where none is larger."""
    values = values.double()
    finite = values[values.isfinite()]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    return ((values - low) / max(high - low, 1e-12)).clamp(0, 1)


def _draw_group(
    ax: Axes, images: Tensor, lines: list[tuple[_Line, int]], left: float, top: float, bounds: Bounds
) -> None:
    low, high = bounds
    for e, image in enumerate(images):
        levels = ((image.detach().cpu() - low) / (high - low)).clamp(0, 1).permute(1, 2, 0).numpy()
        place = (left + e + 0.04, left + e + 0.96, top + 0.96, top + 0.04)
        shown = np.repeat(levels, 3, 2) if levels.shape[2] == 1 else levels
        ax.imshow(shown, extent=place, aspect="auto", zorder=2)
        ax.add_patch(Rectangle((left + e + 0.04, top + 0.04), 0.92, 0.92, fill=False, ec="#d4d8de", lw=0.6, zorder=3))
    for i, (line, g) in enumerate(lines):
        values = line.values[g]
        for e in range(len(images)):
            _cell(ax, left + e, top + 1 + i * _LINE, line, float(values[e]), float(line.shade[g, e]),
                  bool(values[e] == values.max()) and bool((values != values[e]).any()))  # fmt: skip


def _cell(ax: Axes, left: float, top: float, line: _Line, value: float, shade: float, largest: bool) -> None:
    face = to_hex(line.colours(shade))
    ax.add_patch(Rectangle((left + 0.04, top + 0.02), 0.92, _LINE - 0.04, color=face, lw=0))
    nothing = not line.fact and value < 0.0005
    ax.text(
        left + 0.5, top + _LINE / 2, _number(value, fact=line.fact), va="center", ha="center", size=7.5,
        color=_FAINT if nothing else _INK, weight="bold" if largest else "normal",
    )  # fmt: skip


def _number(value: float, *, fact: bool) -> str:
    if not math.isfinite(value):
        return "none"
    if not fact:
        return "0" if value < 0.0005 else f"{value:.3f}"
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _name_lines(ax: Axes, lines: Sequence[_Line], top: float) -> None:
    for i, line in enumerate(lines):
        ax.text(-0.08, top + (i + 0.5) * _LINE, line.name, va="center", ha="right", size=8, color="#3c4149")


def _summed(grid: np.ndarray, *kept: int) -> np.ndarray:
    """Sum weights (B, ...) over all factors but those ``kept``."""
    return grid.sum(tuple(i + 1 for i in range(grid.ndim - 1) if i not in kept))


def _short(name: str, members: Sequence[str]) -> list[str]:
    return (
        [m.removeprefix("image_") for m in members] if name == "examples" else [legend_name(m, _TICK) for m in members]
    )


def _bars(ax: Axes, name: str, members: Sequence[str], weights: np.ndarray, shades: Sequence[str]) -> None:
    """Draw one factor's marginal weights (B, n); of many members, the largest."""
    means = weights.mean(0)
    chosen = np.sort(np.argsort(-means, kind="stable")[:_MOST_BARS])
    places, low_high = np.arange(len(chosen)), np.quantile(weights[:, chosen], [0.25, 0.75], axis=0)
    ax.barh(places, means[chosen], height=0.66, color=[f"{shades[k]}88" for k in chosen])
    ax.hlines(places, *low_high, color=_INK, lw=1.2)
    ax.axvline(1 / len(members), color="#6b6b6b", lw=1, ls="dashed")
    ax.set_yticks(places, [legend_name(str(members[k]), _TICK) for k in chosen])
    most = 1.08 * max(float(low_high.max()), float(means.max()), 1.5 / len(members))
    ax.set(ylim=(len(chosen) - 0.4, -0.6), xlim=(0, most))
    cut = "" if len(chosen) == len(members) else f": the {len(chosen)} largest of {len(members)}"
    ax.set_title(name + cut, size=9.5)
    ax.set_xlabel("weight")
    ax.tick_params(axis="y", length=0)


def _map(
    ax: Axes, rows: tuple[str, list[str]], columns: tuple[str, list[str]], mean: np.ndarray,
    shade: LinearSegmentedColormap,
) -> None:  # fmt: skip
    """Draw the mean weights of pairs (n, m)."""
    ax.imshow(mean, cmap=shade, vmin=0, vmax=float(mean.max()), aspect="auto")
    if mean.size <= 60:
        for (r, c), value in np.ndenumerate(mean):
            ax.text(c, r, f"{value:.3f}", va="center", ha="center", size=7.5, color=_INK)
    ax.set_yticks(range(len(rows[1])), rows[1])
    slant = max(map(len, columns[1])) * len(columns[1]) > 28
    ax.set_xticks(range(len(columns[1])), columns[1], rotation=30 * slant, ha="right" if slant else "center")
    for label in ax.get_xticklabels() if slant else ():
        label.set_rotation_mode("anchor")
    ax.set_title(f"{rows[0]} and {columns[0]}", size=9.5)
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
