"""The figures as SVG files: the same bytes for the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from omnirobust._files import replacing
from omnirobust.study.outcome import Outcome
from omnirobust.study.spec import REFERENCE, Key

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Told apart by colour-blind readers too."""

SCHEMES = {"avg": ("average", "#777777"), "minmax": ("min-max", "#0072b2")}
"""Ways of weighting by the names that rows give them: their labels and colours."""

STROKES = ("-", "--", ":", "-.")
"""Of the variants that are drawn, in their order."""


def draw(outcome: Outcome, folder: Path) -> tuple[Path, ...]:
    """Draw the figures of an experiment that has any, of the rows that were measured.

    Returns:
        The files written, SVG.
    """
    if outcome.experiment.figure is not None:
        return outcome.experiment.figure(outcome, folder)
    if outcome.experiment.kind == "sweep" and outcome.measured:
        return (_sweep(outcome, folder),)
    return ()


@contextmanager
def canvas(file: Path, columns: int) -> Iterator[tuple[Figure, list[Axes]]]:
    """Yield an empty figure of so many panels beside each other, and write it to ``file`` as SVG."""
    with figure(file, (3.6 * columns, 3.1), layout="constrained") as drawn:
        yield drawn, [drawn.add_subplot(1, columns, i + 1) for i in range(columns)]


@contextmanager
def figure(file: Path, size: tuple[float, float], layout: Literal["constrained"] | None = None) -> Iterator[Figure]:
    """Yield an empty figure of a size in inches, and write it to ``file`` as SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "omnirobust", "font.size": 9, "svg.fonttype": "none"}):
        drawn = Figure(figsize=size, layout=layout)
        yield drawn
        with replacing(file) as partial:
            drawn.savefig(partial, format="svg", metadata={"Date": None})


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
    """Return the variants that are drawn and measured, with their strokes: those named to be, or else all."""
    named = {v: s for v, s in zip(outcome.experiment.drawn, cycle(STROKES), strict=False) if v in outcome.variants}
    return named or dict(zip(outcome.variants, cycle(STROKES), strict=False))


def _schemes(outcome: Outcome) -> dict[Key, tuple[str, str]]:
    """Return the labels and colours of all curves of a panel: what stands between a key's first entry and its number.

    That is the way of weighting, or more, or nothing at all.
    """
    known: dict[Key, tuple[str, str]] = {(name,): shown for name, shown in SCHEMES.items()}
    others = dict.fromkeys(key[1:-1] for _, key in outcome.measured if key[1:-1] not in known)
    spare = cycle(c for c in PALETTE if c not in {colour for _, colour in SCHEMES.values()})
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
