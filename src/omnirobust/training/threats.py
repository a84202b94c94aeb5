"""Threat models of a training: how their radii are told and taken apart, and all of them as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from omnirobust.core.arguments import repeated
from omnirobust.core.choices import SchemeKind as Kind
from omnirobust.core.threat_models import ThreatModel
from omnirobust.zoo.chunks import fingerprint


def check_threats(kind: Kind, threats: Sequence[ThreatModel]) -> None:
    """Raise a ValueError unless ``threats`` are such as a scheme of ``kind`` can train against."""
    examples: int | None = None
    for threat in threats:
        if not isinstance(threat, ThreatModel):
            raise ValueError(f"threats must be threat models such as Linf(0.2), got {repeated(threat)}")
        if isinstance(threat.eps, Tensor) and threat.eps.ndim and kind == "universal":
            raise ValueError(
                f"threats must have one radius for all examples with kind universal, got eps of shape "
                f"{(*threat.eps.shape,)}"
            )
        if not isinstance(threat.eps, Tensor) or not threat.eps.ndim:
            continue
        examples = examples or len(threat.eps)
        if len(threat.eps) != examples:
            raise ValueError(f"threats must have radii for as many examples, got {examples} and {len(threat.eps)}")
    count = len(threats)
    if kind == "natural" and count:
        raise ValueError(f"threats must be empty for kind natural, got {count}")
    if kind in ("single", "universal") and count != 1:
        raise ValueError(f"threats must be exactly one for kind {kind}, got {count}")
    if kind not in ("natural", "single", "universal") and count < 1:
        raise ValueError(f"threats must be at least one for kind {kind}, got none")
    if kind in ("msd", "alternate", "ramp"):
        _check_norms(kind, [threat.name for threat in threats])


def _check_norms(kind: Kind, norms: Sequence[str]) -> None:
    count = len(norms)
    told = f"for kind {kind}, got {', '.join(norms)}"
    if kind == "msd" and count < 2:
        raise ValueError(f"threats must be two or more {told}")
    if kind == "msd" and "l0" in norms:
        raise ValueError(f"threats must be of norms with a steepest direction, l1, l2 or linf, {told}")
    if kind == "alternate" and len(set(norms)) < 2:
        raise ValueError(f"threats must be of two norms or more {told}")
    if kind == "ramp" and (count != 2 or len(set(norms)) != 2):
        raise ValueError(f"threats must be exactly two, of different norms, {told}")


def told_radius(eps: float | Tensor) -> str:
    """Return a radius as text, or the least and the most of several."""
    if not isinstance(eps, Tensor) or not eps.ndim:
        return f"{float(eps):g}"
    return f"{float(eps.min()):g}..{float(eps.max()):g}"


def cut(threat: ThreatModel, rows: Tensor) -> ThreatModel:
    """Return a threat model with the radii of ``rows`` alone, where each example has its own."""
    if not isinstance(threat.eps, Tensor) or not threat.eps.ndim:
        return threat
    return replace(threat, eps=threat.eps[rows.to(threat.eps.device)])


def mean_radius(threat: ThreatModel) -> ThreatModel:
    """Return a threat model with the mean of its radii."""
    return replace(threat, eps=float(torch.as_tensor(threat.eps, dtype=torch.float64).mean()))


def full_text(value: Any) -> str:
    """Return a repr that shows every element of the tensors in it."""
    if isinstance(value, Tensor):
        return f"tensor({value.tolist()})"
    if isinstance(value, tuple):
        return f"({', '.join(full_text(part) for part in value)}{',' * (len(value) == 1)})"
    if isinstance(value, ThreatModel):
        mask = None if value.mask is None else value.mask.tolist()
        later = "" if value.scale is None else f", scale={full_text(value.scale)}"
        later += "" if value.unit == "value" else f", unit={value.unit}"
        eps = value.eps
        eps = fingerprint({"eps": eps}) if isinstance(eps, Tensor) and eps.ndim else repr(float(eps))
        return f"ThreatModel(p={value.p}, eps={eps}, bounds={full_text(value.bounds)}, mask={mask}{later})"
    return repr(value)
