"""Losses of one's own in the place of classifiers: as ``DomainGrid``, for functions of inputs and their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from copy import copy
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from omnirobust.core.draws import REACH, DrawKey, normal_start, row_seeds, seeded
from omnirobust.core.threat_models import FeasibleSet
from omnirobust.core.types import Evaluation, described
from omnirobust.domains.classifier import Model, widened
from omnirobust.domains.frozen import Frozen
from omnirobust.domains.functions import gradient_of
from omnirobust.domains.losses import UNITS, as_divisor, falls_of
from omnirobust.domains.memory import SMALL, MemoryBudget
from omnirobust.domains.outputs import reason
from omnirobust.domains.probe import ROWS, Probe

OwnLoss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""f(adversarial (n, *S), rows (n,) int64) -> (n,), low = reached."""

Success: TypeAlias = Callable[[Tensor], Tensor]
"""Losses (B, K) to (B, K) bool."""

Unit: TypeAlias = Literal["none", "common", "own"]
"""What losses are divided by while an attack runs: nothing, one number an input, or one an input and loss."""

_OF_FUNCTIONS = 2**32
"""The draws of functions are keyed from this slot on, as those of models in ``grid``."""


class LossGrid:
    """K losses of perturbed inputs: F_k(delta) = f_k(x + delta, rows), ``rows`` the numbers of inputs in ``x``.

    Modules behind the functions run in evaluation mode with frozen parameters. A function that draws runs under a seed
    of its own for each draw. Every function is given copies, so that it may write into them.

    Args:
        functions: name to f(adversarial (n, *S), rows (n,) int64) -> (n,) floating, differentiable; low = reached.
        x: inputs, (B, *S).
        success: maps losses (B, K) to (B, K) bool; None where success has no meaning.
        unit: what ``scaled`` finds for losses to be divided by.
        samples: draws of each random function; F_k is their mean, and k is reached if it is on all of them.
        seed: keys the draws, with ``restart``, how often ``evaluate`` was called, and each input's global row.
        first_row: global row of the first input; the functions are given numbers from 0 on.
        memory: as that of ``DomainGrid``.

    Attributes:
        unit: what losses and gradients are divided by, (B, 1) or (B, K); None for nothing.
        flat: inputs at which no loss has a gradient, (B,) bool; None where ``scaled`` has not looked.
        notes: what a reader of results must know.
        random: whether two evaluations at the same perturbation may differ.

    Cost of ``evaluate``: a call of each function, and one gradient each if asked for, times ``samples`` of random ones.
    """

    models: Mapping[str, Model] = {}
    asked: Tensor | None = None

    def __init__(
        self,
        functions: Mapping[str, OwnLoss],
        x: Tensor,
        *,
        success: Success | None = None,
        unit: Unit = "none",
        samples: int = 1,
        seed: int = 0,
        first_row: int = 0,
        memory: int | None = None,
    ) -> None:
        self._functions, self._success = dict(functions), success
        self._held = {name: Frozen(function) for name, function in self._functions.items()}
        self._x, self._rows = x.detach(), torch.arange(len(x), device=x.device)
        self._kind: Unit = unit
        self._samples, self._seed, self._first, self._restart, self._calls = samples, seed, first_row, 0, 0
        self._drawn: frozenset[str] = frozenset()
        self._budget = None if memory is None and x.numel() <= SMALL else MemoryBudget(memory)
        self.unit: Tensor | None = None
        self.flat: Tensor | None = None
        self.notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The losses' names, K of them."""
        return tuple(self._functions)

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """The one factor of the domains."""
        return {"losses": self.names}

    @property
    def sizes(self) -> tuple[int]:
        """How many losses there are."""
        return (len(self._functions),)

    @property
    def random(self) -> bool:
        """Whether some function draws."""
        return bool(self._drawn)

    @property
    def images(self) -> int:
        """How many inputs go through functions, for each problem, in one evaluation."""
        return sum(self._samples if name in self._drawn else 1 for name in self._functions)

    @property
    def reach_images(self) -> int:
        """How many go through them to find the units."""
        return len(self._functions)

    @property
    def sources(self) -> list[tuple[str, slice]]:
        """The losses, as messages name them, and the one domain of each."""
        return [(f"loss {name!r}", slice(k, k + 1)) for k, name in enumerate(self._functions)]

    def blocks_gradient(self, source: int, delta: Tensor) -> bool:
        """Say no: a loss may be flat where it is reached, or out of sight; that is noted, and refuses nothing."""
        return False

    def probed(self, batch_size: int | None = None) -> LossGrid:
        """Return the same domains of functions of which is known whether they draw, and whether they couple rows.

        Cost: four calls of each with at most 32 rows.
        """
        new = copy(self)
        rows, drawn, notes = self._rows[:ROWS], set[str](), list[str]()
        for name in self._functions if len(rows) else ():
            label = f"loss {name!r}"
            probe = Probe(label, rows, lambda some, n=name: self._call(n, self._x[some], some), _differ, batch_size)
            random, told, _ = probe.found()
            drawn |= {name} if random else set()
            notes += [*told, *self._held[name].notes(label)]
        new._drawn, new.notes = frozenset(drawn), tuple(notes)
        return new

    def told(self, judged: str) -> tuple[str, ...]:
        """Return ``notes``, with the sentence ``judged`` where something is random."""
        return (*self.notes, judged) if self.random and self.notes else self.notes

    def renewed(self, restart: int, *, exact: bool = False, x: Tensor | None = None, labels: object = None) -> LossGrid:
        """Return the same domains with draws of their own; ``exact``: one an evaluation; of ``x``: without units."""
        new = copy(self)
        new._restart, new._calls = restart, 0
        if exact:
            new._samples = 1
        if x is not None:
            new._x, new.unit = x.detach(), None
        return new

    def select(self, rows: Tensor | slice) -> LossGrid:
        """Keep the problems that ``rows`` (a slice or int64 indices) lists, in that order."""
        chosen = copy(self)
        chosen._x, chosen._rows = self._x[rows], self._rows[rows]
        chosen.unit = None if self.unit is None else self.unit[rows]
        chosen.flat = None if self.flat is None else self.flat[rows]
        return chosen

    def scaled(self, feasible: FeasibleSet) -> LossGrid:
        """Return the domains with ``unit`` and ``flat`` set.

        With f_k how far F_k can fall in X from delta = 0 to first order: "common" is (max_k F_k - min_k F_k +
        max_k f_k) / 4 of each input, so that an offset common to all losses does not count; "own" is
        (|F_k| + f_k) / 4, as the reach of models. Where that is zero it is taken at a random delta of X instead.

        Cost: one evaluation with gradients, two where some unit is zero.
        """
        if self.flat is not None:
            return self
        at, ours = torch.zeros_like(self._x), copy(self)
        plain = self.renewed(REACH, exact=True)
        e = plain.evaluate(at)
        assert e.grads is not None
        ours.flat = torch.stack([(slope.flatten(1) == 0).all(1) for slope in e.grads]).all(0)
        if self._kind == "none":
            return ours
        unit = _unit(self._kind, feasible, e)
        if bool((unit == 0).any()):
            noise = normal_start(self._x, self._seed, REACH, self._first + int(self._rows[0]), 1.0)
            away = feasible.project(noise if feasible.scale is None else (noise * feasible.scale).to(noise))
            unit = torch.where(unit == 0, _unit(self._kind, feasible, plain.evaluate(away)), unit)
        ours.unit = as_divisor(unit)
        return ours

    def evaluate(self, delta: Tensor, grad: bool = True) -> Evaluation:
        """Evaluate every loss at ``delta`` (B, *S), in its unit; what is random is drawn anew.

        Raises:
            ValueError: if a function or ``success`` does not return what it must; the sentence names it.
        """
        found = [self._one(name, delta, grad) for name in self._functions]
        self._calls += 1
        draws = max(len(values) for values, _ in found)
        drawn = torch.stack([values.expand(draws, -1) for values, _ in found], 2)  # (draws, B, K)
        hits = None if self._success is None else torch.stack([self._reached(each) for each in drawn]).all(0)
        losses, slopes = drawn.mean(0) if draws > 1 else drawn[0], [slope for _, slope in found if slope is not None]
        if self.unit is not None:
            losses, shape = losses / self.unit, (-1,) + (1,) * (delta.ndim - 1)
            of_each = self.unit.expand_as(losses).unbind(1)
            slopes = [slope / unit.view(shape) for slope, unit in zip(slopes, of_each, strict=False)]
        return Evaluation(losses, hits, tuple(slopes) if grad else None)

    def _one(self, name: str, delta: Tensor, grad: bool) -> tuple[Tensor, Tensor | None]:
        """Return the losses of a function on every draw, (draws, B), and their mean gradient (B, *S)."""
        draws = self._samples if name in self._drawn else 1
        parts = [
            [self._piece(name, delta, rows, grad, draw) for draw in range(draws)]
            for rows in self._cuts(name, len(delta))
        ]
        values = torch.cat([torch.stack([value for value, _ in each]) for each in parts], 1)
        if not grad:
            return values, None
        slopes = [each[0][1] if draws == 1 else torch.stack([slope for _, slope in each]).mean(0) for each in parts]
        return values, slopes[0] if len(slopes) == 1 else torch.cat(slopes)

    def _cuts(self, name: str, problems: int) -> Iterator[slice]:
        begin, rest = 0, max(problems, 1)
        while rest > 0:
            size = rest if self._budget is None else self._budget.limit(name, rest, self._x)
            yield slice(begin, begin + size)
            begin, rest = begin + size, rest - size

    def _piece(self, name: str, delta: Tensor, cut: slice, grad: bool, draw: int) -> tuple[Tensor, Any]:
        rows = self._rows[cut]
        leaf = widened((self._x[cut] + delta[cut]).detach()).requires_grad_(grad)
        key = DrawKey(self._seed, self._restart, self._calls, _OF_FUNCTIONS + draw)
        under = seeded(sum(row_seeds(key, rows[:1] + self._first)), leaf) if name in self._drawn else nullcontext()
        held = self._held[name]
        watching = nullcontext()
        if self._budget is not None and grad and self._calls == 0:
            watching = self._budget.watching(name, len(leaf), nn.ModuleList(held.modules))
        with held, under, torch.set_grad_enabled(grad):
            with watching:
                values = self._call(name, leaf, rows)
            values = values.to(torch.promote_types(delta.dtype, torch.float32))
            slope = self._slope(name, values, leaf, rows) if grad else None
        return values.detach(), slope

    def _call(self, name: str, leaf: Tensor, rows: Tensor) -> Tensor:
        """Return what a function says of copies of its arguments, if it is a finite number a row."""
        held, label = self._held[name], f"loss {name!r}"
        given = leaf.clone() if leaf.dtype == self._x.dtype else leaf.to(self._x.dtype)
        with held, held.catch(given.shape):
            try:
                values = self._functions[name](given, rows.clone())
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # whatever code of the caller's own raises
                raise ValueError(
                    f"{label} cannot take inputs of shape {tuple(given.shape)} and their rows: {reason(error)}"
                ) from error
        if not isinstance(values, Tensor) or not values.is_floating_point() or tuple(values.shape) != (len(rows),):
            raise ValueError(
                f"{label} must return a floating number for each of {len(rows)} rows, got {described(values)}"
            )
        if values.device != leaf.device:
            raise ValueError(f"{label} is on {values.device} but x is on {leaf.device}: move one of them")
        if not bool(values.detach().sum().isfinite()):
            self._check_finite(values, rows, f"{label} must return finite numbers")
        return values

    def _slope(self, name: str, values: Tensor, leaf: Tensor, rows: Tensor) -> Tensor:
        label = f"loss {name!r}"
        refusal = f"{label} must be differentiable in the inputs: none of its gradient reaches them"
        try:
            slope = gradient_of(values, leaf, refusal)
        except (ValueError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever code of the caller's own raises
            raise ValueError(f"{label} gives no input gradient: {reason(error)}") from error
        if not bool(slope.sum().isfinite()):
            self._check_finite(slope, rows, f"{label} must have finite input gradients")
        return slope.contiguous()

    def _check_finite(self, values: Tensor, rows: Tensor, problem: str) -> None:
        finite = values.detach().isfinite().reshape(len(rows), -1)
        if not bool(finite.all()):  # sums overflow before their terms do
            row = int(finite.all(1).int().argmin())
            bad = float(values.detach().reshape(len(rows), -1)[row][~finite[row]][0])
            raise ValueError(f"{problem}, got {bad} in row {int(rows[row])}")

    def _reached(self, losses: Tensor) -> Tensor:
        """Return what ``success`` says of losses (B, K), if that is bool of their shape."""
        assert self._success is not None
        try:
            hits = self._success(losses.clone())
        except Exception as error:  # whatever code of the caller's own raises
            raise ValueError(
                f"success must map losses (B, K) = {tuple(losses.shape)} to bool, it raised: {reason(error)}"
            ) from error
        if not isinstance(hits, Tensor) or hits.dtype != torch.bool or hits.shape != losses.shape:
            raise ValueError(f"success must return bool of shape (B, K) = {tuple(losses.shape)}, got {described(hits)}")
        return hits.to(losses.device)


def _unit(kind: Unit, feasible: FeasibleSet, e: Evaluation) -> Tensor:
    """Return the units of losses (B, K): (B, 1), or (B, K) if each has its own; 0 where nothing tells."""
    falls = falls_of(feasible, e)
    if kind == "own":
        return (e.losses.abs() + falls) / UNITS
    gap = e.losses.amax(1, keepdim=True) - e.losses.amin(1, keepdim=True)
    return (gap + falls.amax(1, keepdim=True)) / UNITS


def _differ(a: Tensor, b: Tensor) -> bool:
    """Say whether losses (n,) differ by more than rounding: 1e-4 of their mean size, and 2^-17 of the loss itself."""
    if not len(a):
        return False
    a, b = a.double(), b.double()
    return bool(((a - b).abs() > 1e-4 * a.abs().mean() + 2.0**-17 * torch.maximum(a.abs(), b.abs())).any())
