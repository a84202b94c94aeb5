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
from omnirobust._watch import Blindness, GradientWatch
from omnirobust.directions import Direction
from omnirobust.domains import DomainGrid
from omnirobust.losses import Loss
from omnirobust.results import AttackResult, join_results
from omnirobust.settings import DEFAULT, PAPER, AttackSettings
from omnirobust.solver import Keep, Solution, solve
from omnirobust.starts import Start, normal_start
from omnirobust.threat_models import ThreatModel
from omnirobust.weights import Fixed


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
        stop_when_fooled: drop inputs that fool every model from the batch, and from later restarts: faster, the same
            success up to rounding with keep="best". Their result is the iterate that did it, so with keep="last"
            success is at least that of the last iterate.
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
    _check_kinds(threat_model, rule, direction, loss, init)
    settings = _resolve(threat_model, preset, rule, step_size, direction, loss, keep, init)
    _check_counts(steps=steps, restarts=restarts, batch_size=batch_size, first_row=first_row)
    plan = _Plan(settings, threat_model, steps, restarts, targeted, stop_when_fooled, precision, history, seed)
    DomainGrid(models, x, y, loss=settings.loss)  # the arguments are checked whole, before anything runs
    threat_model.around(x)
    if isinstance(init, Tensor) and init.shape != x.shape:
        raise ValueError(f"init must have shape {tuple(x.shape)}, got {tuple(init.shape)}")
    size = batch_size or max(len(x), 1)
    x, starts, parts = x.detach(), range(0, max(len(x), 1), size), []
    blind = Blindness()
    with bar(progress, total=len(starts) * restarts * (steps + 1)) as advance:
        for index, begin in enumerate(starts):
            done = None if store is None else store.get(index)
            if done is None:
                rows = slice(begin, begin + size)
                given = init[rows] if isinstance(init, Tensor) else None
                part = replace(plan, threat_model=_rows_of(threat_model, rows), settings=_rule_of(settings, rows))
                done = _attack_batch(part, models, x[rows], y[rows], given, first_row + begin, advance, blind)
                if store is not None:
                    store.put(index, done)
            else:
                advance(restarts * (steps + 1))
            parts.append(done)
    blind.judge(enough=1)
    return join_results(parts)


def _attack_batch(
    plan: _Plan,
    models: Mapping[str, Model] | Sequence[Model] | Model,
    x: Tensor,
    y: Tensor,
    init: Tensor | None,
    first_row: int,
    advance: Callable[[int], None],
    blind: Blindness,
) -> AttackResult:
    s = plan.settings
    grid = DomainGrid(models, x, y, loss=s.loss, targeted=plan.targeted, precision=plan.precision)
    feasible = plan.threat_model.around(x)
    watch = GradientWatch(grid, advance, blind)
    best: Solution | None = None
    for restart in range(plan.restarts):
        begin = init if restart == 0 and init is not None else _start(plan, x, restart, first_row)
        left = None if best is None or not plan.stop_when_fooled else _unfinished(best)
        watch.restart(plan.steps)
        if left is None or len(left):
            found = solve(
                grid if left is None else grid.select(left),
                feasible if left is None else feasible.select(left),
                s.rule if left is None else _rule_of(s, left).rule,
                init=begin if left is None else begin[left],
                steps=plan.steps, step_size=s.step_size, direction=s.direction, keep=s.keep,
                stop_when_fooled=plan.stop_when_fooled, callback=watch, history="full",
            )  # fmt: skip
            best = found if best is None else better_of(best, found, left)
        watch.finish()
    assert best is not None
    return _finish(plan, grid, models, x, y, best, watch)


def _unfinished(found: Solution) -> Tensor:
    """Return the rows that some domain still resists, as indices."""
    assert found.fooled is not None
    return (~found.fooled.all(dim=1)).nonzero().flatten()


