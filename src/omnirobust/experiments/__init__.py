"""The paper's experiments as data, and the runner that measures them and judges the paper's claims."""

from omnirobust.experiments.claims import Claim, Rates
from omnirobust.experiments.registry import experiments
from omnirobust.experiments.runner import Reproduction, reproduce
from omnirobust.experiments.spec import BUDGETS, Budget, Cell, Experiment, MeanWeightsOf, Row
from omnirobust.experiments.tables import Printed
from omnirobust.experiments.tasks import Distortion, Transformed, Universal
from omnirobust.experiments.variants import VARIANTS

__all__ = [
    "BUDGETS",
    "VARIANTS",
    "Budget",
    "Cell",
    "Claim",
    "Distortion",
    "Experiment",
    "MeanWeightsOf",
    "Printed",
    "Rates",
    "Reproduction",
    "Row",
    "Transformed",
    "Universal",
    "experiments",
    "reproduce",
]
