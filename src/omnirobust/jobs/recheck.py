"""Check saved perturbations again, as they were saved and as they would be in an 8-bit image file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from omnirobust.core.ranges import in_8_bits
from omnirobust.core.threat_models import Clip, ThreatModel, clamped
from omnirobust.domains.classifier import Model
from omnirobust.domains.grid import DomainGrid
from omnirobust.domains.losses import margin
from omnirobust.jobs.transforms import Transform


@dataclass(frozen=True)
class Recheck:
    """What is left of an attack once its perturbations come from a file. Rates are in [0, 1].

    Attributes:
        examples: how many perturbations were checked.
        feasible: rate of perturbations within the ball and the data range.
        asr_all: rate that fools every domain as saved in float; on draws of its own if anything is random.
        asr_all_uint8: rate that still does once the image is rounded to 256 levels; None where data has no such levels,
            for its features differ in their ranges or have none.
        largest_norm_uint8: largest norm of a perturbation after rounding, which moves each pixel by up to 1/510 of the
            range, and so may pass eps; None likewise.
    """

    examples: int
    feasible: float
    asr_all: float
    asr_all_uint8: float | None
    largest_norm_uint8: float | None

    def describe(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def recheck(
    models: Mapping[str, Model],
    threat_model: ThreatModel,
    clean: Tensor,
    delta: Tensor,
    adversarial: Tensor,
    y: Tensor,
    *,
    targeted: bool = False,
    transforms: Mapping[str, Transform] | None = None,
    shared: bool = False,
    clip: Clip = "image",
    draws: int = 1,
    seed: int = 0,
    device: torch.device | None = None,
    counted: Tensor | None = None,
) -> Recheck:
    """Check perturbations that were read back from a file.

    Args:
        models: those that were attacked.
        threat_model: what the attacker may do.
        clean: inputs, (B, *S), or (B, E, *S) where ``shared``.
        delta: perturbations as saved, (B, *S).
        adversarial: attacked inputs as saved, shaped like ``clean``.
        y: the attack's labels.
        targeted: whether ``y`` are classes to reach.
        transforms: those to withstand, or None.
        shared: whether E inputs share a perturbation.
        clip: how shared perturbations are kept within the data range.
        draws: draws of random transformations and models on which all must be fooled.
        seed: of those draws.
        device: where the models are; None for where ``clean`` is.
        counted: the perturbations whose success is counted, (B,) bool; None for all.

    Cost: 2 ``draws`` forwards of each model under each transformation.
    """
    moved = clean + (delta.unsqueeze(1) if shared else delta)
    consistent = (adversarial == clamped(moved, threat_model.bounds)).flatten(1).all(1)
    inside = threat_model.around(clean, shared=shared, clip=clip).contains(delta)

    def fools(inputs: Tensor) -> Tensor:
        fooled, _ = success_of(
            models, inputs, y, transforms, shared=shared, draws=draws, seed=seed, targeted=targeted, device=device
        )
        return fooled.all(1) if counted is None else fooled.all(1)[counted]

    rounded = in_8_bits(adversarial, threat_model.bounds)
    return Recheck(
        examples=len(clean),
        feasible=_rate(inside & consistent),
        asr_all=_rate(fools(adversarial)),
        asr_all_uint8=None if rounded is None else _rate(fools(rounded)),
        largest_norm_uint8=None if rounded is None else _largest_norm(threat_model, clean, rounded, shared),
    )


def _largest_norm(threat: ThreatModel, clean: Tensor, rounded: Tensor, shared: bool) -> float:
    """Return the norm of the perturbation of any image, whatever radii and masks there are."""
    flat = (clean.flatten(0, 1), rounded.flatten(0, 1)) if shared else (clean, rounded)
    if threat.mask is not None or isinstance(threat.eps, Tensor):  # those of one image each, of a group or none
        threat = replace(threat, eps=0.0, mask=None)
    norms = threat.around(flat[0]).norm(flat[1] - flat[0])
    return float(norms.max()) if len(norms) else 0.0


def success_of(
    models: Mapping[str, Model],
    inputs: Tensor,
    y: Tensor,
    transforms: Mapping[str, Transform] | None = None,
    *,
    shared: bool = False,
    draws: int = 1,
    seed: int = 0,
    targeted: bool = False,
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """Say which domains ``inputs`` fool as they are.

    Args:
        models: K models, or K = models x transforms x E domains.
        inputs: (B, *S), or (B, E, *S) where ``shared``.
        y: labels, see ``DomainGrid``; one that is no class of a model is missed.
        transforms: those that inputs go through, or None.
        shared: whether E inputs are judged together.
        draws: how often random transformations and models are drawn.
        seed: of the draws.
        targeted: whether ``y`` are classes to reach.
        device: where the models are; None for where ``inputs`` are.

    Returns:
        Whether a domain is fooled on every draw, (B, K) bool; and the share of draws on which it is, (B, K). Both
        where ``inputs`` are.
    """
    home = inputs.device
    inputs, y = inputs.to(device or home), y.to(device or home)
    grid = DomainGrid(
        models, inputs, y, loss=margin, transforms=transforms, shared=shared, targeted=targeted, seed=seed,
        clip="intersection",  # inputs are judged as they are
    ).probed(labels=False)  # fmt: skip
    if not targeted:
        grid = grid.renewed(0, labels=grid.labels)
    none = torch.zeros_like(inputs[:, 0] if shared else inputs)
    hits = []
    for _ in range(draws if grid.random else 1):
        fooled = grid.evaluate(none, grad=False).fooled
        assert fooled is not None
        hits.append(fooled)
    all_hits = torch.stack(hits)
    return all_hits.all(0).to(home), all_hits.to(home).double().mean(0)


def _rate(flags: Tensor) -> float:
    return float(flags.double().mean()) if len(flags) else 0.0
