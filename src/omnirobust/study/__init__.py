"""The engine of experiments: declared as data, measured, judged and written down."""

from omnirobust.paper.printed import Printed
from omnirobust.study.attack_cells import Distortion, Transformed, Universal
from omnirobust.study.claims import Claim, Rates
from omnirobust.study.runner import Reproduction, reproduce
from omnirobust.study.spec import BUDGETS, Budget, Cell, Experiment, MeanWeightsOf, Row

__all__ = [
    "BUDGETS",
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
    "reproduce",
]
