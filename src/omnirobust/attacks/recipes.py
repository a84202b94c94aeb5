"""Recipes: one call from models and inputs to an ``AttackResult``. Each is a line over ``_attack``.

They differ in what the domains are: models, the images of a group, transformations, or any product of the three.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor

from omnirobust.attacks.options import AttackOptions, Plan, with_options
from omnirobust.attacks.presets import Task
from omnirobust.attacks.restarts import as_asked, run
from omnirobust.attacks.results import AttackResult, Origin
from omnirobust.attacks.results import BatchStore as BatchStore
from omnirobust.core.draws import torch_forked
from omnirobust.core.threat_models import Clip, ThreatModel
from omnirobust.domains.checks import as_groups, as_labels
from omnirobust.domains.classifier import Models, named_models
from omnirobust.domains.grid import DomainGrid, Transforms
from omnirobust.domains.transforms.seeded import as_views


@with_options
def attack_ensemble(
    models: Models,
    x: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    **options: Unpack[AttackOptions],
) -> AttackResult:
    """Find one perturbation per input that fools every model at once: problem (5) by Algorithm 1.

    Models are called in evaluation mode with frozen parameters, and left as they were. Success is recomputed in full
    precision on the tensors that are returned. A model that two passes over a few inputs show to be random is attacked
    in expectation over its draws, and judged on fresh ones; one whose rows see each other is named in the notes.

    Args:
        models: a mapping from name to model, or a sequence; each maps (B, *S) to logits (B, C), or to an object with
            ``.logits``. Normalisation belongs inside.
        x: inputs within the threat model's bounds, (B, *S), float.
        y: labels, int64: (B,), or (B, K), each model its own (its own predictions, say).
        threat_model: what the attacker may do, for instance ``Linf(0.2)``.

    Returns:
        Perturbations, weights, success and history.

    Raises:
        ValueError: if an argument, a model's output or a label does not fit; the sentence names it.

    Cost: restarts (K (T + 1) forwards and K T input gradients), and K forwards to recompute success; before, four
    passes over at most 32 inputs, and K forwards and K input gradients for the reach that the default loss asks for.

    Reference: the paper, Sections 2.2 and 4.1.
    """
    return _attack("ensemble", models, x, y, threat_model, options)


@with_options
def attack_universal(
    model: Models,
    x: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    *,
    clip: Clip | None = None,
    transforms: Transforms | None = None,
    **options: Unpack[AttackOptions],
) -> AttackResult:
    """Find one perturbation for each group of E inputs that fools the model on all of them: problem (6), Algorithm 1.

    The domains are the images of a group, and the weights say which of them is hardest; with several models or with
    transformations, the domains are all combinations. What is given for each problem (``init``, radii, the rows of
    ``Fixed``) is given for each group.

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

    Returns:
        ``delta`` (B, *S), ``adversarial`` (B, E, *S), ``weights``, ``losses`` and ``fooled`` (B, E), ``asr_gp`` the
        share of groups fooled as a whole, ``asr_avg`` that of images.

    Raises:
        ValueError: if an argument, a model's output or a label does not fit; the sentence names it.

    Cost: restarts (T + 1) forwards and T input gradients of all B E images; one of each more for the default loss.

    Reference: the paper, problem (6), Section 4.1 and Table 2.
    """
    return _attack("universal", model, x, y, threat_model, options, transforms=transforms, clip=clip)


@with_options
def attack_transforms(
    model: Models,
    x: Tensor,
    y: Tensor,
    transforms: Transforms,
    threat_model: ThreatModel,
    **options: Unpack[AttackOptions],
) -> AttackResult:
    """Find one perturbation per input that fools the model under every transformation: problem (7), Algorithm 1.

    ``rule=Uniform()`` is expectation over transformation (EOT), the average.

    Args:
        model: a model, or several (a mapping or a sequence), all of which are to be fooled.
        x: inputs within the threat model's bounds, (B, *S), float.
        y: labels, int64: (B,), or (B, M) for M models, each its own, or (B, K) for K domains.
        transforms: a mapping from name to t(x) -> images, or t(x, generator) if it is random and draws from a
            generator; any t(x) that draws from the global generators is random too, and is run under a seed of its own.
            Gradients flow through them. ``omnirobust.transforms`` has the usual ones.
        threat_model: what the attacker may do before the transformations.

    Returns:
        ``weights``, ``losses`` and ``fooled`` (B, K) of K transformations (times models), ``asr_gp`` the share of
        inputs that fool under all of them.

    Raises:
        ValueError: if an argument, a model's output or a label does not fit; the sentence names it.

    Cost: restarts (K (T + 1) forwards and K T input gradients), times ``samples`` where something is random, and K of
    each before for the default loss.

    Reference: the paper, problem (7), Section 4.1, Tables 3, A5 and A6; Athalye et al., "Synthesizing robust
    adversarial examples", 2018, for the average.
    """
    return _attack("transforms", model, x, y, threat_model, options, transforms=transforms)


@with_options
def attack_product(
    models: Models,
    x: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    *,
    transforms: Transforms | None = None,
    shared: bool = False,
    clip: Clip | None = None,
    **options: Unpack[AttackOptions],
) -> AttackResult:
    """Find perturbations that beat all combinations of models, transformations and examples: the general attack.

    For instance one perturbation for five photographs that fools three models under four transformations: 60 domains.
    ``attack_ensemble``, ``attack_universal`` and ``attack_transforms`` are this with one factor.

    Args:
        models: a mapping from name to model, a sequence, or one.
        x: (B, *S), or B groups (B, E, *S) where ``shared``; float, within the threat model's bounds.
        y: labels, int64: (B,), (B, M) or (B, K); (B, E) where ``shared``; or anything that broadcasts to (B, models,
            transforms, examples).
        threat_model: what the attacker may do.
        transforms: see ``attack_transforms``; None for none.
        shared: whether E inputs share a perturbation, see ``attack_universal``.
        clip: see ``attack_universal``.

    Returns:
        ``weights``, ``losses`` and ``fooled`` (B, K), K = models x transforms x examples, row-major; ``axes`` names the
        factors, ``marginal(axis)`` sums the weights over the others.

    Raises:
        ValueError: if an argument, a model's output or a label does not fit; the sentence names it.

    Cost: restarts (K (T + 1) forwards and K T input gradients), times ``samples`` where something is random, and K of
    each before for the default loss. Memory:
    the graph of one forward pass, see ``memory`` of ``DomainGrid``, and K delta-sized gradients.

    Reference: the paper, problem (4).
    """
    task: Task = "universal" if shared else "ensemble" if transforms is None else "transforms"
    return _attack(task, models, x, y, threat_model, options, transforms=transforms, clip=clip)


def _attack(
    task: Task,
    models: Models,
    x: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    options: AttackOptions,
    *,
    transforms: Transforms | None = None,
    clip: Clip | None = None,
) -> AttackResult:
    """Check the request as a whole, before anything runs; resolve it, and run it."""
    if torch.is_inference_mode_enabled():
        raise ValueError("an attack needs gradients: call it outside torch.inference_mode()")
    named, queries = named_models(models), None
    if [name for name, model in named.items() if getattr(model, "answers_only", None) is True]:
        from omnirobust.attacks import queries  # who has no BlackBox enters no file for it

        boxes = queries.boxes_of(named)
        count = 1 if transforms is None or callable(transforms) else len(transforms)
        options = queries.options_of(boxes, named, threat_model, options, task, count)
        if "init" not in options and (known := queries.transfer(boxes, named)):
            options = {**options, "init": _of_known(known, x, y, threat_model, options, transforms)}
    shared = task == "universal"
    colour = isinstance(x, Tensor) and x.ndim == 4 + shared and x.shape[-3] == 3
    plan = Plan.of(task, threat_model, options, clip, colour)
    as_groups(x, shared)  # what is wrong with the inputs is not blamed on what sees them
    feasible = plan.feasible(x)
    plan.check_rows(len(x), tuple(feasible.shape))
    views = None if transforms is None else as_views(transforms, (x.flatten(0, 1) if shared else x)[:2].detach())
    plan = replace(plan, views=views, axes=feasible.lower.ndim - 1)
    make = queries.grid_maker(plan.settings, plan.options, len(views or ())) if queries else DomainGrid
    grid = make(
        models, x, y, loss=plan.settings.loss, transforms=views, shared=shared,
        targeted=plan.options["targeted"], clip=plan.clip, samples=plan.options["samples"],
        precision=plan.options["precision"], bounds=threat_model.bounds, seed=plan.options["seed"],
        first_row=plan.options["first_row"], memory=plan.options["memory"],
    )  # fmt: skip
    if plan.options["true_labels"] is not None:
        as_labels(x, plan.options["true_labels"], grid.sizes, shared, "true_labels")
    with torch_forked(x):  # models may draw without a probe's seeing it
        found = run(plan, grid, feasible, x.detach())
    seen = None if transforms is None or views is None else {view.name: view.transform for view in views}
    origin = Origin(named, x.detach(), y, seen, plan, found.history.rows)
    return replace(as_asked(found, plan.options["history"]), origin=origin)


def _of_known(
    known: Models,
    x: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    options: AttackOptions,
    transforms: Transforms | None,
) -> Tensor:
    """Return the perturbations that fool the differentiable models, where the search among the others starts."""
    own: AttackOptions = {"targeted": options.get("targeted", False), "seed": options.get("seed", 0)}
    if y.ndim > 1:  # each model its own labels: those of the surrogates are not among them
        y = y[:, 0]
    task: Task = "ensemble" if transforms is None else "transforms"
    return _attack(task, known, x, y, threat_model, own, transforms=transforms).delta
