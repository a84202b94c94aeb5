"""One epoch of training: attack, then descend, mini-batch by mini-batch."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from omnirobust.domains.outputs import RowError
from omnirobust.training.attackers import Attack, Attacker
from omnirobust.training.batches import Batch, Batches, epoch_seed
from omnirobust.training.objective import widest
from omnirobust.training.outputs import check_not_probabilities, needs_second_derivatives
from omnirobust.training.rivals.ramp import with_natural_epoch
from omnirobust.training.schemes import Scheme
from omnirobust.training.state import Run, Within, draws_of, own_randomness
from omnirobust.training.step_cuts import StepCuts
from omnirobust.training.stopping import validate
from omnirobust.training.workers import Workers, unused_told

BatchProgress = Callable[[int, int, float], None]


class TrainingDivergedError(RuntimeError):
    """The loss stopped being a finite number; the model holds the parameters of the last good epoch."""


@dataclass(frozen=True)
class Loop:
    """What an epoch needs beside the state of the run.

    Attributes:
        scheme: what is trained against.
        objective: the loss as a module, wrapped as the processes need it.
        optimizer: wrapped likewise.
        workers: the processes.
        train: the training data.
        held_out: the validation data, or None.
        on_batch: called by the first process after each batch.
        still: modules that the caller had put into evaluation mode, and that stay in it.
        cuts: in which parts mini-batches go through the model in training mode; None for whole.
        save_every: minutes after which a checkpoint is written within an epoch too; None for none.
    """

    scheme: Scheme
    objective: nn.Module
    optimizer: Any
    workers: Workers
    train: Batches
    held_out: Batches | None
    on_batch: BatchProgress | None
    still: Sequence[nn.Module] = ()
    cuts: StepCuts | None = None
    save_every: float | None = None


def one_epoch(run: Run, loop: Loop) -> None:
    """Train for one epoch and add its row to the history.

    Raises:
        TrainingDivergedError: if a loss is not finite, or the parameters that the epoch ends with are not.
        ValueError: if a batch is wrong. Either way the model has its parameters of the epoch before.
    """
    began, within = time.perf_counter(), run.within
    good = copy.deepcopy(run.model.state_dict()) if within is None else within.good
    # Seeding each epoch by itself makes resuming exact without saving any generator's state between epochs.
    draws = () if within is None else within.draws
    with own_randomness(run.model, epoch_seed(run.settings.seed, run.epoch), draws):
        run.model.train()
        for module in loop.still:
            module.training = False
        try:
            row = {"epoch": run.epoch + 1.0} | _trained(run, loop, _Saver(run, loop, good, began))
            _check_finite(run, good)
            if loop.held_out is not None:
                budget = None if loop.cuts is None else loop.cuts.budget
                row |= validate(run, loop.held_out, loop.scheme, loop.workers, budget)
        except (TrainingDivergedError, ValueError):
            run.model.load_state_dict(good)
            raise
    run.epoch, run.within = run.epoch + 1, None
    before = 0.0 if within is None else within.seconds
    run.history.append(row | {"seconds": before + time.perf_counter() - began})


class _Saver:
    """Writes checkpoints within an epoch.

    Args:
        run: its state.
        loop: says how often.
        good: parameters that the epoch began with.
        began: when it began or went on, by the clock of ``time.perf_counter``.
    """

    def __init__(self, run: Run, loop: Loop, good: Mapping[str, Any], began: float) -> None:
        self._run, self._loop, self._good, self._began = run, loop, dict(good), began
        self._before = 0.0 if run.within is None else run.within.seconds
        self._last = began

    def after(self, number: int, seen: int, sums: _Sums) -> None:
        """Write one if it is time to, after so many mini-batches; not after the last."""
        now, every = time.perf_counter(), self._loop.save_every
        if every is None or now - self._last < 60 * every or number == len(self._loop.train):
            return
        seconds = self._before + now - self._began
        draws = draws_of(self._run.model)
        self._run.within = Within(number, seen, list(sums.values), seconds, draws, self._good)
        self._run.save(self._loop.workers)
        self._last = time.perf_counter()


def _check_finite(run: Run, good: Mapping[str, Any]) -> None:
    """Refuse an epoch whose last step ruined the parameters: no loss has shown it yet."""
    for name, value in run.model.state_dict().items():
        # a buffer may hold infinities from the start, as masks of attention do
        if isinstance(value, Tensor) and not bool(value.isfinite().all()) and bool(good[name].isfinite().all()):
            raise TrainingDivergedError(
                f"{name} was no longer finite at the end of epoch {run.epoch + 1}: the model holds the parameters of "
                f"epoch {run.epoch}; try a smaller learning rate."
            )


def _trained(run: Run, loop: Loop, saver: _Saver) -> dict[str, float]:
    """Go through the data as the scheme says: once, or a second time beside it without an attack."""
    if loop.scheme.kind != "ramp" or not loop.scheme.natural_share:
        return _train(run, loop, saver)
    natural = replace(loop, scheme=Scheme("natural"), on_batch=None)
    return with_natural_epoch(
        run, lambda: _train(run, natural), lambda: _train(run, loop), loop.scheme.natural_share
    )  # fmt: skip


def _train(run: Run, loop: Loop, saver: _Saver | None = None) -> dict[str, float]:
    """Go through the data once; return the means of loss, accuracy and weights."""
    device = next(run.model.parameters()).device
    sums, seen, number, done = _Sums(loop.scheme), 0, 0, 0
    if (within := run.within) is not None:
        sums.values, seen, done = list(within.sums), within.seen, within.batches
    for number, whole in enumerate(loop.train.numbered(run.epoch), start=1):
        if number <= done:
            continue
        batch = whole.share(loop.workers.rank, loop.workers.count).to(device)
        value = _one_batch(run, loop, batch, number, sums)
        seen += batch.size
        if saver is not None:
            saver.after(number, seen, sums)
        if loop.on_batch is not None and loop.workers.rank == 0:
            loop.on_batch(number, len(loop.train), value)
    if not number:
        twice = run.epoch or loop.scheme.kind == "ramp"  # whose natural epoch has been through the data already
        again = f" in epoch {run.epoch + 1}: a loader must begin anew each time" if twice else ""
        raise ValueError(f"data must hold at least one batch, got none{again}")
    return sums.means(seen)


def _one_batch(run: Run, loop: Loop, batch: Batch, number: int, sums: _Sums) -> float:
    """Attack the mini-batch, take one step on theta, and return the loss."""
    idle = run.attacker is None or not loop.scheme.attacks
    attack = None if run.attacker is None or idle else _attack(run, run.attacker, batch, number)
    loop.optimizer.zero_grad(set_to_none=True)
    # The mean over processes of their shares' means, each times its factor, is the mean over the mini-batch.
    dpar = loop.scheme.at(run.epoch).dpar
    parts = _Parts(loop, batch, attack, dpar)
    for cut in parts.cuts[:-1]:
        with loop.workers.gathering(loop.objective):
            _pull(loop, parts.loss(cut), parts.spreads)
    loss = parts.loss(parts.cuts[-1])
    if number == 1:
        check_not_probabilities(torch.cat(parts.logits))
    means = [torch.stack(parts.losses).sum(), torch.stack(parts.right).sum()]
    if attack is not None:
        means += list(attack.weights.mean(0) * batch.factor)
    means = loop.workers.total(torch.stack([widest(mean) for mean in means])) / loop.workers.count
    value = float(means[0])
    if not math.isfinite(value):
        raise TrainingDivergedError(
            f"The loss became {value} in batch {number} of epoch {run.epoch + 1}: the model holds the "
            f"parameters of epoch {run.epoch}; {_advice(run, number)}."
        )
    _pull(loop, loss, parts.spreads)
    loop.optimizer.step()
    sums.add(means, batch.size)
    return value


class _Parts:
    """The loss of a mini-batch, part by part; all parts together are the mean over it.

    Attributes:
        cuts: the examples of each part.
        losses, right, logits: what the parts so far came to.
        spreads: whether second derivatives are in it.
    """

    def __init__(self, loop: Loop, batch: Batch, attack: Attack | None, dpar: float) -> None:
        self._loop, self._batch, self._dpar = loop, batch, dpar
        self._points, self._weights = (None, None) if attack is None else attack
        self.spreads = dpar > 0 and attack is not None
        self.cuts = [slice(0, len(batch.x))]
        if loop.cuts is not None:
            self.cuts = loop.cuts.of(batch.x, batch.y, self._points, self._weights, dpar)
        self.losses, self.right, self.logits = list[Tensor](), list[Tensor](), list[Tensor]()

    def loss(self, cut: slice) -> Tensor:
        """Return the loss of a part, so that those of all add up."""
        batch, points, weights = self._batch, self._points, self._weights
        attacked = (None, None) if points is None or weights is None else (points[:, cut], weights[cut])
        with unused_told():
            loss, right, logits = self._loop.objective(batch.x[cut], batch.y[cut], *attacked, self._dpar, batch.factor)
        share = batch.factor * ((cut.stop - cut.start) / len(batch.x))
        loss = loss * share
        self.losses.append(loss.detach())
        self.right.append(right * share)
        self.logits.append(logits)
        return loss


def _pull(loop: Loop, loss: Tensor, spreads: bool) -> None:
    """Add the gradients of a loss to the parameters."""
    with needs_second_derivatives(spreads):
        loop.workers.backward(loss)


def _attack(run: Run, attacker: Attacker, batch: Batch, number: int) -> Attack:
    """Attack the mini-batch: what goes wrong before the first step is the model's, later the training's."""
    try:
        return attacker.attack(batch, run.epoch)
    except RowError as error:
        if run.epoch == 0 and number == 1:
            raise
        raise TrainingDivergedError(
            f"{error}, in batch {number} of epoch {run.epoch + 1}: the model holds the parameters of epoch "
            f"{run.epoch}; {_advice(run, number)}."
        ) from error


def _advice(run: Run, number: int) -> str:
    """Say what to try: before the first step no learning rate can be to blame."""
    if run.epoch == 0 and number == 1:
        return "no step had been taken, so look at what the model returns"
    return "try a smaller learning rate"


class _Sums:
    """Sums over an epoch, and the names of their means."""

    def __init__(self, scheme: Scheme) -> None:
        shown = scheme.names if scheme.attacks and len(scheme.threats) > 1 else ()
        self.names = ("loss", "accuracy", *(f"weight/{name}" for name in shown))
        self.values = [0.0] * len(self.names)

    def add(self, means: Tensor, size: int) -> None:
        """Add the means of a mini-batch of ``size`` examples."""
        self.values = [total + mean * size for total, mean in zip(self.values, means.tolist(), strict=False)]

    def means(self, seen: int) -> dict[str, float]:
        """Return the means over ``seen`` examples by name."""
        return {name: value / seen for name, value in zip(self.names, self.values, strict=True)}
