"""Draw ``transfer.svg`` from ``benchmarks/transfer.json``: errors of the model left out, and of all others at once."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from torch import Tensor

HERE = Path(__file__).parent
OURS = ("transfer", "average", "default")


def unpacked(digits: str) -> list[float]:
    """Return who was hit, as the benchmark packs it: binary digits after a 1."""
    return [float(digit) for digit in f"{int(digits, 16):b}"[1:]]


def panels(found: dict[str, dict]) -> dict[str, dict[str, list[dict]]]:
    """Return, of each data set, its models and images (all radii together), the runs of every attack."""
    shown: dict[str, dict[str, list[dict]]] = {}
    for key, attacks in found.items():
        if (
            ", linf" in key and "@seed" not in key and "to the next class" not in key
        ):  # what was chosen on is not judged on
            chosen = " ".join(next(iter(attacks.values())))
            title = f"{re.sub(r', linf.*', '', key)}; left out: {chosen}"
            for name, runs in attacks.items():
                shown.setdefault(title, {}).setdefault(name, []).extend(runs.values())
    return shown


def mean(runs: list[dict], of: str) -> Tensor:
    """Return the share of an image's choices and radii that hit, (images,)."""
    return torch.tensor([unpacked(run[of]) for run in runs]).mean(0)


def draw(axis: Axes, attacks: dict[str, list[dict]], title: str) -> None:
    """Draw a bar an attack, with the 95 % interval of a bootstrap over images, and a mark for the models attacked."""
    most = max(map(len, attacks.values()))
    left = {name: mean(runs, "left out") for name, runs in attacks.items() if len(runs) == most}
    names = sorted(left, key=lambda name: float(left[name].mean()))
    for place, name in enumerate(names):
        n = len(left[name])
        draws = torch.randint(n, (2000, n), generator=torch.Generator().manual_seed(0))
        low, high = left[name][draws].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
        colour = "#2171b5" if name in OURS else "#fdae6b"
        axis.barh(place, 100 * float(left[name].mean()), color=colour)
        axis.hlines(place, 100 * low, 100 * high, color="black", linewidth=1)
        axis.plot(100 * float(mean(attacks[name], "attacked").mean()), place, "|", color="#cb181d", markersize=9)
    axis.set(title=title, xlabel="% of images", yticks=range(len(names)), yticklabels=names)
    axis.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Write the figure beside this file."""
    file = HERE.parents[1] / "benchmarks" / "transfer.json"
    shown = panels(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}
    if not shown:
        sys.exit("nothing of `python benchmarks/bench_transfer.py` is there yet")
    with mpl.rc_context({"svg.hashsalt": "transfer", "font.size": 8}):
        figure = Figure(figsize=(4.2 * len(shown), 3.4), layout="constrained")
        FigureCanvasSVG(figure)
        for axis, (title, attacks) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
            draw(axis, attacks, title)
        figure.savefig(HERE / "transfer.svg", format="svg", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
