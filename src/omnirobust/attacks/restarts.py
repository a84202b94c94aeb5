"""One attack from a plan and checked inputs to a result: batches, restarts, fresh draws, success recomputed at the end.

Every recipe of ``attacks`` ends here: they differ in the grid of domains only.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from math import prod
from typing import TypeAlias

import torch
from torch import Tensor

from omnirobust._progress import bar
from omnirobust.attacks.before import before_notes
from omnirobust.attacks.choosing import beats, better_of, chosen
from omnirobust.attacks.labels import already_notes, labels_of
from omnirobust.attacks.masking import GradientMaskingWarning, Masking, masked_rows, masking_notes
from omnirobust.attacks.options import Plan, label_notes
from omnirobust.attacks.presets import Seen
from omnirobust.attacks.results import AttackResult, join_results
from omnirobust.core.draws import normal_start
from omnirobust.core.solver import Progress, Solution, solve
from omnirobust.core.threat_models import FeasibleSet, clamped, range_notes, width_of
from omnirobust.core.types import Evaluation
from omnirobust.domains.checks import as_labels
from omnirobust.domains.classifier import Probed
from omnirobust.domains.consensus import Consensus
from omnirobust.domains.grid import DomainGrid
from omnirobust.domains.loss_grid import LossGrid
from omnirobust.domains.probe import doubted, notes_of

Grid: TypeAlias = DomainGrid | LossGrid

_FROM_NOISE = "No loss has a gradient at some of the inputs themselves: the attack on these began from noise."

_SELECTION, _JUDGEMENT = 2**30, 2**30 + 1
"""Restart numbers that key the draws on which iterates are compared, and those on which the result is judged."""


def run(plan: Plan, grid: Grid, feasible: FeasibleSet, x: Tensor) -> AttackResult:
    """Attack inputs that have been checked, batch by batch, those that the store has not got already.

    Args:
        plan: the options, resolved.
        grid: the domains of all inputs.
        feasible: the perturbations allowed around them.
        x: the inputs, (B, *S), or (B, E, *S) where they share a perturbation.

    Returns:
        The result; the rows of its history are there unless some came without from the store.
    """
    o = plan.options
    size = o["batch_size"] or max(len(x), 1)
    starts, parts, masking = range(0, max(len(x), 1), size), [], Masking()
    fresh = [name for name, model in grid.models.items() if not isinstance(model, Probed)]
    grid = grid.probed(o["batch_size"])
    total = len(starts) * o["restarts"] * (o["steps"] + 1)
    with bar(o["progress"], total) if o["progress"] else nullcontext(lambda _: None) as advance:
        for index, begin in enumerate(starts):
            rows = slice(begin, begin + size)
            whole = len(starts) == 1
            part = plan if whole else plan.rows(rows)
            done = None if o["store"] is None else o["store"].get(index)
            if done is None or not _belongs(done, part, x[rows]):
                within = feasible if whole else part.feasible(x[rows])
                attack = _Batch(part, grid if whole else grid.select(rows), within, x[rows], o["first_row"] + begin)
                done = attack.run(_Watch(attack.grid.renewed(0), advance, masking))
                if o["store"] is not None:
                    o["store"].put(index, as_asked(done, o["history"]))
            else:
                advance(o["restarts"] * (o["steps"] + 1))
                done = done.to(x.device)  # a store keeps results on the processor
            parts.append(done)
    if masking.open:
        masking.judge(enough=1)
    joined = parts[0] if len(parts) == 1 else join_results(parts)
    loss = plan.settings.loss if isinstance(grid, DomainGrid) else None
    masked, shares = list[str](), joined.zero_gradient
    if bool(shares.any()):
        masked = masking_notes(shares, [pair for pair, _ in grid.sources], loss)
    for note in masked:
        warnings.warn(note, GradientMaskingWarning, stacklevel=5)  # names the line that called the recipe
    judged = f"Success is judged on {plan.draws} fresh draws, fooled means on all; both depend on the batch size."
    random = notes_of(grid.models.values(), judged) if isinstance(grid, DomainGrid) else grid.told(judged)
    ranges = range_notes(plan.threat_model, x, shared=plan.shared)
    before = _before(plan, grid, x, fresh) if isinstance(grid, DomainGrid) else []
    already = [] if joined.already is None else already_notes(joined.already)
    notes = tuple(dict.fromkeys((*random, *joined.notes, *ranges, *already, *masked, *before)))  # each sentence once
    settings = joined.settings if len(parts) == 1 else plan.describe(joined.draws)
    return replace(joined, settings=settings, notes=notes)


def _before(plan: Plan, grid: DomainGrid, x: Tensor, fresh: list[str]) -> list[str]:
    """Say which models guess: those that a probe leaves in doubt are asked about all inputs that it has not seen."""
    truth, given = grid.labels, plan.options["true_labels"]
    if given is None and plan.options["targeted"]:  # classes to reach say nothing of what a model knows
        return []
    if given is not None:
        truth = as_labels(x, given, grid.sizes, plan.shared, "true_labels")
    notes = []
    for name, told in doubted(grid.models, fresh, truth).items():
        model = grid.models[name]
        assert isinstance(model, Probed) and model.said is not None
        seen_all = len(model.said) == truth[:, 0, 0].numel() and not model.random and plan.views is None
        notes += told if seen_all else before_notes(plan, grid, x, name, truth)
    return notes


def as_asked(result: AttackResult, history: str) -> AttackResult:
    """Return a result with its history in "full", or without its rows."""
    return result if history == "full" else replace(result, history=replace(result.history, rows=None))


def _belongs(done: AttackResult, plan: Plan, x: Tensor) -> bool:
    """Say whether a stored result is one of this attack on as many problems."""
    return len(done.delta) == len(x) and done.settings == plan.describe(done.draws)


class _Batch:
    """The problems of one batch, and what is done with them."""

    def __init__(self, plan: Plan, grid: Grid, feasible: FeasibleSet, x: Tensor, first_row: int) -> None:
        self._plan, self._feasible, self._x, self._first_row = plan, feasible, x, first_row
        self.grid: Grid = grid
        self._start_notes: tuple[str, ...] = ()

    def run(self, watch: _Watch) -> AttackResult:
        """Solve, restart by restart, and judge what is kept."""
        o, best = self._plan.options, None
        self.grid = self.grid.scaled(self._feasible)
        for restart in range(o["restarts"]):
            left = None if best is None or not o["stop_when_fooled"] else _unfinished(best)
            watch.restart(o["steps"])
            if left is None or len(left):
                found = self._solve(self.grid.renewed(restart), self._start(restart), left, watch)
                best = found if best is None else better_of(best, found, left)
            watch.finish()
        assert best is not None
        return self._finish(best, watch.zero_gradient)

    def _solve(self, grid: Grid, init: Tensor, left: Tensor | None, watch: _Watch) -> Solution:
        plan, s, o = self._plan, self._plan.settings, self._plan.options
        if isinstance(s, Seen) and isinstance(grid, DomainGrid):
            grid = Consensus.of(grid, s.seen, s.softened)
        found = solve(
            grid if left is None else grid.select(left),
            self._feasible if left is None else self._feasible.select(left),
            s.rule if left is None else plan.rows(left).settings.rule,
            init=init if left is None else init[left],
            steps=o["steps"], step_size=s.step_size, direction=s.direction, keep=s.keep,
            # a lucky draw must not end the attack: where something is random, only later restarts leave out what fools
            stop_when_fooled=o["stop_when_fooled"] and not grid.random, callback=watch, history="full",
        )  # fmt: skip
        return self._compare_anew(found, watch.last, left) if grid.random and s.keep == "best" else found

    def _compare_anew(self, found: Solution, last: Progress | None, left: Tensor | None) -> Solution:
        """Score the best iterate again, and the last one, on draws that neither has seen: the first may be luck."""
        e = self._on_other_draws(found.delta, left)
        kept = replace(found, losses=e.losses, fooled=e.fooled)
        if last is None:
            return kept
        rows = last.rows
        e = self._on_other_draws(last.delta, rows if left is None else left[rows])
        step = torch.full_like(rows, last.step)
        other = Solution(last.delta, last.weights, e.losses, e.fooled, step, found.history)
        return chosen(kept, other, rows, beats(other, kept, rows), found.history)

    def _on_other_draws(self, delta: Tensor, rows: Tensor | None) -> Evaluation:
        grid = self.grid.renewed(_SELECTION, exact=True)
        return _judge(grid if rows is None else grid.select(rows), delta, self._plan.draws)[0]

    def _start(self, restart: int) -> Tensor:
        like, given, flat = self._feasible.lower, self._plan.options["init"], self.grid.flat
        if restart == 0 and isinstance(given, Tensor):
            return given
        at_zero = self._plan.settings.start == "zero" and restart == 0
        if at_zero and (given is not None or flat is None or not bool(flat.any())):
            return torch.zeros_like(like)
        width = width_of(self._plan.threat_model, like)
        noise = (normal_start(like, self._plan.options["seed"], restart, self._first_row) * width).to(like)
        # where no loss has a gradient at the input itself, steps would lead nowhere from there
        self._start_notes += (_FROM_NOISE,) * at_zero
        return torch.where(flat.view(-1, *[1] * (like.ndim - 1)), noise, 0) if at_zero and flat is not None else noise

    def _finish(self, found: Solution, zero_gradient: Tensor) -> AttackResult:
        plan, o = self._plan, self._plan.options
        delta = found.delta.unsqueeze(1) if plan.shared else found.delta
        adversarial = clamped(self._x + delta, plan.threat_model.bounds)
        exact = self.grid.renewed(_JUDGEMENT, exact=True, x=adversarial)
        draws = plan.draws if exact.random else 1
        final, success = _judge(exact, torch.zeros_like(found.delta), draws)
        labels, history = None, found.history
        if self.grid.unit is not None and history.rows is not None:  # what is told is in the losses' own units
            told = replace(history.rows, losses=history.rows.losses * self.grid.unit)
            history = told.means(keep_rows=True)
        if isinstance(self.grid, DomainGrid) and (o["targeted"] or o["true_labels"] is not None):
            labels = labels_of(
                self.grid.models, self._x, self.grid.labels, o["true_labels"], self.grid.sizes, shared=plan.shared,
                targeted=o["targeted"],
            )  # fmt: skip
        right = None if labels is None else self._right(adversarial, labels.of, draws)
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
            history=history,
            steps=o["steps"],
            gradient_evaluations=self.grid.images * o["steps"] * o["restarts"] + self.grid.reach_images,
            zero_gradient=zero_gradient,
            settings=plan.describe(draws),
            right=right,
            queries=self.grid.asked,
            already=None if labels is None else labels.already,
            notes=label_notes(o["targeted"], o["true_labels"]) + self._start_notes,
        )

    def _right(self, adversarial: Tensor, labels: Tensor, draws: int) -> Tensor:
        """Return the share of the draws of the judgement on which domains give ``labels``, (B, K)."""
        grid = self.grid.renewed(_JUDGEMENT, exact=True, x=adversarial, labels=labels)
        judged = _judge(grid, torch.zeros_like(self._feasible.lower), draws)[1]
        assert judged is not None
        return 1 - judged


class _Watch:
    """Sees every iterate: counts steps for the progress bar, looks for masked gradients at the start, keeps the last.

    Attributes:
        last: of the problems that got there, once they are.
        zero_gradient: the share of rows of each domain that resist at the start without a gradient, (K,).
    """

    def __init__(self, grid: Grid, advance: Callable[[int], None], masking: Masking) -> None:
        self._grid, self._advance, self._masking = grid, advance, masking
        self._first, self._left, self.last = True, 0, None
        self.zero_gradient = torch.zeros(prod(grid.sizes))

    def restart(self, steps: int) -> None:
        """Begin to count the steps of another run."""
        self._left, self.last = steps + 1, None

    def finish(self) -> None:
        """Count the steps that a run which stopped early did not take."""
        self._advance(self._left)
        self._left = 0

    def __call__(self, seen: Progress) -> None:
        self._advance(1)
        self._left -= 1
        if not self._left:
            self.last = seen
        if self._first and seen.evaluation.grads is not None and len(seen.delta):
            self._look(seen)
        self._first = False

    def _look(self, seen: Progress) -> None:
        e = seen.evaluation
        assert e.grads is not None
        if any(bool((grad.flatten(1) == 0).all(1).any()) for grad in e.grads):
            masked = masked_rows(self._grid, e, seen.delta, self._masking)
            self.zero_gradient = masked.float().mean(0).cpu()
        else:
            resisted = [True] * len(e.grads) if e.fooled is None else (~e.fooled).any(0).tolist()
            self._masking.seeing.update(name for name, domains in self._grid.sources if any(resisted[domains]))


def _judge(grid: Grid, delta: Tensor, draws: int) -> tuple[Evaluation, Tensor | None]:
    """Evaluate on ``draws`` fresh draws: mean losses, whether all of them fool, and the share that does (B, K)."""
    losses, hits = [], []
    for _ in range(draws):
        e = grid.evaluate(delta, grad=False)
        losses.append(e.losses)
        hits.append(e.fooled)
    mean = losses[0] if draws == 1 else torch.stack(losses).mean(0)
    if hits[0] is None:
        return Evaluation(mean, None), None
    fooled = torch.stack(hits)
    return Evaluation(mean, fooled.all(0)), fooled.to(mean.dtype).mean(0)


def _unfinished(found: Solution) -> Tensor:
    """Return the rows that some domain still resists, as indices."""
    assert found.fooled is not None
    return (~found.fooled.all(dim=1)).nonzero().flatten()
