"""How a perturbation moves where models say no more than a class: along the border of what fools them all.

Every point asked is either fooled or not. Both searches know one perturbation that fools all domains, mostly too
large, and ask for smaller ones until one lies in the ball: ``Rays`` turns signs, for linf; ``Hops`` estimates where the
border points, for any norm. A step asks one point of every domain.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, inf

import torch
from torch import Tensor

from omnirobust.core.arguments import check_flag
from omnirobust.core.directions import Stepper, balanced_gradient
from omnirobust.core.draws import DrawKey, uniforms
from omnirobust.core.search import KeyedEvaluation, first_sides
from omnirobust.core.threat_models import FeasibleSet
from omnirobust.core.types import Evaluation

LESS = 0.02
"""A proposal must fool at a radius that is smaller by this share than the best one, or it is none."""

_NEAR = 0.1
"""A radius is known once the bracket around it is no wider than this share of it."""


@dataclass(frozen=True)
class Rays:
    """Search among the corners of the box for the one whose ray from the input meets the border first, for linf.

    The signs of halves, quarters, eighths, ... of the coordinates, in the order of memory, are turned in one question
    each: a turn is kept if all domains are fooled at a smaller radius, which is then bisected. Where gradients are
    known of some of the models, every other turn is to the side that these say.

    Args:
        informed: whether the gradients of an evaluation tell something.

    Raises:
        ValueError: if the set is of another norm, or the domains do not ask a ``BlackBox``.

    Reference: Chen and Gu, "RayS: a ray searching method for hard-label adversarial attack", 2020, Algorithm 3. That a
    stage begins at a drawn block, the tolerances and the use of gradients are ours.
    """

    informed: bool = False

    def __post_init__(self) -> None:
        check_flag("informed", self.informed)

    def start(self, feasible: FeasibleSet, step_size: float | None, steps: int) -> Stepper:
        """Return the stepper; ``step_size`` counts for nothing."""
        if feasible.p != inf:
            raise ValueError(f"Rays is for linf, got a set of norm l{feasible.p:g}")
        return _Rays(self.informed, steps)


class Deciding(ABC):
    """One run: every row has a state of its own, all of them tensors (B, ...) in ``_has``."""

    def __init__(self, informed: bool, steps: int) -> None:
        self._informed, self._steps = informed, steps
        self._has: dict[str, Tensor] = {}

    def step(self, t: int, delta: Tensor, weights: Tensor, evaluation: Evaluation, feasible: FeasibleSet) -> Tensor:
        """Return what is asked in step ``t``; ``evaluation`` judges what was asked before, ``delta`` (B, *S)."""
        if not isinstance(evaluation, KeyedEvaluation) or evaluation.hits is None:
            raise ValueError(f"direction {type(self).__name__[1:]} must have a BlackBox among the models")
        key = (evaluation.key or DrawKey(0))._replace(step=t)
        rows = evaluation.rows if evaluation.rows is not None else torch.arange(len(delta), device=delta.device)
        grads = evaluation.grads
        slope = balanced_gradient(weights, grads) if self._informed and grads is not None else None
        hit = evaluation.hits.to(delta.device)
        if not self._has:
            self._has = {"slope": torch.zeros_like(delta) if slope is None else slope}
            stripes = delta.ndim == 4 and delta.shape[1] > 1 and not self._informed
            known = first_sides(key, rows, feasible) if stripes else -self._has["slope"]
            self._begin(delta if bool(delta.any()) else known, feasible)
        else:
            if slope is not None:
                self._has["slope"] = torch.where(widen(hit, delta), slope, self._has["slope"])
            self._learn(hit, delta, feasible)
        if t == self._steps:
            return feasible.project(self._best(feasible))
        return self._next(key, rows, feasible)

    def select(self, rows: Tensor) -> None:
        """Keep the problems that ``rows`` lists."""
        self._has = {name: value[rows] for name, value in self._has.items()}

    def _bisected(self, hit: Tensor, radius: Tensor) -> Tensor:
        """Note which end of the bracket ``radius`` becomes, and say which brackets are still wide."""
        self._has["high"] = torch.where(hit, radius, self._has["high"])
        self._has["low"] = torch.where(hit, self._has["low"], radius)
        return self._has["high"] - self._has["low"] > _NEAR * self._has["high"]

    @abstractmethod
    def _begin(self, delta: Tensor, feasible: FeasibleSet) -> None:
        """Begin with ``delta`` (B, *S): what was given, else against the known gradients, else stripes, else zeros."""

    @abstractmethod
    def _learn(self, hit: Tensor, delta: Tensor, feasible: FeasibleSet) -> None: ...

    @abstractmethod
    def _next(self, key: DrawKey, rows: Tensor, feasible: FeasibleSet) -> Tensor: ...

    @abstractmethod
    def _best(self, feasible: FeasibleSet) -> Tensor: ...


class _Rays(Deciding):
    """``sides`` (B, *S) are the best signs, ``high`` (B,) their radius; ``trial`` those that are asked at ``asked``."""

    def _begin(self, delta: Tensor, feasible: FeasibleSet) -> None:
        far, rows = far_of(feasible), len(delta)
        self._blocks = torch.tensor(list(blocks(delta[:1].numel())), device=delta.device)
        self._has |= {
            "sides": torch.where(delta >= 0, 1.0, -1.0).to(delta),
            "high": far.clone(),
            "low": torch.zeros_like(far),
            "bisecting": torch.zeros(rows, dtype=torch.bool, device=delta.device),
            "known": torch.zeros(rows, dtype=torch.bool, device=delta.device),
            "count": torch.full((rows,), -1, dtype=torch.int64, device=delta.device),
        }
        self._has |= {"trial": self._has["sides"], "asked": far}

    def _learn(self, hit: Tensor, delta: Tensor, feasible: FeasibleSet) -> None:
        has = self._has
        checked, reset = hit & ~has["bisecting"], torch.zeros_like(has["low"])
        has["low"] = torch.where(checked, reset, has["low"])
        has["sides"] = torch.where(widen(checked, delta), has["trial"], has["sides"])
        has["known"] = has["known"] | hit
        learns = has["bisecting"] | checked
        low, high = has["low"], has["high"]
        wide = self._bisected(hit, has["asked"])
        has["low"], has["high"] = torch.where(learns, has["low"], low), torch.where(learns, has["high"], high)
        has["bisecting"] = learns & wide

    def _next(self, key: DrawKey, rows: Tensor, feasible: FeasibleSet) -> Tensor:
        has, eps = self._has, feasible.radius()
        turn = ~has["bisecting"]
        has["count"] = has["count"] + turn
        has["trial"] = torch.where(widen(turn, has["sides"]), self._turned(key, rows), has["sides"])
        asked = torch.where(turn, has["high"] * (1 - LESS), (has["low"] + has["high"]) / 2)
        asked = torch.where(has["known"], asked, far_of(feasible)).to(eps)
        has["asked"] = torch.where(asked <= eps * (1 + 1e-3), eps, asked).to(has["high"])
        moved = has["trial"] * widen(has["asked"], has["trial"])
        within = widen(has["asked"] <= eps, moved)
        return torch.where(within, feasible.project(moved), moved.clamp(feasible.lower, feasible.upper))

    def _turned(self, key: DrawKey, rows: Tensor) -> Tensor:
        """Return the best signs with one block turned; the first trial turns none."""
        has = self._has
        place, count = torch.arange(has["sides"][:1].numel(), device=rows.device), has["count"]
        stage = self._blocks[(count - 1).clamp_min(0) % len(self._blocks)]  # (B, 4)
        drawn = (uniforms(key._replace(step=0), rows, 64).gather(1, stage[:, 3:]) * stage[:, 2:3]).long()
        begin = (stage[:, 0:1] + drawn) % stage[:, 2:3] * stage[:, 1:2]
        inside = (place >= begin) & (place < begin + stage[:, 1:2]) & (count > 0).unsqueeze(1)
        where = inside.view_as(has["sides"])
        turned = torch.where(where, -has["sides"], has["sides"])
        if not self._informed:
            return turned
        told = torch.where(where & (has["slope"] != 0), -has["slope"].sign(), has["sides"])
        take = (count % 2 == 1) & (told != has["sides"]).flatten(1).any(1)
        return torch.where(widen(take, turned), told, turned)

    def _best(self, feasible: FeasibleSet) -> Tensor:
        return self._has["sides"] * widen(feasible.radius(), self._has["sides"]).to(self._has["sides"])


def blocks(size: int) -> Iterator[tuple[int, int, int, int]]:
    """List the blocks of all stages: number in the stage, length, how many the stage has, and the stage from 0."""
    stage = 0
    while True:
        length = ceil(size / 2**stage)
        count = ceil(size / length)
        yield from ((i, length, count, stage) for i in range(count))
        if length == 1:
            return
        stage += 1


def far_of(feasible: FeasibleSet) -> Tensor:
    """Return the radius from which on the box alone limits a corner, (B,)."""
    return torch.maximum(feasible.upper, -feasible.lower).flatten(1).amax(1)


def widen(rows: Tensor, like: Tensor) -> Tensor:
    """Give ``rows`` (B,) as many dimensions as ``like`` (B, *S) has."""
    return rows.view(-1, *[1] * (like.ndim - 1))
