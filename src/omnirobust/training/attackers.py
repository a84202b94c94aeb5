"""The adversary over a whole training: what it keeps from one mini-batch to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from omnirobust.core.contracts import first_weights, set_around
from omnirobust.core.directions import Sign, Stepper
from omnirobust.core.draws import DrawKey
from omnirobust.core.threat_models import FeasibleSet, clamped
from omnirobust.core.types import Evaluation
from omnirobust.core.units import start as start_in_units
from omnirobust.domains.classifier import Classifier, Precision, widened
from omnirobust.domains.compiling import CompiledSteps
from omnirobust.domains.outputs import RowError, rows_named
from omnirobust.training.ampgd import attack_rows
from omnirobust.training.batches import Batch
from omnirobust.training.budget import PassBudget
from omnirobust.training.carried import Carried, CarriedDeltas
from omnirobust.training.evaluating import Evaluator, Seen
from omnirobust.training.inner_steps import row_seeds
from omnirobust.training.rivals.alternate import RunningErrors
from omnirobust.training.schemes import Scheme
from omnirobust.training.workers import Workers

_MOST_ROWS = 2**28
"""More than any set has: identifiers that are taken for numbers of examples would need all memory."""


class Attack(NamedTuple):
    """The attacked inputs x + delta_k, (K, B, *S), and the weights over them, (B, K)."""

    points: Tensor
    weights: Tensor


class Attacker(Protocol):
    """Makes the adversarial examples of each mini-batch.

    Attributes:
        classifier: the model as the attack sees it.
        compiled: the compiled steps, where they are wanted.
        budget: what passes keep to, where one is given.
    """

    classifier: Classifier
    compiled: CompiledSteps | None
    budget: PassBudget | None

    def attack(self, batch: Batch, epoch: int) -> Attack:
        """Attack this process's share of a mini-batch."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return what is kept between mini-batches: every process must ask, the first is told."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put back what ``state`` returned."""
        ...


def attacker_of(
    model: nn.Module, scheme: Scheme, seed: int, precision: Precision, workers: Workers, compiled: bool = False,
    budget: PassBudget | None = None,
) -> Attacker | None:  # fmt: skip
    """Return the adversary of ``scheme``, whose steps are to be ``compiled`` where they can be; None if it has none."""
    if not scheme.attacks:
        return None
    kind = {"universal": UniversalAttacker, "alternate": AlternatingAttacker}.get(scheme.kind, PrivateAttacker)
    made: Attacker = kind(model, scheme, seed, precision, workers)
    made.budget = budget
    if compiled:
        made.compiled = CompiledSteps(made.classifier)
        if scheme.kind == "universal":
            made.compiled.refuse("the steps of kind universal are not compiled")
    return made


