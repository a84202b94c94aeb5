"""Cells that judge a trained model on test images: accuracy under attacks, and how alike their gradients are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from omnirobust.attacks.universal import usgd
from omnirobust.core.threat_models import L2, Linf, ThreatModel
from omnirobust.domains.losses import neg_cross_entropy
from omnirobust.evaluation import evaluate_robustness
from omnirobust.paper.training_budgets import DPAR, EPS_LINF, EPS_UNIVERSAL, Metric, Training, TrainingBudget
from omnirobust.study.protocol import AnyCell, Span, WorkHook, Workplace
from omnirobust.study.store import fingerprint, joined
from omnirobust.training import Scheme, attack_batch, cosines
from omnirobust.zoo.chunks import Chunk
from omnirobust.zoo.data import ImageData

LEARNED_FROM = 5000
"""Training images from which a universal perturbation is learned."""

SEED = 1
"""Of the attacks that judge."""


CHUNK = 1000
"""Test images judged together and kept in one file."""

STRONG_CHUNK = 250
"""The same for the strong evaluation, which takes longer."""

UNIVERSAL_EPOCHS = 5
"""Passes over the training images from which a universal perturbation is learned."""


@dataclass(frozen=True)
class RobustnessCell(AnyCell[dict[str, Tensor]]):
    """What is measured of one trained model on test images, by name: see ``judge_images``.

    Attributes:
        training: the model.
        metric: "pgd": the attack of the training with ``steps`` steps, against one threat. "strong": this library's
            evaluation of robustness, against one threat. "universal": one perturbation, learned by uSGD on training
            images. "gradients": the cosine between the input gradients of the linf and the l2 attack at their ends;
            "gradients_dpar": the same of attacks that ascend the regulariser of DPAR too.
        norm: of the threat; "linf" for "universal", "l2" for gradients.
        eps: radius: of l2, or for "linf" of linf; of l2 for gradients.
        steps: of every attack, >= 1; for "universal" passes over the training images.
    """

    training: Training
    metric: Metric
    norm: Literal["linf", "l2"]
    eps: float
    steps: int

    @property
    def threat(self) -> ThreatModel:
        """The threat."""
        return Linf(self.eps) if self.norm == "linf" else L2(self.eps)

    @property
    def needs(self) -> tuple[Training]:
        """The training."""
        return (self.training,)

    def resolved(self, cache: Workplace, images: int) -> RobustnessCell | None:
        """Return this once the model is trained."""
        return None if cache.recall(self.training, images) is None else self

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as plain values."""
        own = {"how": self.metric, "norm": self.norm, "eps": self.eps, "steps": self.steps}
        return own | {"training": self.training.describe()}

    def describe(self, cache: Workplace) -> dict[str, Any]:
        """Return the settings, and a hash of the trained weights."""
        return self.settings | {"model": fingerprint(self._model(cache))}

    def spans(self, images: int) -> list[Span]:
        """Return chunks of images; one universal perturbation is learned for all."""
        chunk = {"strong": STRONG_CHUNK, "universal": max(images, 1)}.get(self.metric, CHUNK)
        return [Span(begin, min(begin + chunk, images)) for begin in range(0, images, chunk)]

    def measure(self, span: Span, cache: Workplace, on_work: WorkHook) -> Chunk:
        """Judge the model on some test images."""
        test = cache.images(self.training.plan.data, "test")
        x, y = (t[span.begin : span.end].to(cache.device) for t in (test.x, test.y))
        learn = cache.images(self.training.plan.data, "train") if self.metric == "universal" else None
        return Chunk(measure_images(self._model(cache), self, x, y, span.begin, learn), {})

    def result(self, parts: Sequence[Chunk], cache: Workplace) -> dict[str, Tensor]:
        """Join chunks."""
        return joined([part.tensors for part in parts])

    def _model(self, cache: Workplace) -> nn.Module:
        found = cache.recall(self.training, 0)
        assert found is not None
        return found.model


def cells_of(training: Training, metric: Metric, eps_l2: float, budget: TrainingBudget) -> tuple[RobustnessCell, ...]:
    """Return what has to be measured for the columns of a row: one threat each."""
    steps = budget.strong_steps if metric == "strong" else budget.pgd_steps
    match metric:
        case "universal":
            return (RobustnessCell(training, metric, "linf", EPS_UNIVERSAL, UNIVERSAL_EPOCHS),)
        case "gradients" | "gradients_dpar":
            return (RobustnessCell(training, metric, "l2", eps_l2, steps),)
        case _:
            return RobustnessCell(training, metric, "linf", EPS_LINF, steps), RobustnessCell(
                training, metric, "l2", eps_l2, steps
            )


def measure_images(
    model: nn.Module, cell: RobustnessCell, x: Tensor, y: Tensor, first_row: int, learn: ImageData | None
) -> dict[str, Tensor]:
    """Measure one model on images (B, *S) with labels (B,), the first of which is number ``first_row``.

    Returns:
        By name: "clean", right without an attack, (B,) bool; for gradients "cosine", (B,); else "right", right under
        the attack, (B,) bool, and "l2" and "linf", the norms of the perturbation, (B,).
    """
    with torch.no_grad():
        clean = model(x).argmax(1) == y
    if cell.metric in ("gradients", "gradients_dpar"):
        threats, dpar = (Linf(EPS_LINF), L2(cell.eps)), DPAR if cell.metric == "gradients_dpar" else 0.0
        cosine = gradient_cosines(model, x, y, threats, cell.steps, first_row, dpar)
        return {"clean": clean.cpu(), "cosine": cosine.cpu()}
    delta = _perturbation(model, cell, x, y, first_row, learn)
    with torch.no_grad():
        right = clean & (model((x + delta).clamp(0, 1)).argmax(1) == y)
    flat = delta.flatten(1)
    norms = {"l2": torch.linalg.vector_norm(flat, dim=1), "linf": flat.abs().amax(1)}
    return {"clean": clean.cpu(), "right": right.cpu()} | {name: value.cpu() for name, value in norms.items()}


def _perturbation(
    model: nn.Module, cell: RobustnessCell, x: Tensor, y: Tensor, first_row: int, learn: ImageData | None
) -> Tensor:
    """Return what is added to every image, (B, *S)."""
    threat = cell.threat
    match cell.metric:
        case "universal":
            assert learn is not None
            few, labels = learn.x[:LEARNED_FROM].to(x.device), learn.y[:LEARNED_FROM].to(x.device)
            found = usgd(model, few, labels, threat, step_size=float(threat.eps) / 10, epochs=cell.steps, seed=SEED)
            return found.delta.expand_as(x)
        case "strong":
            report = evaluate_robustness(
                model, x, y, {"threat": threat}, steps=cell.steps, seed=SEED, first_row=first_row
            )
            return report.delta["threat"]
        case _:
            return last_iterates(model, x, y, (threat,), cell.steps, first_row)[0]


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
