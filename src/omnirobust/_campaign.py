"""One attack from resolved settings to a result: batches, restarts, fresh draws, success recomputed at the end.

Every recipe of ``attacks`` ends here: they differ in the grid of domains only.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from omnirobust._contracts import set_around
from omnirobust._labels import accuracy_of, labels_of
from omnirobust._memory import Meter
from omnirobust._models import Models, Precision
from omnirobust._progress import ProgressHook, bar
from omnirobust._types import Evaluation
from omnirobust._watch import Blindness, GradientWatch
from omnirobust.domains import DomainGrid
from omnirobust.history import History
from omnirobust.results import AttackResult, join_results
from omnirobust.settings import AttackSettings
from omnirobust.solver import Progress, Solution, solve
from omnirobust.starts import normal_start
from omnirobust.threat_models import Clip, FeasibleSet, ThreatModel
from omnirobust.views import View
from omnirobust.weights import Fixed

_SELECTION, _JUDGEMENT = 2**30, 2**30 + 1
"""Restart numbers that key the draws on which iterates are compared, and those on which the result is judged."""


class BatchStore(Protocol):
    """Where the results of finished batches lie, so that a stopped attack goes on where it was."""

    def get(self, index: int) -> AttackResult | None:
        """Return the result of batch ``index`` if it is there."""
        ...

    def put(self, index: int, result: AttackResult) -> None:
        """Keep the result of batch ``index``."""
        ...


@dataclass(frozen=True)
class Plan:
    """One attack, resolved: everything but the inputs."""

    models: Models
    settings: AttackSettings
    threat_model: ThreatModel
    steps: int
    restarts: int
    targeted: bool
    stop_when_fooled: bool
    precision: Precision
    history: Literal["means", "full"]
    seed: int
    views: tuple[View, ...] | None = None
    shared: bool = False
    clip: Clip = "image"
    samples: int = 1
    draws: int = 1
    meter: Meter = field(default_factory=lambda: Meter(None))
    true_labels: Tensor | None = None

    def grid(self, x: Tensor, y: Tensor, restart: int, first_row: int, *, exact: bool = False) -> DomainGrid:
        """Return the domains of inputs ``x``; ``exact``: in full precision, one draw an evaluation."""
        return DomainGrid(
            self.models, x, y, loss=self.settings.loss, transforms=self.views, shared=self.shared,
            targeted=self.targeted, clip=self.clip, samples=1 if exact else self.samples,
            precision="fp32" if exact else self.precision, bounds=self.threat_model.bounds, seed=self.seed,
            restart=restart, first_row=first_row, memory=self.meter,
        )  # fmt: skip

    def feasible(self, x: Tensor) -> FeasibleSet:
        """Return the perturbations allowed around inputs ``x``."""
        return set_around(self.threat_model, x, shared=self.shared, clip=self.clip)

    def rows(self, rows: slice | Tensor) -> Plan:
        """Return the plan of some problems: radii and weights that are given for each are cut with them."""
        eps = self.threat_model.eps
        threat = self.threat_model
        if isinstance(eps, Tensor) and eps.ndim == 1:
            threat = replace(threat, eps=eps[rows])
        rule = self.settings.rule
        labels = None if self.true_labels is None else self.true_labels[rows]
        cut = replace(self, threat_model=threat, true_labels=labels)
        if isinstance(rule, Fixed) and rule.w.ndim == 2:
            return replace(cut, settings=replace(self.settings, rule=Fixed(rule.w[rows])))
        return cut

    def describe(self) -> dict[str, Any]:
        """Return the resolved settings as plain values, for the record of a run."""
        s, threat = self.settings, self.threat_model
        return {
            "norm": threat.name,
            "eps": threat.eps.tolist() if isinstance(threat.eps, Tensor) else threat.eps,
            "bounds": list(threat.bounds),
            "steps": self.steps,
            "step_size": s.step_size,
            "rule": repr(s.rule),
            "direction": repr(s.direction),
            "loss": getattr(s.loss, "__name__", repr(s.loss)),
            "start": s.start,
            "keep": s.keep,
            "targeted": self.targeted,
            "accuracy_of": accuracy_of(self.targeted, self.true_labels),
            "stop_when_fooled": self.stop_when_fooled,
            "restarts": self.restarts,
            "precision": self.precision,
            "seed": self.seed,
            "mask": None if threat.mask is None else int(threat.mask.sum()),
            "shared": self.shared,
            "clip": self.clip if self.shared else None,
            "transforms": None if self.views is None else {view.name: repr(view) for view in self.views},
            "samples": self.samples,
            "draws": self.draws,
        }


def run(
    plan: Plan,
    x: Tensor,
    y: Tensor,
    init: Tensor | None,
    *,
    batch_size: int | None,
    progress: bool | ProgressHook,
    first_row: int,
    store: BatchStore | None,
) -> AttackResult:
    """Attack inputs ``x`` batch by batch, those that ``store`` has not got already."""
    size = batch_size or max(len(x), 1)
    x, starts, parts = x.detach(), range(0, max(len(x), 1), size), []
    y = y.expand(len(x), *y.shape[1:]) if y.ndim == 4 else y
    blind = Blindness()
    with bar(progress, total=len(starts) * plan.restarts * (plan.steps + 1)) as advance:
        for index, begin in enumerate(starts):
            rows = slice(begin, begin + size)
            part = plan.rows(rows)
            done = None if store is None else store.get(index)
            if done is None or not _belongs(done, part, x[rows]):
                given = None if init is None else init[rows]
                attack = _Batch(part, x[rows], y[rows], first_row + begin)
                done = attack.run(given, GradientWatch(attack.grid(0), advance, blind))
                if store is not None:
                    store.put(index, done)
            else:
                advance(plan.restarts * (plan.steps + 1))
            parts.append(done.to(x.device))  # a store keeps results on the processor
    blind.judge(enough=1)
    joined = join_results(parts)
    return replace(joined, settings=replace(plan, draws=joined.draws).describe())


def _belongs(done: AttackResult, plan: Plan, x: Tensor) -> bool:
    """Say whether a stored result is one of this attack on as many problems."""
    return len(done.delta) == len(x) and done.settings == replace(plan, draws=done.draws).describe()


class _Batch:
    """The problems of one batch, and what is done with them."""

    def __init__(self, plan: Plan, x: Tensor, y: Tensor, first_row: int) -> None:
        self._plan, self._x, self._y, self._first_row = plan, x, y, first_row
        self._feasible = plan.feasible(x)

    def grid(self, restart: int, *, exact: bool = False) -> DomainGrid:
        """Return the domains of this batch, with the draws of ``restart``."""
        return self._plan.grid(self._x, self._y, restart, self._first_row, exact=exact)

    def run(self, init: Tensor | None, watch: GradientWatch) -> AttackResult:
        """Solve, restart by restart, and judge what is kept."""
        plan, best = self._plan, None
        for restart in range(plan.restarts):
            begin = init if restart == 0 and init is not None else self._start(restart)
            left = None if best is None or not plan.stop_when_fooled else _unfinished(best)
            watch.restart(plan.steps)
            if left is None or len(left):
                found = self._solve(self.grid(restart), begin, left, watch)
                best = found if best is None else better_of(best, found, left)
            watch.finish()
        assert best is not None
        return self._finish(best, watch.zero_gradient)

    def _solve(self, grid: DomainGrid, init: Tensor, left: Tensor | None, watch: GradientWatch) -> Solution:
        plan, s, last = self._plan, self._plan.settings, _LastIterate(watch, self._plan.steps)
        found = solve(
            grid if left is None else grid.select(left),
            self._feasible if left is None else self._feasible.select(left),
            s.rule if left is None else plan.rows(left).settings.rule,
            init=init if left is None else init[left],
            steps=plan.steps, step_size=s.step_size, direction=s.direction, keep=s.keep,
            # a lucky draw must not end the attack: where something is random, only later restarts leave out what fools
            stop_when_fooled=plan.stop_when_fooled and not grid.random, callback=last, history="full",
        )  # fmt: skip
        return self._compare_anew(found, last, left) if grid.random and s.keep == "best" else found

    def _compare_anew(self, found: Solution, last: _LastIterate, left: Tensor | None) -> Solution:
        """Score the best iterate again, and the last one, on draws that neither has seen: the first may be luck."""
        kept = _with(found, self._on_other_draws(found.delta, left))
        if last.seen is None:
            return kept
        rows, final = last.seen.rows, last.seen
        e = self._on_other_draws(final.delta, rows if left is None else left[rows])
        step = torch.full_like(rows, final.step)
        other = Solution(final.delta, final.weights, e.losses, e.fooled, step, found.history)
        return _chosen(kept, other, rows, _beats(other, kept, rows), found.history)

    def _on_other_draws(self, delta: Tensor, rows: Tensor | None) -> Evaluation:
        grid = self.grid(_SELECTION, exact=True)
        return _judge(grid if rows is None else grid.select(rows), delta, self._plan.draws)[0]

    def _start(self, restart: int) -> Tensor:
        like = self._feasible.lower
        if self._plan.settings.start == "zero" and restart == 0:
            return torch.zeros_like(like)
        low, high = self._plan.threat_model.bounds
        return normal_start(like, self._plan.seed, restart, self._first_row) * (high - low)

    def _finish(self, found: Solution, zero_gradient: Tensor) -> AttackResult:
        plan = self._plan
        delta = found.delta.unsqueeze(1) if plan.shared else found.delta
        adversarial = (self._x + delta).clamp(*plan.threat_model.bounds)
        exact = plan.grid(adversarial, self._y, _JUDGEMENT, self._first_row, exact=True)
        draws = plan.draws if exact.random else 1
        final, success = _judge(exact, torch.zeros_like(found.delta), draws)
        assert final.fooled is not None
        labels = labels_of(
            plan.models, self._x, self._y, plan.true_labels, exact.sizes, shared=plan.shared, targeted=plan.targeted
        )
        return AttackResult(
            adversarial=adversarial,
            delta=found.delta,
            weights=found.weights,
            losses=final.losses,
            fooled=final.fooled,
            success=success,
            draws=draws,
            names=exact.names,
            axes=exact.axes,
            history=found.history if plan.history == "full" else replace(found.history, rows=None),
            steps=plan.steps,
            gradient_evaluations=self.grid(0).images * plan.steps * plan.restarts,
            zero_gradient=zero_gradient,
            settings=replace(plan, draws=draws).describe(),
            right=None if labels is None else self._right(adversarial, labels.of, draws),
            already=None if labels is None else labels.already,
        )

    def _right(self, adversarial: Tensor, labels: Tensor, draws: int) -> Tensor:
        """Return the share of the draws of the judgement on which domains give ``labels``, (B, K)."""
        untargeted = replace(self._plan, targeted=False)
        grid = untargeted.grid(adversarial, labels, _JUDGEMENT, self._first_row, exact=True)
        return 1 - _judge(grid, torch.zeros_like(self._feasible.lower), draws)[1]


class _LastIterate:
    """Passes on what happens, and remembers the last iterate of those problems that got there."""

    def __init__(self, watch: GradientWatch, steps: int) -> None:
        self._watch, self._steps = watch, steps
        self.seen: Progress | None = None

    def __call__(self, seen: Progress) -> None:
        self._watch(seen)
        if seen.step == self._steps:
            self.seen = seen


def _judge(grid: DomainGrid, delta: Tensor, draws: int) -> tuple[Evaluation, Tensor]:
    """Evaluate on ``draws`` fresh draws: mean losses, whether all of them fool, and the share that does (B, K)."""
    losses, hits = [], []
    for _ in range(draws):
        e = grid.evaluate(delta, grad=False)
        assert e.fooled is not None
        losses.append(e.losses)
        hits.append(e.fooled)
    fooled = torch.stack(hits)
    mean = losses[0] if draws == 1 else torch.stack(losses).mean(0)
    return Evaluation(mean, fooled.all(0)), fooled.to(mean.dtype).mean(0)


def _with(found: Solution, e: Evaluation) -> Solution:
    return replace(found, losses=e.losses, fooled=e.fooled)


def _unfinished(found: Solution) -> Tensor:
    """Return the rows that some domain still resists, as indices."""
    assert found.fooled is not None
    return (~found.fooled.all(dim=1)).nonzero().flatten()


def better_of(a: Solution, b: Solution, rows: Tensor | None = None) -> Solution:
    """Keep, row by row, the solution that fools more domains, ties by the lower worst loss, then ``a``.

    Args:
        a: of B problems.
        b: of the problems of ``a`` that ``rows`` lists; of all if it is None.
        rows: int64 indices into ``a``.
    """
    rows = torch.arange(len(a.delta), device=a.delta.device) if rows is None else rows
    better = _beats(b, a, rows)
    return _chosen(a, b, rows, better, a.history.choose(b.history, rows, better))


def _beats(b: Solution, a: Solution, rows: Tensor) -> Tensor:
    """Say which problems of ``b``, the ``rows`` of ``a``, it solves better, (len(rows),) bool."""
    lower = b.losses.amax(1) < a.losses[rows].amax(1)
    if a.fooled is None or b.fooled is None:
        return lower
    more = b.fooled.sum(1) - a.fooled[rows].sum(1)
    return (more > 0) | ((more == 0) & lower)


def _chosen(a: Solution, b: Solution, rows: Tensor, better: Tensor, history: History) -> Solution:
    """Put those problems of ``b`` that are ``better`` into their places among ``a``."""

    def pick(of_a: Tensor, of_b: Tensor) -> Tensor:
        return of_a.index_copy(0, rows[better], of_b[better])

    return Solution(
        pick(a.delta, b.delta),
        pick(a.weights, b.weights),
        pick(a.losses, b.losses),
        None if a.fooled is None or b.fooled is None else pick(a.fooled, b.fooled),
        pick(a.step, b.step),
        history,
    )
