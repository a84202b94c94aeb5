"""A race of wrong classes: descent towards many of them at once; those that fall behind are given up on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from omnirobust.attacks.masking import GradientMaskingError
from omnirobust.core.adaptive import Adaptive, RadiusSchedule
from omnirobust.core.arguments import check_count
from omnirobust.core.directions import Direction
from omnirobust.core.threat_models import ThreatModel
from omnirobust.domains import losses
from omnirobust.domains.losses import Loss
from omnirobust.evaluation.descent import STRAIGHT, WIDE, Descent, Problem, Run, seen, start_of, stream_of
from omnirobust.evaluation.threats import of_rows


class _Field(NamedTuple):
    """The pairs of an input and a wrong class that are still in the race, and how near each is: first ``stands``."""

    row: Tensor  # of the input, (n,) int64
    target: Tensor  # number among the input's rivals, (n,) int64
    delta: Tensor  # (n, *S)
    stands: Tensor  # on what share of draws the model is right, (n,)
    margin: Tensor  # z_y - max_{j != y} z_j, (n,)

    def of(self, chosen: Tensor) -> _Field:
        """Return those that ``chosen`` lists, or says True of."""
        return _Field(*(values[chosen] for values in self))

    def hopeful(self) -> _Field:
        """Return those that fell, and of every input the nearest one: a smaller ball is no easier."""
        order = self.nearest(len(self.row))
        first = torch.arange(len(order.row), device=order.row.device) < len(order.row.unique())
        return order.of(first | (order.stands < 1))

    def nearest(self, keep: int) -> _Field:
        """Return for every input its ``keep`` nearest classes: all inputs' nearest first, then all inputs' second."""
        order = self.margin.argsort(stable=True)
        for values in (self.stands, self.row):
            order = order[values[order].argsort(stable=True)]
        places = torch.arange(len(order), device=order.device)
        first = torch.searchsorted(self.row[order], self.row[order])
        place = places - first
        kept = place < keep
        return self.of(order[kept][place[kept].argsort(stable=True)])

    def settled(self) -> _Field:
        """Leave out what follows on a pair of the same input that has fallen, as if each had run after the other."""
        places, fell = torch.arange(len(self.row), device=self.row.device), self.stands == 0
        last = torch.full((int(self.row.max()) + 1,), len(places), device=places.device)
        last = last.scatter_reduce(0, self.row[fell], places[fell], "amin")
        return self.of(places <= last[self.row])


def _joined(fields: list[_Field]) -> _Field:
    return _Field(*map(torch.cat, zip(*fields, strict=True)))


_QUICK = RadiusSchedule(((1.5, 0.15), (1.2, 0.35)))

_AGAIN, _STARTS = 2, 2
"""Classes of an encore, and from how much noise each is run to."""

_NEAR = 0.25
"""Where the margin, taken as linear in the radius, comes to zero between the ball itself, 0, and the last larger, 1:
inputs beyond this get no encore. Of MNIST's, all that fell to one lay below 0.2."""

_ENCORES = 5000
"""Targets are counted from here in what keys the noise of encores."""

_CLASSES = {losses.dlr: 4}
"""The classes that a loss needs where one of them is to be reached; else 2."""

LEGS = {**WIDE, "l2": _QUICK, "linf": _QUICK}
"""By norm, the radii and shares of the steps of a race: under l2 and linf it shows early what is hopeless."""


