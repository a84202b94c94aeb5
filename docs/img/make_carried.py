"""Draw ``carried.svg`` from ``benchmarks/carried.json``: ascents carried against anew, at equal gradients."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

HERE = Path(__file__).parent
NAMES = {"a": "MLP", "c": "LeNet"}
COLOURS = {
    ("all", 1): "#9ecae1", ("all", 2): "#6baed6", ("all", 3): "#4292c6", ("all", 5): "#2171b5", ("all", 10): "#08306b",
    ("none", 1): "#fdd0a2", ("none", 2): "#fdae6b", ("none", 3): "#fd8d3c", ("none", 5): "#f16913",
    ("none", 10): "#d94801", ("none", 20): "#7f2704",
}  # fmt: skip
K = 2


def curves(found: dict[str, dict], letter: str) -> dict[tuple[str, int], list[list[tuple[int, float]]]]:
    """Return, of every arm and seed, the gradients an image has cost and Acc_adv^max under 20 steps in percent."""
    arms: dict[tuple[str, int], list[list[tuple[int, float]]]] = {}
    for key, run in found.items():
        what, *rest = key.split("/")
        if what == "equal" and rest[0] == letter:
            _, persist, steps, _ = rest
            cost = K * int(steps) + K + 1
            points = sorted((cost * int(epoch), 100 * row["pgd"]) for epoch, row in run["epochs"].items())
            arms.setdefault((persist, int(steps)), []).append(points)
    return dict(sorted(arms.items()))


def draw(axis: Axes, arms: dict[tuple[str, int], list[list[tuple[int, float]]]], title: str) -> None:
    """Draw the mean over seeds of each arm, and the range over seeds where it ends."""
    for (persist, steps), runs in arms.items():
        colour, dashes = COLOURS[persist, steps], "-" if persist == "all" else "--"
        means = [sum(values) / len(values) for values in zip(*[[y for _, y in run] for run in runs], strict=True)]
        xs = [x for x, _ in runs[0]]
        told = f"{steps} {'carried' if persist == 'all' else 'anew'}"
        axis.plot(xs, means, dashes, color=colour, marker="o" if persist == "all" else "s", markersize=4, label=told)
        last = [run[-1][1] for run in runs]
        axis.vlines(xs[-1], min(last), max(last), color=colour, linewidth=1)
    axis.set(title=title, xlabel="gradients an image has cost", ylim=(0, None))
    axis.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Write the figure beside this file."""
    found = json.loads((HERE.parents[1] / "benchmarks" / "carried.json").read_text(encoding="utf-8"))
    shown = {letter: arms for letter in NAMES if (arms := curves(found, letter))}
    if not shown:
        sys.exit("nothing of `python benchmarks/carried.py equal` is there yet")
    with mpl.rc_context({"svg.hashsalt": "carried", "font.size": 9}):
        figure = Figure(figsize=(4.4 * len(shown), 3.4), layout="constrained")
        FigureCanvasSVG(figure)
        for axis, (letter, arms) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
            draw(axis, arms, NAMES[letter])
        axes = figure.axes
        axes[0].set_ylabel("Acc_adv^max under 20 steps, %")
        lines = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        figure.legend(
            lines.values(), lines.keys(), title="ascents R", fontsize=8, frameon=False, loc="outside right center"
        )
        figure.savefig(HERE / "carried.svg", format="svg", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
