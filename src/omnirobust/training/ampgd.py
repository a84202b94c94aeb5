"""Algorithm 2 (AMPGD): several attacks on a mini-batch, each with a perturbation of its own, and weights over them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from omnirobust.core.arguments import check_seed
from omnirobust.core.contracts import checked_rule, first_weights, set_around
from omnirobust.core.directions import Plain, Stepper
from omnirobust.core.draws import DrawKey
from omnirobust.core.threat_models import FeasibleSet
from omnirobust.core.types import Evaluation, check_shape, described
from omnirobust.core.weights import weights_of
from omnirobust.domains.classifier import Classifier, Precision, widened
from omnirobust.domains.compiling import CompiledSteps, Steps
from omnirobust.domains.outputs import rows_named
from omnirobust.training.budget import PassBudget
from omnirobust.training.carried import Carried
from omnirobust.training.evaluating import Evaluator, Seen
from omnirobust.training.inner_steps import carried_starts, drawn_seeds, row_seeds, starts, steppers
from omnirobust.training.rivals.msd import ascend_together
from omnirobust.training.schemes import Scheme


def attack_batch(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    scheme: Scheme,
    *,
    generator: torch.Generator | None = None,
    weights: Tensor | None = None,
    deltas: Sequence[Tensor] | None = None,
    rows: Tensor | None = None,
    seed: int = 0,
    precision: Precision = "fp32",
) -> tuple[list[Tensor], Tensor]:
    """Attack a mini-batch by every threat model of ``scheme``: the inner loop of Algorithm 2.

    With f the cross-entropy, each of the R steps moves weights and perturbations from one and the same evaluation,

        w       <- proj_P(w + beta grad_w psi(w, delta))                                                       (14)
        delta_k <- proj_{X_k}(delta_k + step of grad_{delta_k} (psi + dpar h)),    k = 1, ..., K               (13)
        psi = sum_k w_k f(delta_k) - gamma/2 ||w - 1/K||^2,                                                    (15)

    the first as the scheme's rule says. ``Scheme.preset`` says what the step of a gradient is. For kind "worst" and
    "ramp" each attack runs for itself, and w is one-hot at the highest loss that was reached, (10). For "msd" see
    ``Scheme``: delta_k is its perturbation where norm k was the last to be kept, which w says, and 0 elsewhere.

    Args:
        model: maps (B, *S) to logits (B, C). Runs in eval mode, frozen; modes and parameters are restored.
        x: inputs in the threat models' bounds, (B, *S).
        y: true classes, (B,) int64.
        scheme: what to attack by; its kind is not "natural" or "universal", nor "alternate", whose norm depends on
            earlier mini-batches.
        generator: of the random starts. None: they are keyed by (seed, row), so that an example's do not depend on its
            batch.
        weights: the first weights, rows of the simplex, (B, K); None for those of the rule, which are 1/K.
        deltas: the first perturbations, K times (B, *S), which are projected onto their sets; None for those that the
            scheme starts with. A loop of one's own that hands the last ones over again, with the last weights, is
            what ``Scheme.persist`` "all" does.
        rows: numbers of the examples, (B,) int64, by which radii (N,) are looked up; None for 0, ..., B - 1.
        seed: of the random starts without ``generator``.
        precision: "bf16" runs the model under autocast.

    Returns:
        The K perturbations, each (B, *S), inside their sets, and the weights (B, K).

    Raises:
        ValueError: if the arguments do not fit, or the model has no second derivatives and ``dpar`` needs them.

    Cost: R forward and backward passes of K B inputs (one forward more for "worst" and "ramp"), no weight gradients,
    and K R projections. "msd" takes R forward and backward passes of B inputs, and R forward passes of K B more, and
    one of K B for a random start. DPAR adds a second backward pass through the first: the steps cost 2.5 to 3 times as
    much.
    """
    if not scheme.threats or scheme.kind in ("universal", "alternate"):
        raise ValueError(f"scheme must attack each example by itself, got kind {scheme.kind!r}")
    check_seed("seed", seed)
    if not len(x) or y.dtype != torch.int64 or y.shape != x.shape[:1]:
        raise ValueError(
            f"y must hold int64 classes of shape ({len(x)},), at least one, got {y.dtype} {tuple(y.shape)}"
        )
    rows = torch.arange(len(x), device=x.device) if rows is None else rows
    check_shape("rows", rows, y.shape)
    scheme = scheme.of_rows(rows)
    if generator is None:
        seeds = row_seeds(DrawKey(seed), rows, len(scheme.threats))
    else:
        seeds = drawn_seeds(generator, len(x), len(scheme.threats), x.device)
    if weights is not None:
        weights = weights_of(scheme.weight_rule, weights, widened(x[:1]).new_empty(len(x), len(scheme.threats)))
    carried = None if deltas is None else Carried(_given(deltas, x, scheme), torch.ones(len(x), dtype=torch.bool))
    with rows_named(lambda row: int(rows[row])):
        return attack_rows(Classifier("model", model, precision), x, y, scheme, seeds, weights, carried)


def _given(deltas: Sequence[Tensor], x: Tensor, scheme: Scheme) -> list[Tensor]:
    """Return the caller's perturbations, if they fit."""
    if isinstance(deltas, Tensor) or len(deltas) != len(scheme.threats):
        got = "one tensor" if isinstance(deltas, Tensor) else str(len(deltas))
        raise ValueError(f"deltas must be {len(scheme.threats)} perturbations, one a threat model, got {got}")
    for delta in deltas:
        if not isinstance(delta, Tensor):
            raise ValueError(f"deltas must be tensors, got {described(delta)}")
        check_shape("deltas", delta, x.shape)
        if not bool(delta.isfinite().all()):
            raise ValueError("deltas must be finite, got NaN or infinity")
    return list(deltas)


