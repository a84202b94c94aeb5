"""The paper as data: its experiments, printed values, claims and slips."""

from omnirobust.paper.registry import experiments
from omnirobust.paper.variants import VARIANTS

__all__ = ["VARIANTS", "experiments"]
