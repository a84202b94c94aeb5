"""Every experiment by name: its rows, its printed values, what the paper claims of it, and what its page says."""

from __future__ import annotations

from dataclasses import replace

from omnirobust.paper import architectures, ensembles, figures, groups, printed, transforms
from omnirobust.paper.ensemble_claims import TABLE_1A, TABLE_1B, TABLE_A2, TABLE_A3, TABLE_A4
from omnirobust.paper.errata import slips
from omnirobust.paper.figure_claims import FIGURE_1, FIGURE_2, FIGURE_A1
from omnirobust.paper.group_claims import STATISTICS, TABLE_2, TABLE_A9
from omnirobust.paper.training_tables import TrainingStudy
from omnirobust.paper.trainings import training_experiments
from omnirobust.paper.transforms import TABLE_3, TABLE_A5, TABLE_A6
from omnirobust.study.claims import Claim
from omnirobust.study.spec import Collection, Experiment

CLAIMS: dict[str, tuple[Claim, ...]] = {
    "table-1a": TABLE_1A,
    "table-1b": TABLE_1B,
    "table-a3": TABLE_A3,
    "table-a2": TABLE_A2,
    "table-a4": TABLE_A4,
    "figure-1": FIGURE_1,
    "figure-2": FIGURE_2,
    "figure-a1": FIGURE_A1,
    "table-2": TABLE_2,
    "table-3": TABLE_3,
    "table-a5": TABLE_A5,
    "table-a6": TABLE_A6,
    "table-a9": TABLE_A9,
    "table-a10": TABLE_A9,
}
"""Experiment name to what the paper claims of it."""


VARIANTS: dict[str, str] = {
    "paper": "the paper's attack, each model to leave its own clean prediction; tables count success against the true "
    "label, as the released code does, figures 1, 2 and A1 against that prediction",
    "paper-by-class": "the paper's attack on groups of images of one class, as the released code makes them on MNIST",
    "paper-clip": "the paper's attack on groups at random, each image clamped to the data range on its own",
    "paper-true": "the paper's attack, true labels",
    "default": "this library's default attack with as many gradient evaluations: in Table 1(a) with its loss, which "
    "asks for one more of each model, in all others with the standardised margin that was the default before; labels "
    "as in `paper`; groups at random, each image clamped to the data range on its own",
    "default-by-class": "this library's default attack on groups of images of one class",
    "default-true": "this library's default attack, true labels",
    "paper-acd": "the paper's attack on the models A, C and D alone",
    "paper-acd-true": "the same, true labels",
    "default-acd": "this library's default attack on A, C and D alone",
    "default-acd-true": "the same, true labels",
    "released": "the paper's attack with the released code's loss, which masks every wrong logit with 0",
}
"""Name of each version of the attack, the first to be computed first, and what it means."""

_NOTES = """\
Models are those of the zoo, trained from scratch; the paper's own weights are not public. Every attack takes the same
number of gradient evaluations as the paper's: steps times models, images of a group, or transformations. "any iterate"
counts images for which some step fooled every model, where the paper keeps the last. A claim is "true" or "false" where
the images (or groups of them) at hand and at least 95 % of their resamples (bootstrap, all rows paired) agree, and
"undecided" otherwise, as it always is on fewer than 100. It is judged on the images that all rows of a version share:
where one row has fewer, the numbers beside a claim are of these. What the paper says of every model is judged on those
that are measured so far, which the last column names; "true" is then true of these. The paper does not print its
starting point: as in its released code it is normal noise of standard deviation 0.1, and zero for groups of images. Of
w_clip the paper prints only a threshold of 40: we read it as a loss that goes flat once a model is fooled by ten
logits, kappa less threshold, beside the reading that the confidence kappa becomes 40.\
"""

_COUNTED = """\
Claims are counted once, on the paper's attack where an experiment has several versions, and for robust training under
the attack of the training; "open" is undecided or not yet measured. Minutes are by the wall clock, of attacks that an
experiment asks for, also where another one has them measured; of robust training, of the trainings.\
"""


def experiments() -> dict[str, Experiment]:
    """Return every experiment on attacks by name, in the order in which they are worth computing."""
    weights = [groups.weights_table(name) for name in groups.DIGITS]
    others = (groups.table_2(), *transforms.tables(), *weights)
    return {e.name: _declared(e) for e in (*ensembles.experiments().values(), *others)}


def _declared(experiment: Experiment) -> Experiment:
    """Return rows with what is said and shown of them."""
    name, known = experiment.name, replace(experiment, claimed_by="the paper's", versions=VARIANTS)
    if experiment.kind == "weights":
        known = replace(
            known,
            statistics=STATISTICS,
            printed_statistics=printed.STATISTICS[name],
            figure=figures.groups,
            pictures=figures.PICTURED,
        )
    drawn = figures.DRAWN if experiment.kind == "sweep" else ()
    figure = figures.figure_1 if name == "figure-1" else known.figure
    return replace(known, claims=CLAIMS[name], printed=printed.PRINTED.get(name, {}), drawn=drawn, figure=figure)


def collection() -> Collection:
    """Return all that the paper shows, by name: attacks, the networks, robust training."""
    trainings = {name: TrainingStudy(experiment) for name, experiment in training_experiments().items()}
    return Collection(
        {**experiments(), architectures.NAME: architectures.ArchitectureStudy(), **trainings},
        "# The paper's experiments, reproduced",
        _NOTES,
        _COUNTED,
        slips(),
    )
