"""Recipes: one call from models and inputs to an ``AttackResult``. Each is a few lines over ``solve``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from omnirobust._models import Model, Precision
from omnirobust._progress import ProgressHook, bar
from omnirobust._types import WeightRule
from omnirobust.directions import Direction
from omnirobust.domains import DomainGrid
from omnirobust.losses import Loss
from omnirobust.results import AttackResult, join_results
from omnirobust.settings import DEFAULT, PAPER, AttackSettings
from omnirobust.solver import Keep, Progress, Solution, solve
from omnirobust.starts import Start, normal_start
from omnirobust.threat_models import FeasibleSet, ThreatModel


class BatchStore(Protocol):
    """Where the results of finished batches lie, so that a stopped attack goes on where it was."""

    def get(self, index: int) -> AttackResult | None:
        """Return the result of batch ``index`` if it is there."""
        ...

    def put(self, index: int, result: AttackResult) -> None:
        """Keep the result of batch ``index``."""
        ...


@dataclass(frozen=True)
class _Plan:
    """One attack, resolved: what each batch is given."""

    settings: AttackSettings
    threat_model: ThreatModel
    steps: int
    restarts: int
    targeted: bool
    stop_when_fooled: bool
    precision: Precision
    history: Literal["means", "full"]
    seed: int


def attack_ensemble(
    models: Mapping[str, Model] | Sequence[Model] | Model,
    x: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    *,
    rule: WeightRule | None = None,
    steps: int = 50,
    step_size: float | None = None,
    direction: Direction | None = None,
    loss: Loss | None = None,
    preset: Literal["paper"] | None = None,
    targeted: bool = False,
    keep: Keep | None = None,
    stop_when_fooled: bool = False,
    restarts: int = 1,
    seed: int = 0,
    batch_size: int | None = None,
    precision: Precision = "fp32",
    progress: bool | ProgressHook = False,
    init: Tensor | Start | None = None,
    history: Literal["means", "full"] = "means",
    first_row: int = 0,
    store: BatchStore | None = None,
) -> AttackResult:
    """Find one perturbation per input that fools every model at once: problem (5) by Algorithm 1.

    Models are called in evaluation mode with frozen parameters, and left as they were. Success is recomputed in full
    precision on the tensors that are returned.

    Args:
        models: a mapping from name to model, or a sequence; each maps (B, *S) to logits (B, C), or to an object with
            ``.logits``. Normalisation belongs inside.
        x: inputs within the threat model's bounds, (B, *S), float.
        y: labels, int64: (B,), or (B, K), each model its own (its own predictions, say).
        threat_model: what the attacker may do, for instance ``Linf(0.2)``.
        rule: how domain weights answer the losses. ``Uniform()`` is the average (ensemble PGD).
        steps: T, >= 0.
        step_size: alpha; the direction says its units.
        direction: how delta moves.
        loss: per-example attack loss, low = fooled.
        preset: "paper" for the paper's settings of the norm; None for the tuned default. Both yield to arguments.
        targeted: whether ``y`` are classes to reach rather than to leave.
        keep: "best" (row by row, the iterate that fools most models, ties by the lowest worst loss) or "last".
            Not given: "best", or "last" with ``preset="paper"``.
        stop_when_fooled: drop inputs that fool every model from the batch: faster, the same success up to rounding.
        restarts: independent runs, >= 1; each input keeps its best. The first starts as the settings say, the others
            from noise.
        seed: keys the noise, with the restart and the input's global row.
        batch_size: inputs attacked together; None for all.
        precision: "bf16" runs the models under autocast during the attack.
        progress: True draws a bar on the terminal; a callable is given (steps done, steps in all).
        init: first perturbations (B, *S), or "zero" or "normal"; projected before they count as an iterate.
        history: "full" keeps every input's losses, weights and success at every iterate.
        first_row: global row of the first input, for attacks made in parts.
        store: keeps finished batches, so that an interrupted attack resumes.

    Returns:
        Perturbations, weights, success and history.

    Raises:
        ValueError: if an argument, a model's output or a label does not fit; the sentence names it.

    Cost: restarts (K (T + 1) forwards and K T input gradients), and K forwards to recompute success.

    Reference: the paper, Sections 2.2 and 4.1.
    """
    settings = _resolve(threat_model, preset, rule, step_size, direction, loss, keep, init)
    _check_counts(steps=steps, restarts=restarts, batch_size=batch_size, first_row=first_row)
    plan = _Plan(settings, threat_model, steps, restarts, targeted, stop_when_fooled, precision, history, seed)
    DomainGrid(models, x, y, loss=settings.loss)  # the arguments are checked whole, before anything runs
    threat_model.around(x)
    if isinstance(init, Tensor) and init.shape != x.shape:
        raise ValueError(f"init must have shape {tuple(x.shape)}, got {tuple(init.shape)}")
    size = batch_size or max(len(x), 1)
    starts = range(0, max(len(x), 1), size)
    parts = []
    with bar(progress, total=len(starts) * restarts * (steps + 1)) as advance:
        for index, begin in enumerate(starts):
            done = None if store is None else store.get(index)
            if done is None:
                rows = slice(begin, begin + size)
                given = init[rows] if isinstance(init, Tensor) else None
                done = _attack_batch(
                    plan, models, x[rows], y[rows], _rows_of(threat_model, rows), given, first_row + begin, advance
                )
                if store is not None:
                    store.put(index, done)
            else:
                advance(restarts * (steps + 1))
            parts.append(done)
    return join_results(parts)


def _attack_batch(
    plan: _Plan,
    models: Mapping[str, Model] | Sequence[Model] | Model,
    x: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    init: Tensor | None,
    first_row: int,
    advance: Callable[[int], None],
) -> AttackResult:
    s = plan.settings
    grid = DomainGrid(models, x, y, loss=s.loss, targeted=plan.targeted, precision=plan.precision)
    feasible = threat_model.around(x)
    watch = _GradientWatch(grid, advance)
    best: Solution | None = None
    for restart in range(plan.restarts):
        begin = init if restart == 0 and init is not None else _start(s.start, x, plan.seed, restart, first_row)
        watch.restart(plan.steps)
        found = solve(
            grid, feasible, s.rule, init=begin, steps=plan.steps, step_size=s.step_size, direction=s.direction,
            keep=s.keep, stop_when_fooled=plan.stop_when_fooled, callback=watch, history=plan.history,
        )  # fmt: skip
        watch.finish()
        best = found if best is None else better_of(best, found)
    assert best is not None
    return _finish(plan, grid, models, x, y, best, watch)


def _finish(
    plan: _Plan,
    grid: DomainGrid,
    models: Mapping[str, Model] | Sequence[Model] | Model,
    x: Tensor,
    y: Tensor,
    found: Solution,
    watch: _GradientWatch,
) -> AttackResult:
    low, high = plan.threat_model.bounds
    adversarial = (x + found.delta).clamp(low, high)
    exact = DomainGrid(models, adversarial, y, loss=plan.settings.loss, targeted=plan.targeted)
    final = exact.evaluate(torch.zeros_like(adversarial), grad=False)
    assert final.fooled is not None
    return AttackResult(
        adversarial=adversarial,
        delta=found.delta,
        weights=found.weights,
        losses=final.losses,
        fooled=final.fooled,
        names=grid.names,
        history=found.history,
        steps=plan.steps,
        gradient_evaluations=len(grid.names) * plan.steps * plan.restarts,
        zero_gradient=watch.zero_gradient,
        settings=describe(plan),
    )


def better_of(a: Solution, b: Solution) -> Solution:
    """Keep, row by row, the solution that fools more domains, ties by the lower worst loss, then ``a``."""
    if a.fooled is None or b.fooled is None:
        better = b.losses.amax(1) < a.losses.amax(1)
    else:
        more, same = b.fooled.sum(1) - a.fooled.sum(1), b.fooled.sum(1) == a.fooled.sum(1)
        better = (more > 0) | (same & (b.losses.amax(1) < a.losses.amax(1)))

    def pick(of_a: Tensor, of_b: Tensor) -> Tensor:
        return torch.where(better.view((-1,) + (1,) * (of_a.ndim - 1)), of_b, of_a)

    return Solution(
        pick(a.delta, b.delta),
        pick(a.weights, b.weights),
        pick(a.losses, b.losses),
        None if a.fooled is None or b.fooled is None else pick(a.fooled, b.fooled),
        pick(a.step, b.step),
        a.history.choose(b.history, better),
    )


class _GradientWatch:
    """Watches the start for gradients that are zero, and counts steps for the progress bar."""

    def __init__(self, grid: DomainGrid, advance: Callable[[int], None]) -> None:
        self._grid, self._advance = grid, advance
        self._left = 0
        self.zero_gradient = torch.zeros(len(grid.names))
        self._first = True

    def restart(self, steps: int) -> None:
        self._left = steps + 1

    def finish(self) -> None:
        self._advance(self._left)
        self._left = 0

    def __call__(self, seen: Progress) -> None:
        self._advance(1)
        self._left -= 1
        if self._first and seen.evaluation.grads is not None and len(seen.delta):
            self._look(seen)
        self._first = False

    def _look(self, seen: Progress) -> None:
        e = seen.evaluation
        assert e.grads is not None and e.fooled is not None
        for k, (name, grad) in enumerate(zip(self._grid.names, e.grads, strict=True)):
            open_rows = ~e.fooled[:, k]
            blind = (grad.flatten(1) == 0).all(dim=1) & open_rows
            self.zero_gradient[k] = float(blind.sum()) / len(blind)
            if bool(open_rows.any()) and bool((blind == open_rows).all()) and self._grid.blocks_gradient(k, seen.delta):
                raise ValueError(
                    f"model {name!r} has zero input gradient on every row: a gradient attack cannot see it "
                    "(is there a step function, a rounding or a detach inside?)"
                )


def describe(plan: _Plan) -> dict[str, Any]:
    """Return the resolved settings as plain values, for the record of a run."""
    s, threat = plan.settings, plan.threat_model
    return {
        "norm": threat.name,
        "eps": threat.eps.tolist() if isinstance(threat.eps, Tensor) else threat.eps,
        "bounds": list(threat.bounds),
        "steps": plan.steps,
        "step_size": s.step_size,
        "rule": repr(s.rule),
        "direction": repr(s.direction),
        "loss": getattr(s.loss, "__name__", repr(s.loss)),
        "start": s.start,
        "keep": s.keep,
        "targeted": plan.targeted,
        "stop_when_fooled": plan.stop_when_fooled,
        "restarts": plan.restarts,
        "precision": plan.precision,
        "seed": plan.seed,
    }


def _resolve(
    threat_model: ThreatModel,
    preset: str | None,
    rule: WeightRule | None,
    step_size: float | None,
    direction: Direction | None,
    loss: Loss | None,
    keep: Keep | None,
    init: Tensor | Start | None,
) -> AttackSettings:
    if preset not in (None, "paper"):
        raise ValueError(f"preset must be 'paper' or None, got {preset!r}")
    if isinstance(init, str) and init not in ("zero", "normal"):
        raise ValueError(f"init must be a tensor, 'zero' or 'normal', got {init!r}")
    base = (PAPER if preset == "paper" else DEFAULT)[threat_model.name]
    if direction is not None:  # a step size belongs to its direction
        base = replace(base, direction=direction, step_size=None)
    given = {"rule": rule, "step_size": step_size, "loss": loss, "keep": keep}
    if isinstance(init, str):
        given["start"] = init
    return replace(base, **{name: value for name, value in given.items() if value is not None})


def _check_counts(*, steps: int, restarts: int, batch_size: int | None, first_row: int) -> None:
    if steps < 0:
        raise ValueError(f"steps must be >= 0, got {steps}")
    if restarts < 1:
        raise ValueError(f"restarts must be >= 1, got {restarts}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be >= 1 or None, got {batch_size}")
    if first_row < 0:
        raise ValueError(f"first_row must be >= 0, got {first_row}")


def _start(start: Start, x: Tensor, seed: int, restart: int, first_row: int) -> Tensor:
    if start == "zero" and restart == 0:
        return torch.zeros_like(x)
    return normal_start(x, seed, restart, first_row)


def _rows_of(threat_model: ThreatModel, rows: slice) -> ThreatModel:
    """Return the threat model of some rows: radii given one an input are cut with them."""
    eps = threat_model.eps
    return replace(threat_model, eps=eps[rows]) if isinstance(eps, Tensor) and eps.ndim == 1 else threat_model


__all__ = ["BatchStore", "FeasibleSet", "attack_ensemble", "better_of"]