class PrivateAttacker:
    """Algorithm 2: K perturbations of each example, and tables of the weights and perturbations that it had last.

    The printed loop updates theta from w^(t-1) and delta^(t-1), then these from theta^(t). Here the first of these
    updates is left out: each mini-batch ascends from what its rows carry, then theta descends on the result. That is
    the same alternation, half an iteration on; theta never descends on perturbations of an epoch ago.

    Random starts are keyed by (seed, epoch, example): no generator's state needs to be saved, and any split of the
    mini-batch over processes draws the same.
    """

    def __init__(self, model: nn.Module, scheme: Scheme, seed: int, precision: Precision, workers: Workers) -> None:
        self.scheme, self.seed, self.workers = scheme, seed, workers
        self.classifier = Classifier("model", model, precision)
        self.compiled: CompiledSteps | None = None
        self.budget: PassBudget | None = None
        self.table = torch.empty(0, len(scheme.threats))
        self.carried = CarriedDeltas(scheme.threats, workers) if scheme.persisting == "all" else None

    def attack(self, batch: Batch, epoch: int) -> Attack:
        """Run the R steps, from the weights and perturbations that persist, and note the new ones."""
        if self.scheme.persisting != "none" and not batch.known:
            what = "weights" if self.carried is None else "weights and perturbations"
            raise ValueError(
                f"data must yield (x, y, rows) with the number of each example in its set where {what} persist, "
                "got pairs (x, y); persist='none' begins anew at each mini-batch"
            )
        self.scheme.check_masks(batch.x)
        scheme = self._of_batch(batch, epoch)
        carried = None if self.carried is None else self.carried.fetch(batch)
        rows = batch.rows.to(batch.x.device)
        seeds = row_seeds(DrawKey(self.seed, epoch), rows, len(self.scheme.threats))
        try:
            with rows_named(lambda row: int(batch.rows[row])):
                deltas, weights = self._ascended(batch, scheme, seeds, carried)
        except RowError:
            if self.workers.count == 1:
                raise
            # the others wait for this process: it goes on to a loss of NaN, which stops all of them at once
            deltas = [torch.full_like(batch.x, torch.nan) for _ in self.scheme.threats]
            weights = first_weights(self.scheme.weight_rule, len(batch.x), len(deltas), batch.x)
        if batch.known:
            everyone = self.workers.join(weights, batch)
            self._reach(int(batch.all_rows.max()))
            self.table[batch.all_rows] = everyone.to(self.table)
        if self.carried is not None:
            self.carried.keep(batch, deltas)
        return Attack(torch.stack([batch.x + delta for delta in deltas]), weights)

    def _ascended(
        self, batch: Batch, scheme: Scheme, seeds: list[Tensor], carried: Carried | None
    ) -> tuple[list[Tensor], Tensor]:
        """Return the K perturbations of the share and their weights."""
        first = self._first(batch)
        return attack_rows(self.classifier, batch.x, batch.y, scheme, seeds, first, carried, self.compiled, self.budget)

    def _of_batch(self, batch: Batch, epoch: int) -> Scheme:
        """Return the scheme of an epoch, with the radii of a mini-batch's examples where each has its own."""
        scheme = self.scheme.at(epoch)
        if scheme.examples is None:
            return scheme
        if not batch.known:
            raise ValueError(
                "data must yield (x, y, rows) with the number of each example in its set where each has a radius of "
                "its own, got pairs (x, y)"
            )
        scheme.check_rows(batch.all_rows)  # in all processes at once
        return scheme.of_rows(batch.rows)

    def _first(self, batch: Batch) -> Tensor | None:
        if self.scheme.persisting == "none":
            return None
        self._reach(int(batch.all_rows.max()))
        return self.table[batch.rows].to(widened(batch.x[:1]))

    def _reach(self, row: int) -> None:
        """Grow the table to hold ``row``: examples not seen yet have the rule's first weights."""
        if row >= _MOST_ROWS:
            raise ValueError(
                f"data must number its examples from 0 on, below {_MOST_ROWS:,}, got the number {row}: weights are "
                "kept for every number up to it"
            )
        if row >= len(self.table):
            fresh = first_weights(self.scheme.weight_rule, row + 1 - len(self.table), self.table.shape[1], self.table)
            self.table = torch.cat([self.table, fresh])

    def state(self) -> dict[str, Tensor]:
        """Return the table, (examples seen, K), and what is carried: see ``CarriedDeltas.state``."""
        return {"table": self.table} | ({} if self.carried is None else self.carried.state())

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put the tables back."""
        self.table = state["table"].clone()
        if self.carried is not None:
            self.carried.load(state)


class AlternatingAttacker(PrivateAttacker):
    """E-AT: one of two norms a mini-batch, the likelier the more of its examples have been wrong.

    Cost: R forward and backward passes of B inputs, and a forward one, which tells what the attack left right.
    """

    def __init__(self, model: nn.Module, scheme: Scheme, seed: int, precision: Precision, workers: Workers) -> None:
        super().__init__(model, scheme, seed, precision, workers)
        self.errors, self.norm = RunningErrors(), 0

    def attack(self, batch: Batch, epoch: int) -> Attack:
        """Draw the norm, the same in all processes, attack by it, and note how many examples stood."""
        drawn = self.errors.draw(self.seed)
        self.norm = self.scheme.extremes[drawn]
        found = super().attack(batch, epoch)
        try:
            with rows_named(lambda row: int(batch.rows[row])):
                right = self._right(found.points[self.norm], batch.y) * (batch.factor > 0)
        except RowError:
            if self.workers.count == 1:
                raise
            right = found.points.new_zeros((), dtype=torch.float32)
            found.points.fill_(torch.nan)  # stops all processes at once, as after an attack that fails
        self.errors.note(drawn, float(self.workers.total(right)), batch.size)
        return found

    def _ascended(
        self, batch: Batch, scheme: Scheme, seeds: list[Tensor], carried: Carried | None
    ) -> tuple[list[Tensor], Tensor]:
        k, sizes = self.norm, scheme.step_sizes
        alone = replace(
            scheme, kind="single", threats=(scheme.threats[k],), step_sizes=None if sizes is None else (sizes[k],)
        )
        (delta,), one = attack_rows(
            self.classifier, batch.x, batch.y, alone, seeds[k : k + 1], compiled=self.compiled, budget=self.budget
        )
        weights = one.new_zeros(len(one), len(scheme.threats))
        weights[:, k] = 1
        return [delta if i == k else torch.zeros_like(delta) for i in range(len(scheme.threats))], weights

    def _right(self, points: Tensor, y: Tensor) -> Tensor:
        """Return how many are classified right, (); none where the attack has failed in this process."""
        if not bool(points.isfinite().all()):
            return points.new_zeros(())
        with self.classifier.frozen(), torch.no_grad():
            logits = self.classifier(self.classifier.arrange(points), points.dtype)
        return (logits.argmax(1) == y).sum().to(torch.float32)

    def state(self) -> dict[str, Tensor]:
        """Return the table and what ``RunningErrors`` has counted."""
        return super().state() | self.errors.state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put both back."""
        super().load(state)
        self.errors.load(state)


