"""The attack on losses of one's own: of segmentations, embeddings, detectors, regressions, of several tasks at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Unpack

import torch
from torch import Tensor

from omnirobust.attacks.options import OF_MODELS, AttackOptions, Plan, with_options
from omnirobust.attacks.restarts import as_asked, run
from omnirobust.attacks.results import AttackResult
from omnirobust.core.arguments import check_flag
from omnirobust.core.draws import torch_forked
from omnirobust.core.threat_models import ThreatModel
from omnirobust.domains.checks import as_groups
from omnirobust.domains.functions import named_functions
from omnirobust.domains.loss_grid import LossGrid, OwnLoss, Success, Unit


@dataclass(frozen=True)
class LossPlan(Plan):
    """The plan of an attack on losses.

    Attributes:
        names: of the losses.
        unit: what they are divided by while the attack runs.
    """

    names: tuple[str, ...] = ()
    unit: Unit = "none"

    def describe(self, draws: int | None = None) -> dict[str, Any]:
        """Return what is resolved as plain values: of no labels and models, but of the losses."""
        said = {name: value for name, value in super().describe(draws).items() if name not in OF_MODELS}
        return {**said, "losses": list(self.names), "unit": self.unit}


@partial(with_options, without=OF_MODELS)
def attack_losses(
    losses: Mapping[str, OwnLoss],
    x: Tensor,
    threat_model: ThreatModel,
    *,
    success: Success | None = None,
    normalise: bool = False,
    **options: Unpack[AttackOptions],
) -> AttackResult:
    """Find one perturbation per input that lowers the worst of several losses: problem (4) by Algorithm 1.

    The losses are functions of yours, so that the task may be any: docs/losses.md has segmentation, several labels,
    embeddings, regression, detection and two tasks at once. Modules behind them run in evaluation mode with frozen
    parameters, and are left as they were. A function that two calls show to be random is attacked in expectation over
    its draws and judged on fresh ones; one whose rows see each other is named in the notes.

    No rule and no direction need to be tuned: by default the weights answer losses in a unit of each input, one for
    all of them, so that multiplying all losses by one positive factor changes neither perturbations nor weights (a
    power of two not a bit of them; ``success`` sees the losses as they are). The unit is a quarter of a sum at the
    input itself: the largest loss less the smallest, and how far one of them can fall in the set at most, to first
    order. A ``rule`` that is given, or the paper's, answers the losses as they are.

    Args:
        losses: name to f(adversarial (n, *S), rows (n,) int64) -> (n,) floating, one value an input that depends on no
            other; low = reached. ``rows`` are the numbers of the inputs in ``x``, in batches and later restarts too:
            what belongs to each, a mask, a box, a text, is looked up by them.
        x: inputs within the threat model's bounds, (B, *S), float.
        threat_model: what the attacker may do, for instance ``Linf(8 / 255)``.
        success: maps losses (B, K) to bool (B, K): which of them are reached, ``lambda losses: losses < 0`` say. It
            decides which iterate is kept. Without it that of the lowest worst loss is; ``fooled`` and ``success`` of
            the result are None then, and rates NaN.
        normalise: whether each loss is divided by its own scale while the attack runs, a quarter of |f| and how far it
            can fall, of each input: multiplying one loss by a positive factor changes nothing then. Otherwise the worst
            loss is the largest in your units.

    Returns:
        Perturbations, weights, losses in your units, and history; ``accuracy`` is NaN, for there are no labels.

    Raises:
        ValueError: if an argument, a loss's answer or its gradient does not fit; the sentence names it.

    Cost: restarts (T + 1 calls of each loss and T gradients), and a call each to judge the result; before, four calls
    with at most 32 inputs, and one call and one gradient of each for the units.

    Reference: the paper, problem (4) and Section 3.1.
    """
    return _attack(losses, x, threat_model, success, normalise, options)


def _attack(
    losses: object, x: Tensor, threat_model: ThreatModel, success: Success | None, normalise: bool,
    options: AttackOptions,
) -> AttackResult:  # fmt: skip
    if torch.is_inference_mode_enabled():
        raise ValueError("an attack needs gradients: call it outside torch.inference_mode()")
    named = named_functions("losses", losses, "adversarial, rows")
    if success is not None and not callable(success):
        raise ValueError(f"success must be a function of losses (B, K) or None, got {type(success).__name__}")
    check_flag("normalise", normalise)
    if options.get("preset") == "transfer":
        raise ValueError("preset must be 'paper' or None, got 'transfer', which is for classifiers")
    found = Plan.of("losses", threat_model, options)
    if found.options["stop_when_fooled"] and success is None:
        raise ValueError("stop_when_fooled must be False without success, which says when a loss is reached")
    tuned = found.options["rule"] is None and found.options["preset"] != "paper"
    unit: Unit = "own" if normalise else "common" if tuned else "none"
    as_groups(x, shared=False)
    plan = LossPlan(
        found.task, threat_model, found.settings, found.options, found.clip, axes=x.ndim - 1, names=tuple(named),
        unit=unit,
    )  # fmt: skip
    feasible, o = plan.feasible(x), plan.options
    plan.check_rows(len(x), tuple(feasible.shape))
    grid = LossGrid(
        named, x, success=success, unit=unit, samples=o["samples"], seed=o["seed"], first_row=o["first_row"],
        memory=o["memory"],
    )  # fmt: skip
    with torch_forked(x):  # functions may draw without a probe's seeing it
        return as_asked(run(plan, grid, feasible, x.detach()), o["history"])
