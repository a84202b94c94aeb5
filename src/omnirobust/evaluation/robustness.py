"""Robust accuracy: what is left of a model's accuracy under the strongest of many attacks, by threat and at once.

An attack can only show that an input is not robust: every accuracy here is an upper bound, tightened by each attack
that is run on what still stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from omnirobust._progress import ProgressHook, bar
from omnirobust.core import choices
from omnirobust.core.arguments import check_count, check_seed
from omnirobust.core.contracts import check_set
from omnirobust.core.draws import torch_forked
from omnirobust.core.threat_models import ThreatModel, range_notes, told_range
from omnirobust.domains.checks import check_gradients
from omnirobust.domains.classifier import Model, Precision
from omnirobust.domains.probe import notes_of, probed
from omnirobust.evaluation.autoattack import AutoAttack, check_autoattack
from omnirobust.evaluation.cascade import Walk
from omnirobust.evaluation.fresh import Drawn, Judge, most
from omnirobust.evaluation.metrics import clean_notes
from omnirobust.evaluation.report import Origin
from omnirobust.evaluation.report import RobustnessReport as RobustnessReport
from omnirobust.evaluation.report import share as share
from omnirobust.evaluation.suite import STRONG, EvaluationAttack, Problem
from omnirobust.evaluation.survivors import Clean, Standing, first_look
from omnirobust.evaluation.threats import Threats, check_universal, inner_first, named_threats, shape_or_type

DRAWS = 10
"""Draws of a random model for selection, and for judgement, where nobody says how many."""

_TOGETHER, _VALUES = 256, 2**18
"""Of few inputs so many perturbations are moved at once, and no more values than these: a batch that is full costs less
for each of its rows."""

Attacks: TypeAlias = choices.Attacks | Sequence[EvaluationAttack]


def evaluate_robustness(
    model: Model,
    x: Tensor,
    y: Tensor,
    threats: Threats,
    *,
    attacks: Attacks = "default",
    steps: int = 100,
    restarts: int = 1,
    seed: int = 0,
    batch_size: int | None = None,
    precision: Precision = "fp32",
    progress: bool | ProgressHook = False,
    first_row: int = 0,
    universal: Mapping[str, Tensor] | None = None,
    samples: int = 1,
    draws: int | None = None,
) -> RobustnessReport:
    """Measure accuracy under each threat and under all at once, by the strongest of many attacks on every input.

        Acc_adv^max = mean_i prod_k [right under threat k],   Acc_adv^avg = mean_i mean_k [right under threat k]

    Attacks run one after the other, each on the inputs that still stand. What an attack returns counts only if
    it fools when it is judged anew in full precision. An example found for one threat counts for every threat that
    allows it: a larger radius never looks safer than a smaller one.

    A model that two passes over a few inputs show to be random is attacked in expectation over its draws. For each
    input and threat the perturbation is kept that fools on the largest share of ``draws`` draws, ties by the lowest
    mean margin; it is judged on as many fresh ones, and accuracies are means over these. The union takes, for each
    input, the threat that is worst on the draws of selection. One lucky draw is no attack.

    Args:
        model: one model, (B, *S) to logits (B, C) or an object with ``.logits``. Normalisation belongs inside.
        x: inputs within the threats' bounds, (B, *S), float.
        y: true labels, (B,) int64.
        threats: a mapping from name to threat model, or a sequence, whose members are named "linf:0.2"; one is
            enough. All must share their bounds.
        attacks: "default" (``STRONG``: the margin from zero; the seven likeliest wrong classes in a race, and for what
            stands near its boundary then runs from noise towards two of them; cross-entropy and the ratio of
            logits from noise; races and these last two in balls that shrink to eps, where what a larger one leaves
            standing is given up; all with the adaptive direction);
            "autoattack", through the package ``pyautoattack``, with the default in its place under
            l0; or a sequence of attacks.
        steps: T of every run of a gradient attack, >= 1.
        restarts: runs of each gradient attack, and of each of its targets, >= 1: the first as the attack says, the
            others from noise. More of them never raise an accuracy.
        seed: keys the noise, with the attack's restart and the input's row.
        batch_size: inputs attacked together; None for all.
        precision: "bf16" runs the model under autocast during gradient attacks; all judging is in full precision.
        progress: True draws a bar on the terminal; a callable is given (done, in all), in inputs times runs.
        first_row: global row of the first input, for evaluations made in parts.
        universal: by name, perturbations (*S) given beforehand, each added to all inputs: they count as threats of
            their own, in the union and the average too.
        samples: draws of a random model a step, whose mean the attacks descend, >= 1.
        draws: draws of a random model on which perturbations are compared, and as many others on which the result is
            judged, >= 1; 10 if not given.

    Returns:
        Accuracies, what is right under which threat, and the perturbations. An input's result does not depend on
        the others, but for rounding, for AutoAttack, whose noise does, and for random models and such as couple the
        rows of a batch: the notes name them.

    Raises:
        ValueError: if an argument, the model's output or a label does not fit, or no gradient reaches any input; the
            sentence names it.
        ModuleNotFoundError: if AutoAttack is asked for and not installed.

    Cost: for every threat at most 5.9 restarts T input gradients and as many forwards of the inputs, and 8 restarts T
    more of those near their boundary; those that fall early, or stand far from it, cost a fraction. A few rows go
    through the model before, to see whether it is random; if it is, times ``samples``, and 2 ``draws`` forwards for
    every run.

    Reference: the paper, Section 4.2 (Acc_adv^max and Acc_adv^avg); Tramer and Boneh, "Adversarial training and
    robustness for multiple perturbations", 2019, for the union; Croce and Hein 2020 for ensembles of attacks.
    """
    named = named_threats(threats)
    chosen = _chosen_attacks(attacks)
    counts = {"steps": steps, "restarts": restarts, "batch_size": batch_size, "samples": samples, "draws": draws}
    _check(model, x, y, named, chosen, counts)
    check_seed("seed", seed)
    check_count("first_row", first_row, 0)
    given, drawn = check_universal(universal, x, named), draws
    draws = DRAWS if draws is None else draws
    (known,) = probed({"model": model}, x, batch_size).values()
    judge = Judge(known, draws, seed, first_row)
    with torch_forked(x):  # models may draw without a probe's seeing it
        clean = first_look(judge, x, y, batch_size)
        problem = Problem(
            known.model, x, y, clean.rivals, next(iter(named.values())), steps, restarts, seed, precision, first_row,
            known, samples, draws, batch_size or max(len(x), min(_TOGETHER, _VALUES // max(x[:1].numel(), 1)), 1),
        )  # fmt: skip
        for attack in chosen:
            for threat in named.values():
                if isinstance(attack, AutoAttack) and attack.fits(threat, 10):
                    attack.check_sizes(x, threat, problem.random)
        judged = f"Accuracies are means over {draws} fresh draws, and depend on the batch size."
        ranges = [f"{name}: {note}" for name, threat in named.items() for note in range_notes(threat, x)]
        walk = Walk(problem, chosen, batch_size, notes=[*notes_of([known], judged), *ranges])
        with bar(progress, total=len(x) * walk.runs_in_all(named.values())) as advance:
            for name in inner_first(named, x):
                walk.attack(name, clean.standing(judge, x, y, named[name]), advance)
        walk.exchange()
        for name, delta in given.items():
            walk.apply(name, clean.standing(judge, x, y, problem.threat), delta)
        settings = _describe(named, chosen, walk, {"batch_size": batch_size, "universal": list(given)})
        told = attacks if isinstance(attacks, str) else [attack.name for attack in chosen]
        origin = Origin(model, x.detach(), y, named, told, clean.classes, first_row, drawn)
        report = _report((*named, *given), clean, walk, settings)
        return replace(report, notes=(*report.notes, *_clean_notes(report, clean, y)), origin=origin)


def _report(names: tuple[str, ...], clean: Clean, walk: Walk, settings: dict[str, Any]) -> RobustnessReport:
    found = [walk.found[name] for name in names]
    drawn = _judged_anew(found, walk.batch_size) if walk.problem.random else None
    correct = torch.stack([state.right for state in found], 1) if drawn is None else most(drawn.right)
    # of a random model what its attack came to in the end, wherever it began
    right = correct if drawn is None else correct | ~most(drawn.clean).unsqueeze(1)
    return RobustnessReport(
        names=names,
        clean_correct=clean.share < 1 if drawn is None else most(drawn.clean),
        correct=correct,
        margin=torch.stack([state.margin for state in found], 1),
        delta={name: walk.found[name].delta for name in names},
        breaks={name: state.breaks(right[:, k]) for k, (name, state) in enumerate(zip(names, found, strict=True))},
        notes=tuple(walk.notes),
        settings=settings,
        drawn=drawn,
    )


def _clean_notes(report: RobustnessReport, clean: Clean, y: Tensor) -> list[str]:
    said = torch.where(clean.share >= 0.5, clean.rivals[:, 0], y)
    return clean_notes(said, y, clean.rivals.shape[1] + 1, rate=report.clean)


def _judged_anew(found: Sequence[Standing], batch_size: int | None) -> Drawn:
    """Judge what was kept under each threat, and the inputs as they are, on draws that nothing was chosen by."""
    size, judge = batch_size or max(len(found[0].x), 1), found[0].judge
    as_they_are = replace(found[0], delta=torch.zeros_like(found[0].x))
    return Drawn(
        as_they_are.fresh(judge.fresh(0), size),
        torch.stack([state.fresh(judge.fresh(k + 1), size) for k, state in enumerate(found)], 2),
        torch.stack([state.share for state in found], 1),
    )


def _describe(
    named: Mapping[str, ThreatModel], attacks: Sequence[EvaluationAttack], walk: Walk, others: dict[str, Any]
) -> dict[str, Any]:
    problem = walk.problem
    return {
        "threats": {
            name: {
                "norm": threat.name,
                "eps": threat.eps.tolist() if isinstance(threat.eps, Tensor) else threat.eps,
                **told_range(threat),
                "masked": threat.mask is not None,
            }
            for name, threat in named.items()
        },
        "attacks": [attack.name for attack in attacks],
        "steps": problem.steps,
        "restarts": problem.restarts,
        "seed": problem.seed,
        "precision": problem.precision,
        "random": problem.random,
        "samples": problem.samples,
        "draws": problem.draws if problem.random else 1,
        **others,
    }


def _chosen_attacks(attacks: Attacks) -> tuple[EvaluationAttack, ...]:
    if isinstance(attacks, str):
        if attacks not in ("default", "autoattack"):
            raise ValueError(f"attacks must be 'default', 'autoattack' or a sequence of attacks, got {attacks!r}")
        return STRONG if attacks == "default" else (AutoAttack(),)
    if not isinstance(attacks, Sequence) or not attacks:
        raise ValueError(f"attacks must be 'default', 'autoattack' or a sequence of attacks, got {attacks!r}")
    for attack in attacks:
        if isinstance(attack, type) or not isinstance(attack, EvaluationAttack):
            raise ValueError(f"attacks must hold attacks such as AutoAttack(), got {attack!r}")
    return tuple(attacks)


def _check(
    model: Model,
    x: Tensor,
    y: Tensor,
    named: Mapping[str, ThreatModel],
    attacks: Sequence[EvaluationAttack],
    counts: Mapping[str, int | None],
) -> None:
    """Check everything that can be checked before the model is called."""
    if torch.is_inference_mode_enabled():
        raise ValueError("an evaluation needs gradients: call it outside torch.inference_mode()")
    for name, value in counts.items():
        if value is not None or name not in ("batch_size", "draws"):
            check_count(name, value)
    if isinstance(model, Mapping | Sequence | nn.ModuleDict | nn.ModuleList):
        raise ValueError(f"model must be one model, got a {type(model).__name__}: evaluate them one by one")
    check_gradients(model, "model")
    if not isinstance(x, Tensor):
        raise ValueError(f"x must be a tensor, got {type(x).__name__}")
    if not isinstance(y, Tensor) or y.shape != x.shape[:1]:
        raise ValueError(f"y must be class indices of shape {tuple(x.shape[:1])}, int64, got {shape_or_type(y)}")
    for threat in named.values():
        check_set(threat, x)
        for attack in attacks:
            if isinstance(attack, AutoAttack) and attack.fits(threat, 10):
                check_autoattack(x, threat)
