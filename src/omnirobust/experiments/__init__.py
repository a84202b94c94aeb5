"""The paper's experiments as data, and the runner that measures them and judges the paper's claims."""

from omnirobust.experiments.registry import experiments
from omnirobust.experiments.runner import Reproduction, reproduce
from omnirobust.experiments.spec import BUDGETS, Budget, Cell, Experiment, MeanWeightsOf, Row
from omnirobust.experiments.variants import VARIANTS

__all__ = [
    "BUDGETS",
    "VARIANTS",
    "Budget",
    "Cell",
    "Experiment",
    "MeanWeightsOf",
    "Reproduction",
    "Row",
    "experiments",
    "reproduce",
]
