"""What is measured of a trained model on test images: accuracy under attacks, and how alike their gradients are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from omnirobust.data import ImageData
from omnirobust.evaluation import evaluate_robustness
from omnirobust.losses import neg_cross_entropy
from omnirobust.paper.training_budgets import DPAR, EPS_LINF, Judging
from omnirobust.threat_models import L2, Linf, ThreatModel
from omnirobust.training import Scheme, attack_batch, cosines
from omnirobust.universal import usgd

LEARNED_FROM = 5000
"""Training images from which a universal perturbation is learned."""

SEED = 1
"""Of the attacks that judge."""


def judge_images(
    model: nn.Module, judging: Judging, x: Tensor, y: Tensor, first_row: int, learn: ImageData | None
) -> dict[str, Tensor]:
    """Measure one model on images (B, *S) with labels (B,), the first of which is number ``first_row``.

    Returns:
        By name: "clean", right without an attack, (B,) bool; for gradients "cosine", (B,); else "right", right under
        the attack, (B,) bool, and "l2" and "linf", the norms of the perturbation, (B,).
    """
    with torch.no_grad():
        clean = model(x).argmax(1) == y
    if judging.how in ("gradients", "gradients_dpar"):
        threats, dpar = (Linf(EPS_LINF), L2(judging.eps)), DPAR if judging.how == "gradients_dpar" else 0.0
        cosine = gradient_cosines(model, x, y, threats, judging.steps, first_row, dpar)
        return {"clean": clean.cpu(), "cosine": cosine.cpu()}
    delta = _perturbation(model, judging, x, y, first_row, learn)
    with torch.no_grad():
        right = clean & (model((x + delta).clamp(0, 1)).argmax(1) == y)
    flat = delta.flatten(1)
    norms = {"l2": torch.linalg.vector_norm(flat, dim=1), "linf": flat.abs().amax(1)}
    return {"clean": clean.cpu(), "right": right.cpu()} | {name: value.cpu() for name, value in norms.items()}


def _perturbation(
    model: nn.Module, judging: Judging, x: Tensor, y: Tensor, first_row: int, learn: ImageData | None
) -> Tensor:
    """Return what is added to every image, (B, *S)."""
    threat = judging.threat
    match judging.how:
        case "universal":
            assert learn is not None
            few, labels = learn.x[:LEARNED_FROM].to(x.device), learn.y[:LEARNED_FROM].to(x.device)
            found = usgd(model, few, labels, threat, step_size=float(threat.eps) / 10, epochs=judging.steps, seed=SEED)
            return found.delta.expand_as(x)
        case "strong":
            report = evaluate_robustness(
                model, x, y, {"threat": threat}, steps=judging.steps, seed=SEED, first_row=first_row
            )
            return report.delta["threat"]
        case _:
            return last_iterates(model, x, y, (threat,), judging.steps, first_row)[0]


def last_iterates(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threats: tuple[ThreatModel, ...],
    steps: int,
    first_row: int = 0,
    dpar: float = 0.0,
) -> list[Tensor]:
    """Attack as a training does: normalised steps up the cross-entropy from a random start, the last one kept."""
    rows = torch.arange(first_row, first_row + len(x), device=x.device)
    return attack_batch(model, x, y, Scheme("average", threats, steps, dpar=dpar), rows=rows, seed=SEED)[0]


def gradient_cosines(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threats: tuple[ThreatModel, ThreatModel],
    steps: int,
    first_row: int = 0,
    dpar: float = 0.0,
) -> Tensor:
    """Return the cosine between the input gradients of two attacks where these end, (B,).

    The regulariser (16) of two attacks is h = log(1 - cos^2), ridge aside: with ``dpar`` the attacker is to lower
    the cosine.
    """
    grads = []
    for delta in last_iterates(model, x, y, threats, steps, first_row, dpar):
        points = (x + delta).requires_grad_(True)
        (grad,) = torch.autograd.grad(neg_cross_entropy(model(points), y).sum(), points)
        grads.append(grad)
    return cosines(torch.stack(grads))[:, 0, 1]
