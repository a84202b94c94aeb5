"""The tables that stand under Figures 3, A2, A3 and A4."""

from __future__ import annotations

from functools import partial

from omnirobust.paper.training_budgets import Arch, Opt
from omnirobust.paper.training_contrasts import label
from omnirobust.paper.training_figure_claims import inside
from omnirobust.paper.training_outcome import TrainingOutcome
from omnirobust.study.sample import Sample
from omnirobust.study.tables import NONE, table
from omnirobust.study.training_words import MISSING, band, evaluation, plain, short, tried


def sweep(outcome: TrainingOutcome) -> str:
    """Return Acc_adv^max, S and the weight of the l2 attack by l2 radius, of Figures 3 and A2."""
    found, arch = outcome.findings, outcome.experiment.archs[0]
    radii = found.budget.grid
    areas = [
        [
            label(opt),
            evaluation(outcome, how),
            *(short(outcome.accuracy((arch, opt, eps), "max", how)) for eps in radii),
            band(tried(partial(found.area, arch, opt, how))),
        ]
        for opt in outcome.experiment.opts
        for how in outcome.hows
    ]
    weights = [
        [label(opt), *(plain(tried(partial(found.weight, arch, opt, eps))) for eps in radii)]
        for opt in outcome.experiment.opts
        if opt.startswith("minmax")
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


def overlap(outcome: TrainingOutcome) -> str:
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


def curves(outcome: TrainingOutcome) -> str:
    """Return the learning curves of Figure A4 at a tenth of the epochs each."""
    found = outcome.findings
    rows: list[tuple[Arch, Opt, float]] = outcome.experiment.rows(found.budget)
    curves: dict[tuple[Opt, float], Sample | None] = {
        (opt, eps): tried(partial(found.curve, arch, opt, eps)) for arch, opt, eps in rows
    }
    epochs = found.budget.efforts["a"].epochs
    shown = sorted({max(1, round(epochs * part / 10)) for part in range(1, 11)})
    lines = [
        [f"{label(opt)}, l2 radius {eps:g}", *(_at(curve, epoch) for epoch in shown), _seeds(curve)]
        for (opt, eps), curve in curves.items()
    ]
    return "Robust accuracy in percent after so many epochs.\n\n" + table(
        ["training", *(str(epoch) for epoch in shown), "seeds"], lines
    )


def _at(curve: Sample | None, epoch: int) -> str:
    return MISSING if curve is None else f"{100 * float(curve.values[:, epoch - 1].mean()):.1f}"


def _seeds(sample: Sample | None) -> str:
    return NONE if sample is None else str(len(sample.seeds))
