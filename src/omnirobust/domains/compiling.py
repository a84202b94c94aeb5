"""Steps of Algorithm 2 as compiled functions, made once for each shape of mini-batch, and held against the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from types import FunctionType
from typing import NamedTuple, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from omnirobust.core._lp_roots import TOLERANCES
from omnirobust.core.directions import Plain, Stepper, unit_l2
from omnirobust.core.draws import forked
from omnirobust.core.threat_models import FeasibleSet
from omnirobust.core.types import WeightRule
from omnirobust.core.weights import ProjectedAscent
from omnirobust.domains.classifier import Classifier
from omnirobust.domains.compiled_step import Found, Inputs, Plan, Returned, moves, whole_step
from omnirobust.domains.frozen import buffers_kept

_SHAPES = 4
"""Shapes of mini-batches that are compiled in one training: the usual one, the last one, and some to spare."""

_APART, _APART_MIXED = 1e-2, 0.2
"""How far, in shares of their norms, what a first step finds may be from what the model does; in bf16 the latter."""

_T = TypeVar("_T")


class Said(Protocol):
    """What the model says of K perturbations without compiling."""

    @property
    def losses(self) -> Tensor:
        """f, (B, K)."""
        ...

    @property
    def descent(self) -> Tensor:
        """Grad (-f) of each, (K, B, *S)."""
        ...


class Moved(NamedTuple):
    """What one step leaves.

    Attributes:
        deltas: the K next perturbations, (B, *S) each.
        losses: f at those before, (B, K).
        weights: the next ones, (B, K); None where the rule is still to be asked.
    """

    deltas: list[Tensor]
    losses: Tensor
    weights: Tensor | None


class CompiledSteps:
    """The compiled steps of one training, a function for each shape of mini-batch.

    Attributes:
        notes: that steps were taken without compiling, and why: one sentence, or none.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier, self.notes = classifier, tuple[str, ...]()
        self._made = dict[tuple[object, ...], _Step | None]()

    def of(
        self, x: Tensor, y: Tensor, feasible: Sequence[FeasibleSet], moving: Sequence[Stepper], weighed: bool,
        rule: WeightRule | None, see: Callable[[list[Tensor]], Said],
    ) -> Steps | None:  # fmt: skip
        """Return the steps on a mini-batch; None, and a note, where they cannot be compiled.

        Args:
            x: inputs, (B, *S), which the model has taken before.
            y: (B,) int64.
            feasible: K sets.
            moving: K steppers.
            weighed: whether each gradient is multiplied by a weight.
            rule: by which each step moves the weights; None where none does.
            see: what the model says of K perturbations, which the first step of each function is held against.
        """
        why = _hindrance(self.classifier, x, feasible, moving)
        if why:
            return self.refuse(why)
        shapes = tuple((around.p, _named(cast(Plain, m))) for around, m in zip(feasible, moving, strict=True))
        ascent = None
        if isinstance(rule, ProjectedAscent) and type(rule) is ProjectedAscent:
            ascent = rule.beta, rule.gamma
        plan = Plan(shapes, weighed, ascent)
        key = (x.shape, x.dtype, plan)
        if key not in self._made:
            if len(self._made) >= _SHAPES:
                return self.refuse(f"mini-batches have more than {_SHAPES} shapes")
            # on a processor a compiler loses with convolutions and pooling more than it gains
            whole = not (self.classifier.convolutional and x.device.type == "cpu")
            self._made[key] = _Step(
                whole_step(self.classifier, plan) if whole else moves(plan), whole, ascent is not None
            )
        step = self._made[key]
        return None if step is None else Steps(self, key, step, x, y, feasible, cast(Sequence[Plain], moving), see)

    def drop(self, key: tuple[object, ...], why: str) -> None:
        """Give up a step."""
        self._made[key] = None
        self.refuse(why)

    def refuse(self, why: str) -> None:
        """Note why steps are not compiled; the first reason is told."""
        self.notes = self.notes or (f"compile: the attacks ran uncompiled, wholly or in part: {why}.",)


