"""Figure 1, and the groups of Tables A9 and A10 with the weights of their images, as SVG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from omnirobust.study.figures import PALETTE, SCHEMES, canvas, figure
from omnirobust.study.outcome import Outcome
from omnirobust.study.store import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = dict(zip("ABCD", PALETTE, strict=True))
"""Of the models."""

PICTURED = 10
"""How many groups of images are drawn with their weights: two of each of five digits, as in Tables A9 and A10."""

DRAWN = ("paper", "default")
"""The variants that are drawn; those with true labels would hide behind these."""


def figure_1(outcome: Outcome, folder: Path) -> tuple[Path, ...]:
    """Draw Figure 1 for each of the drawn variants that was measured."""
    return tuple(
        _figure_1(outcome, variant, folder)
        for variant in DRAWN
        if all((variant, ("linf", scheme)) in outcome.measured for scheme in SCHEMES)
    )


def groups(outcome: Outcome, folder: Path) -> tuple[Path, ...]:
    """Draw the first groups of Table A9 or A10 under the paper's attack."""
    if outcome.pictures is None:
        return ()
    return tuple(_groups(outcome, outcome.pictures, v, folder) for v in outcome.variants if v == DRAWN[0])


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
    with figure(file, (0.72 * (2 * places + 1), 1.55 * rows)) as drawn:
        grid = drawn.add_gridspec(
            rows, 2 * places + 1, wspace=0.05, hspace=0.8, left=0.06, right=0.99, top=0.99, bottom=0.75 / (1.55 * rows)
        )
        for g in range(shown):
            # The groups of one class stand in one line: they are dealt class after class.
            line, half = (g % rows, g // rows)
            for e in range(places):
                axis = drawn.add_subplot(grid[line, half * (places + 1) + e])
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
