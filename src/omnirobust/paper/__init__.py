"""The paper as data: its experiments, printed values, claims and slips."""

from omnirobust.paper.registry import VARIANTS, collection, experiments

__all__ = ["VARIANTS", "collection", "experiments"]
