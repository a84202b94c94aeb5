"""Recipes: one call from models and inputs to an ``AttackResult``. Each is a few lines over ``solve``.

They differ in what the domains are: models, the images of a group, transformations, or any product of the three.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from omnirobust._campaign import BatchStore as BatchStore
from omnirobust._campaign import better_of as better_of
from omnirobust._models import Models, Precision
from omnirobust._progress import ProgressHook
from omnirobust._request import Request, attack
from omnirobust._types import WeightRule
from omnirobust.directions import Direction
from omnirobust.domains import Transforms
from omnirobust.losses import Loss
from omnirobust.results import AttackResult
from omnirobust.settings import Task
from omnirobust.solver import Keep
from omnirobust.starts import Start
from omnirobust.threat_models import Clip, ThreatModel


def attack_ensemble(
    models: Models,
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
    true_labels: Tensor | None = None,
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
    memory: int | None = None,
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
        true_labels: what the inputs are, (B,) int64, where ``y`` says something else: classes to reach, or predictions.
            They do not touch the attack: ``.accuracy`` counts against them. Without them it counts against ``y``, in a
            targeted attack against what each model says of the clean inputs.
        keep: "best" (row by row, the iterate that fools most domains, ties by the lowest worst loss) or "last".
            Not given: "best", or "last" with ``preset="paper"``.
        stop_when_fooled: drop inputs that fool every model from the batch, and from later restarts: faster, the same
            success up to rounding with keep="best". Their result is the iterate that did it, so with keep="last"
            success is at least that of the last iterate. Under random transformations, where one draw may be luck,
            inputs are dropped between restarts only.
        restarts: independent runs, >= 1; each input keeps its best. The first starts as the settings say, the others
            from noise.
        seed: keys the noise and the draws, with the restart and the input's global row.
        batch_size: inputs (or groups of them) attacked together; None for all.
        precision: "bf16" runs the models under autocast during the attack.
        progress: True draws a bar on the terminal; a callable is given (steps done, steps in all).
        init: first perturbations (B, *S), or "zero" or "normal"; projected before they count as an iterate.
        history: "full" keeps every input's losses, weights and success at every iterate.
        first_row: global row of the first input, for attacks made in parts.
        store: keeps finished batches, so that an interrupted attack resumes.
        memory: bytes that the graph of one forward pass may hold, see ``DomainGrid``.

    Returns:
        Perturbations, weights, success and history.

    Raises:
        ValueError: if an argument, a model's output or a label does not fit; the sentence names it.

    Cost: restarts (K (T + 1) forwards and K T input gradients), and K forwards to recompute success.

    Reference: the paper, Sections 2.2 and 4.1.
    """
    request = Request(
        "ensemble", rule=rule, steps=steps, step_size=step_size, direction=direction, loss=loss, preset=preset,
        targeted=targeted, true_labels=true_labels, keep=keep, stop_when_fooled=stop_when_fooled, restarts=restarts,
        seed=seed,
        batch_size=batch_size, precision=precision, progress=progress, init=init, history=history,
        first_row=first_row, store=store, memory=memory,
    )  # fmt: skip
    return attack(models, x, y, threat_model, request)


def attack_universal(
    model: Models,
    x: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    *,
    clip: Clip | None = None,
    transforms: Transforms | None = None,
    samples: int = 1,
    draws: int | None = None,
    rule: WeightRule | None = None,
    steps: int = 50,
    step_size: float | None = None,
    direction: Direction | None = None,
    loss: Loss | None = None,
    preset: Literal["paper"] | None = None,
    targeted: bool = False,
    true_labels: Tensor | None = None,
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
    memory: int | None = None,
) -> AttackResult:
    """Find one perturbation for each group of E inputs that fools the model on all of them: problem (6), Algorithm 1.

    The domains are the images of a group, and the weights say which of them is hardest; with several models or with
    transformations, the domains are all combinations.

    Args:
        model: a model, or several (a mapping or a sequence), all of which are to be fooled.
        x: B groups of E inputs within the threat model's bounds, (B, E, *S), float.
        y: labels, int64: (B, E), or anything that broadcasts to (B, models, transforms, E).
        threat_model: what the attacker may do to every image.
        clip: what happens at the ends of the data range, which decides the task. "image": every perturbed image is
            clamped, delta is limited by its norm alone. "intersection": delta itself keeps all E images of its group
            inside the range, as the paper has it; much harder where images differ. Not given: "image", or
            "intersection" with ``preset="paper"``.
        transforms: transformations that the perturbed images must survive, see ``attack_transforms``.
        samples: draws of each random transformation a step.
        draws: fresh draws on which a result is judged, if anything is random; 10 if not given.

    All other arguments are those of ``attack_ensemble``; ``init`` and radii given one a row are for groups.

    Returns:
        ``delta`` (B, *S), ``adversarial`` (B, E, *S), ``weights``, ``losses`` and ``fooled`` (B, E), ``asr_gp`` the
        share of groups fooled as a whole, ``asr_avg`` that of images.

    Raises:
        ValueError: if an argument, a model's output or a label does not fit; the sentence names it.

    Cost: restarts (T + 1) forwards and T input gradients of all B E images.

    Reference: the paper, problem (6), Section 4.1 and Table 2.
    """
    request = Request(
        "universal", rule=rule, steps=steps, step_size=step_size, direction=direction, loss=loss, preset=preset,
        targeted=targeted, true_labels=true_labels, keep=keep, stop_when_fooled=stop_when_fooled, restarts=restarts,
        seed=seed,
        batch_size=batch_size, precision=precision, progress=progress, init=init, history=history,
        first_row=first_row, store=store, memory=memory, transforms=transforms, shared=True, clip=clip,
        samples=samples, draws=draws,
    )  # fmt: skip
    return attack(model, x, y, threat_model, request)