def attack_rows(
    classifier: Classifier,
    x: Tensor,
    y: Tensor,
    scheme: Scheme,
    seeds: list[Tensor],
    weights: Tensor | None = None,
    carried: Carried | None = None,
    compiled: CompiledSteps | None = None,
    budget: PassBudget | None = None,
) -> tuple[list[Tensor], Tensor]:
    """Attack as ``attack_batch`` does, from what is carried, and elsewhere from starts drawn from ``seeds`` (B, 2).

    Steps are those of ``compiled``, if there are any and they can be taken so. Passes keep to ``budget``.
    """
    feasible = [set_around(threat, x) for threat in scheme.threats]
    shape = (len(x), len(feasible))
    if weights is None:
        weights = first_weights(scheme.weight_rule, *shape, widened(x[:1]))
    check_shape("weights", weights, shape)
    start = starts(scheme, feasible, seeds) if carried is None else carried_starts(scheme, feasible, seeds, *carried)
    # rows go through the model once for each threat, one set after the other
    with rows_named(lambda row: row % len(x)), classifier.frozen(), torch.enable_grad():
        if scheme.kind == "msd":
            if compiled is not None:
                compiled.refuse("the steps of kind msd are not compiled")
            one, every = (Evaluator(classifier, x, y, count, budget) for count in (1, len(start)))
            return ascend_together(lambda delta: one.see([delta]).descent[0], every.losses, scheme, feasible, start)
        return _ascend(Evaluator(classifier, x, y, len(start), budget), scheme, feasible, start, weights, compiled)


def _ascend(
    passes: Evaluator,
    scheme: Scheme,
    feasible: list[FeasibleSet],
    deltas: list[Tensor],
    weights: Tensor,
    compiled: CompiledSteps | None,
) -> tuple[list[Tensor], Tensor]:
    """Run the R steps on perturbations and weights."""
    rule, moving = checked_rule(scheme.weight_rule), steppers(scheme, feasible)
    judged = scheme.kind in ("worst", "ramp")  # by the losses that the attacks, each for itself, have reached
    # the factor on each attack's gradient: w_k as printed, or 1, so that no attack stalls
    weighed = scheme.preset == "paper" and scheme.kind != "worst"
    fused = None if compiled is None else _fused(compiled, passes, scheme, feasible, moving, deltas, weighed, judged)
    for r in range(1, scheme.steps + 1):
        moved = None if fused is None else fused.take(r, deltas, weights)
        following = None if moved is None else moved.weights
        if moved is None:
            seen = passes.see(deltas, scheme.dpar)
            deltas = [
                _step(stepper, r, delta, weights[:, k] if weighed else None, seen, k, scheme.dpar, around)
                for k, (stepper, delta, around) in enumerate(zip(moving, deltas, feasible, strict=True))
            ]
        else:
            seen, deltas = moved, moved.deltas
        if not judged:
            weights = rule.step(weights, seen.losses) if following is None else following
    if judged:
        weights = rule.step(weights, passes.losses(deltas))
    return deltas, weights


def _fused(
    compiled: CompiledSteps, passes: Evaluator, scheme: Scheme, feasible: list[FeasibleSet], moving: list[Stepper],
    deltas: list[Tensor], weighed: bool, judged: bool,
) -> Steps | None:  # fmt: skip
    """Return the compiled steps on a mini-batch, if all of it can be."""
    if scheme.dpar > 0:
        compiled.refuse("the second derivatives of dpar are not compiled")
        return None
    passes.try_out(deltas)
    if passes.splits(deltas):
        compiled.refuse("memory splits their passes")
        return None
    rule = None if judged else scheme.weight_rule
    return compiled.of(passes.x, passes.y, feasible, moving, weighed, rule, passes.see)


def _step(
    stepper: Stepper,
    r: int,
    delta: Tensor,
    share: Tensor | None,
    seen: Seen,
    k: int,
    dpar: float,
    around: FeasibleSet,
) -> Tensor:
    """Move one perturbation up share f + dpar h, by a stepper, which descends."""
    if share is None and seen.spread is None and isinstance(stepper, Plain):
        return stepper.down(r, delta, seen.descent[k], around)
    share = torch.ones_like(seen.losses[:, k]) if share is None else share
    if seen.spread is None or seen.diversity is None:
        view = Evaluation(-seen.losses[:, k : k + 1], None, (seen.descent[k],))
        return stepper.step(r, delta, share.unsqueeze(1), view, around)
    fell = -(seen.losses[:, k] + dpar * seen.diversity)
    view = Evaluation(torch.stack([fell, fell], 1), None, (seen.descent[k], seen.spread[k]))
    return stepper.step(r, delta, torch.stack([share, torch.full_like(share, -dpar)], 1), view, around)
