"""What is known of the attacked models before the attack: whether they say one class of everything, or guess."""

from __future__ import annotations

import torch
from torch import Tensor

from omnirobust.attacks.labels import clean_classes
from omnirobust.attacks.options import Plan
from omnirobust.domains.classifier import Probed
from omnirobust.domains.grid import DomainGrid
from omnirobust.domains.probe import clean_notes

_DRAWS = 2**30 + 4
"""Restart number from which on the draws of random models lie that are asked here."""


def before_notes(plan: Plan, grid: DomainGrid, x: Tensor, name: str, truth: Tensor) -> list[str]:
    """Say whether the accuracy of a model on the inputs as they are is no accuracy, as evaluations do.

    Args:
        plan: of the attack.
        grid: its domains, of models that were probed.
        x: the inputs, (B, *S), or (B, E, *S) where they share a perturbation.
        name: of a model that its probe leaves in doubt, see ``probe.doubted``.
        truth: the labels, (B, models, transforms, examples) int64.

    Cost: a forward of the model, as many as draws if it is random.
    """
    model, y = grid.models[name], truth[:, list(grid.models).index(name), 0].flatten()
    assert isinstance(model, Probed) and model.classes is not None
    size, draws = plan.options["batch_size"] or len(x), plan.draws if model.random else 1
    said = torch.stack([
        torch.cat([clean_classes({name: model}, part, plan.shared, _DRAWS + d).flatten() for part in x.split(size)])
        for d in range(draws)
    ])  # fmt: skip
    rate = float((said == y).double().mean())
    return clean_notes(said[0], y, model.classes, rate, f"model {name!r}")