@dataclass(frozen=True)
class Race:
    """Descent towards the likeliest wrong classes of every input, through balls that shrink to eps, many in a batch.

    After the first ball each input keeps the nearest four of the classes that it was led to there, or if to none the
    nearest alone; after the second two of those that it was led to there, for a smaller ball is no easier, and if to
    none it is given up, but under l0. So what is hopeless costs a fraction, and batches stay large however few inputs
    stand. An input that the second ball led to a class and the ball itself does not, and whose margins in both say that
    the boundary lies within the first quarter of the way between them, gets encores: each two runs from noise towards
    either of the nearest two of the classes that it was led to, all in a batch, on a loss of its own.

    Attributes:
        name: what the report calls it.
        loss: per-example attack loss with targets, low = the class is reached.
        keep: how many wrong classes are tried in the first, the second and the third ball of ``LEGS``, >= 1 each,
            and never more than before.
        encores: the losses of the encores, one each, with targets as ``loss``. Those of l1 begin in larger balls as
            ``WIDE`` says, all others in the ball itself. The ratio of logits is left out where it has not four classes.
        direction: how the perturbation moves.

    Cost: at most 2.1 + 1.2 + 0.8 = 4.1 times T gradients an input that stands under l0 and l1, 3.45 under l2 and linf,
    and four times T for every encore; 2.4 and 1.4 times where the first two balls lead to no class. Seven classes in
    turn cost 7 T.
    """

    name: str
    loss: Loss = losses.relative_margin
    keep: tuple[int, int, int] = (7, 4, 2)
    encores: tuple[Loss, ...] = ()
    direction: Direction = field(default_factory=Adaptive)

    def __post_init__(self) -> None:
        if not callable(self.loss):
            raise ValueError(f"loss must be a function of logits and labels, got {self.loss!r}")
        if not isinstance(self.encores, tuple) or not all(map(callable, self.encores)):
            raise ValueError(f"encores must be a tuple of losses, got {self.encores!r}")
        if not isinstance(self.keep, tuple) or len(self.keep) != 3:
            raise ValueError(f"keep must be three numbers of classes, got {self.keep!r}")
        for number in self.keep:
            check_count("keep", number)
        if list(self.keep) != sorted(self.keep, reverse=True):
            raise ValueError(f"keep must not rise, for what is given up does not come back, got {self.keep}")

    def fits(self, threat: ThreatModel, classes: int) -> bool:
        """Say whether there are classes to choose among."""
        return classes >= 3

    def runs(self, problem: Problem) -> Iterator[Run]:
        """Yield one run for every restart: the first from no perturbation, the others from noise."""
        for restart in range(problem.restarts):
            yield self.name, _Heat(self, problem, restart).attempt


