"""Plots as SVG text: the paper's Figure 1 for any run."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from html import escape
from io import StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#6b6b6b")
"""Told apart by colour-blind readers; models beyond eight begin again, with other dashes."""

TRANSFORM_COLOURS = ("#004d40", "#8c564b", "#7f7f00", "#5c2d91", "#b8860b", "#2f4b7c", "#a05195", "#3d3d3d")
IMAGE_COLOURS = ("#3f3a52", "#5b5470", "#776f8d", "#938aa8", "#aea6c1", "#c6c0d6", "#d9d5e5", "#e9e7f1")

AXES = {"models": COLOURS, "transforms": TRANSFORM_COLOURS, "examples": IMAGE_COLOURS}
"""Models, transformations and images have colours of their own, so that a colour means one thing on a page."""

RATES, THREATS = TRANSFORM_COLOURS[:3], TRANSFORM_COLOURS[3:]
"""Of kinds of accuracy, and of threats, on pages that show no transformations."""

INK = "#1b1f24"
"""Of lines that stand for all, or alone."""

STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a8f98",
    "axes.labelcolor": "#3c4149",
    "xtick.color": "#3c4149",
    "ytick.color": "#3c4149",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "text.parse_math": False,  # names are names, whatever dollars are in them
}
"""How every plot looks."""

_WIDTH, _HEIGHT, _LEGEND_ROW = 5.4, 3.5, 0.22
"""Of a plot and of a row of its legend, in inches."""

_LETTERS, _LETTERS_OF_LINE, _LETTERS_OF_NAME = 64, 5, 48
"""That fit the width of a plot, that the line before a name in its legend takes, and most that a name may have."""

_DASHES = ("solid", "dashed", "dotted", "dashdot")
_BOXES = 9
_ALL_BOXES = 36
"""How many boxes a plot can hold before they are too thin to see."""


def colour(k: int, hues: Sequence[str] = COLOURS) -> str:
    """Return the colour of the k-th model, or of the k-th member of another factor of ``AXES``."""
    return hues[k % len(hues)]


def success_per_iteration(
    fooled: Tensor, all_fooled: Tensor, names: Sequence[str], *, label: str, hues: Sequence[str] = COLOURS
) -> str:
    """Draw the success rate up to every iterate on each model, and on all at once, as SVG.

    Args:
        fooled: (T+1, K), in [0, 1].
        all_fooled: (T+1,), in [0, 1].
        names: of the models.
        label: what a screen reader says.
        hues: of the lines, see ``AXES``.
    """

    def draw(ax: Axes) -> None:
        steps = np.arange(len(all_fooled))
        for k, name in enumerate(names):
            style = _DASHES[(k // len(COLOURS)) % len(_DASHES)]
            ax.plot(steps, 100 * fooled[:, k].numpy(), color=colour(k, hues), linestyle=style, label=legend_name(name))
        ax.plot(steps, 100 * all_fooled.numpy(), color=INK, linewidth=2.6, label="all at once")
        ax.set(xlabel="iteration", ylabel="success rate, %", ylim=(-2, 102), xlim=(0, max(len(steps) - 1, 1)))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_above(ax)

    return drawn_svg(draw, label)


def weights_per_iteration(
    weights: Tensor, names: Sequence[str], *, label: str, unit: str = "iteration", hues: Sequence[str] = COLOURS
) -> str:
    """Draw the spread of every model's weight over the images, at some iterates, as a box plot in SVG.

    Boxes span the quartiles, whiskers the 5th to 95th percentile, the line is the median.

    Args:
        weights: (T+1, N, K), in [0, 1].
        names: of the models, K.
        label: what a screen reader says.
        unit: what the first axis counts.
        hues: of the boxes, see ``AXES``.
    """
    chosen = chosen_iterates(len(weights) - 1, max(_ALL_BOXES // len(names), 3))

    def draw(ax: Axes) -> None:
        K = len(names)
        width = 0.8 / K
        for k in range(K):
            values = weights[chosen, :, k].numpy()
            places = np.arange(len(chosen)) + (k - (K - 1) / 2) * width
            look = {"color": colour(k, hues)}
            boxes = ax.boxplot(
                [*values], positions=places, widths=0.8 * width, whis=(5, 95), showfliers=False, patch_artist=True,
                medianprops={"color": INK, "linewidth": 1.4}, whiskerprops=look, capprops=look,
                boxprops={"facecolor": colour(k, hues) + "66", "edgecolor": colour(k, hues)}, manage_ticks=False,
            )  # fmt: skip
            boxes["boxes"][0].set_label(legend_name(names[k]))
        ax.set_xticks(range(len(chosen)), [str(t) for t in chosen])
        ax.set(xlabel=unit, ylabel="weight", ylim=(-0.02, 1.02), xlim=(-0.6, len(chosen) - 0.4))
        legend_above(ax)

    return drawn_svg(draw, label)


def legend_above(ax: Axes) -> None:
    """Put the legend above the plot, where no line can run under it; the plot grows by rows that long names take."""
    names = [str(label) for label in ax.get_legend_handles_labels()[1]]
    columns = _columns([len(name) for name in names])
    ax.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=columns,
        fontsize=10,
        handlelength=1.2,
        columnspacing=1.2,
    )
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    figure.set_size_inches(_WIDTH, _HEIGHT + max(0, -(-len(names) // columns) - 2) * _LEGEND_ROW)


def _columns(lengths: Sequence[int]) -> int:
    """Return how many columns, up to five, a legend of names of such lengths may have within a plot."""
    for columns in range(min(len(lengths), 5), 1, -1):
        rows = -(-len(lengths) // columns)
        widest = (max(lengths[begin : begin + rows]) for begin in range(0, len(lengths), rows))
        if sum(width + _LETTERS_OF_LINE for width in widest) <= _LETTERS:
            return columns
    return 1


def legend_name(name: str, most: int = _LETTERS_OF_NAME) -> str:
    """Return what a legend calls a line: a long name by its beginning and its end, where such names differ."""
    name = f" {name}" if name.startswith("_") else name  # matplotlib leaves out what begins so
    if len(name) <= most:
        return name
    kept = (most - 1) // 2
    return f"{name[:kept]}\u2026{name[-kept:]}"


def chosen_iterates(steps: int, most: int = _BOXES) -> list[int]:
    """Choose up to nine iterates from 0 to ``steps``, closer together at the beginning, where weights move most."""
    spread = np.unique(np.round(np.geomspace(1, steps + 1, min(most, _BOXES))).astype(int) - 1)
    return [int(t) for t in spread]


def drawn_svg(draw: Callable[[Axes], None], label: str) -> str:
    """Return what ``draw`` puts on a plot, as SVG named ``label`` for screen readers."""
    # Ids must be the same in every build, and differ between the figures of one page.
    style: Any = {**STYLE, "svg.hashsalt": label, "axes.facecolor": "none"}
    with mpl.rc_context(style):
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained", facecolor="none")
        canvas = FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        # savefig would draw everything once more, unseen, to lay it out
        layout, text = figure.get_layout_engine(), StringIO()
        assert layout is not None
        layout.execute(figure)
        figure.set_layout_engine("none")
        canvas.print_svg(text, metadata={"Date": None, "Creator": None})
    return inline(text.getvalue(), label)


def inline(svg: str, label: str) -> str:
    """Make a stand-alone SVG document fit to stand within a page: scaled to it, and named for screen readers."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\b(width|height)="[\d.]+pt" ', "", body, count=2)
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)  # it would hold for the whole page
    body = re.sub(r'<g id="[^"]*">', "<g>", body)  # nothing refers to groups, and ids must be unique on a page
    named = f'<svg role="img" aria-label="{escape(label)}" style="stroke-linejoin:round;stroke-linecap:butt" '
    return body.replace("<svg ", named, 1)
