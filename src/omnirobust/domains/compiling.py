"""One step of Algorithm 2 as one compiled function: the passes of the model, and all moves and projections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from types import FunctionType
from typing import NamedTuple, TypeAlias, cast

import torch
from torch import Tensor

from omnirobust.core._lp_roots import TOLERANCES
from omnirobust.core.directions import Plain, Stepper, unit_l2
from omnirobust.core.threat_models import FeasibleSet
from omnirobust.domains.classifier import Classifier
from omnirobust.domains.losses import cross_entropy_slope
from omnirobust.domains.outputs import read_logits

_ROUNDS = 4
"""Newton steps of an l2 projection. Where one leaves a row unsolved, the step is taken without compiling."""

_SHAPES = 4
"""Shapes of mini-batches that are compiled in one training: the usual one, the last one, and some to spare."""

_Deltas: TypeAlias = tuple[Tensor, ...]


class Inputs(NamedTuple):
    """What the steps on a mini-batch of B examples have in common.

    Attributes:
        x: (B, *S).
        y: (B,) int64.
        lows, highs: the ends of the K sets, (B, *S) each.
        radii: of the K sets, (B,) each.
    """

    x: Tensor
    y: Tensor
    lows: _Deltas
    highs: _Deltas
    radii: _Deltas


class Moved(NamedTuple):
    """What one step leaves.

    Attributes:
        deltas: the K next perturbations, (B, *S) each.
        losses: f at those before, (B, K).
    """

    deltas: list[Tensor]
    losses: Tensor


class CompiledSteps:
    """The compiled steps of one training, a function for each shape of mini-batch.

    Attributes:
        notes: that steps were taken without compiling, and why: one sentence, or none.
        tried: whether the model has answered without compiling, by which all that can be wrong with it is found.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier, self.notes = classifier, tuple[str, ...]()
        self.tried, self._made = False, dict[tuple[object, ...], _Step | None]()

    def of(
        self, x: Tensor, y: Tensor, feasible: Sequence[FeasibleSet], moving: Sequence[Stepper], weighed: bool
    ) -> Steps | None:
        """Return the steps on a mini-batch; None, and a note, where they cannot be compiled.

        Args:
            x: inputs, (B, *S), which the model has taken before.
            y: (B,) int64.
            feasible: K sets.
            moving: K steppers.
            weighed: whether each gradient is multiplied by a weight.
        """
        why = _hindrance(self.classifier, x, feasible, moving)
        if why:
            return self.refuse(why)
        shapes = tuple((around.p, _named(cast(Plain, m))) for around, m in zip(feasible, moving, strict=True))
        key = (x.shape, x.dtype, shapes, weighed)
        if key not in self._made:
            if len(self._made) >= _SHAPES:
                return self.refuse(f"mini-batches have more than {_SHAPES} shapes")
            self._made[key] = _Step(self.classifier, shapes, weighed)
        step = self._made[key]
        return None if step is None else Steps(self, key, step, x, y, feasible, cast(Sequence[Plain], moving))

    def drop(self, key: tuple[object, ...], error: Exception) -> None:
        """Give up a step that the compiler did not take."""
        self._made[key] = None
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # the first line of what a backend raises says no more than that it did
        said = next((line for line in lines if not line.endswith("raised:")), type(error).__name__)
        self.refuse(f"the compiler gave up ({said[:160].rstrip('.')})")

    def refuse(self, why: str) -> None:
        """Note why steps are not compiled; the first reason is told."""
        self.notes = self.notes or (f"compile: the attacks ran uncompiled, wholly or in part: {why}.",)


class Steps:
    """The compiled steps on one mini-batch."""

    def __init__(
        self, home: CompiledSteps, key: tuple[object, ...], step: _Step, x: Tensor, y: Tensor,
        feasible: Sequence[FeasibleSet], moving: Sequence[Plain],
    ) -> None:  # fmt: skip
        self._home, self._key, self._step = home, key, step
        self._feasible, self._moving = feasible, moving
        lows, highs = zip(*(around.ends for around in feasible), strict=True)
        self._given = Inputs(x, y, lows, highs, tuple(around.radius().clone() for around in feasible))

    def take(self, r: int, deltas: list[Tensor], weights: Tensor) -> Moved | None:
        """Take step ``r``; None where that has to be done without compiling.

        So it is where the compiler gives up, a number is not finite, or a projection is not solved to the tolerance of
        the eager one.
        """
        if self._home._made[self._key] is None:
            return None
        lengths = [m.length(r, around) for m, around in zip(self._moving, self._feasible, strict=True)]
        like = self._given.radii[0]
        rows = torch.stack([torch.as_tensor(each).to(like).expand_as(like) for each in lengths])
        try:
            moved, losses, sound = self._step.run(self._given, tuple(deltas), rows, weights)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the compiler or its absence raises
            if self._step.ran:
                raise
            self._home.drop(self._key, error)
            return None
        self._step.ran = True
        return Moved(list(moved), losses) if bool(sound) else None


class _Step:
    """One compiled function."""

    def __init__(self, classifier: Classifier, shapes: Sequence[tuple[float, str]], weighed: bool) -> None:
        own = cast(Callable[..., tuple[_Deltas, Tensor, Tensor]], _own(_step(classifier, shapes, weighed)))
        self.run = torch.compile(own, fullgraph=True, dynamic=False)
        self.ran = False