class Steps:
    """The compiled steps on one mini-batch."""

    def __init__(
        self, home: CompiledSteps, key: tuple[object, ...], step: _Step, x: Tensor, y: Tensor,
        feasible: Sequence[FeasibleSet], moving: Sequence[Plain], see: Callable[[list[Tensor]], Said],
    ) -> None:  # fmt: skip
        self._home, self._key, self._step, self._see = home, key, step, see
        self._feasible, self._moving = feasible, moving
        lows, highs = zip(*(around.ends for around in feasible), strict=True)
        self._given = Inputs(x, y, lows, highs, tuple(around.radius().clone() for around in feasible))

    def take(self, r: int, deltas: list[Tensor], weights: Tensor) -> Moved | None:
        """Take step ``r``; None where that has to be done without compiling.

        So it is where a number is not finite, or a projection is not solved to the tolerance of the eager one; and
        from now on where the compiler gives up, or a first step finds other losses or gradients than the model does.
        """
        if self._home._made[self._key] is None:
            return None
        seen = None if self._step.whole else self._see(deltas)
        expected = None if self._step.trusted else seen or self._without_trace(lambda: self._see(deltas))
        given = (
            self._given,
            tuple(deltas),
            self._lengths(r),
            weights,
            *(() if seen is None else (seen.losses, seen.descent)),
        )
        try:
            if expected is not None:
                tried = self._without_trace(lambda: self._step.run(*given))
                if why := _distrust(tried, expected, self._home.classifier.precision == "bf16"):
                    return self._home.drop(self._key, why)
                self._step.trusted = True
            found = self._step.run(*given)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the compiler or its absence raises
            return self._home.drop(self._key, _gave_up(error))
        if not bool(found.sound):
            return None
        return Moved(list(found.moved), found.losses, found.weights if self._step.ascends else None)

    def _lengths(self, r: int) -> Tensor:
        """Return how far step ``r`` goes, (K, B)."""
        lengths = [m.length(r, around) for m, around in zip(self._moving, self._feasible, strict=True)]
        like = self._given.radii[0]
        if not any(isinstance(each, Tensor) for each in lengths):
            return like.new_tensor(lengths).unsqueeze(1).expand(-1, len(like))
        return torch.stack([torch.as_tensor(each).to(like).expand_as(like) for each in lengths])

    def _without_trace(self, run: Callable[[], _T]) -> _T:
        """Return what ``run`` returns, with random states and buffers as they were."""
        with forked(self._given.x), buffers_kept(cast(nn.Module, self._home.classifier.model)):
            return run()


class _Step:
    """One compiled function.

    Attributes:
        whole: whether it takes the passes of the model, too.
        ascends: whether it moves the weights.
        trusted: whether it was seen to find what the model does.
    """

    def __init__(self, function: Callable[..., object], whole: bool, ascends: bool) -> None:
        self._plain, self.whole, self.ascends, self.trusted = _own(function), whole, ascends, False
        self._compiled: Callable[..., object] | None = None

    def run(self, *given: object) -> Found:
        """Take the step."""
        if self._compiled is None:
            self._compiled = torch.compile(self._plain, fullgraph=True, dynamic=False)
        # where a trace fails while somebody's hooks are on, hooks would stay forbidden for good
        with torch.autograd.graph.disable_saved_tensors_hooks("it does not go with saved_tensors_hooks"):
            return Found(*cast(Returned, self._compiled(*given)))


def _distrust(found: Found, expected: Said, mixed: bool) -> str:
    """Say why a first step is not to be followed: losses and gradients are not the model's, beyond rounding.

    A compiler may read a model otherwise than it runs: it may leave out the backward pass that a function brings along.
    """
    if not found.compiled:
        return "torch.compile is switched off"
    share = _APART_MIXED if mixed else _APART

    def near(a: Tensor, b: Tensor, least: float) -> bool:
        return float((a - b).double().norm()) <= share * (float(b.double().norm()) + least)

    slopes = zip(found.descent, expected.descent, strict=True)
    if near(found.losses, expected.losses, 1e-3 * expected.losses.numel() ** 0.5) and all(
        near(a, b, torch.finfo(b.dtype).tiny ** 0.5) for a, b in slopes
    ):
        return ""
    return "a compiled step found other losses or gradients than the model does"


def _gave_up(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # the first line of what a backend raises says no more than that it did
    said = next((line for line in lines if not line.endswith("raised:")), type(error).__name__)
    return f"the compiler gave up ({said[:160].rstrip('.')})"


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