def _finish(
    plan: _Plan,
    grid: DomainGrid,
    models: Mapping[str, Model] | Sequence[Model] | Model,
    x: Tensor,
    y: Tensor,
    found: Solution,
    watch: GradientWatch,
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
        history=found.history if plan.history == "full" else replace(found.history, rows=None),
        steps=plan.steps,
        gradient_evaluations=len(grid.names) * plan.steps * plan.restarts,
        zero_gradient=watch.zero_gradient,
        settings=describe(plan),
    )


def better_of(a: Solution, b: Solution, rows: Tensor | None = None) -> Solution:
    """Keep, row by row, the solution that fools more domains, ties by the lower worst loss, then ``a``.

    Args:
        a: of B problems.
        b: of the problems of ``a`` that ``rows`` lists; of all if it is None.
        rows: int64 indices into ``a``.
    """
    rows = torch.arange(len(a.delta), device=a.delta.device) if rows is None else rows
    better = b.losses.amax(1) < a.losses[rows].amax(1)
    if a.fooled is not None and b.fooled is not None:
        more = b.fooled.sum(1) - a.fooled[rows].sum(1)
        better = (more > 0) | ((more == 0) & better)

    def pick(of_a: Tensor, of_b: Tensor) -> Tensor:
        return of_a.index_copy(0, rows[better], of_b[better])

    return Solution(
        pick(a.delta, b.delta),
        pick(a.weights, b.weights),
        pick(a.losses, b.losses),
        None if a.fooled is None or b.fooled is None else pick(a.fooled, b.fooled),
        pick(a.step, b.step),
        a.history.choose(b.history, rows, better),
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
    for name, value, least in (("steps", steps, 0), ("restarts", restarts, 1), ("first_row", first_row, 0)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(f"batch_size must be a whole number >= 1 or None, got {batch_size!r}")


def _start(plan: _Plan, x: Tensor, restart: int, first_row: int) -> Tensor:
    if plan.settings.start == "zero" and restart == 0:
        return torch.zeros_like(x)
    low, high = plan.threat_model.bounds
    return normal_start(x, plan.seed, restart, first_row) * (high - low)


def _rule_of(settings: AttackSettings, rows: slice | Tensor) -> AttackSettings:
    """Return the settings of some rows: weights fixed for each input are cut with them."""
    rule = settings.rule
    return replace(settings, rule=Fixed(rule.w[rows])) if isinstance(rule, Fixed) and rule.w.ndim == 2 else settings


def _check_kinds(
    threat_model: ThreatModel,
    rule: WeightRule | None,
    direction: Direction | None,
    loss: Loss | None,
    init: Tensor | Start | None,
) -> None:
    if torch.is_inference_mode_enabled():
        raise ValueError("an attack needs gradients: call it outside torch.inference_mode()")
    if not isinstance(threat_model, ThreatModel):
        raise ValueError(f"threat_model must be a ThreatModel such as Linf(0.1), got {threat_model!r}")
    if rule is not None and (isinstance(rule, type) or not hasattr(rule, "init") or not hasattr(rule, "step")):
        raise ValueError(f"rule must be a weight rule such as Uniform(), got {rule!r}")
    if direction is not None and (isinstance(direction, type) or not hasattr(direction, "start")):
        raise ValueError(f"direction must be a direction such as Sign(), got {direction!r}")
    if loss is not None and not callable(loss):
        raise ValueError(f"loss must be a function of logits and labels, got {loss!r}")
    if init is not None and not isinstance(init, Tensor | str):
        raise ValueError(f"init must be a tensor, 'zero' or 'normal', got {type(init).__name__}")


def _rows_of(threat_model: ThreatModel, rows: slice) -> ThreatModel:
    """Return the threat model of some rows: radii given one an input are cut with them."""
    eps = threat_model.eps
    return replace(threat_model, eps=eps[rows]) if isinstance(eps, Tensor) and eps.ndim == 1 else threat_model
