"""Robust accuracy against the radius, the area under it, and how far the balls of different norms overlap."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

import torch
from torch import Tensor

from omnirobust._progress import ProgressHook
from omnirobust.core.arguments import is_number
from omnirobust.core.threat_models import ThreatModel
from omnirobust.domains.classifier import Model, Precision
from omnirobust.evaluation.robustness import Attacks, RobustnessReport, evaluate_robustness, share
from omnirobust.evaluation.threats import Threats, named_threats, of_rows, same_threat


@dataclass(frozen=True)
class RobustnessCurve:
    """Robust accuracy at growing radii.

    Attributes:
        eps: the radii, ascending.
        union: Acc_adv^max at each.
        average: Acc_adv^avg at each.
        clean: accuracy on the inputs as they are.
        correct: whether an input withstands all threats of a radius, (B, radii) bool; a random model on most draws.
        report: of all threats of all radii.

    Of a random model ``union`` and ``average`` are means over fresh draws, as those of ``evaluate_robustness``.
    """

    eps: tuple[float, ...]
    union: tuple[float, ...]
    average: tuple[float, ...]
    clean: float
    correct: Tensor
    report: RobustnessReport

    @property
    def area(self) -> float:
        """S, the area under ``union`` against ``eps``."""
        return area_under(self.eps, self.union)


def robustness_curve(
    model: Model,
    x: Tensor,
    y: Tensor,
    threats_at: Callable[[float], Threats],
    eps: Sequence[float],
    *,
    attacks: Attacks = "default",
    steps: int = 100,
    restarts: int = 1,
    seed: int = 0,
    batch_size: int | None = None,
    precision: Precision = "fp32",
    progress: bool | ProgressHook = False,
    samples: int = 1,
    draws: int | None = None,
) -> RobustnessCurve:
    """Measure Acc_adv^max and Acc_adv^avg at every radius.

    Inputs that fall at one radius are not attacked at larger ones: for threats that grow with ``eps`` the curve never
    rises, and costs little more than its steepest part. That of a random model, judged on fresh draws at each radius,
    may rise by chance.

    Args:
        threats_at: from a radius to the threats there: ``orb.L2``, or
            ``lambda eps: {"linf": orb.Linf(0.2), "l2": orb.L2(eps)}``.
        eps: the radii, ascending.

    All other arguments are those of ``evaluate_robustness``.

    Returns:
        The accuracies; ``area`` is the paper's S.

    Raises:
        ValueError: if the radii do not ascend, or an argument does not fit.

    Reference: the paper, Section 4.2, Figures 3b, 3c, A2b and A2c.
    """
    _check_radii(eps)
    at = [named_threats(threats_at(radius)) for radius in eps]
    threats, names = _joined(at)
    report = evaluate_robustness(
        model, x, y, threats, attacks=attacks, steps=steps, restarts=restarts, seed=seed, batch_size=batch_size,
        precision=precision, progress=progress, samples=samples, draws=draws,
    )  # fmt: skip
    withstood, accuracy = torch.stack([report.withstood(here) for here in names], 1), report.accuracy
    return RobustnessCurve(
        eps=tuple(float(e) for e in eps),
        union=tuple(share(withstood[:, k]) for k in range(len(eps))),
        average=tuple(fmean(accuracy[n] for n in here) for here in names),
        clean=report.clean,
        correct=withstood > 0.5,
        report=report,
    )


def area_under(eps: Sequence[float], accuracy: Sequence[float]) -> float:
    """Return S, the area under accuracy against radius: sum_i (eps_{i+1} - eps_i) (A_i + A_{i+1}) / 2.

    Args:
        eps: radii, ascending, at least two.
        accuracy: A, as many, fractions.

    Returns:
        In units of ``eps``; divided by its range it is the mean accuracy.

    Raises:
        ValueError: if the two do not fit.

    Reference: the paper, Section 4.2 (S).
    """
    _check_radii(eps)
    if len(eps) < 2:
        raise ValueError(f"eps must hold at least two radii to span an area, got {len(eps)}")
    if len(accuracy) != len(eps):
        raise ValueError(f"accuracy must have one value for each of {len(eps)} radii, got {len(accuracy)}")
    points = pairwise(zip(eps, accuracy, strict=True))
    return math.fsum((right - left) * (a + b) / 2 for (left, a), (right, b) in points)


@dataclass(frozen=True)
class BallOverlap:
    """How much of what one threat leads to another allows too.

    Attributes:
        names: of the threats.
        inside: share of the perturbations made under the row's threat that the column's allows, (n, n).
        norms: mean norm of the perturbations made under the row's threat, by the norm of the column's, (n, n).
        counts: perturbations of each row, (n,) int64; rows without any hold NaN.
    """

    names: tuple[str, ...]
    inside: Tensor
    norms: Tensor
    counts: Tensor


def ball_overlap(
    x: Tensor,
    threats: Threats,
    perturbations: Mapping[str, Tensor],
    *,
    where: Mapping[str, Tensor] | None = None,
    tolerance: float = 1e-4,
) -> BallOverlap:
    """Measure how many perturbations made under one threat lie in the ball of another.

    Balls overlap on paper more, or less, than for the perturbations that attacks make. Where almost all of those made
    under one threat lie in the ball of another, training against the other alone is enough.

    Args:
        x: the inputs, (B, *S).
        threats: as for ``evaluate_robustness``.
        perturbations: by name, made under each threat, (B, *S): ``report.delta``, or ``attack_ensemble(...).delta``.
        where: by name, which of them count, (B,) bool; all if not given. ``~report.correct[:, k]`` keeps adversarial
            examples.
        tolerance: relative excess over a radius that is taken for rounding.

    Returns:
        Shares and mean norms.

    Raises:
        ValueError: if a threat has no perturbations, or their shape is not that of ``x``.

    Reference: the paper, Appendix E.3, Figure A3.
    """
    named = named_threats(threats)
    for name in named:
        if name not in perturbations:
            raise ValueError(f"perturbations must have those of every threat, {name!r} is missing")
        if perturbations[name].shape != x.shape:
            raise ValueError(
                f"perturbations must have shape {tuple(x.shape)}, got {tuple(perturbations[name].shape)} for {name!r}"
            )
    inside, norms, counts = [], [], []
    for name in named:
        rows = torch.arange(len(x), device=x.device) if where is None else where[name].nonzero().flatten()
        seen = [_compare(perturbations[name][rows], x[rows], of_rows(t, rows, x), tolerance) for t in named.values()]
        inside.append([fraction for fraction, _ in seen])
        norms.append([norm for _, norm in seen])
        counts.append(len(rows))
    return BallOverlap(tuple(named), torch.tensor(inside), torch.tensor(norms), torch.tensor(counts))


def _compare(delta: Tensor, x: Tensor, threat: ThreatModel, tolerance: float) -> tuple[float, float]:
    if not len(delta):
        return math.nan, math.nan
    allowed = threat.around(x)
    return share(allowed.contains(delta, tol=tolerance)), float(allowed.norm(delta).double().mean())


def _joined(at: Sequence[Mapping[str, ThreatModel]]) -> tuple[dict[str, ThreatModel], list[list[str]]]:
    """Put the threats of all radii together, each once, and say which are those of each radius."""
    threats: dict[str, ThreatModel] = {}
    names: list[list[str]] = []
    for k, here in enumerate(at):
        names.append([])
        for name, threat in here.items():
            same = [known for known, other in threats.items() if same_threat(other, threat)]
            key = same[0] if same else name if name not in threats else f"{name}#{k}"
            threats[key] = threat
            names[-1].append(key)
    return threats, names


def _check_radii(eps: Sequence[float]) -> None:
    if not eps or not all(is_number(e) for e in eps):
        raise ValueError(f"eps must be a sequence of numbers, got {eps!r}")
    if not all(a < b for a, b in pairwise(eps)):
        raise ValueError(f"eps must ascend, got {list(eps)}")
