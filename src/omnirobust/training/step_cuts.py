"""In which parts a mini-batch goes through the model in training mode, and whether it may go in parts at all."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from omnirobust.core.draws import forked
from omnirobust.domains.frozen import buffers_kept
from omnirobust.domains.probe import ROWS, Probe, differ
from omnirobust.training.budget import PassBudget
from omnirobust.training.objective import Objective


class StepCuts:
    """The parts in which a mini-batch goes through the model in training mode, if it may go in parts.

    Args:
        budget: what the graph of each keeps to.
        objective: the loss, not wrapped: what is measured concerns no other process.
    """

    def __init__(self, budget: PassBudget, objective: Objective) -> None:
        self.budget, self.objective = budget, objective
        self._why: dict[bool, str] = {}

    def of(self, x: Tensor, y: Tensor, points: Tensor | None, weights: Tensor | None, dpar: float) -> list[slice]:
        """Cut a mini-batch, given as ``Objective.forward`` takes it, into parts of its examples."""
        together = points is not None and self.objective.pairing > 0
        if len(x) < 2:
            return [slice(0, len(x))]
        if together not in self._why:
            self._why[together] = self._hindrance(x, together)
        if why := self._why[together]:
            self.budget.went_whole(why)
            return [slice(0, len(x))]
        spread = dpar > 0 and points is not None

        def hold(count: int) -> None:
            clean = x[:count].clone(), y[:count]
            with buffers_kept(self.objective.model), forked(x):
                if points is None or weights is None or not spread:
                    self.objective(*clean)
                else:
                    self.objective(*clean, points[:, :count].clone(), torch.ones_like(weights[:count]), dpar)

        attacked = 0 if weights is None or spread else int((weights != 0).sum(1).max())
        each = 1 if spread else max(1, attacked + (points is None or self.objective.ratio < 1))
        return self.budget.cuts(("step", spread, x.shape[1:], x.dtype), len(x), hold, self.objective.model, each)

    def _hindrance(self, x: Tensor, together: bool) -> str:
        """Say why a mini-batch cannot go in parts; nothing if it can."""
        if together:
            return "kind ramp pairs logits by a mean over it"
        model = self.objective.model
        norms = (m for m in model.modules() if isinstance(m, _BatchNorm))
        if any(m.training or m.running_mean is None for m in norms):
            return "BatchNorm takes its statistics from it"
        with buffers_kept(model) as moved:
            probe = Probe("model", x[:ROWS], lambda some: self.objective.logits(some.clone()), differ, None)
            probe.found()
            if names := moved():
                return f"each pass in training mode changes {names[0]}"
        return "in training mode the model couples its rows" if probe.coupled else ""
