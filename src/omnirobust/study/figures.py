"""The figures as SVG files: the same bytes for the same numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from omnirobust._files import replacing
from omnirobust.study.outcome import Outcome
from omnirobust.study.spec import REFERENCE, Key
from omnirobust.study.store import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"A": "#0072b2", "B": "#d55e00", "C": "#009e73", "D": "#cc79a7"}
"""Of the models: told apart by colour-blind readers too."""

SCHEMES = {"avg": ("average", "#777777"), "minmax": ("min-max", "#0072b2")}
PICTURED = 10
"""How many groups of images are drawn with their weights: two of each of five digits, as in Tables A9 and A10."""

STYLES = {"paper": "-", "default": "--"}
"""Of the variants that are drawn; those with true labels would hide behind these."""


def draw(outcome: Outcome, folder: Path) -> tuple[Path, ...]:
    """Draw the figures of an experiment that has any, of the rows that were measured.

    Returns:
        The files written, SVG.
    """
    if outcome.experiment.name == "figure-1":
        return tuple(
            _figure_1(outcome, variant, folder)
            for variant in STYLES
            if all((variant, ("linf", scheme)) in outcome.measured for scheme in SCHEMES)
        )
    if outcome.experiment.kind == "weights" and outcome.pictures is not None:
        return tuple(_groups(outcome, outcome.pictures, v, folder) for v in outcome.variants if v == "paper")
    if outcome.experiment.kind == "sweep" and outcome.measured:
        return (_sweep(outcome, folder),)
    return ()


@contextmanager
def canvas(file: Path, columns: int) -> Iterator[tuple[Figure, list[Axes]]]:
    """Yield an empty figure of so many panels beside each other, and write it to ``file`` as SVG."""
    with _figure(file, (3.6 * columns, 3.1), layout="constrained") as figure:
        yield figure, [figure.add_subplot(1, columns, i + 1) for i in range(columns)]


@contextmanager
def _figure(file: Path, size: tuple[float, float], layout: Literal["constrained"] | None = None) -> Iterator[Figure]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "omnirobust", "font.size": 9, "svg.fonttype": "none"}):
        figure = Figure(figsize=size, layout=layout)
        yield figure
        with replacing(file) as partial:
            figure.savefig(partial, format="svg", metadata={"Date": None})


def _figure_1(outcome: Outcome, variant: str, folder: Path) -> Path:
    """ASR of each model per iteration, average and min-max, and box plots of the weights."""
    file = folder / f"figure-1-{variant}.svg"
    with canvas(file, 3) as (_, axes):
        for axis, scheme, title in zip(axes, SCHEMES, ("(a) average", "(b) min-max"), strict=False):
            _success_curves(axis, outcome.measured[variant, ("linf", scheme)], title)
        _weight_boxes(axes[2], outcome.measured[variant, ("linf", "minmax")])
    return file


def _success_curves(axis: Axes, measured: Measured, title: str) -> None:
    path = measured.fooled_path.double()
    for k, (letter, colour) in enumerate(COLOURS.items()):
        axis.plot(path[:, :, k].mean(0).numpy(), color=colour, label=letter)
    together = measured.fooled_path.all(2).double().mean(0)
    axis.plot(together.numpy(), color="black", linestyle="--", label="all four")
    axis.set(title=title, xlabel="iteration", ylabel="attack success rate", ylim=(0, 1.02))
    axis.legend(frameon=False, loc="lower right")


def _weight_boxes(axis: Axes, measured: Measured) -> None:
    path = measured.weights_path.float()
    steps = path.shape[1] - 1
    shown = list(range(0, steps + 1, max(steps // 5, 1)))
    width = shown[1] / 6 if len(shown) > 1 else 0.2
    for k, (letter, colour) in enumerate(COLOURS.items()):
        places = [t + (k - 1.5) * width for t in shown]
        boxes = axis.boxplot(
            [path[:, t, k].numpy() for t in shown],
            positions=places,
            widths=0.8 * width,
            showfliers=False,
            patch_artist=True,
            manage_ticks=False,
            medianprops={"color": "black"},
        )
        for box in boxes["boxes"]:
            box.set_facecolor(colour)
        axis.plot(path[:, :, k].mean(0).numpy(), color=colour, linewidth=0.8, label=letter)
    axis.set(title="(c) weights of min-max", xlabel="iteration", ylabel="weight", ylim=(-0.02, 1.17), xticks=shown)
    axis.legend(frameon=False, ncols=4, loc="upper center", columnspacing=1, handlelength=1)


def _groups(outcome: Outcome, pictures: Tensor, variant: str, folder: Path) -> Path:
    """Groups of images with their weights under each norm, and how hard each image is by itself."""
    file = folder / f"{outcome.experiment.name}-{variant}.svg"
    columns = {key: _numbers(found) for (v, key), found in outcome.measured.items() if v == variant}
    shown = min(len(pictures), PICTURED, *(len(values) for values in columns.values()))
    places, rows = pictures.shape[1], -(-shown // 2)
    with _figure(file, (0.72 * (2 * places + 1), 1.55 * rows)) as figure:
        grid = figure.add_gridspec(
            rows, 2 * places + 1, wspace=0.05, hspace=0.8, left=0.06, right=0.99, top=0.99, bottom=0.75 / (1.55 * rows)
        )
        for g in range(shown):
            # The groups of one class stand in one line: they are dealt class after class.
            line, half = (g % rows, g // rows)
            for e in range(places):
                axis = figure.add_subplot(grid[line, half * (places + 1) + e])
                _small_picture(axis, pictures[g, e], [f"{values[g, e]:.3f}" for values in columns.values()])
                if e == 0:
                    _column(axis, -0.12, [key[0] for key in columns], "right")
    return file


def _numbers(found: Measured) -> Tensor:
    return found.distortion if found.distortion.shape[1] else found.weights


def _small_picture(axis: Axes, image: Tensor, numbers: list[str]) -> None:
    axis.imshow(image.movedim(0, -1).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="none")
    axis.set_axis_off()
    _column(axis, 0.5, numbers, "center")


def _column(axis: Axes, x: float, lines: Sequence[str], side: str) -> None:
    """Write lines under a picture, each at its own height, whatever its letters."""
    for i, text in enumerate(lines):
        axis.text(x, -0.18 - 0.17 * i, text, transform=axis.transAxes, ha=side, size=5.5, family="DejaVu Sans")


def _sweep(outcome: Outcome, folder: Path) -> Path:
    """ASR_all against the swept quantity, one panel for each first entry of the rows' keys."""
    file = folder / f"{outcome.experiment.name}.svg"
    panels = list(dict.fromkeys(key[0] for _, key in outcome.measured))
    styles, schemes = _styles(outcome), _schemes(outcome)
    with canvas(file, len(panels)) as (_, axes):
        for axis, panel in zip(axes, panels, strict=True):
            for variant in styles:
                for scheme in schemes:
                    _curve(axis, outcome, variant, panel, scheme)
            axis.set(title=panel, xlabel=outcome.experiment.sweeps, ylabel="ASR_all", ylim=(-0.02, 1.02))
        axes[0].legend(frameon=False, fontsize=7)
    return file


