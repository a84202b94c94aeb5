"""The training loop: any model, any data, any scheme."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from omnirobust.training.accuracy import accuracy_of, restored_modes
from omnirobust.training.batches import Batches, Data, batches, epoch_seed
from omnirobust.training.outputs import check_labels, check_not_probabilities, logits_of
from omnirobust.training.schemes import Scheme
from omnirobust.training.state import CHECKPOINT, Run, Settings, own_randomness

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Progress = Callable[[int, int, Mapping[str, float]], None]
BatchProgress = Callable[[int, int, float], None]
Precision = Literal["fp32", "bf16"]


class TrainingDivergedError(RuntimeError):
    """The loss stopped being a finite number; the model holds the parameters of the last good epoch."""


@dataclass(frozen=True)
class FitResult:
    """What a training did.

    Attributes:
        model: the model that was handed in, trained in place.
        epochs: epochs done in all, those of an interrupted run that was resumed included.
        history: one row an epoch: epoch (from 1), loss and accuracy (means over the epoch's batches, as trained),
            validation (accuracy, where validation data was given), seconds.
        stopped: "epochs" if all were done, "target" if ``stop_at`` was reached.
    """

    model: nn.Module
    epochs: int
    history: tuple[Mapping[str, float], ...]
    stopped: Literal["epochs", "target"]


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
    stop_at: float | None = None,
    precision: Precision = "fp32",
    progress: Progress | None = None,
    on_batch: BatchProgress | None = None,
) -> FitResult:
    """Train ``model`` in place: minimise the mean cross-entropy over the data, as ``scheme`` says.

    The natural scheme minimises mean_i CE(model(x_i), y_i).

    Args:
        model: maps (B, *S) to logits (B, C), or to an object with ``.logits``. It is trained in training mode; the mode
            of each of its modules is restored afterwards.
        data: (x, y) with x (N, *S) float and y (N,) int64; ImageData; a DataLoader; or the name of a set, whose
            training split is taken.
        scheme: what to train against.
        epochs: passes over the data, >= 1, a resumed run's earlier ones included.
        optimizer: makes the optimizer of the parameters; None for Adam at 1e-3.
        validation: like ``data``; a name stands for its test split. Its accuracy is measured after each epoch.
        out: folder for the checkpoint written after each epoch; None writes nothing.
        resume: go on from the checkpoint in ``out``, if there is one, to the parameters that an uninterrupted run
            would have reached, bit for bit. False starts anew.
        seed: of the shuffling and of the dropout. Torch's global generators are left as they were.
        batch_size: examples a mini-batch, >= 1; a DataLoader brings its own.
        lr_factor: epoch (from 0) to the factor on the optimizer's learning rate; None keeps it constant.
        stop_at: end once the accuracy on ``validation`` reaches this share, in [0, 1].
        precision: "fp32", or "bf16" for mixed precision: bf16 products, fp32 parameters and loss.
        progress: called after each epoch with (epochs done, epochs, the epoch's metrics).
        on_batch: called after each batch with (batches done in this epoch, batches an epoch or 0 if unknown, loss).

    Returns:
        A FitResult.

    Raises:
        ValueError: if an argument is out of range, or the checkpoint belongs to other settings.
        TrainingDivergedError: if a loss is NaN or infinite. Model and checkpoint keep the last good epoch.

    Cost: one forward and one backward pass an example and epoch, for the natural scheme.
    """
    _check(epochs, batch_size, stop_at, validation, precision, scheme)
    train = batches("data", data, "train", batch_size, seed)
    held_out = None if validation is None else batches("validation", validation, "test", 512, None)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("model must have parameters that require gradients, got none: model.requires_grad_(True)")
    step = (optimizer or _adam)(model.parameters())
    settings = Settings(repr(scheme), batch_size, len(train), seed, precision, repr(step))
    run = Run(model, step, settings, None if out is None else Path(out) / CHECKPOINT)
    if resume:
        run.resume()
    if run.epoch > epochs:
        raise ValueError(f"epochs must be >= {run.epoch}, which the checkpoint {run.file} has done, got {epochs}")
    rates = [group["initial_lr"] for group in step.param_groups]
    with restored_modes(model):
        while run.epoch < epochs and not _reached(run.history, stop_at):
            for group, rate in zip(step.param_groups, rates, strict=True):
                group["lr"] = rate * (1.0 if lr_factor is None else lr_factor(run.epoch))
            _one_epoch(run, train, held_out, on_batch)
            run.save()
            if progress is not None:
                progress(run.epoch, epochs, run.history[-1])
    stopped = "target" if _reached(run.history, stop_at) else "epochs"
    return FitResult(model, run.epoch, tuple(run.history), stopped)


def _check(
    epochs: int, batch_size: int, stop_at: float | None, validation: Data | None, precision: str, scheme: Scheme
) -> None:
    if epochs < 1:
        raise ValueError(f"epochs must be >= 1, got {epochs}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
    if stop_at is not None and not 0 <= stop_at <= 1:
        raise ValueError(f"stop_at must be in [0, 1], got {stop_at}")
    if stop_at is not None and validation is None:
        raise ValueError(f"validation must be given with stop_at, got None with stop_at {stop_at}")
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
    if scheme.kind != "natural":
        raise ValueError(f"scheme must be of kind natural, the only one built so far, got {scheme.kind!r}")


def _adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3)


def _reached(history: list[dict[str, float]], stop_at: float | None) -> bool:
    return stop_at is not None and bool(history) and history[-1].get("validation", -1.0) >= stop_at


def _one_epoch(run: Run, train: Batches, held_out: Batches | None, on_batch: BatchProgress | None) -> None:
    began = time.perf_counter()
    good = copy.deepcopy(run.model.state_dict())
    # Seeding each epoch by itself makes resuming exact without saving any generator's state.
    with own_randomness(run.model, epoch_seed(run.settings.seed, run.epoch)):
        run.model.train()
        try:
            loss, right = _train(run, train, on_batch)
        except TrainingDivergedError:
            run.model.load_state_dict(good)
            raise
        row = {"epoch": run.epoch + 1.0, "loss": loss, "accuracy": right}
        if held_out is not None:
            row["validation"] = accuracy_of(run.model, held_out)
    run.epoch += 1
    run.history.append(row | {"seconds": time.perf_counter() - began})


def _train(run: Run, train: Batches, on_batch: BatchProgress | None) -> tuple[float, float]:
    device = next(run.model.parameters()).device
    autocast = run.settings.precision == "bf16"
    total = right = seen = 0.0
    for number, (x, y) in enumerate(train.epoch(run.epoch), start=1):
        x, y = x.to(device), y.to(device)
        run.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            logits = logits_of(run.model, x)
        check_labels(logits, y)
        if number == 1:
            check_not_probabilities(logits)
        loss = cross_entropy(logits.float() if autocast else logits, y)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingDivergedError(
                f"The loss became {value} in batch {number} of epoch {run.epoch + 1}: the model holds the "
                f"parameters of epoch {run.epoch}; try a smaller learning rate."
            )
        loss.backward()
        run.optimizer.step()
        total += value * len(y)
        right += (logits.argmax(1) == y).sum().item()
        seen += len(y)
        if on_batch is not None:
            on_batch(number, len(train), value)
    if not seen:
        raise ValueError("data must hold at least one batch, got none")
    return total / seen, right / seen
