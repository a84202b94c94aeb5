"""Several threats: what they are called, and which lies inside which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from omnirobust.core import ranges
from omnirobust.core.arguments import repeated
from omnirobust.core.threat_models import ThreatModel

Threats: TypeAlias = ThreatModel | Mapping[str, ThreatModel] | Sequence[ThreatModel]


def named_threats(threats: Threats) -> dict[str, ThreatModel]:
    """Give every threat a name: the mapping's keys, or its norm and radius, as in "linf:0.2".

    Raises:
        ValueError: if there is none, one is no threat model, their bounds differ, or two names are the same.
    """
    if isinstance(threats, ThreatModel):
        threats = [threats]
    if not isinstance(threats, Mapping | Sequence) or isinstance(threats, str):
        raise ValueError(f"threats must be threat models such as Linf(0.1), got {repeated(threats)}")
    pairs = list(threats.items()) if isinstance(threats, Mapping) else [(_name(t), t) for t in threats]
    if not pairs:
        raise ValueError("threats must hold at least one threat model, got none")
    named: dict[str, ThreatModel] = {}
    for name, threat in pairs:
        if not isinstance(threat, ThreatModel):
            raise ValueError(f"threats must be threat models such as Linf(0.1), got {repeated(threat)}")
        if name in named:
            raise ValueError(f"threats must have names that differ, got {name!r} twice: give a mapping")
        named[str(name)] = threat
    first, *others = named.values()
    for other in others:
        if not _same_bounds(first, other):
            told = sorted(str(tuple(ranges.described(b) for b in t.bounds)) for t in (first, other))
            raise ValueError(f"threats must share their bounds, got {' and '.join(told)}")
    return named


def inner_first(threats: Mapping[str, ThreatModel], x: Tensor) -> list[str]:
    """Return the names so that a threat comes after those that lie inside it, whose examples count for it."""

    def inside(name: str) -> int:
        return sum(bool(lies_inside(other, threats[name], x).all()) for other in threats.values())

    return sorted(threats, key=inside)


def lies_inside(inner: ThreatModel, outer: ThreatModel, x: Tensor) -> Tensor:
    """Say for which inputs all that ``inner`` allows is allowed by ``outer``, (B,) bool.

    The ball of norm p and radius a lies in that of norm q and radius b if a max(1, d^(1/q - 1/p)) <= b, with d the
    number of coordinates. Between l0 and other norms nothing is claimed, nor of a set of the user's own.
    """
    a, b = (_radii(threat, x) for threat in (inner, outer))
    if _own(inner) or _own(outer):
        return torch.full_like(a, inner is outer, dtype=torch.bool)
    if outer.mask is not None and not ranges.same(inner.mask, outer.mask):
        return torch.zeros_like(a, dtype=torch.bool)
    if inner.p == 0 or outer.p == 0:  # as many values lie in no more pixels, but not the other way round
        return (a <= b) & (inner.p == outer.p and (inner.unit, outer.unit) != ("pixel", "value"))
    if not ranges.same(inner.scale, outer.scale):
        return torch.zeros_like(a, dtype=torch.bool)
    d = max(x[:1].numel(), 1)
    return a * max(1.0, d ** (1 / outer.p - 1 / inner.p)) <= b


def of_rows(threat: ThreatModel, rows: Tensor, x: Tensor) -> ThreatModel:
    """Return the threat with the radii and masks of ``rows`` (int64) of ``x`` alone, where every input has its own."""
    return threat.select(rows, x.ndim - 1)


def same_threat(a: ThreatModel, b: ThreatModel) -> bool:
    """Say whether two threats allow the same; of sets of the user's own, whether they are one object."""
    if _own(a) or _own(b):
        return a is b
    radii = (torch.as_tensor(t.eps, dtype=torch.float64) for t in (a, b))
    alike = ranges.same(a.mask, b.mask) and ranges.same(a.scale, b.scale) and _same_bounds(a, b)
    return (a.p, a.unit) == (b.p, b.unit) and alike and torch.equal(*radii)


def _same_bounds(a: ThreatModel, b: ThreatModel) -> bool:
    return all(map(ranges.same, a.bounds, b.bounds))


def check_universal(
    universal: Mapping[str, Tensor] | None, x: Tensor, named: Mapping[str, ThreatModel]
) -> dict[str, Tensor]:
    """Return the universal perturbations like ``x``, checked.

    Raises:
        ValueError: if one has the name of a threat, not the shape of an input, or NaN or infinite values.
    """
    if universal is not None and not isinstance(universal, Mapping):
        raise ValueError(
            f"universal must map names to perturbations, got {shape_or_type(universal)}: write {{'u': it}}"
        )
    given = dict(universal or {})
    for name, delta in given.items():
        if name in named:
            raise ValueError(f"universal must have names that are none of the threats', got {name!r}")
        if not isinstance(delta, Tensor) or delta.shape != x.shape[1:]:
            got = shape_or_type(delta)
            raise ValueError(f"universal must hold perturbations of shape {tuple(x.shape[1:])}, got {got} for {name!r}")
        if not delta.is_floating_point() or not bool(delta.isfinite().all()):
            got = "NaN or infinity" if delta.is_floating_point() else str(delta.dtype)
            raise ValueError(f"universal must hold finite floating-point perturbations, got {got} for {name!r}")
    return {name: delta.detach().to(x) for name, delta in given.items()}


def shape_or_type(value: object) -> str:
    """Say for a message what was given instead of a tensor that fits."""
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _own(threat: ThreatModel) -> bool:
    """Say whether a threat is of the user's own making: its norm and radius do not tell what it allows."""
    return type(threat) is not ThreatModel


def _radii(threat: ThreatModel, x: Tensor) -> Tensor:
    return torch.as_tensor(threat.eps, dtype=torch.float64, device=x.device).expand(len(x))


def _name(threat: object) -> str:
    if not isinstance(threat, ThreatModel):
        return repr(threat)
    return f"{threat.name}:{'many' if isinstance(threat.eps, Tensor) and threat.eps.ndim else f'{float(threat.eps):g}'}"
