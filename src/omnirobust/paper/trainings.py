"""Tables 4, A7 and A8 and Figures 3, A2, A3 and A4 as data: which trainings, judged how, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from omnirobust.paper.robustness_cells import RobustnessCell, cells_of
from omnirobust.paper.training_budgets import (
    CURVES,
    EPS_CURVES,
    EPS_L2,
    NAMES,
    Arch,
    Method,
    Metric,
    Training,
    TrainingBudget,
    training_of,
)
from omnirobust.paper.training_contrasts import ATTACKED, TrainingClaim
from omnirobust.paper.training_figure_claims import figure_3, figure_a3, figure_a4
from omnirobust.paper.training_table_claims import table_4, table_a7, table_a8

Kind = Literal["table-4", "table-a7", "table-a8", "sweep", "overlap", "curves"]

PRINTED: tuple[Method, ...] = ("avg_printed", "minmax_printed")
"""Trainings by the letter of Algorithm 2, of which the paper prints no numbers apart."""


@dataclass(frozen=True)
class TrainingExperiment:
    """A table or figure of the paper on robust training.

    Attributes:
        name: as on the command line, such as "table-4a".
        title: one line.
        kind: how it is shown.
        archs: letters of its networks.
        methods: its trainings.
        radii: of l2; None for the budget's grid.
        metrics: what is measured of each; empty if the trainings themselves are what is shown.
        claims: what the paper says of it.
        note: what a reader of this one must know.
    """

    name: str
    title: str
    kind: Kind
    archs: tuple[Arch, ...]
    methods: tuple[Method, ...]
    radii: tuple[float, ...] | None
    metrics: tuple[Metric, ...]
    claims: tuple[TrainingClaim, ...]
    note: str = ""

    def grid(self, budget: TrainingBudget) -> tuple[float, ...]:
        """Return the l2 radii."""
        return budget.grid if self.radii is None else self.radii

    def rows(self, budget: TrainingBudget) -> list[tuple[Arch, Method, float]]:
        """Return network, training and l2 radius of every row."""
        return [(arch, method, eps) for arch in self.archs for eps in self.grid(budget) for method in self.methods]

    def work(self, budget: TrainingBudget) -> Iterator[tuple[Training, tuple[tuple[RobustnessCell, int], ...]]]:
        """Yield every training with what is measured of it and on how many images, in no order."""
        for arch, method, eps in self.rows(budget):
            for seed in range(budget.seeds_of(arch, method, eps)):
                training = training_of(arch, method, eps, seed, budget.efforts[arch])
                yield (
                    training,
                    tuple(
                        (cell, budget.images(arch, metric))
                        for metric in self.metrics
                        for cell in cells_of(training, metric, eps, budget)
                    ),
                )


def urgency(training: Training) -> tuple[int, int]:
    """Return what comes first: one seed of Table 4, then its other seeds, other radii, LeNet, and DPAR at all of these.

    LeNet costs several times what the MLP does, DPAR two and a half times what the same training does without.
    """
    lenet, diverse = training.arch == "c", training.method.endswith("_dpar")
    main = training.eps_l2 in (0.0, EPS_L2)
    if training.method in PRINTED:
        stage = 6
    elif main and not lenet and training.seed == 0:
        stage = 0
    elif training.eps_l2 == EPS_CURVES and training.method in CURVES and not lenet:
        stage = 2 if training.seed else 1
    elif main:
        stage = (5 if diverse else 3) if lenet else (4 if diverse else 2)
    else:
        stage = (9 if diverse else 7) if lenet else (8 if diverse else 2)
    return stage, training.seed


_TABLE: tuple[Method, ...] = ("natural", "linf", "l2", "avg", "avg_dpar", "minmax", "minmax_dpar")

_PRINTED_NOTE = """\
"as printed": Algorithm 2 to the letter. Its steps are the raw gradient times the weight of the attack, and it goes on
from the weights and perturbations that it ended with: those that the same image had an epoch ago, which is our reading,
since the text has no mini-batches. Elsewhere each attack steps by its own normalised gradient from a random start. The
cosine is that between the input gradients of the linf and the l2 attack where they end, mean over images: of plain
attacks, and of attacks that ascend the regulariser of DPAR too. In (17) the attacker lowers the cosine and the
defender, who minimises what the attacker maximises, raises it.\
"""

_A7_NOTE = """\
uSGD is universal adversarial training: one perturbation for all images, linf radius 0.3, R steps of 0.06 on each
mini-batch. (With one step a mini-batch the model outruns the perturbation: `Scheme("universal", (Linf(0.3),), 1,
step_sizes=(0.03,))` left 9.5 % under a fresh one after 60 epochs of 20,000 images.) The universal perturbation that
judges is learned by the same method against each model, from 5,000 training images in 5 passes. The last column is the
mean of the three accuracies under attack.\
"""

_A3_NOTE = """\
Models are trained by min-max at the radii that they are attacked with, as in the paper; all perturbations of the attack
count, as "adversarial examples" are not said to be the ones that fool.\
"""

_A4_NOTE = """\
Robust accuracy (of both attacks at once, with the steps of the training) after every epoch, on images held out from the
training split; the paper's curves are of test images. Intervals are over seeds alone.\
"""


def training_experiments() -> dict[str, TrainingExperiment]:
    """Return every experiment by name, in the order in which they are worth computing."""
    found = [
        _table_4("table-4a", "a"),
        _table_a7("table-a7a", "a"),
        TrainingExperiment(
            "figure-a4", "Learning curves of the MLP: min-max against average", "curves", ("a",), CURVES,
            (EPS_CURVES, EPS_L2), (), figure_a4(), _A4_NOTE,
        ),
        _sweep("figure-3", "a"),
        TrainingExperiment(
            "figure-a3", "Overlap of the linf and the l2 ball in the perturbations that attacks make, MLP", "overlap",
            ("a",), ("minmax",), None, ("pgd",), figure_a3(), _A3_NOTE,
        ),
        _table_4("table-4b", "c"),
        _table_a7("table-a7b", "c"),
        _sweep("figure-a2", "c"),
        TrainingExperiment(
            "table-a8", "Robust training at six l2 radii, MLP and LeNet", "table-a8", ("a", "c"), _TABLE, None,
            ("pgd", "strong"), table_a8(),
        ),
    ]  # fmt: skip
    return {experiment.name: experiment for experiment in found}


def _table_4(name: str, arch: Arch) -> TrainingExperiment:
    title = f"Training against one norm, both norms, and with DPAR, {NAMES[arch]}"
    metrics: tuple[Metric, ...] = ("pgd", "gradients", "gradients_dpar", "strong")
    return TrainingExperiment(
        name, title, "table-4", (arch,), (*_TABLE, *PRINTED), (EPS_L2,), metrics, table_4(arch), _PRINTED_NOTE
    )


def _table_a7(name: str, arch: Arch) -> TrainingExperiment:
    title = f"Training against both norms and universal adversarial training, {NAMES[arch]}"
    methods: tuple[Method, ...] = (*_TABLE[:3], "usgd", *_TABLE[3:])
    metrics: tuple[Metric, ...] = ("pgd", "universal", "strong")
    return TrainingExperiment(name, title, "table-a7", (arch,), methods, (EPS_L2,), metrics, table_a7(arch), _A7_NOTE)


def _sweep(name: str, arch: Arch) -> TrainingExperiment:
    title = f"Weights and robustness against the l2 radius, {NAMES[arch]}"
    return TrainingExperiment(name, title, "sweep", (arch,), ATTACKED, None, ("pgd", "strong"), figure_3(arch))
