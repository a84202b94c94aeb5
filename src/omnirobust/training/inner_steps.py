"""How the attacks of a training start and move: a start and a stepper for each threat model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from omnirobust.attacks.presets import PAPER
from omnirobust.core.adaptive import Adaptive
from omnirobust.core.arguments import norm_name
from omnirobust.core.directions import Direction, Normalised, RawGradient, Sign, Sparse, Stepper
from omnirobust.core.draws import DrawKey, normals_from, uniforms
from omnirobust.core.threat_models import FeasibleSet, ThreatModel, paper_width
from omnirobust.core.units import in_units
from omnirobust.core.units import start as start_in_units
from omnirobust.training.schemes import Scheme

PAPER_LINF_STEP = 1 / 6
"""The step size of linf in Table A8. Of other norms the paper prints none for training."""


def steppers(scheme: Scheme, feasible: list[FeasibleSet]) -> list[Stepper]:
    """Return a fresh stepper for each of the K feasible sets, as ``scheme`` says."""
    return [
        start_in_units(_direction(scheme, threat), around, _step_size(scheme, k), scheme.steps)
        for k, (threat, around) in enumerate(zip(scheme.threats, feasible, strict=True))
    ]


@dataclass(frozen=True)
class _OfRadius:
    """A direction whose first step is a share of each row's own radius."""

    direction: Sign | Normalised | Sparse
    share: float

    def start(self, feasible: FeasibleSet, step_size: float | None, steps: int) -> Stepper:
        return self.direction.start(feasible, feasible.radius() * self.share, steps)


def _direction(scheme: Scheme, threat: ThreatModel) -> Direction:
    """Return the paper's raw gradient, or what suits the norm.

    For linf and l2 the plain step came within 2 points of the robust accuracy that the adaptive one leaves, at half its
    cost; for l1 it fell 3.5 points short, and under l0 it does not move between subspaces (MNIST, MLP, 10 steps).
    """
    if scheme.preset == "paper":
        return RawGradient()
    if _adapts(scheme, threat):
        return Adaptive()
    plain = {inf: Sign("linear"), 2: Normalised("linear"), 1: Sparse(decay="linear")}[threat.p]
    if isinstance(threat.eps, Tensor) and threat.eps.ndim and scheme.step_sizes is None:
        return _OfRadius(plain, _share(scheme))
    return plain


def _adapts(scheme: Scheme, threat: ThreatModel) -> bool:
    """Say whether the direction finds its steps itself, by where it has been: not for "msd", which others move."""
    return threat.p == 0 or (threat.p == 1 and scheme.kind != "msd")


def _share(scheme: Scheme) -> float:
    """Return the first step in radii: falling linearly, the steps come to 2.5 radii in all."""
    return min(5.0 / scheme.steps, 1.25)


def _step_size(scheme: Scheme, k: int) -> float | None:
    if scheme.step_sizes is not None:
        return scheme.step_sizes[k]
    threat = scheme.threats[k]
    if scheme.preset == "paper":
        printed = PAPER[norm_name(threat.p)].step_size
        assert printed is not None
        # raw gradients shrink by the width of the range, and a step in it grows by that
        return (PAPER_LINF_STEP if threat.p == inf else printed) * paper_width(threat) ** 2
    if _adapts(scheme, threat) or (isinstance(threat.eps, Tensor) and threat.eps.ndim):
        return None
    return float(threat.eps) * _share(scheme) or None


def check_steps(scheme: Scheme) -> None:
    """Find step sizes that there are none of, where a scheme takes any: "universal" has its own.

    Raises:
        ValueError: if the preset of the paper is to find them in a range without ends.
    """
    if scheme.attacks and scheme.kind != "universal":
        for k in range(len(scheme.threats)):
            _step_size(scheme, k)


def starts(scheme: Scheme, feasible: list[FeasibleSet], seeds: list[Tensor]) -> list[Tensor]:
    """Return the K first perturbations, feasible, each (B, *S).

    Args:
        scheme: ``start`` says whether they are random or zero.
        feasible: the K sets.
        seeds: two uniform numbers an example and threat model, K times (B, 2), from which its noise is drawn.
    """
    if scheme.start == "zero":
        return [torch.zeros_like(around.lower) for around in feasible]
    return [_random_start(around, seed) for around, seed in zip(feasible, seeds, strict=True)]


def carried_starts(
    scheme: Scheme, feasible: list[FeasibleSet], seeds: list[Tensor], deltas: Sequence[Tensor], seen: Tensor
) -> list[Tensor]:
    """Return K first perturbations (B, *S): those given, back in their sets, and ``starts`` where there are none.

    Args:
        scheme: see ``starts``.
        feasible: the K sets around the examples as they are now.
        seeds: see ``starts``.
        deltas: those given, K times (B, *S).
        seen: for which examples they were given, (B,) bool.
    """
    back = [around.project(delta.to(around.lower)) for around, delta in zip(feasible, deltas, strict=True)]
    if bool(seen.all()):
        return back
    kept = seen.to(back[0].device).view(-1, *[1] * (back[0].ndim - 1))
    return [torch.where(kept, b, fresh) for b, fresh in zip(back, starts(scheme, feasible, seeds), strict=True)]


def row_seeds(key: DrawKey, rows: Tensor, count: int) -> list[Tensor]:
    """Return the ``seeds`` of ``starts``, which depend on key and row alone."""
    return [uniforms(key._replace(slot=k), rows, 2) for k in range(count)]


def drawn_seeds(generator: torch.Generator, size: int, count: int, device: torch.device) -> list[Tensor]:
    """Return the ``seeds`` of ``starts``, drawn from ``generator``."""
    drawn = torch.rand(count, size, 2, generator=generator, device=generator.device)
    return list(drawn.to(device).unbind())


def _random_start(around: FeasibleSet, seeds: Tensor) -> Tensor:
    """Draw noise of a random share of the radius and project it: for l0 that keeps random coordinates."""
    if around.scale is not None:
        drawn = _random_start(in_units(around), seeds) * around.scale
        return around.project(drawn.to(around.lower))
    shape = around.shape
    noise = normals_from(seeds, shape[1:].numel()).to(around.lower.dtype)
    reach = around.radius().to(noise).unsqueeze(1)
    share = ((seeds[:, :1] + seeds[:, 1:]) % 1.0).to(noise)
    if around.p in (1, 2):
        noise = noise * (share * reach / torch.linalg.vector_norm(noise, ord=around.p, dim=1, keepdim=True))
    else:
        # erf turns normal numbers into uniform ones, in (-1, 1)
        noise = torch.erf(noise / 2**0.5) * (reach if around.p == inf else 1.0)
        if around.p == 0:
            noise = noise * (around.upper - around.lower).flatten(1)
    return around.project(noise.view(shape))