class UniversalAttacker:
    """uSGD: one perturbation for all examples, which ascends the mean loss of each mini-batch and persists.

        delta <- proj_X(delta + alpha sign(grad_delta sum_i f(delta; x_i, y_i)))

    Each attacked image is clamped to the data range by itself.

    Reference: Shafahi et al., "Universal adversarial training", 2018; the paper's Table A7.
    """

    def __init__(self, model: nn.Module, scheme: Scheme, seed: int, precision: Precision, workers: Workers) -> None:
        self.scheme, self.workers = scheme, workers
        self.classifier = Classifier("model", model, precision)
        self.compiled: CompiledSteps | None = None
        self.budget: PassBudget | None = None
        self.delta: Tensor | None = None

    def attack(self, batch: Batch, epoch: int) -> Attack:
        """Take the scheme's steps on the shared perturbation."""
        threat = self.scheme.threats[0]
        self.scheme.check_masks(batch.x)
        around = set_around(threat, batch.x.unsqueeze(0), shared=True)
        delta = torch.zeros_like(around.lower) if self.delta is None else self.delta.to(batch.x)
        size = None if self.scheme.step_sizes is None else self.scheme.step_sizes[0]
        stepper = start_in_units(Sign(), around, size, self.scheme.steps)
        with rows_named(lambda row: int(batch.rows[row])), self.classifier.frozen(), torch.enable_grad():
            for r in range(1, self.scheme.steps + 1):
                delta = self._step(stepper, r, batch, delta, around)
        self.delta = delta
        points = clamped(batch.x + delta, threat.bounds)
        return Attack(points.unsqueeze(0), batch.x.new_ones(len(points), 1))

    def _step(self, stepper: Stepper, r: int, batch: Batch, delta: Tensor, around: FeasibleSet) -> Tensor:
        moved = batch.x + delta
        cut = clamped(moved, self.scheme.threats[0].bounds)
        try:
            seen = Evaluator(self.classifier, batch.x, batch.y, 1, self.budget).see([cut - batch.x])
        except RowError:
            if self.workers.count == 1:
                raise
            seen = Seen(batch.x.new_zeros(len(batch.x), 1), torch.full_like(batch.x, torch.nan)[None], None, None)
        inside = cut == moved  # a clamped pixel passes no gradient on
        grad = self.workers.total((seen.descent[0] * inside).sum(0, keepdim=True) * float(batch.factor > 0))
        flat = Evaluation(delta.new_zeros(1, 1), None, (grad,))
        return stepper.step(r, delta, delta.new_ones(1, 1), flat, around)

    def state(self) -> dict[str, Tensor]:
        """Return the perturbation."""
        return {} if self.delta is None else {"delta": self.delta}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put the perturbation back."""
        self.delta = state.get("delta")