def _own(function: Callable[..., object]) -> Callable[..., object]:
    """Return the function with code of its own: what is compiled is kept by code, and of one code not often."""
    f = cast(FunctionType, function)
    return FunctionType(f.__code__.replace(), f.__globals__, f.__name__, f.__defaults__, f.__closure__)


def _named(plain: Plain) -> str:
    """Name what a step does with its gradient, for code that is compiled."""
    return "sign" if plain.shape is torch.sign else "unit" if plain.shape is unit_l2 else "raw"


def _hindrance(classifier: Classifier, x: Tensor, feasible: Sequence[FeasibleSet], moving: Sequence[Stepper]) -> str:
    """Say what of a training no compiled step does; nothing if it does all."""
    if not all(type(m) is Plain and a.p in (2, inf) for m, a in zip(moving, feasible, strict=True)):
        return "only plain steps under linf and l2 are compiled, and these in units of the data"
    if not all(type(around) is FeasibleSet and around.scale is None for around in feasible):
        return "only the library's own sets are compiled, and these without scale"
    if x.dtype not in TOLERANCES or classifier.casts:
        return f"the model computes in another precision than that of the inputs, {x.dtype}"
    tol = TOLERANCES[x.dtype]
    radii = torch.stack([around.radius() for around in feasible])
    if not bool((((radii > tol.small) & (radii < tol.large)) | (radii == 0)).all()):
        return "radii are too large or too small for their squares"
    return ""


def _step(classifier: Classifier, shapes: Sequence[tuple[float, str]], weighed: bool) -> Callable[..., object]:
    """Return the step as a function of tensors alone."""
    model, label, K = classifier.model, classifier.name, len(shapes)
    mixed = classifier.precision == "bf16"

    def said(points: Tensor) -> Tensor:
        with torch.autocast(points.device.type, torch.bfloat16, enabled=mixed):
            output = model(points)
        logits = read_logits(output, len(points), label).logits
        return logits.to(torch.promote_types(logits.dtype, points.dtype))

    def step(given: Inputs, deltas: _Deltas, lengths: Tensor, weights: Tensor) -> tuple[_Deltas, Tensor, Tensor]:
        logits, pull = torch.func.vjp(said, torch.cat([given.x + delta for delta in deltas]))[:2]
        losses, slope = cross_entropy_slope(logits, given.y.repeat(K))
        (grads,) = pull(-slope)
        finite = (losses.sum() + grads.sum()).isfinite()
        moved: list[Tensor] = []
        for k, (p, shape) in enumerate(shapes):
            slope = grads.view(K, len(given.y), -1)[k]
            slope = slope * weights[:, k : k + 1] if weighed else slope
            move = slope.sign() if shape == "sign" else _unit(slope) if shape == "unit" else slope
            to = deltas[k].flatten(1) - lengths[k].unsqueeze(1) * move
            low, high = given.lows[k].flatten(1), given.highs[k].flatten(1)
            if p == 2:
                to, solved = unrolled_l2(to, given.radii[k].unsqueeze(1), low, high)
                finite = finite & solved.all()
            else:
                to = torch.clamp(to, low, high)
            moved.append(to.view(given.x.shape))
        return tuple(moved), losses.view(K, -1).t(), finite

    return step


def _unit(slope: Tensor) -> Tensor:
    """Scale rows (B, n) to l2 norm 1; zero rows stay zero. Divided by their largest first, squares stay in range."""
    scaled = slope / slope.abs().amax(1, keepdim=True).clamp_min(torch.finfo(slope.dtype).tiny)
    return scaled / scaled.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)


def unrolled_l2(a: Tensor, eps: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Project rows (R, n) as ``fast_l2`` does, by a fixed number of Newton steps, which a compiler fuses.

    g(t) = ||clip(sqrt(t) a)||^2 is concave and piecewise linear, so that steps along its tangents climb to the root
    from inside the ball, and are there once they have found its piece.

    Args:
        a: points, (R, n).
        eps: radii, (R, 1).
        low: lower bounds <= 0, (R, n).
        high: upper bounds >= 0, (R, n).

    Returns:
        The projections, (R, n), and which rows are solved to four times the tolerance of ``fast_l2``, (R, 1).
    """
    tol, target, least = TOLERANCES[a.dtype], eps * eps, torch.finfo(a.dtype).tiny
    total = a.square().sum(1, keepdim=True)
    t = torch.where(total > target * (1 + tol.inside), target / total, 1.0)
    for _ in range(_ROUNDS):
        moved = a * t.sqrt()
        end = torch.clamp(moved, low, high)
        gap = (target - end.square().sum(1, keepdim=True)).clamp_min(0)
        slope = torch.where(moved == end, a, 0.0).square().sum(1, keepdim=True)
        t = (t + gap / slope.clamp_min(least)).clamp_max(1)
    end = torch.clamp(a * t.sqrt(), low, high)
    gap = target - end.square().sum(1, keepdim=True)
    return end, (gap.abs() <= 4 * tol.solved * target) | ((t == 1) & (gap > 0))
