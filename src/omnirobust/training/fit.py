"""Training: any model, any data, any scheme, on one process or many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from omnirobust.domains.classifier import Precision as Precision
from omnirobust.training.accuracy import before_of, classes_apart, radii_of, ranges_of, restored_modes, told_of
from omnirobust.training.attackers import Attacker, PrivateAttacker, attacker_of
from omnirobust.training.batches import Batches, Data, LoaderBatches, batches, generators
from omnirobust.training.budget import PassBudget
from omnirobust.training.checks import Keep as Keep
from omnirobust.training.checks import OptimizerFactory as OptimizerFactory
from omnirobust.training.checks import SchedulerFactory as SchedulerFactory
from omnirobust.training.checks import (
    check_data,
    check_hooks,
    check_saving,
    check_settings,
    check_stopping,
    check_validation,
    factor_of,
    made_folder,
    made_optimizer,
    made_scheduler,
)
from omnirobust.training.logs import MetricLogger, log, replay
from omnirobust.training.loop import BatchProgress as BatchProgress
from omnirobust.training.loop import Loop, one_epoch
from omnirobust.training.loop import TrainingDivergedError as TrainingDivergedError
from omnirobust.training.normalised import check_normalised
from omnirobust.training.objective import Objective
from omnirobust.training.schemes import Scheme
from omnirobust.training.state import CHECKPOINT, Run, Settings
from omnirobust.training.step_cuts import StepCuts
from omnirobust.training.stopping import Stopped, best_epoch, reason_to_stop, score
from omnirobust.training.workers import Alone, Launched, Workers
from omnirobust.zoo.chunks import fingerprint
from omnirobust.zoo.states import check_given_back, copied

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Progress = Callable[[int, int, Mapping[str, float]], None]


@dataclass(frozen=True)
class FitResult:
    """What a training did.

    Attributes:
        model: the model that was handed in, trained in place.
        epochs: epochs done in all, those of an interrupted run that was resumed included.
        history: one row an epoch: epoch (from 1), loss and accuracy (means over the epoch's batches, as trained, clean
            and attacked examples weighed as in the loss), weight/NAME (the mean weight of each threat model, where
            there are several), validation (clean accuracy), robust (union accuracy under the scheme's threat models,
            not for "universal") and robust_average (the mean over several of them), where validation data was given,
            seconds.
        stopped: "epochs" if all were done, "target" if ``stop_at`` was reached, "patience" if nothing got better.
        best: the epoch of the highest robust accuracy on the validation data, ties by clean accuracy, then the first
            (by clean accuracy alone, if the scheme does not attack); the last one without validation data.
        weights: the weights that each training example had last, (N, K); None without attacks, or where the data does
            not number its examples.
        notes: what a reader of the accuracies on the validation data must know, one sentence each: that the model is
            random, that its rows see each other, how its output was read, or which classes of one part of the data
            the other part has no example of, where both are in memory; what was not compiled, or not split by memory.
            Of data in memory, too, that a radius reaches across its range, that inputs fill next to nothing of it, and
            that the trained model says one class of all inputs, or no more than a guess would, on the first 1000 of the
            validation data, else of ``data``.
    """

    model: nn.Module
    epochs: int
    history: tuple[Mapping[str, float], ...]
    stopped: Stopped
    best: int = 0
    weights: Tensor | None = None
    notes: tuple[str, ...] = ()


def fit(
    model: nn.Module,
    data: Data,
    scheme: Scheme,
    *,
    epochs: int,
    optimizer: OptimizerFactory | None = None,
    validation: Data | None = None,
    out: str | Path | None = None,
    resume: bool = True,
    seed: int = 0,
    batch_size: int = 128,
    lr_factor: Callable[[int], float] | None = None,
    scheduler: SchedulerFactory | None = None,
    stop_at: float | None = None,
    patience: int | None = None,
    keep: Keep = "last",
    precision: Precision = "fp32",
    compile: bool = False,  # noqa: A002
    memory: int | None = None,
    fabric: Fabric | None = None,
    loggers: Sequence[MetricLogger] = (),
    progress: Progress | None = None,
    on_batch: BatchProgress | None = None,
    save_every: float | None = None,
) -> FitResult:
    """Train ``model`` in place: minimise the mean loss over the data, as ``scheme`` says.

    The natural scheme minimises mean_i CE(model(x_i), y_i); ``Scheme`` states the others. On each mini-batch the
    adversary ascends in evaluation mode (Algorithm 2), then the optimizer takes one step in training mode on clean and
    attacked examples, which share one forward pass.

    Args:
        model: maps (B, *S) to logits (B, C), or to something that holds them, as for attacks. It is trained in training
            mode, but for modules that are in evaluation mode inside a model in training mode (a frozen BatchNorm, say);
            the mode of each module is restored afterwards.
        data: (x, y) with x (N, *S) float and y (N,) int64; ImageData; a DataLoader that yields (x, y), or (x, y, rows)
            with the number of each example in its set, which is needed where examples carry something or have radii of
            their own; or the name of a set, whose training split is taken.
        scheme: what to train against.
        epochs: passes over the data, >= 1, a resumed run's earlier ones included.
        optimizer: makes the optimizer of the parameters; None for Adam at 1e-3.
        validation: like ``data``; a name stands for its test split. Its accuracy is measured after each epoch, clean
            and under the scheme's attacks.
        out: folder for the checkpoint written after each epoch; None writes nothing.
        resume: go on from the checkpoint in ``out``, if there is one, to the parameters that an uninterrupted run
            would have reached, bit for bit; for a loader, if its examples and the way it draws them depend on torch's
            generators alone. False starts anew.
        seed: of the shuffling, the dropout and the random starts. Torch's global generators are left as they were.
        batch_size: examples a mini-batch, >= 1, over all processes; a DataLoader brings its own.
        lr_factor: epoch (from 0) to the factor on the optimizer's learning rate; None keeps it constant.
        scheduler: makes a torch scheduler of the optimizer, stepped after each epoch, by the validation score where it
            asks for one (ReduceLROnPlateau, of mode "max"); instead of ``lr_factor``.
        stop_at: end once the score on ``validation`` reaches this share, in [0, 1]. The score is the robust accuracy,
            or the clean one if the scheme does not attack.
        patience: end after so many epochs, >= 1, none of which is better: in score, or in clean accuracy at the same.
        keep: the parameters to end with: those of the "last" epoch, or of the one with the "best" score; ties go to
            the higher clean accuracy, then to the first.
        precision: "fp32", or "bf16" for mixed precision in attack and training: bf16 products, fp32 parameters, losses
            and log-determinants. A Fabric brings its own.
        compile: whether each step of the attacks is one function compiled by torch.compile, made once for each shape of
            mini-batch (up to four), which takes seconds to a minute and needs a C++ compiler on a processor, where
            the passes of two-dimensional convolutions stay as they are. It rounds otherwise than the steps that are
            not compiled, and the same from run to run. Linf and l2 without ``scale`` and without ``dpar`` are compiled;
            of what is not, and where the compiler gives up or finds other gradients than the model does, the notes say
            why.
        memory: bytes that the graph of one forward pass may hold, >= 1; images go through the model in pieces that keep
            to it, in attack, training step and validation. That rounds otherwise, and random models and dropout draw
            anew for each piece. None: everything goes whole. Steps of the optimizer go whole all the same, and the
            notes say so, where pieces would change them: where BatchNorm takes its statistics from the mini-batch, the
            model otherwise couples rows or writes buffers in training mode, and for kind "ramp".
        fabric: a launched Lightning Fabric: its devices read the same mini-batches, each takes its share, and together
            they give the gradients that one would, but for BatchNorm's statistics and dropout's draws.
        loggers: take each epoch's row, as Fabric's do; ``make_loggers`` makes CSV and TensorBoard. Those of ``fabric``
            are told as well.
        progress: called after each epoch with (epochs done, epochs, the epoch's metrics).
        on_batch: called after each batch with (batches done in this epoch, batches an epoch or 0 if unknown, loss).
        save_every: minutes, > 0, after which the checkpoint is written within an epoch too, twice as large as between
            two; a killed run goes on from there, bit for bit. None for after each epoch alone, as it must be for a
            DataLoader, for several processes and for kind "ramp".

    Returns:
        A FitResult.

    Raises:
        ValueError: if an argument is out of range, data and threat models do not fit, or the checkpoint belongs to
            other settings or data. Nothing has been trained or written by then; where a batch is wrong that only a
            later epoch or a loader brings, model and checkpoint keep the last whole epoch.
        TrainingDivergedError: if losses or parameters are NaN or infinite. Model and checkpoint keep the last good
            epoch.

    Cost: one forward and one backward pass an example and epoch for the natural scheme; K (R + 1) and a clean one for
    R steps against K threat models; see ``Scheme`` for "msd", "alternate" and "ramp". In the end one forward of 1000
    inputs, for the notes. Where examples carry their perturbations (``Scheme.persist`` "all"), N K values of half
    precision for each coordinate of an input, in the memory of the processor and, once an epoch, in the checkpoint.
    """
    workers: Workers = Alone()
    if fabric is not None:
        workers = Launched(fabric)
        precision = workers.precision
    check_settings(model, scheme, epochs, batch_size, precision, resume, seed, compile, memory)
    check_stopping(stop_at, patience, keep, validation)
    check_hooks({"progress": progress, "on_batch": on_batch, "lr_factor": lr_factor}, loggers, out)
    check_given_back(model)
    train = batches("data", data, "train", batch_size, seed)
    held_out = None if validation is None else batches("validation", validation, "test", 512, None)
    check_data(scheme, train, held_out)
    check_saving(save_every, scheme, train, workers)
    step = made_optimizer(optimizer, model)
    images = "" if out is None or isinstance(train, LoaderBatches) else fingerprint({"x": train.x, "y": train.y})
    settings = Settings(scheme.fingerprint(), batch_size, len(train), seed, precision, repr(step), images, compile)
    budget = None if memory is None else PassBudget(memory)
    attacker = attacker_of(model, scheme, seed, precision, workers, compile, budget)
    if lr_factor is not None and scheduler is not None:
        raise ValueError("scheduler must be None with lr_factor, got both")
    file, rate = None if out is None else Path(out) / CHECKPOINT, made_scheduler(scheduler, step, validation)
    run = Run(model, step, settings, file, attacker, rate, generators(train, held_out))
    plain = Objective(model, scheme, precision, workers)
    objective, stepping = workers.setup(plain, step)
    check_validation(model, held_out)
    if held_out is not None and not isinstance(held_out, LoaderBatches):
        run.notes = told_of(model, held_out.x)
    if not isinstance(train, LoaderBatches):
        check_normalised(model, scheme, train.x[:1], min(batch_size, len(train.x)), workers.count)
    if resume:
        run.resume(workers)
        if keep == "best" and run.history and run.best is None:
            raise ValueError(
                f"keep must be 'last' as in the checkpoint {run.file}, which holds no best parameters, got 'best'; "
                "pass resume=False to start anew"
            )
    if run.epoch > epochs:
        raise ValueError(f"epochs must be >= {run.epoch}, which the checkpoint {run.file} has done, got {epochs}")
    made_folder(out, workers)
    listening = [*loggers, *(() if fabric is None else fabric.loggers)]
    replay(listening, run.history)
    still = [m for m in model.modules() if not m.training] if model.training else []
    cuts = None if budget is None else StepCuts(budget, plain)
    loop = Loop(scheme, objective, stepping, workers, train, held_out, on_batch, still, cuts, save_every)
    with restored_modes(model), torch.enable_grad():
        while (stopped := reason_to_stop(run.history, epochs, stop_at, patience)) is None:
            _advance(run, loop, lr_factor, keep)
            log(listening, run.history[-1])
            if progress is not None and workers.rank == 0:
                progress(run.epoch, epochs, run.history[-1])
    told = (
        *_of_compiling(attacker, compile, workers, next(model.parameters()).device),
        *(() if budget is None else budget.notes),
        *classes_apart(train, held_out),
        *ranges_of(scheme, train),
        *radii_of(scheme, held_out),
    )
    return _result(run, stopped, keep, told, train if held_out is None else held_out)


def _of_compiling(attacker: Attacker | None, wanted: bool, workers: Workers, device: torch.device) -> tuple[str, ...]:
    """Say what of a training was not compiled although it was wanted, in this process, else in others."""
    if attacker is None or attacker.compiled is None:
        return ("compile: nothing was compiled, for the scheme attacks nothing.",) if wanted else ()
    notes = attacker.compiled.notes
    others = int(workers.total(torch.tensor(float(bool(notes)), device=device)))
    if notes or not others:
        return notes
    return (f"compile: the attacks ran uncompiled, wholly or in part, in {others} of {workers.count} processes.",)


def _advance(run: Run, loop: Loop, lr_factor: Callable[[int], float] | None, keep: Keep) -> None:
    """Train one epoch at its learning rate, and write the checkpoint."""
    if run.scheduler is None:
        factor = factor_of(lr_factor, run.epoch)
        for group in run.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
    one_epoch(run, loop)
    if isinstance(run.scheduler, ReduceLROnPlateau):
        run.scheduler.step(score(run.history[-1]))
    elif run.scheduler is not None:
        run.scheduler.step()
    if keep == "last":
        run.best = None  # those of an earlier run with another ``keep`` would go stale
    elif best_epoch(run.history) == run.epoch:
        run.best = copied(run.model.state_dict())
    run.save(loop.workers)
    loop.workers.wait()


def _result(run: Run, stopped: Stopped, keep: Keep, told: Sequence[str], seen: Batches) -> FitResult:
    if run.within is not None:  # resumed for no more epochs than are whole: the begun one does not count
        run.model.load_state_dict(run.within.good)
    if keep == "best" and run.best is not None:
        run.model.load_state_dict(run.best)
    best = best_epoch(run.history) if score(run.history[-1]) >= 0 else run.epoch
    table = run.attacker.table if isinstance(run.attacker, PrivateAttacker) else None
    weights = table if table is not None and len(table) else None
    notes = (*(run.notes or ()), *told, *before_of(run.model, seen))
    return FitResult(run.model, run.epoch, tuple(run.history), stopped, best, weights, notes)
