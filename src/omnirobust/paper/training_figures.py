"""Figures 3, A2, A3 and A4 as SVG files, the same bytes for the same numbers, and the tables that stand under them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from omnirobust.paper.training_budgets import Method
from omnirobust.paper.training_contrasts import label
from omnirobust.paper.training_figure_claims import inside
from omnirobust.paper.training_findings import Against
from omnirobust.paper.training_outcome import ACCURACIES, TrainingOutcome, tried
from omnirobust.study.figures import canvas
from omnirobust.study.sample import Sample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
from omnirobust.paper.training_budgets import Arch
from omnirobust.paper.training_outcome import MISSING, band, evaluation, plain, short
from omnirobust.study.tables import NONE, table

LINES: dict[Method, tuple[str, str]] = {
    "linf": ("#0072b2", "-"),
    "l2": ("#009e73", "-"),
    "avg": ("#777777", "-"),
    "avg_dpar": ("#777777", "--"),
    "minmax": ("#d55e00", "-"),
    "minmax_dpar": ("#d55e00", "--"),
}
"""Training to colour and dash."""


def draw_training(outcome: TrainingOutcome, folder: Path) -> tuple[Path, ...]:
    """Draw the figure of an experiment that has one, of what was measured.

    Returns:
        The files written, SVG.
    """
    if outcome.experiment.kind not in _DRAWN or not outcome.progress[0]:
        return ()
    file = folder / f"{outcome.experiment.name}.svg"
    _DRAWN[outcome.experiment.kind](outcome, file)
    return (file,)


def _sweep(outcome: TrainingOutcome, file: Path) -> None:
    with canvas(file, 3) as (_, axes):
        _violins(axes[0], outcome)
        for axis, against, title in zip(
            axes[1:], ACCURACIES["sweep"], ("(b) Acc_adv^max", "(c) Acc_adv^avg"), strict=True
        ):
            _accuracies(axis, outcome, against)
            axis.set(title=title, xlabel="l2 radius", ylabel="accuracy", ylim=(-0.02, 1.02))
        axes[1].legend(frameon=False, fontsize=7)


def _violins(axis: Axes, outcome: TrainingOutcome) -> None:
    """The weights of both attacks on the training images, one violin each at every radius."""
    found, arch = outcome.findings, outcome.experiment.archs[0]
    known = {eps: tried(partial(found.weight, arch, "minmax", eps)) for eps in found.budget.grid}
    there = {eps: sample.values.flatten() for eps, sample in known.items() if sample is not None}
    for shift, colour, name in ((-0.06, "#0072b2", "linf"), (0.06, "#009e73", "l2")):
        if not there:
            break
        values = [(w if name == "l2" else 1 - w).numpy() for w in there.values()]
        parts = axis.violinplot(values, [eps + shift for eps in there], widths=0.16, showmeans=True, showextrema=False)
        for body in parts["bodies"]:  # pyright: ignore[reportGeneralTypeIssues]
            body.set_facecolor(colour)
        parts["cmeans"].set_color(colour)
        axis.plot([], [], color=colour, label=name)
    axis.set(title="(a) weights of min-max", xlabel="l2 radius", ylabel="weight")
    if there:
        axis.legend(frameon=False)


def _accuracies(axis: Axes, outcome: TrainingOutcome, against: Against) -> None:
    arch = outcome.experiment.archs[0]
    for method in outcome.experiment.methods:
        known = {eps: outcome.accuracy((arch, method, eps), against) for eps in outcome.findings.budget.grid}
        points = {eps: sample.mean for eps, sample in known.items() if sample is not None}
        colour, dash = LINES[method]
        axis.plot(list(points), list(points.values()), dash, color=colour, marker=".", label=label(method))


def _overlap(outcome: TrainingOutcome, file: Path) -> None:
    found, grid = outcome.findings, outcome.findings.budget.grid
    shares: tuple[tuple[Method, str], ...] = (
        ("linf", "linf attack's in the l2 ball"),
        ("l2", "l2 attack's in the linf ball"),
    )
    norms: tuple[tuple[Method, str, str], ...] = (
        ("linf", "l2", "l2 norm of the linf attack's"),
        ("l2", "linf", "linf norm of the l2 attack's"),
    )
    with canvas(file, 2) as (_, axes):
        for norm, name in shares:
            points = {eps: tried(lambda e=eps, n=norm: inside(found, e, n)) for eps in grid}
            _means(axes[0], points, name, LINES[norm][0])
        axes[0].set(title="(a), (b) share in the other ball", xlabel="l2 radius", ylim=(-0.02, 1.02))
        right = axes[1].twinx()
        for axis, (norm, other, name) in zip((axes[1], right), norms, strict=True):
            points = {eps: tried(lambda e=eps, n=norm, o=other: found.distance("a", "minmax", e, n, o)) for eps in grid}
            _means(axis, points, name, LINES[norm][0])
            axis.set_ylabel(f"mean {name}")
        axes[1].set(title="(c) mean norms", xlabel="l2 radius")
        axes[0].legend(frameon=False, fontsize=7)


def _means(axis: Axes, points: dict[float, Sample | None], name: str, colour: str) -> None:
    there = {eps: sample.mean for eps, sample in points.items() if sample is not None}
    axis.plot(list(there), list(there.values()), color=colour, marker=".", label=name)


def _curves(outcome: TrainingOutcome, file: Path) -> None:
    found, radii = outcome.findings, outcome.experiment.grid(outcome.findings.budget)
    with canvas(file, len(radii)) as (_, axes):
        for axis, eps in zip(axes, radii, strict=True):
            for method in outcome.experiment.methods:
                curve = tried(lambda o=method, e=eps: found.curve("a", o, e))
                if curve is not None:
                    _curve(axis, curve, method)
            axis.set(title=f"l2 radius {eps:g}", xlabel="epoch", ylabel="robust accuracy")
        if axes[0].lines:
            axes[0].legend(frameon=False, loc="lower right")


def _curve(axis: Axes, curve: Sample, method: Method) -> None:
    epochs, colour = list(range(1, curve.images + 1)), LINES[method][0]
    low, high = curve.values.amin(0).tolist(), curve.values.amax(0).tolist()
    axis.plot(epochs, curve.values.mean(0).tolist(), color=colour, label=label(method))
    axis.fill_between(epochs, low, high, color=colour, alpha=0.2, lw=0)


_DRAWN: dict[str, Callable[[TrainingOutcome, Path], None]] = {"sweep": _sweep, "overlap": _overlap, "curves": _curves}
"""Kind of experiment to its figure."""


def sweep_table(outcome: TrainingOutcome) -> str:
    """Return Acc_adv^max, S and the weight of the l2 attack by l2 radius, of Figures 3 and A2."""
    found, arch = outcome.findings, outcome.experiment.archs[0]
    radii = found.budget.grid
    areas = [
        [
            label(method),
            evaluation(outcome, metric),
            *(short(outcome.accuracy((arch, method, eps), "max", metric)) for eps in radii),
            band(tried(partial(found.area, arch, method, metric))),
        ]
        for method in outcome.experiment.methods
        for metric in outcome.metrics
    ]
    weights = [
        [label(method), *(plain(tried(partial(found.weight, arch, method, eps))) for eps in radii)]
        for method in outcome.experiment.methods
        if method.startswith("minmax")
    ]
    heads = [f"{eps:g}" for eps in radii]
    return "\n\n".join(
        [
            "Acc_adv^max in percent by l2 radius, of training and test alike, means over the seeds there are, and S, "
            "the area under it over its range.",
            table(["training", "evaluation", *heads, "S"], areas),
            "Mean weight of the l2 attack on the training images at the end, by l2 radius.",
            table(["training", *heads], weights),
        ]
    )


def overlap_table(outcome: TrainingOutcome) -> str:
    """Return how many perturbations lie in the other ball, and their norms, of Figure A3."""
    found = outcome.findings
    lines = [
        [
            f"{eps:g}",
            band(tried(lambda e=eps: inside(found, e, "linf"))),
            band(tried(lambda e=eps: inside(found, e, "l2"))),
            plain(tried(lambda e=eps: found.distance("a", "minmax", e, "linf", "l2"))),
            plain(tried(lambda e=eps: found.distance("a", "minmax", e, "l2", "linf"))),
        ]
        for eps in found.budget.grid
    ]
    head = ["l2 radius", "linf attack's in the l2 ball, %", "l2 attack's in the linf ball, %"]
    return table([*head, "mean l2 norm of the linf attack's", "mean linf norm of the l2 attack's"], lines)


def curves_table(outcome: TrainingOutcome) -> str:
    """Return the learning curves of Figure A4 at a tenth of the epochs each."""
    found = outcome.findings
    rows: list[tuple[Arch, Method, float]] = outcome.experiment.rows(found.budget)
    found_curves: dict[tuple[Method, float], Sample | None] = {
        (method, eps): tried(partial(found.curve, arch, method, eps)) for arch, method, eps in rows
    }
    epochs = found.budget.efforts["a"].epochs
    shown = sorted({max(1, round(epochs * part / 10)) for part in range(1, 11)})
    lines = [
        [f"{label(method)}, l2 radius {eps:g}", *(_at(curve, epoch) for epoch in shown), _seeds(curve)]
        for (method, eps), curve in found_curves.items()
    ]
    return "Robust accuracy in percent after so many epochs.\n\n" + table(
        ["training", *(str(epoch) for epoch in shown), "seeds"], lines
    )


def _at(curve: Sample | None, epoch: int) -> str:
    return MISSING if curve is None else f"{100 * float(curve.values[:, epoch - 1].mean()):.1f}"


def _seeds(sample: Sample | None) -> str:
    return NONE if sample is None else str(len(sample.seeds))
