"""How a perturbation moves where only values of the losses are known: random search in squares, for linf.

Every step proposes one change to the perturbation kept so far; the next evaluation says whether it is kept. So a step
costs each model one answer, and no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import cast

import torch
from torch import Tensor

from omnirobust.core.arguments import check_flag, check_number
from omnirobust.core.directions import Stepper, balanced_gradient
from omnirobust.core.draws import DrawKey, uniforms
from omnirobust.core.threat_models import FeasibleSet
from omnirobust.core.types import Evaluation

_HALVINGS = (3, 15, 60, 150, 300, 600, 1200, 1800, 2400)
"""Steps after which the share of the coordinates that a proposal changes is halved."""


@dataclass(frozen=True)
class KeyedEvaluation(Evaluation):
    """An evaluation that says which global rows its problems are, and under which key they may draw.

    Attributes:
        rows: (B,) int64; None for 0, 1, ...
        key: seed and restart; None for those of seed 0.
        hits: (B,) bool, whether all domains are fooled where they were asked, which may be outside of the set, where
            ``losses`` and ``fooled`` are those of the last point inside; None for ``fooled``.
    """

    rows: Tensor | None = None
    key: DrawKey | None = None
    hits: Tensor | None = None

    def select(self, rows: Tensor) -> KeyedEvaluation:
        """Keep the problems that ``rows`` (int64) lists."""
        kept = super().select(rows)
        own = None if self.rows is None else self.rows[rows]
        hits = None if self.hits is None else self.hits[rows]
        return KeyedEvaluation(kept.losses, kept.fooled, kept.grads, own, self.key, hits)


@dataclass(frozen=True)
class Search:
    """Random search for linf balls, for models that answer and give no gradient.

    Every coordinate is at the end of its interval. The first proposal moves all of them towards the middle of the data
    range, of pictures of several channels each column of each channel to a side at random, unless a start was given;
    each later one turns a square of the image (of inputs without two last axes: coordinates at random) to the other
    end, or, where gradients are known of some of the models, in every other step to the end that these say. What
    lowers the weighted sum of the losses is kept.

    Args:
        informed: whether the gradients of an evaluation tell something.
        share: of the coordinates, in (0, 1], that the first squares turn; it is halved nine times, down to one.

    Raises:
        ValueError: if an argument is out of range, or the set is of another norm than linf.

    Reference: squares at random places that shrink, on the faces of the ball: Andriushchenko et al., "Square attack",
    2020, Algorithms 1 and 2. To turn a square away from what prevails in it, rather than to a side at random, the
    start, the schedule and the use of gradients are ours.
    """

    informed: bool = False
    share: float = 0.1

    def __post_init__(self) -> None:
        check_flag("informed", self.informed)
        check_number("share", self.share, "in (0, 1]", lambda share: 0 < share <= 1)

    def start(self, feasible: FeasibleSet, step_size: float | None, steps: int) -> Stepper:
        """Return the stepper; ``step_size`` counts for nothing: steps go from one end to the other."""
        if feasible.p != inf:
            raise ValueError(f"Search is for linf, got a set of norm l{feasible.p:g}")
        return _Searching(self)


class _Searching:
    """The perturbation kept so far, its losses, and the proposal that was last made."""

    def __init__(self, setting: Search) -> None:
        self._setting = setting
        self._kept: Tensor | None = None
        self._inside = False
        self._losses = self._prior = torch.empty(0)

    def step(self, t: int, delta: Tensor, weights: Tensor, evaluation: Evaluation, feasible: FeasibleSet) -> Tensor:
        """Return the proposal of step ``t``; ``evaluation`` judges the one before, ``delta`` (B, *S)."""
        keyed = cast(KeyedEvaluation, evaluation) if isinstance(evaluation, KeyedEvaluation) else None
        rows = torch.arange(len(delta), device=delta.device) if keyed is None or keyed.rows is None else keyed.rows
        key = (DrawKey(0) if keyed is None or keyed.key is None else keyed.key)._replace(step=t)
        grads = evaluation.grads
        prior = balanced_gradient(weights, grads) if self._setting.informed and grads is not None else None
        if self._kept is None:
            self._kept, self._losses = delta, evaluation.losses
            self._prior = delta if prior is None else prior
            self._inside = not bool(delta.any())
            if self._inside:
                return _end(feasible, first_sides(key, rows, feasible) if prior is None else -prior)
        else:
            self._learn(delta, weights, evaluation, prior)
        share = self._setting.share * 0.5 ** sum(t > mark for mark in _HALVINGS)
        return self._turned(chosen(key, rows, delta.shape[1:], share), t, feasible)

    def select(self, rows: Tensor) -> None:
        """Keep the problems that ``rows`` lists."""
        if self._kept is not None:
            self._kept, self._losses, self._prior = self._kept[rows], self._losses[rows], self._prior[rows]

    def _learn(self, delta: Tensor, weights: Tensor, evaluation: Evaluation, prior: Tensor | None) -> None:
        """Keep the proposal of those problems whose losses, at today's weights, it lowers."""
        assert self._kept is not None
        lower = (weights * (evaluation.losses - self._losses)).sum(1) < 0
        if self._inside:  # the start was zero: what turns squares needs the ends
            lower, self._inside = torch.ones_like(lower), False
        rows = lower.view(-1, *[1] * (delta.ndim - 1))
        self._kept = torch.where(rows, delta, self._kept)
        self._losses = torch.where(lower.unsqueeze(1), evaluation.losses, self._losses)
        if prior is not None:
            self._prior = torch.where(rows, prior, self._prior)

    def _turned(self, where: Tensor, t: int, feasible: FeasibleSet) -> Tensor:
        """Return what is kept, with the coordinates of ``where`` (B, *S) bool at another end."""
        assert self._kept is not None
        middle = (feasible.lower.clamp_min(-_wide(feasible)) + feasible.upper.clamp_max(_wide(feasible))) / 2
        sides = torch.where(where, (self._kept - middle).sign(), 0)
        axes = tuple(range(2 if sides.ndim > 3 else 1, sides.ndim))  # the channels of an image turn each by itself
        prevails = sides.sum(axes, keepdim=True)
        side = torch.where(prevails == 0, 1.0 if t // 2 % 2 else -1.0, -prevails.sign())
        turned = _end(feasible, side.to(middle).expand_as(middle))
        if self._setting.informed and t % 2:
            told = _end(feasible, -self._prior)
            rows = ((told != self._kept) & where).flatten(1).any(1).view(-1, *[1] * (where.ndim - 1))
            turned = torch.where(rows, told, turned)
        return torch.where(where, turned, self._kept)


def first_sides(key: DrawKey, rows: Tensor, feasible: FeasibleSet) -> Tensor:
    """Return where to begin, (B, *S), of which the signs count.

    Pictures of several channels, of which photographs are: vertical stripes, as "Square attack" begins, which networks
    feel more than an even change. All else: towards the middle of the data range.
    """
    shape = feasible.lower.shape
    if len(shape) != 4 or shape[1] == 1:
        return (feasible.lower + feasible.upper).nan_to_num(0.0)  # without ends there is no middle
    drawn = uniforms(key, rows, shape[1] * shape[3]).view(shape[0], shape[1], 1, shape[3])
    return (drawn - 0.5).to(feasible.lower).expand(shape)


def _wide(feasible: FeasibleSet) -> Tensor:
    return feasible.radius().view(-1, *[1] * (feasible.lower.ndim - 1)).to(feasible.lower)


def _end(feasible: FeasibleSet, side: Tensor) -> Tensor:
    """Return the upper ends of the intervals where ``side`` (B, *S) is >= 0, the lower ones where it is below."""
    return feasible.project(torch.where(side >= 0, _wide(feasible), -_wide(feasible)))


def chosen(key: DrawKey, rows: Tensor, shape: Sequence[int], share: float) -> Tensor:
    """Choose a square of every image at random; of other inputs, coordinates.

    Args:
        key: of the draws.
        rows: global numbers, (B,).
        shape: of one input; images are (channels, height, width).
        share: of the coordinates that are chosen, about; at least one pixel.

    Returns:
        (B, *S) bool.
    """
    if len(shape) != 3:
        drawn = uniforms(key, rows, torch.Size(shape).numel())
        least = drawn == drawn.amin(1, keepdim=True)
        return ((drawn < share) | least).view(len(rows), *shape)
    height, width = shape[-2:]
    side = max(1, min(height, width, round((share * height * width) ** 0.5)))
    drawn = uniforms(key, rows, 2)
    inside = []
    for size, u in ((height, drawn[:, 0]), (width, drawn[:, 1])):
        first = (u * (size - side + 1)).long().unsqueeze(1)
        places = torch.arange(size, device=rows.device)
        inside.append((places >= first) & (places < first + side))
    square = inside[0].unsqueeze(2) & inside[1].unsqueeze(1)
    return square.unsqueeze(1).expand(len(rows), *shape)