def attack_transforms(
    model: Models,
    x: Tensor,
    y: Tensor,
    transforms: Transforms,
    threat_model: ThreatModel,
    *,
    samples: int = 1,
    draws: int | None = None,
    rule: WeightRule | None = None,
    steps: int = 50,
    step_size: float | None = None,
    direction: Direction | None = None,
    loss: Loss | None = None,
    preset: Literal["paper"] | None = None,
    targeted: bool = False,
    true_labels: Tensor | None = None,
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
    memory: int | None = None,
) -> AttackResult:
    """Find one perturbation per input that fools the model under every transformation: problem (7), Algorithm 1.

    ``rule=Uniform()`` is expectation over transformation (EOT), the average.

    Args:
        model: a model, or several (a mapping or a sequence), all of which are to be fooled.
        x: inputs within the threat model's bounds, (B, *S), float.
        y: labels, int64: (B,), or (B, M) for M models, each its own.
        transforms: a mapping from name to t(x) -> images, or t(x, generator) if it is random and draws from a
            generator; any t(x) that draws from the global generators is random too, and is run under a seed of its own.
            Gradients flow through them. ``omnirobust.transforms`` has the usual ones.
        threat_model: what the attacker may do before the transformations.
        samples: draws of each random transformation a step; the loss of its domain is their mean.
        draws: fresh draws on which iterates are compared, and as many others on which the result is judged, if anything
            is random; 10 if not given. A domain counts as fooled if all of them fool the model; ``success`` has the
            share that does.

    All other arguments are those of ``attack_ensemble``.

    Returns:
        ``weights``, ``losses`` and ``fooled`` (B, K) of K transformations (times models), ``asr_gp`` the share of
        inputs that fool under all of them.

    Raises:
        ValueError: if an argument, a model's output or a label does not fit; the sentence names it.

    Cost: restarts (K (T + 1) forwards and K T input gradients), times ``samples`` for random transformations.

    Reference: the paper, problem (7), Section 4.1, Tables 3, A5 and A6; Athalye et al., "Synthesizing robust
    adversarial examples", 2018, for the average.
    """
    request = Request(
        "transforms", rule=rule, steps=steps, step_size=step_size, direction=direction, loss=loss,
        preset=preset, targeted=targeted, true_labels=true_labels, keep=keep, stop_when_fooled=stop_when_fooled,
        restarts=restarts,
        seed=seed, batch_size=batch_size, precision=precision, progress=progress, init=init, history=history,
        first_row=first_row, store=store, memory=memory, transforms=transforms, samples=samples, draws=draws,
    )  # fmt: skip
    return attack(model, x, y, threat_model, request)


def attack_product(
    models: Models,
    x: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    *,
    transforms: Transforms | None = None,
    shared: bool = False,
    clip: Clip | None = None,
    samples: int = 1,
    draws: int | None = None,
    rule: WeightRule | None = None,
    steps: int = 50,
    step_size: float | None = None,
    direction: Direction | None = None,
    loss: Loss | None = None,
    preset: Literal["paper"] | None = None,
    targeted: bool = False,
    true_labels: Tensor | None = None,
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
    memory: int | None = None,
) -> AttackResult:
    """Find perturbations that beat all combinations of models, transformations and examples: the general attack.

    For instance one perturbation for five photographs that fools three models under four transformations: 60 domains.
    ``attack_ensemble``, ``attack_universal`` and ``attack_transforms`` are this with one factor.

    Args:
        models: a mapping from name to model, a sequence, or one.
        x: (B, *S), or B groups (B, E, *S) where ``shared``; float, within the threat model's bounds.
        y: labels, int64: (B,) or (B, M); (B, E) where ``shared``; or anything that broadcasts to (B, models,
            transforms, examples).
        threat_model: what the attacker may do.
        transforms: see ``attack_transforms``; None for none.
        shared: whether E inputs share a perturbation, see ``attack_universal``.
        clip: see ``attack_universal``.
        samples: draws of each random transformation a step.
        draws: fresh draws on which a result is judged, if anything is random; 10 if not given.

    All other arguments are those of ``attack_ensemble``.

    Returns:
        ``weights``, ``losses`` and ``fooled`` (B, K), K = models x transforms x examples, row-major; ``axes`` names the
        factors, ``marginal(axis)`` sums the weights over the others.

    Raises:
        ValueError: if an argument, a model's output or a label does not fit; the sentence names it.

    Cost: restarts (K (T + 1) forwards and K T input gradients), times ``samples`` for random transformations. Memory:
    the graph of one forward pass, see ``memory`` of ``DomainGrid``, and K delta-sized gradients.

    Reference: the paper, problem (4).
    """
    request = Request(
        _task(transforms, shared), rule=rule, steps=steps, step_size=step_size, direction=direction, loss=loss,
        preset=preset, targeted=targeted, true_labels=true_labels, keep=keep, stop_when_fooled=stop_when_fooled,
        restarts=restarts,
        seed=seed, batch_size=batch_size, precision=precision, progress=progress, init=init, history=history,
        first_row=first_row, store=store, memory=memory, transforms=transforms, shared=shared, clip=clip,
        samples=samples, draws=draws,
    )  # fmt: skip
    return attack(models, x, y, threat_model, request)


def _task(transforms: Transforms | None, shared: bool) -> Task:
    """Say whose settings the paper's preset takes: those of the last factor that it has."""
    return "universal" if shared else "ensemble" if transforms is None else "transforms"
