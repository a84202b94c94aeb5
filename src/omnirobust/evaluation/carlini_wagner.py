"""The smallest l2 perturbation by the attack of Carlini and Wagner."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from omnirobust._progress import ProgressHook
from omnirobust.core.arguments import check_count, check_flag, check_number
from omnirobust.core.contracts import check_mask
from omnirobust.core.projections import row_norm
from omnirobust.core.threat_models import L2, Bound, Bounds, FeasibleSet
from omnirobust.core.units import seen_in_units
from omnirobust.domains.classifier import Model
from omnirobust.domains.grid import DomainGrid
from omnirobust.domains.losses import signed_margin
from omnirobust.evaluation.minimal import (
    Distortion,
    blind_rows,
    check_search,
    errs,
    in_batches,
    judged,
    like_rows,
    shortened,
)

_DECAY = 0.01
"""The last Adam step of a descent, as a share of the first."""

_WIDEN = 4.0
"""The factor by which c moves until one descent has succeeded and another has failed."""


def minimal_l2(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 100,
    binary_steps: int = 6,
    step_size: float = 2.0,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
    mask: Tensor | None = None,
    scale: Bound | None = None,
    batch_size: int | None = None,
    progress: bool | ProgressHook = False,
) -> Distortion:
    """Find the smallest l2 perturbation of every input by Carlini and Wagner's attack.

        minimise over delta in the box  ||delta||_2^2 + c max(z_y - max_{j != y} z_j, 0)

    by Adam, for each input its own c, found by binary search: too small, and nothing fools; too large, and the norm
    does not count. Here delta is clamped to the box rather than passed through tanh, whose gradient all but vanishes
    at black and white pixels; c and the step start at what the linearised model says, so that no scale of logits has
    to be guessed. The shortest perturbation that fools is kept, and shortened along the line to its input.

    Args:
        model: one model, (B, *S) to logits (B, C).
        x: inputs within ``bounds``, (B, *S), float.
        y: labels, (B,) int64.
        steps: of each descent, >= 1.
        binary_steps: descents, each with its c, >= 1.
        step_size: l2 length of Adam's first step, in units of the distance estimated so far, > 0.
        targeted: whether ``y`` are classes to reach rather than to leave.
        bounds: (lo, hi), the range of the data, see ``ThreatModel``.
        mask: what may change, see ``ThreatModel``.
        scale: unit of each feature: norms are those of delta / scale, and Adam steps in that.
        batch_size: inputs searched together; None for all.
        progress: True draws a bar on the terminal; a callable is given (steps done, steps in all), times inputs.

    Returns:
        Norms and perturbations; an input's result does not depend on the others of its batch.

    Raises:
        ValueError: if an argument, the model's output or a label does not fit, or no gradient reaches any input.

    Cost: steps times binary_steps forwards and input gradients; ten forwards more each for a random model, which must
    err on each of ten draws.

    Reference: Carlini and Wagner, "Towards evaluating the robustness of neural networks", 2017; the paper, Appendix F,
    Tables A9 and A10.
    """
    check_count("steps", steps)
    check_count("binary_steps", binary_steps)
    check_flag("targeted", targeted)
    check_number("step_size", step_size, "finite and > 0", lambda size: 0 < size < math.inf)
    if isinstance(model, (list, tuple, dict)):
        raise ValueError(f"model must be one model, got a {type(model).__name__}; minimal_eps takes several")

    check_search(model, x, batch_size)
    threat = L2(1.0, bounds, mask, scale)
    check_mask(threat)
    domains = DomainGrid({"model": model}, x, y, loss=signed_margin, targeted=targeted)

    def search(grid: DomainGrid, rows: slice, advance: Callable[[int], None]) -> tuple[Distortion, Tensor]:
        around = threat.select(rows, x.ndim - 1).around(x[rows])
        state = _Search(grid, around, step_size)
        for _ in range(binary_steps):
            state.note_c(state.descend(steps, advance))
        return judged(grid, around, bounds, x[rows], *state.result(), "l2"), state.blind

    return in_batches(search, domains, x, batch_size, progress, each=steps * binary_steps)


@dataclass
class _Moments:
    """Adam's running means of the gradient and of its square."""

    first: Tensor
    second: Tensor
    t: int = 0

    def direction(self, gradient: Tensor) -> Tensor:
        """Return the next step for length 1 a coordinate."""
        self.t += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        return self.first / (1 - 0.9**self.t) / ((self.second / (1 - 0.999**self.t)).sqrt() + 1e-8)


