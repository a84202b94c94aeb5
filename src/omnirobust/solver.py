"""Algorithm 1: one projected step on the perturbation, one ascent step on the weights, repeated.

    minimise over delta in X, maximise over w in the simplex:  sum_k w_k F_k(delta) - gamma/2 ||w - 1/K||^2    (4)

One evaluation a step: the evaluation at delta_t gives the losses for the weights of step t and the gradients for the
perturbation of step t + 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from omnirobust._choices import Keep as Keep
from omnirobust._contracts import check_domains, check_member, evaluated, first_weights, next_weights, off_simplex
from omnirobust._counts import check_count
from omnirobust._types import Domains, Evaluation, WeightRule
from omnirobust.directions import Direction, weighted_gradient
from omnirobust.history import History, HistoryRows, is_better
from omnirobust.threat_models import FeasibleSet
from omnirobust.weights import ascend

_SHRINK = 0.75


@runtime_checkable
class Scalable(Protocol):
    """Domains whose losses may have a unit that belongs to the set: it is fixed before the first step."""

    def scaled(self, feasible: FeasibleSet) -> Domains:
        """Return the domains with their unit set; themselves where nothing is to set."""
        ...


@dataclass(frozen=True)
class Progress:
    """What a callback sees after each step: the step, and the current problems' perturbation, weights, evaluation.

    ``rows`` are the original indices of the problems still in the batch; w_t is the answer to the losses at delta_t.
    """

    step: int
    rows: Tensor
    delta: Tensor
    weights: Tensor
    evaluation: Evaluation


@dataclass(frozen=True)
class Solution:
    """What ``solve`` returns.

    Attributes:
        delta: (B, *S), feasible.
        weights: w after the evaluation at ``delta``, (B, K).
        losses: F_k(delta), (B, K).
        fooled: (B, K) bool, or None where the domains know no success.
        step: the iterate that ``delta`` is, (B,) int64, 0 the starting point.
        history: what happened at every iterate.
    """

    delta: Tensor
    weights: Tensor
    losses: Tensor
    fooled: Tensor | None
    step: Tensor
    history: History


def solve(
    domains: Domains,
    feasible: FeasibleSet,
    rule: WeightRule,
    *,
    init: Tensor | None = None,
    steps: int,
    step_size: float | None = None,
    direction: Direction,
    weights: Tensor | None = None,
    keep: Keep = "last",
    stop_when_fooled: bool = False,
    generator: torch.Generator | None = None,
    callback: Callable[[Progress], None] | None = None,
    history: Literal["means", "full"] = "means",
) -> Solution:
    """Solve (4) by Algorithm 1 for B problems at once.

    For t = 1, ..., T: delta_t = proj(delta_{t-1} - alpha d_t) by (13), d_t the direction at w_{t-1}; then w_t from the
    losses at delta_t by (14).

    Args:
        domains: the K losses.
        feasible: the set X around each problem's input.
        rule: how w answers the losses.
        init: first perturbations (B, *S), projected before they count as an iterate. Not given: zeros, or with a
            ``generator`` normal noise of standard deviation 0.1.
        steps: T >= 0.
        step_size: alpha; the direction says its units and whether it may be None.
        direction: how delta moves.
        weights: first weights (B, K), each row in the simplex (a warm start); not given, the rule's own.
        keep: "last" returns the last iterate; "best", row by row, the iterate that fools most domains, ties by
            the lowest worst loss, then the earliest.
        stop_when_fooled: drop problems once all their domains are fooled. Their result is the iterate that did it;
            their history repeats its last values.
        generator: draws the start where ``init`` is not given.
        callback: called after every evaluation, the starting point's included.
        history: "means" over problems, or "full" for every problem's values too.

    Returns:
        The kept iterates, one a problem, and the history.

    Raises:
        ValueError: if an argument does not fit, a loss is NaN, or domains, rule or set of one's own break their word.

    Cost: K (T + 1) forwards and K T input gradients; K of each before for a loss that wants the reach of a grid, see
    ``DomainGrid.scaled``. Memory: what ``domains.evaluate`` holds, and some delta-sized
    tensors: the iterate, the kept one, and the direction's state.

    Reference: the paper, Section 3.1, Algorithm 1.
    """
    _check_settings(steps, step_size, keep, history)
    K = check_domains(domains)
    domains = domains.scaled(feasible) if isinstance(domains, Scalable) else domains
    start = _start(init, feasible, generator)
    delta = feasible.project(start)
    check_member(feasible, delta, start)
    run = _Run(domains, feasible, steps, keep, stop_when_fooled)
    evaluation = evaluated(domains, delta, K, steps > 0)
    if stop_when_fooled and evaluation.fooled is None:
        raise ValueError("stop_when_fooled needs domains that know success; these give fooled = None")
    w = _first_weights(rule, weights, evaluation.losses)
    stepper = direction.start(feasible, step_size, steps)
    run.record(0, delta, w, evaluation, callback)
    for t in range(1, steps + 1):
        kept = run.shrink(t)
        if kept is not None:
            if len(kept) == 0:
                break
            delta, w, evaluation = delta[kept], w[kept], _select(evaluation, kept)
            stepper.select(kept)
        delta = stepper.step(t, delta, w, evaluation, run.feasible)
        evaluation = evaluated(run.domains, delta, K, t < steps)
        w = next_weights(rule, w, evaluation.losses)
        run.record(t, delta, w, evaluation, callback, outside=getattr(stepper, "outside", False))
    solution = run.solution(full=history == "full")
    check_member(feasible, solution.delta, solution.delta)
    return solution


class _Run:
    """The problems still in the batch, and for every problem what to return and what happened."""

    def __init__(self, domains: Domains, feasible: FeasibleSet, steps: int, keep: Keep, stop: bool) -> None:
        self.domains, self.feasible = domains, feasible
        self._steps, self._keep, self._stop = steps, keep, stop
        self._rows = torch.arange(0)
        self._whole = True

    def record(
        self, t: int, delta: Tensor, w: Tensor, e: Evaluation, callback: Callable[[Progress], None] | None,
        *, outside: bool = False,
    ) -> None:  # fmt: skip
        """Take note of iterate ``t`` for the problems in the batch; nothing counts that may lie ``outside`` X."""
        if t == 0:
            self._allocate(delta, w, e)
        rows = self._rows
        done = self._done if self._whole else self._done[rows]
        if outside:
            self._repeat_history(t, until=t + 1)
            self._weight_rows[t, rows[~done]] = w[~done]
        else:
            self._count_iterate(t, delta, w, e, done)
        if bool(e.losses.isnan().any()):
            if bool(delta.isnan().any()):
                raise ValueError(f"the perturbation became NaN at step {t}: a gradient or a projection was NaN")
            domain = self.domains.names[int(e.losses.isnan().any(dim=0).nonzero()[0])]
            raise ValueError(f"domain {domain!r} gave a NaN loss at step {t}")
        if callback is not None:
            callback(Progress(t, rows, delta, w, e))

    def _count_iterate(self, t: int, delta: Tensor, w: Tensor, e: Evaluation, done: Tensor) -> None:
        """Let an iterate into the history, and keep it where it is better."""
        self._note_history(t, w, e, done)
        better = self._better(e) & ~done if self._stop or self._keep == "best" else torch.ones_like(done)
        self._take(t, better, delta, w, e)
        if self._stop and e.fooled is not None:
            self._done[self._rows] |= e.fooled.all(dim=1)

    def _allocate(self, delta: Tensor, w: Tensor, e: Evaluation) -> None:
        B, K = e.losses.shape
        self._rows = torch.arange(B, device=delta.device)
        self._done = torch.zeros(B, dtype=torch.bool, device=delta.device)
        self._count = torch.full((B,), -1, dtype=torch.int64, device=delta.device)
        self._worst = torch.full((B,), torch.inf, dtype=e.losses.dtype, device=delta.device)
        self._delta, self._weights, self._losses = delta.clone(), w.clone(), e.losses.clone()
        self._fooled = None if e.fooled is None else e.fooled.clone()
        self._step = torch.zeros_like(self._count)
        self._loss_rows = e.losses.new_zeros(self._steps + 1, B, K)
        self._weight_rows = w.new_zeros(self._steps + 1, B, K)
        self._fooled_rows = None if e.fooled is None else e.fooled.new_zeros(self._steps + 1, B, K)
        self._best_rows = e.losses.new_zeros(self._steps + 1, B, dtype=torch.bool)

    def _note_history(self, t: int, w: Tensor, e: Evaluation, done: Tensor) -> None:
        live = self._rows[~done] if self._stop else self._rows
        for history, now in ((self._loss_rows, e.losses), (self._weight_rows, w), (self._fooled_rows, e.fooled)):
            if history is None or now is None:
                continue
            if self._whole and not self._stop:
                history[t] = now
            else:
                history[t] = history[t - 1] if t else now
                history[t, live] = now[~done] if self._stop else now

    def _better(self, e: Evaluation) -> Tensor:
        """Whether this iterate beats the kept one: more domains fooled, or as many at a lower worst loss."""
        worst = e.losses.amax(dim=1)
        count = torch.zeros_like(self._rows) if e.fooled is None else e.fooled.sum(dim=1)
        better = is_better(count, worst, self._count[self._rows], self._worst[self._rows])
        if self._keep == "last":
            better = torch.ones_like(better)
        taken = self._rows[better]
        self._count[taken], self._worst[taken] = count[better], worst[better]
        return better

    def _take(self, t: int, better: Tensor, delta: Tensor, w: Tensor, e: Evaluation) -> None:
        if self._whole and bool(better.all()):
            for kept, now in ((self._delta, delta), (self._weights, w), (self._losses, e.losses)):
                kept.copy_(now)
            if self._fooled is not None and e.fooled is not None:
                self._fooled.copy_(e.fooled)
            self._step.fill_(t)
        else:
            rows = self._rows[better]
            self._delta[rows], self._weights[rows], self._losses[rows] = delta[better], w[better], e.losses[better]
            if self._fooled is not None and e.fooled is not None:
                self._fooled[rows] = e.fooled[better]
            self._step[rows] = t
        if self._fooled is not None:
            self._best_rows[t] = self._fooled.all(dim=1)

    def shrink(self, t: int) -> Tensor | None:
        """Return the positions to keep once few enough problems are left, else None; () when none is.

        Sizes shrink geometrically, so that few distinct batch sizes occur; finished problems fill a batch up.
        """
        if not self._stop:
            return None
        done = self._done[self._rows]
        size, left = len(done), len(done) - int(done.sum())
        if left == 0:
            self._repeat_history(t)
            return self._rows[:0]
        if left > _SHRINK * size:
            return None
        while _SHRINK * size >= left and size > 1:
            size = int(_SHRINK * size)
        kept = torch.argsort(done.to(torch.uint8), stable=True)[: max(size, left)].sort().values
        self._rows = self._rows[kept]
        self._whole = False
        self.domains, self.feasible = self.domains.select(kept), self.feasible.select(kept)
        return kept

    def _repeat_history(self, t: int, until: int | None = None) -> None:
        for history in (self._loss_rows, self._weight_rows, self._fooled_rows, self._best_rows):
            if history is not None:
                history[t:until] = history[t - 1]

    def solution(self, *, full: bool) -> Solution:
        """Return what was kept."""
        rows = HistoryRows(self._loss_rows, self._weight_rows, self._fooled_rows, self._best_rows)
        history = rows.means(keep_rows=full)
        return Solution(self._delta, self._weights, self._losses, self._fooled, self._step, history)


def stationarity(
    domains: Domains, feasible: FeasibleSet, delta: Tensor, weights: Tensor, *, gamma: float, alpha: float, beta: float
) -> Tensor:
    """Measure how far (delta, w) is from a first-order stationary point of (4), as Theorem 1 does.

    The l2 norm of the projected gradient: of (delta - proj_X(delta - alpha g)) / alpha, with g the gradient of (4) in
    delta, together with (w - proj_P(w + beta (F - gamma (w - 1/K)))) / beta. Zero exactly at stationary points.

    Args:
        delta: (B, *S), feasible.
        weights: (B, K), in the simplex.
        gamma: of (4), >= 0.
        alpha: step size of the measure in delta, > 0.
        beta: step size of the measure in w, > 0.

    Returns:
        (B,), >= 0.

    Cost: one evaluation with gradients.
    """
    evaluation = domains.evaluate(delta)
    assert evaluation.grads is not None
    moved = feasible.project(delta - alpha * weighted_gradient(weights, evaluation.grads))
    raised = ascend(weights, evaluation.losses, beta, gamma)
    in_delta = torch.linalg.vector_norm((delta - moved).flatten(1), dim=1) / alpha
    in_weights = torch.linalg.vector_norm(weights - raised, dim=1) / beta
    return torch.hypot(in_delta, in_weights)


def _start(init: Tensor | None, feasible: FeasibleSet, generator: torch.Generator | None) -> Tensor:
    if init is not None:
        if not isinstance(init, Tensor):
            raise ValueError(f"init must be a tensor, got {type(init).__name__}")
        if tuple(init.shape) != tuple(feasible.shape):
            raise ValueError(f"init must have shape {tuple(feasible.shape)}, got {tuple(init.shape)}")
        if not bool(init.isfinite().all()):
            raise ValueError("init must be finite, got NaN or infinity")
        return init.detach().to(feasible.lower)
    zeros = torch.zeros_like(feasible.lower, memory_format=torch.contiguous_format)
    return zeros if generator is None else zeros.normal_(0, 0.1, generator=generator)


def _first_weights(rule: WeightRule, weights: Tensor | None, losses: Tensor) -> Tensor:
    B, K = losses.shape
    if weights is None:
        return first_weights(rule, B, K, losses)
    if tuple(weights.shape) != (B, K):
        raise ValueError(f"weights must have shape ({B}, {K}), got {tuple(weights.shape)}")
    if bool(off_simplex(weights).any()):
        raise ValueError("weights must be non-negative and each row must sum to 1")
    return weights.to(losses)


def _select(e: Evaluation, rows: Tensor) -> Evaluation:
    return Evaluation(
        e.losses[rows],
        None if e.fooled is None else e.fooled[rows],
        None if e.grads is None else tuple(g[rows] for g in e.grads),
    )


def _check_settings(steps: int, step_size: float | None, keep: str, history: str) -> None:
    check_count("steps", steps, 0)
    if steps >= 2**31:  # what is kept of each would fit no memory, nor its number a tensor
        raise ValueError(f"steps must be < 2147483648, got {steps}")
    if step_size is not None and not (isinstance(step_size, int | float) and isfinite(step_size) and step_size > 0):
        raise ValueError(f"step_size must be finite and > 0, got {step_size!r}")
    if keep not in ("last", "best"):
        raise ValueError(f"keep must be 'last' or 'best', got {keep!r}")
    if history not in ("means", "full"):
        raise ValueError(f"history must be 'means' or 'full', got {history!r}")
