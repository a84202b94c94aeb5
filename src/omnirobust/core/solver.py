"""Algorithm 1: one projected step on the perturbation, one ascent step on the weights, repeated.

    minimise over delta in X, maximise over w in the simplex:  sum_k w_k F_k(delta) - gamma/2 ||w - 1/K||^2    (4)

One evaluation a step: the evaluation at delta_t gives the losses for the weights of step t and the gradients for the
perturbation of step t + 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import isnan
from typing import Any, Literal

import torch
from torch import Tensor

from omnirobust.core.arguments import check_run, is_ours
from omnirobust.core.choices import Keep as Keep
from omnirobust.core.contracts import check_member, checked_domains, checked_rule
from omnirobust.core.directions import Direction
from omnirobust.core.draws import start_of
from omnirobust.core.history import Active, BestIterate, History, Trace
from omnirobust.core.threat_models import FeasibleSet
from omnirobust.core.types import Domains, Evaluation, WeightRule
from omnirobust.core.units import seen_in_units
from omnirobust.core.units import start as start_in_units
from omnirobust.core.weights import weights_of


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

    For t = 1, ..., T: delta_t = proj(delta_{t-1} - alpha d_t) by (13), d_t the direction at w_{t-1}; then w_t by (14).

    Args:
        domains: the K losses.
        feasible: the set X around each problem's input.
        rule: how w answers the losses.
        init: first perturbations (B, *S), projected before they count as an iterate. Not given: zeros, or with a
            ``generator`` normal noise of standard deviation 0.1, in units of the set's scale.
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
    ``DomainGrid.scaled``. Memory: what ``domains.evaluate`` holds, and some tensors of the size of delta.

    Reference: the paper, Section 3.1, Algorithm 1.
    """
    check_run(steps, step_size, keep, history, domains, feasible, rule, direction)
    # Losses may have a unit that belongs to the set: it is fixed here, for the whole run.
    scaled: Any = getattr(domains, "scaled", None)
    domains = scaled(feasible) if scaled else domains
    # Code of the caller's own is held to its word at every answer; the library's has tests for that.
    domains = domains if is_ours(domains) else checked_domains(domains)
    rule = rule if is_ours(rule) else checked_rule(rule)
    sees = getattr(rule, "step_evaluated", None)
    start, foreign = start_of(init, feasible, generator), type(feasible) is not FeasibleSet
    delta = feasible.project(start)
    if foreign:
        check_member(feasible, delta, start)
    evaluation = domains.evaluate(delta, grad=steps > 0)
    w = weights_of(rule, weights, evaluation.losses)
    plain = feasible.scale is None  # else delta moves in units of its features
    started = direction.start if plain else partial(start_in_units, direction)
    stepper = started(feasible, step_size, steps)
    active = Active(evaluation, stop_when_fooled)
    within = feasible  # of the problems that are still in the batch
    best, trace = BestIterate(keep, delta, w, evaluation), Trace(steps, w, evaluation)
    _see(0, active, delta, w, evaluation, domains, callback)
    for t in range(1, steps + 1):
        # Problems that are done leave in bulk, not one by one: few sizes of batches occur.
        left = active.leave()
        if left is not None:
            if len(left) == 0:
                trace.repeat(t, steps + 1)
                break
            domains, within = domains.select(left), within.select(left)
            delta, w, evaluation = delta[left], w[left], evaluation.select(left)
            stepper.select(left)
        delta = stepper.step(t, delta, w, evaluation, within)
        del evaluation  # its gradients make room for the next ones
        evaluation = domains.evaluate(delta, grad=t < steps)
        seen = evaluation if plain else seen_in_units(evaluation, within)
        w = sees(w, seen) if sees and evaluation.grads else rule.step(w, evaluation.losses)
        if getattr(stepper, "outside", False):  # of X, on a way round: it counts for nothing
            trace.pass_over(t, active, w)
        else:
            best.offer(t, active, delta, w, evaluation)
            trace.note(t, active, w, evaluation, best)
            active.finish(evaluation)
        _see(t, active, delta, w, evaluation, domains, callback)
    if foreign:
        check_member(feasible, best.delta, best.delta)
    return Solution(best.delta, best.weights, best.losses, best.fooled, best.step, trace.means(full=history == "full"))


def _see(
    t: int, active: Active, delta: Tensor, w: Tensor, e: Evaluation, domains: Domains,
    callback: Callable[[Progress], None] | None,
) -> None:  # fmt: skip
    """Refuse NaN, and tell the callback."""
    # a sum is NaN if a term is; infinities of both signs make it so, too
    if isnan(float(e.losses.sum())) and bool(e.losses.isnan().any()):
        if bool(delta.isnan().any()):
            raise ValueError(f"the perturbation became NaN at step {t}: a gradient or a projection was NaN")
        domain = domains.names[int(e.losses.isnan().any(dim=0).nonzero()[0])]
        raise ValueError(f"domain {domain!r} gave a NaN loss at step {t}")
    if callback is not None:
        callback(Progress(t, active.rows, delta, w, e))