def _styles(outcome: Outcome) -> dict[str, str]:
    """Return the variants that are drawn, with their strokes: the paper's and ours, or else all."""
    known = {v: style for v, style in STYLES.items() if v in outcome.variants}
    return known or dict(zip(outcome.variants, cycle(("-", "--", ":", "-.")), strict=False))


def _schemes(outcome: Outcome) -> dict[Key, tuple[str, str]]:
    """Return the labels and colours of all curves of a panel: what stands between a key's first entry and its number.

    That is the way of weighting, or more, or nothing at all.
    """
    known: dict[Key, tuple[str, str]] = {(name,): shown for name, shown in SCHEMES.items()}
    others = dict.fromkeys(key[1:-1] for _, key in outcome.measured if key[1:-1] not in known)
    spare = cycle(c for c in COLOURS.values() if c not in {colour for _, colour in SCHEMES.values()})
    return known | {rest: (", ".join(rest), colour) for rest, colour in zip(others, spare, strict=False)}


def _curve(axis: Axes, outcome: Outcome, variant: str, panel: str, scheme: Key) -> None:
    """Draw ASR_all of the rows of one variant whose keys begin with the panel and the scheme."""
    keys = [k for v, k in outcome.measured if v == variant and k[:-1] == (panel, *scheme)]
    styles = _styles(outcome)
    style, first = styles[variant], next(iter(styles))
    name, colour = _schemes(outcome)[scheme]
    label = f"{name}, {variant}" if name else variant
    if (panel, *scheme, REFERENCE) in keys and variant == first:
        level = outcome.interval(variant, (panel, *scheme, REFERENCE)).estimate
        axis.axhline(level, color=colour, linestyle=style, label=label)
    keys = sorted((k for k in keys if k[-1] != REFERENCE), key=lambda k: float(k[-1]))
    if not keys:
        return
    points = [float(k[-1]) for k in keys]
    found = [outcome.interval(variant, k) for k in keys]
    axis.plot(points, [f.estimate for f in found], style, color=colour, marker=".", label=label)
    if variant == first:
        axis.fill_between(points, [f.low for f in found], [f.high for f in found], color=colour, alpha=0.15, lw=0)
