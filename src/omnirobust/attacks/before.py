"""What is known of the attacked models before the attack: whether they say one class of everything, or guess."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from omnirobust.attacks.labels import clean_classes
from omnirobust.attacks.options import Plan
from omnirobust.domains.checks import as_labels
from omnirobust.domains.classifier import Probed
from omnirobust.domains.grid import DomainGrid
from omnirobust.domains.guesses import clean_notes

_DRAWS = 2**30 + 4
"""Restart number from which on the draws of random models lie that are asked here."""


def before_notes(plan: Plan, grid: DomainGrid, x: Tensor, fresh: Iterable[str]) -> list[str]:
    """Say of which models the accuracy on the inputs as they are is no accuracy, as evaluations do.

    A targeted attack that was not given the true labels says nothing of it.

    Args:
        plan: of the attack.
        grid: its domains, of models that were probed.
        x: the inputs, (B, *S), or (B, E, *S) where they share a perturbation.
        fresh: names of the models that were probed on these inputs, and not before.

    Cost: none where the probe has seen all rows, or those that it has tell a model from one that guesses; else one
    forward of it, as many as draws if it is random.
    """
    truth, o = grid.labels, plan.options
    if o["targeted"] and o["true_labels"] is None:
        return []
    if o["true_labels"] is not None:
        truth = as_labels(x, o["true_labels"], grid.sizes, plan.shared, "true_labels")
    told, names = [], list(grid.models)
    for name in fresh:
        model, y = grid.models[name], truth[:, names.index(name), 0].flatten()
        if not isinstance(model, Probed) or model.said is None or model.classes is None:
            continue
        if clean_notes(model.said, y[: len(model.said)], model.classes) and (y < model.classes).all():
            told += _on_all(plan, name, model, x, y)
    return told


def _on_all(plan: Plan, name: str, model: Probed, x: Tensor, y: Tensor) -> list[str]:
    assert model.classes is not None and model.said is not None
    if len(model.said) == len(y) and not model.random and plan.views is None:  # the probe has seen them all
        return clean_notes(model.said, y, model.classes, whose=f"model {name!r}")
    size, draws = plan.options["batch_size"] or len(x), plan.draws if model.random else 1
    said = torch.stack([
        torch.cat([clean_classes({name: model}, part, plan.shared, _DRAWS + d).flatten() for part in x.split(size)])
        for d in range(draws)
    ])  # fmt: skip
    rate = float((said == y).double().mean())
    return clean_notes(said[0], y, model.classes, rate, f"model {name!r}")