@dataclass(frozen=True)
class _Heat:
    """One race, of one restart."""

    race: Race
    problem: Problem
    restart: int

    def attempt(self, rows: Tensor) -> Tensor:
        """Return for each of ``rows`` the perturbation that came nearest, (n, *S)."""
        problem, runners = self.problem, self._lined_up(rows)
        first, second, last = LEGS[problem.threat.name].phases(problem.steps)
        led = given_up = runners.of(runners.row[:0])
        begun = False
        for keep, (factor, steps) in zip(self.race.keep, (first, second, last), strict=True):
            if not len(runners.row) or not (steps or factor == 1):  # in the ball itself even no steps end
                continue
            runners, masked = self._leg(runners.nearest(keep), factor, steps, self.race.loss)
            problem.masked[self.race.name] += 0 if begun else round(masked * len(rows))
            begun = True
            if factor > 1:
                led, runners = runners.of(runners.stands < 1), runners.hopeful()
            if (factor, steps) == second and problem.threat.name != "l0":  # of whose balls two may be the same
                given_up, runners = self._inside(runners.of(runners.stands == 1)), led
        best = _joined([given_up, runners]).nearest(1)
        for number, loss in enumerate(self.race.encores):
            best = self._encore(best, led, loss, number)
        return best.delta[best.row.argsort()]

    def _encore(self, best: _Field, led: _Field, loss: Loss, number: int) -> _Field:
        """Run to the classes that the last larger ball ``led`` to, where ``best`` stands, and return what is better."""
        if not len(led.row):
            return best
        problem, norm = self.problem, self.problem.threat.name
        rivals = problem.rivals[led.row]
        enough = (rivals != rivals[:, :1]).sum(1) + 2 >= _CLASSES.get(loss, 2)  # one ruled out is a copy of the first
        runners = led.of(enough & torch.isin(led.row, self._near(best, led))).nearest(_AGAIN)
        if not len(runners.row):
            return best
        streams = [stream_of(self.restart, _ENCORES + _STARTS * number + start) for start in range(_STARTS)]
        starts = [start_of(problem, runners.row, stream, noisy=True) for stream in streams]
        runners = _joined([runners] * _STARTS)._replace(delta=torch.cat(starts))
        for factor, steps in (WIDE[norm] if norm == "l1" else STRAIGHT).phases(problem.steps):
            if len(runners.row) and (steps or factor == 1):
                try:
                    runners, _ = self._leg(runners, factor, steps, loss)
                except GradientMaskingError:  # of this loss, from this noise
                    return best
                runners = runners if factor == 1 else runners.of(runners.stands < 1)
        return _joined([best, runners]).nearest(1)

    def _near(self, best: _Field, led: _Field) -> Tensor:
        """Return the rows that stand at ``best`` near the boundary, by the margins there and where they were led."""
        best = best.of(best.row.argsort())
        outside = torch.full_like(best.margin, torch.inf)
        place = torch.searchsorted(best.row, led.row)
        outside = outside.scatter_reduce(0, place, led.margin, "amin")
        return best.row[(best.stands > 0) & ((1 - _NEAR) * best.margin <= -_NEAR * outside)]

    def _inside(self, runners: _Field) -> _Field:
        """Project onto the threat's ball what a larger one holds."""
        x = self.problem.x[runners.row]
        ball = of_rows(self.problem.threat, runners.row, self.problem.x).around(x)
        return runners._replace(delta=ball.project(runners.delta))

    def _lined_up(self, rows: Tensor) -> _Field:
        noisy = self.restart > 0
        count = min(max(self.race.keep), self.problem.rivals.shape[1])
        starts = [start_of(self.problem, rows, stream_of(self.restart, k), noisy=noisy) for k in range(count)]
        delta = torch.cat(starts)
        targets = torch.arange(count, device=rows.device).repeat_interleave(len(rows))
        # before the first leg the likeliest class counts as the nearest
        return _Field(rows.repeat(count), targets, delta, torch.ones_like(targets), targets)

    def _leg(self, runners: _Field, factor: float, steps: int, loss: Loss) -> tuple[_Field, float]:
        """Run one leg, a batch after the other, and return who arrives and what share began without any gradient.

        In the ball itself inputs leave between batches once they have fallen.
        """
        arrived, masked, errors, fallen = list[_Field](), 0.0, list[GradientMaskingError](), runners.row[:0]
        for piece in torch.arange(len(runners.row), device=runners.row.device).split(self.problem.together):
            batch = runners.of(piece)
            batch = batch.of(~torch.isin(batch.row, fallen))
            if not len(batch.row):
                continue
            try:
                batch, blind = self._moved(batch, factor, steps, loss)
            except GradientMaskingError as error:
                errors.append(error)
                batch, blind = self._judged(batch._replace(delta=torch.zeros_like(batch.delta))), 1.0
            masked += blind * len(batch.row)
            arrived.append(batch)
            if factor == 1:
                fallen = torch.cat([fallen, batch.row[batch.stands == 0]])
        if len(errors) == len(arrived):
            raise errors[0]
        field = _joined(arrived)
        # which pairs shared a batch, and so the other inputs, must not tell
        return field.settled() if factor == 1 else field, masked / len(field.row)

    def _moved(self, batch: _Field, factor: float, steps: int, loss: Loss) -> tuple[_Field, float]:
        goal = self.problem.rivals[batch.row, batch.target]
        descent = Descent(loss, self.race.direction, True, stream_of(self.restart, 0))
        delta, masked = descent.run(self.problem, batch.row, goal, batch.delta, factor, steps)
        return self._judged(batch._replace(delta=delta)), masked

    def _judged(self, batch: _Field) -> _Field:
        stands, margin = seen(self.problem, batch.row, batch.delta)
        return batch._replace(stands=stands, margin=margin)