class _Search:
    """The inputs of one batch: bounds on each one's c, and the shortest perturbation so far."""

    def __init__(self, grid: DomainGrid, feasible: FeasibleSet, step_size: float) -> None:
        self._grid, self._feasible, self._step_size = grid, feasible, step_size
        self._delta = torch.zeros_like(feasible.lower)
        seen = seen_in_units(grid.evaluate(self._delta), feasible)
        assert seen.fooled is not None and seen.grads is not None
        value, slope = seen.losses[:, 0].abs(), row_norm(seen.grads[0], 2).to(seen.losses)
        self.blind = blind_rows(seen)
        self._done = errs(grid, self._delta) if grid.random else seen.fooled[:, 0]
        self._best = torch.where(self._done, 0.0, torch.inf).to(value)
        # On a linear model c decides how far the hinge pulls: c slope / 2, the distance being value / slope.
        width = feasible.norm(feasible.upper - feasible.lower).to(value)
        self._guess = (value / slope.clamp_min(torch.finfo(value.dtype).tiny)).minimum(width)
        self._c = (2 * self._guess / slope.clamp_min(torch.finfo(value.dtype).eps)).clamp_min(1e-12)
        self._low, self._high = torch.zeros_like(value), torch.full_like(value, torch.inf)

    def descend(self, steps: int, advance: Callable[[int], None]) -> Tensor:
        """Run Adam from zero at the present c; return which inputs were fooled on the way, (B,) bool."""
        delta, hit = torch.zeros_like(self._delta), torch.zeros_like(self._done)
        moments, scale = _Moments(torch.zeros_like(delta), torch.zeros_like(delta)), self._feasible.scale
        length = torch.where(self._best.isfinite(), self._best, self._guess)
        first = like_rows(length * (self._step_size / max(delta[:1].numel(), 1) ** 0.5), delta)
        for t in range(steps):
            seen = seen_in_units(self._grid.evaluate(delta), self._feasible)
            assert seen.fooled is not None and seen.grads is not None
            fooled = seen.fooled[:, 0]
            if self._grid.random:  # one draw may be luck
                fooled = fooled & errs(self._grid, delta)
            if 2 * t >= steps:  # the first steps may jump over the boundary whatever c is
                hit |= fooled
            self._keep(delta, fooled)
            pull = torch.where(seen.losses[:, 0] > 0, self._c, 0.0)
            gradient = 2 * (delta if scale is None else delta / scale) + like_rows(pull, delta) * seen.grads[0]
            step = first * _DECAY ** (t / steps) * moments.direction(gradient)
            moved = delta - (step if scale is None else step * scale)
            delta = torch.clamp(moved.to(delta.dtype), self._feasible.lower, self._feasible.upper)
            advance(len(delta))
        return hit

    def _keep(self, delta: Tensor, fooled: Tensor) -> None:
        size = self._feasible.norm(delta).to(self._best)
        better = fooled & (size < self._best)
        self._best = torch.where(better, size, self._best)
        self._delta = torch.where(like_rows(better, delta), delta, self._delta)

    def note_c(self, hit: Tensor) -> None:
        """Choose the next c: between one that fooled and one that did not, or further out."""
        self._high = torch.where(hit, self._c.minimum(self._high), self._high)
        self._low = torch.where(hit, self._low, self._c.maximum(self._low))
        self._guess = torch.where(self._best.isinf(), 2 * self._guess, self._guess)
        outwards = torch.where(hit, self._c / _WIDEN, self._c * _WIDEN)
        bracketed = (self._low > 0) & self._high.isfinite()
        self._c = torch.where(bracketed, (self._low * self._high).sqrt(), outwards)

    def result(self) -> tuple[Tensor, Tensor]:
        """Return the shortest perturbations, cut at the boundary, (B, *S), and where there are any, (B,) bool."""
        found = self._best.isfinite()
        rows = (found & ~self._done).nonzero().flatten()
        if len(rows):
            self._delta[rows] = shortened(self._grid.select(rows), self._delta[rows])
        return self._delta, found
