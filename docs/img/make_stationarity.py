"""Draw ``stationarity.svg`` from ``benchmarks/stationarity.json``: how near a stationary point the attack comes."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

HERE = Path(__file__).parent
COLOURS = {"0.5": "#6baed6", "3": "#2171b5", "10": "#08306b"}
FACTORS = {"1": ("--", "the paper's alpha"), "0.01": ("-", "alpha / 100")}


def main() -> None:
    """Write the figure beside this file."""
    found = json.loads((HERE.parents[1] / "benchmarks" / "stationarity.json").read_text(encoding="utf-8"))
    with mpl.rc_context({"svg.hashsalt": "stationarity", "font.size": 9}):
        figure = Figure(figsize=(8.8, 3.6), layout="constrained")
        FigureCanvasSVG(figure)
        for axis, norm in zip(figure.subplots(1, 2), ("linf", "l2"), strict=True):
            for gamma, colour in COLOURS.items():
                for factor, (dashes, said) in FACTORS.items():
                    run = found[f"{norm}/gamma {gamma}/alpha x {factor}"]
                    points = [(t, v) for t, v in run["least"] if t > 0]
                    label = f"gamma {gamma}, {said}: slope {run['slope']:.2f}"
                    axis.loglog(*zip(*points, strict=True), dashes, color=colour, label=label)
            axis.set(title=norm, xlabel="step", ylabel="squared stationarity measure, least so far")
            axis.legend(frameon=False, fontsize=7)
            axis.spines[["top", "right"]].set_visible(False)
        figure.savefig(HERE / "stationarity.svg", format="svg", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
