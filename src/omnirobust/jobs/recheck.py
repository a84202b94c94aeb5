"""Check saved perturbations again, as they were saved and as they would be in an 8-bit image file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from omnirobust.domains import DomainGrid
from omnirobust.losses import margin
from omnirobust.threat_models import ThreatModel


@dataclass(frozen=True)
class Recheck:
    """What is left of an attack once its perturbations come from a file. Rates are in [0, 1].

    Attributes:
        examples: how many were checked.
        feasible: rate of perturbations within the ball and the data range.
        asr_all: rate that fools every model as saved in float.
        asr_all_uint8: rate that still does once the image is rounded to 256 levels.
        largest_norm_uint8: largest norm of a perturbation after rounding, which moves each pixel by up to 1/510 of the
            range, and so may pass eps.
    """

    examples: int
    feasible: float
    asr_all: float
    asr_all_uint8: float
    largest_norm_uint8: float

    def describe(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def recheck(
    models: Mapping[str, nn.Module],
    threat_model: ThreatModel,
    clean: Tensor,
    delta: Tensor,
    adversarial: Tensor,
    y: Tensor,
    *,
    targeted: bool = False,
) -> Recheck:
    """Check perturbations that were read back from a file.

    Args:
        models: those that were attacked.
        threat_model: what the attacker may do.
        clean: inputs, (B, *S).
        delta: perturbations as saved, (B, *S).
        adversarial: attacked inputs as saved, (B, *S).
        y: the attack's labels, (B,) or (B, K).
        targeted: whether ``y`` are classes to reach.

    Cost: two forwards of each model.
    """
    low, high = threat_model.bounds
    feasible = threat_model.around(clean)
    consistent = (adversarial == (clean + delta).clamp(low, high)).flatten(1).all(1)
    rounded = to_levels(adversarial, low, high)
    return Recheck(
        examples=len(clean),
        feasible=_rate(feasible.contains(delta) & consistent),
        asr_all=_rate(fools_all(models, adversarial, y, targeted=targeted)),
        asr_all_uint8=_rate(fools_all(models, rounded, y, targeted=targeted)),
        largest_norm_uint8=float(feasible.norm(rounded - clean).max()) if len(clean) else 0.0,
    )


def to_levels(images: Tensor, low: float = 0.0, high: float = 1.0, levels: int = 256) -> Tensor:
    """Round ``images`` in [low, high] to ``levels`` equally spaced values, as saving them in 8 bits does."""
    scale = (levels - 1) / (high - low)
    return ((images - low) * scale).round() / scale + low


def fools_all(models: Mapping[str, nn.Module], inputs: Tensor, y: Tensor, *, targeted: bool = False) -> Tensor:
    """Say which ``inputs`` (B, *S) fool every model, (B,) bool."""
    grid = DomainGrid(models, inputs, y, loss=margin, targeted=targeted)
    fooled = grid.evaluate(torch.zeros_like(inputs), grad=False).fooled
    assert fooled is not None
    return fooled.all(1)


def _rate(flags: Tensor) -> float:
    return float(flags.double().mean()) if len(flags) else 0.0
