"""The paper as data: its experiments, printed values, claims and slips."""

from omnirobust.paper.registry import VARIANTS, experiments

__all__ = ["VARIANTS", "experiments"]
