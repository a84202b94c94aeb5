"""Learn one perturbation for a data set, by min-max or by the baseline.

    minimise over delta in X, maximise over w in the simplex:  sum_k w_k F_k(delta),
    F_k(delta) = mean over the images i of domain k of f(M(t(clip(x_i + delta))), y_i)

The domains are classes, images, or the data as one, times models and transformations. ``attack_universal`` solves
the same problem for small groups, whole groups a step; here a step sees a mini-batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite

import torch
from torch import Tensor

from omnirobust._progress import ProgressHook, bar
from omnirobust.attacks.labels import already_notes, already_there
from omnirobust.attacks.universal.losses import ClippedCrossEntropy
from omnirobust.attacks.universal.masked import MaskedImages
from omnirobust.attacks.universal.results import UniversalPerturbation
from omnirobust.attacks.universal.weighing import Over, Weighing
from omnirobust.core.arguments import check_count, check_flag, check_number, check_seed
from omnirobust.core.contracts import check_answers_losses, set_around
from omnirobust.core.directions import Direction, Normalised, Sign
from omnirobust.core.draws import DrawKey, row_seeds, torch_forked
from omnirobust.core.threat_models import FeasibleSet, ThreatModel, range_notes, told_range
from omnirobust.core.types import WeightRule, described
from omnirobust.core.units import start as start_in_units
from omnirobust.core.weights import ExponentiatedGradient, Uniform
from omnirobust.domains.checks import check_gradients
from omnirobust.domains.classifier import Models, Precision, Probed, widened
from omnirobust.domains.grid import DomainGrid, Transforms
from omnirobust.domains.losses import Loss, relative_margin, wants_reach
from omnirobust.domains.outputs import rows_named
from omnirobust.domains.probe import notes_of, probed
from omnirobust.domains.transforms.seeded import View, as_views

_RULE = ExponentiatedGradient(0.3)
_CHECKED_AT_ONCE = 4096
_JUDGED = "Its loss and success are those of the draws of each step: see score_universal for fresh ones."


def learn_universal(
    models: Models,
    x: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    *,
    transforms: Transforms | None = None,
    over: Over = "classes",
    rule: WeightRule | None = None,
    loss: Loss = relative_margin,
    direction: Direction | None = None,
    step_size: float | None = None,
    epochs: int = 5,
    batch_size: int = 128,
    samples: int = 1,
    targeted: bool = False,
    init: Tensor | None = None,
    seed: int = 0,
    precision: Precision = "fp32",
    progress: bool | ProgressHook = False,
    memory: int | None = None,
) -> UniversalPerturbation:
    """Learn one perturbation that fools models on all images of a data set.

    Each step evaluates a mini-batch at delta. The weights of its domains answer their mean losses by ``rule`` among
    themselves, their sum unchanged; then delta goes one projected step along the gradient so weighted. Every perturbed
    image is clamped to the data range on its own.

    Args:
        models: one model, a mapping from name to model, or a sequence; all are to be fooled.
        x: images in the threat model's bounds, (N, *S), float.
        y: labels, (N,) int64.
        threat_model: what the attacker may do, with one radius; with a mask a patch.
        transforms: transformations that the perturbed images must survive, as in ``attack_transforms``.
        over: what the weights compare: "classes", "images" (a weight for each training image), or "data": all images as
            one, so that only models and transformations are weighted.
        rule: how weights answer losses; None for ``ExponentiatedGradient(0.3)``. ``Uniform()`` is the average.
        loss: per-example loss, low = fooled.
        direction: how delta moves; None for steps whose length shrinks linearly to nothing, along the sign for linf,
            along the gradient for the other norms. One that compares losses from step to step, such as ``Adaptive``,
            is misled by mini-batches.
        step_size: as the direction has it, which says what None stands for; where none is given either, the steps start
            from one radius.
        epochs: passes over the images, >= 1.
        batch_size: images a step, >= 1.
        samples: draws of each random transformation, and of each random model, a step, >= 1.
        targeted: whether ``y`` are classes to reach rather than to leave.
        init: first perturbation, (*S), projected; None for zeros.
        seed: of the order of the images and of the transformations' draws.
        precision: "bf16" runs the models under autocast.
        progress: True draws a bar on the terminal; a callable is given (steps done, steps in all).
        memory: bytes that the graph of one forward pass may hold, see ``DomainGrid``.

    Returns:
        The perturbation after the last step.

    Raises:
        ValueError: if an argument, a model's output or a label does not fit, or no gradient reaches any image; the
            sentence names it. From 5 % of the images on, a warning and a note do.

    Cost: epochs x N x models x transformations (x samples, if random) forwards, and as many input gradients; before the
    first step N x models x transformations of each for the reaches of the default loss.

    Reference: the paper, problem (6), for the min-max; Shafahi et al. 2020, "Universal adversarial training", for one
    perturbation from mini-batches.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError("learning a perturbation needs gradients: call it outside torch.inference_mode()")
    check_gradients(models, "models")
    _check(y, epochs, batch_size, threat_model)
    check_flag("targeted", targeted)
    check_seed("seed", seed)
    check_answers_losses(rule)
    if step_size is not None:
        check_number("step_size", step_size, "finite and > 0", lambda size: isfinite(size) and size > 0)
    feasible = _feasible(x, y, threat_model)
    views = None if transforms is None else as_views(transforms, x[:2])
    if direction is None:
        direction = (Sign if threat_model.p == inf else Normalised)(decay="linear")
        step_size = step_size or _radius(threat_model)
    known = probed(models, x, batch_size)
    learner = _Learner(known, views, threat_model, loss, samples, targeted, seed, precision, memory)
    already = already_there(known, x, y, len(views or (None,)), batch_size) if targeted else None
    weighing = Weighing(y, over, learner.pairs, rule or _RULE, widened(x[:1]), already)
    delta = feasible.project(torch.zeros_like(feasible.lower) if init is None else init.to(x).unsqueeze(0))
    steps, t, rows = epochs * -(-len(x) // batch_size), 0, []
    stepper, masked = start_in_units(direction, feasible, step_size, steps), MaskedImages()
    with torch_forked(x), bar(progress, total=steps) as advance:
        reach = learner.reach(x, y, feasible, batch_size)
        for epoch in range(epochs):
            weighing.restart()
            for chosen in _order(x, seed, epoch).split(batch_size):
                t += 1
                of_chosen = None if reach is None else reach[..., chosen]
                with rows_named(lambda row, chosen=chosen: int(chosen[row])):
                    grid = learner.grid(x[chosen], y[chosen], t, of_chosen)
                    evaluation = grid.evaluate(delta)
                    if epoch == 0:
                        masked.see(grid, evaluation, delta)
                delta = stepper.step(t, delta, weighing.answer(chosen, evaluation), evaluation, feasible)
                advance(1)
            rows.append({"epoch": epoch + 1.0} | weighing.row())
    told = [] if already is None else already_notes(already)
    settings = learner.describe() | {
        "over": over, "rule": repr(rule or _RULE), "direction": repr(direction), "step_size": step_size,
        "epochs": epochs, "batch_size": batch_size, "images": len(x),
    }  # fmt: skip
    return UniversalPerturbation(
        delta[0], weighing.weights, learner.axes(weighing), threat_model.bounds, tuple(rows),
        epochs * len(x) * learner.passes + (0 if reach is None else reach.numel()), settings,
        (*notes_of(known.values(), _JUDGED), *range_notes(threat_model, x), *masked.notes(loss), *told),
    )  # fmt: skip


def usgd(
    models: Models,
    x: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    *,
    transforms: Transforms | None = None,
    cap: float = 9.0,
    step_size: float | None = None,
    epochs: int = 5,
    batch_size: int = 128,
    samples: int = 1,
    targeted: bool = False,
    seed: int = 0,
    precision: Precision = "fp32",
    progress: bool | ProgressHook = False,
) -> UniversalPerturbation:
    """Learn one perturbation by plain stochastic gradient steps on the mean clipped cross-entropy: the baseline.

    delta <- proj(delta + alpha s(grad mean_i min(CE(M(x_i + delta), y_i), cap))), s the sign for linf, the unit
    gradient for other norms; steps of constant length, no weights. With the same ``seed`` it sees the same mini-batches
    as ``learn_universal``, whose arguments it shares.

    Args:
        cap: cross-entropy at which an image stops to count, in nats.

    Reference: Shafahi et al. 2020, "Universal adversarial training".
    """
    return learn_universal(
        models, x, y, threat_model, transforms=transforms, over="data", rule=Uniform(), loss=ClippedCrossEntropy(cap),
        direction=Sign() if threat_model.p == inf else Normalised(), step_size=step_size, epochs=epochs,
        batch_size=batch_size, samples=samples, targeted=targeted, seed=seed, precision=precision, progress=progress,
    )  # fmt: skip


@dataclass(frozen=True)
class _Learner:
    """What every mini-batch is evaluated with."""

    models: Mapping[str, Probed]
    views: tuple[View, ...] | None
    threat_model: ThreatModel
    loss: Loss
    samples: int
    targeted: bool
    seed: int
    precision: Precision
    memory: int | None

    @property
    def pairs(self) -> int:
        """How many pairs of model and transformation there are."""
        return len(self.models) * len(self.views or (None,))

    @property
    def passes(self) -> int:
        """How many images go through models for each image of a mini-batch."""
        of_views = [view.random for view in self.views or ()] or [False]
        return sum(self.samples if m.random or v else 1 for m in self.models.values() for v in of_views)

    def reach(self, x: Tensor, y: Tensor, feasible: FeasibleSet, size: int) -> Tensor | None:
        """Return how far each model's margin can go on every image, (1, models, transforms, N), if the loss asks."""
        if not wants_reach(self.loss):
            return None
        found = []
        for rows in torch.arange(len(x), device=x.device).split(size):
            with rows_named(lambda row, rows=rows: int(rows[row])):
                found.append(self.grid(x[rows], y[rows], 0).scaled(feasible).reach)
        return torch.cat(found, dim=3)

    def grid(self, x: Tensor, y: Tensor, step: int, reach: Tensor | None = None) -> DomainGrid:
        """Return the domains of a mini-batch, each step with draws of its own."""
        return DomainGrid(
            self.models, x.unsqueeze(0), y.unsqueeze(0), loss=self.loss, transforms=self.views, shared=True,
            targeted=self.targeted, samples=self.samples, precision=self.precision, bounds=self.threat_model.bounds,
            seed=self.seed, restart=step, reach=reach, memory=self.memory,
        )  # fmt: skip

    def axes(self, weighing: Weighing) -> dict[str, tuple[str, ...]]:
        """Return the factors in use; at least one."""
        models = tuple(self.models)
        axes: dict[str, tuple[str, ...]] = {"models": models} if len(models) > 1 else {}
        if self.views is not None:
            axes["transforms"] = tuple(view.name for view in self.views)
        if weighing.members:
            axes[weighing.axis] = weighing.members
        return axes or {"models": models}

    def describe(self) -> dict[str, object]:
        """Return the settings as plain values."""
        threat = self.threat_model
        return {
            "norm": threat.name, "eps": float(threat.eps), **told_range(threat),
            "masked": threat.mask is not None, "loss": getattr(self.loss, "__name__", repr(self.loss)),
            "transforms": None if self.views is None else {view.name: repr(view) for view in self.views},
            "samples": self.samples, "targeted": self.targeted, "seed": self.seed, "precision": self.precision,
        }  # fmt: skip


def _check(y: object, epochs: int, batch_size: int, threat_model: ThreatModel) -> None:
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    if not isinstance(y, Tensor) or y.dtype != torch.int64:
        raise ValueError(f"y must be an int64 tensor of class indices, got {described(y)}")
    if isinstance(threat_model.eps, Tensor) and threat_model.eps.ndim:
        raise ValueError(f"eps must be one number for the data set, got shape {tuple(threat_model.eps.shape)}")


def _feasible(x: object, y: Tensor, threat_model: ThreatModel) -> FeasibleSet:
    """Return the set of one perturbation for all images, and check them on the way."""
    if not isinstance(x, Tensor) or x.ndim < 2 or len(x) == 0:
        raise ValueError(f"x must be a float tensor of shape (N, *S) with N >= 1, got {described(x)}")
    if threat_model.mask is not None and threat_model.mask.ndim >= x.ndim:
        raise ValueError(
            f"mask must be one for the data set, got shape {tuple(threat_model.mask.shape)} for inputs "
            f"{tuple(x.shape[1:])}"
        )
    if y.shape != x.shape[:1]:
        raise ValueError(f"y must have shape ({len(x)},), got {tuple(y.shape)}")
    sets = [set_around(threat_model, part.unsqueeze(0), shared=True) for part in x.split(_CHECKED_AT_ONCE)]
    return sets[0]


def _radius(threat_model: ThreatModel) -> float | None:
    """Return the radius as a length; None for l0, which counts, and for a radius of nothing."""
    return None if threat_model.p == 0 else float(threat_model.eps) or None


def _order(x: Tensor, seed: int, epoch: int) -> Tensor:
    (own,) = row_seeds(DrawKey(seed, epoch), torch.zeros(1, dtype=torch.int64))
    return torch.randperm(len(x), generator=torch.Generator().manual_seed(own)).to(x.device)
