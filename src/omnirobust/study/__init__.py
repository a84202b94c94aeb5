"""The engine of experiments, anyone's: declared as data, measured, judged and written down. It knows no paper."""

from omnirobust.study.attack_cells import Cell, Distortion, MeanWeightsOf, Transformed, Universal
from omnirobust.study.cell_cache import CellCache
from omnirobust.study.claims import Claim, Rates, Statistic
from omnirobust.study.runner import Reproduction, reproduce
from omnirobust.study.spec import BUDGETS, Budget, Collection, Experiment, Printed, Row
from omnirobust.study.training_cells import Robustness, Training

Laboratory = CellCache  # as it was called before

__all__ = [
    "BUDGETS",
    "Budget",
    "Cell",
    "CellCache",
    "Claim",
    "Collection",
    "Distortion",
    "Experiment",
    "MeanWeightsOf",
    "Printed",
    "Rates",
    "Reproduction",
    "Robustness",
    "Row",
    "Statistic",
    "Training",
    "Transformed",
    "Universal",
    "reproduce",
]
