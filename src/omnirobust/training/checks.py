"""What ``fit`` finds wrong before the first epoch, each in one sentence."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import signature
from math import isfinite
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from omnirobust.core.arguments import check_flag, check_number, check_seed, check_whole, is_number, repeated
from omnirobust.core.choices import Keep as Keep
from omnirobust.core.contracts import check_set
from omnirobust.domains.checks import check_memory
from omnirobust.domains.classifier import Precision
from omnirobust.training.accuracy import restored_modes
from omnirobust.training.batches import Batches, Data, LoaderBatches
from omnirobust.training.inner_steps import check_steps
from omnirobust.training.outputs import check_labels, logits_of
from omnirobust.training.schemes import Scheme
from omnirobust.training.workers import Workers

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
SchedulerFactory = Callable[[torch.optim.Optimizer], LRScheduler]


def check_settings(
    model: object,
    scheme: object,
    epochs: int,
    batch_size: int,
    precision: str,
    resume: object,
    seed: object,
    compiled: object,
    memory: object,
) -> None:
    """Raise a ValueError for arguments of the wrong kind or out of range."""
    if torch.is_inference_mode_enabled():
        raise ValueError("a training needs gradients: call it outside torch.inference_mode()")
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module, got {model!r:.80}")
    if type(model).__name__ == "_FabricModule":  # whose backward pass is Fabric's own
        raise ValueError(
            "model must be the network itself, got one that a Fabric has set up: hand over its .module, and the Fabric "
            "as fabric"
        )
    if not isinstance(scheme, Scheme):
        raise ValueError(f"scheme must be a Scheme such as Scheme('minmax', (Linf(0.2), L2(2.0))), got {scheme!r:.80}")
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        check_whole(name, value, 1)
    check_flag("resume", resume)
    check_flag("compile", compiled)
    check_memory(memory)
    check_seed("seed", seed)
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("model must have parameters that require gradients, got none: model.requires_grad_(True)")


def check_stopping(stop_at: float | None, patience: int | None, keep: str, validation: Data | None) -> None:
    """Raise a ValueError for settings of early stopping that do not fit."""
    if stop_at is not None:
        check_number("stop_at", stop_at, "in [0, 1]", lambda share: 0 <= share <= 1)
    if patience is not None:
        check_number("patience", patience, ">= 1", lambda epochs: epochs >= 1)
    if keep not in get_args(Keep):
        raise ValueError(f"keep must be one of {', '.join(get_args(Keep))}, got {keep!r}")
    for name, value in (("stop_at", stop_at), ("patience", patience), ("keep", None if keep == "last" else keep)):
        if value is not None and validation is None:
            raise ValueError(f"validation must be given with {name}, got None with {name} {value}")


def check_data(scheme: Scheme, train: Batches, held_out: Batches | None) -> None:
    """Find inputs that are not finite or outside the threat models' bounds; a loader's are found batch by batch.

    And bounds for which the scheme has no step sizes.
    """
    check_steps(scheme)
    for name, data in (("data", train), ("validation", held_out)):
        if data is None or isinstance(data, LoaderBatches):
            continue
        flat = data.x.flatten(1)
        # where there is a NaN, it is both
        extremes = torch.stack([flat.amin(1).argmin(), flat.amax(1).argmax()])
        if not bool(data.x[extremes].isfinite().all()):
            raise ValueError(f"{name} must hold finite inputs, got NaN or infinity")
        if name == "data" and scheme.examples not in (None, len(data.x)):
            raise ValueError(f"eps must have a radius for each of {len(data.x)} examples, got {scheme.examples}")
        for threat in scheme.common().threats:
            scheme.check_masks(data.x)
            check_set(threat, data.x[extremes])


def check_saving(save_every: float | None, scheme: Scheme, train: Batches, workers: Workers) -> None:
    """Refuse checkpoints within an epoch where it cannot be taken up again."""
    if save_every is None:
        return
    check_number("save_every", save_every, "> 0 minutes, or None", lambda minutes: minutes > 0)
    reason = ""
    if isinstance(train, LoaderBatches):
        reason = "for a DataLoader, whose draws cannot be taken up in the middle of an epoch"
    elif workers.count > 1:
        reason = "in several processes, which save between epochs"
    elif scheme.kind == "ramp":
        reason = "for kind ramp, whose epochs are two"
    if reason:
        raise ValueError(f"save_every must be None {reason}, got {save_every!r}")


def check_validation(model: nn.Module, held_out: Batches | None) -> None:
    """Send one validation input through the model: a first epoch trained for nothing would be lost.

    Raises:
        ValueError: if the model cannot take it, or a label is none of its classes.
    """
    if held_out is None or isinstance(held_out, LoaderBatches):
        return
    x = held_out.x[:1].to(next(model.parameters()).device, copy=True)  # the model may write into it
    with restored_modes(model), torch.no_grad():
        model.eval()
        try:
            logits = logits_of(model, x)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"validation must hold inputs that the model takes, got {tuple(x.shape)}: {reason}"
            ) from error
        check_labels(logits, held_out.y, "validation")


def check_hooks(functions: Mapping[str, object], loggers: Sequence[object], out: object) -> None:
    """Refuse what would only fail once an epoch is trained.

    Args:
        functions: by argument, functions or None.
        loggers: that have a method log_metrics.
        out: a path or None.

    Raises:
        ValueError: that names the argument.
    """
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise ValueError(f"{name} must be a function or None, got {repeated(function)}")
    for logger in loggers:
        if not callable(getattr(logger, "log_metrics", None)):
            raise ValueError(f"loggers must have a method log_metrics, got {repeated(logger)}")
    if out is not None and not isinstance(out, str | os.PathLike):
        raise ValueError(f"out must be the path of a folder or None, got {repeated(out)}")


def factor_of(lr_factor: Callable[[int], float] | None, epoch: int) -> float:
    """Return the factor on the learning rate of an epoch, 1 where there is no function.

    Raises:
        ValueError: if the function returns no finite number.
    """
    said: object = 1.0 if lr_factor is None else lr_factor(epoch)
    if isinstance(said, Tensor) and said.numel() == 1:
        said = said.item()
    if not is_number(said) or not isfinite(said):
        raise ValueError(f"lr_factor must return finite numbers, got {repeated(said)} of epoch {epoch}")
    return float(said)


def made_folder(out: str | Path | None, workers: Workers) -> None:
    """Make the folder of the checkpoints before an epoch is trained for nothing.

    Raises:
        ValueError: in all processes, if it cannot be made or written.
    """
    problem: str | None = None
    if workers.rank == 0 and out is not None:
        try:
            Path(out).mkdir(parents=True, exist_ok=True)
            problem = None if os.access(out, os.W_OK | os.X_OK) else "Permission denied"
        except OSError as error:
            problem = error.strerror or str(error)
    if (problem := workers.broadcast(problem)) is not None:
        raise ValueError(f"out must be a folder that can be written, got {str(out)!r}: {problem}")


def made_optimizer(factory: OptimizerFactory | None, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of the model's parameters; Adam at 1e-3 by default."""
    if factory is None:
        return torch.optim.Adam(model.parameters(), lr=1e-3)
    wanted = "optimizer must be a function of the parameters, such as lambda p: torch.optim.SGD(p, lr=0.1)"
    if isinstance(factory, torch.optim.Optimizer) or not callable(factory):
        raise ValueError(f"{wanted}, got {type(factory).__name__}")
    made = factory(model.parameters())
    if not isinstance(made, torch.optim.Optimizer):
        raise ValueError(f"{wanted}, got one that returns {type(made).__name__}")
    needs = [p for p in signature(made.step).parameters.values() if p.default is p.empty and p.kind <= p.KEYWORD_ONLY]
    if any(p.kind is not p.VAR_POSITIONAL for p in needs):
        raise ValueError(
            f"optimizer must step by the gradients it finds, got {type(made).__name__}, which asks for a closure"
        )
    own = {id(parameter) for parameter in model.parameters()}
    if not any(id(parameter) in own for group in made.param_groups for parameter in group["params"]):
        raise ValueError("optimizer must hold parameters of the model, got one that holds none of them")
    return made


def made_scheduler(
    factory: SchedulerFactory | None, optimizer: torch.optim.Optimizer, validation: Data | None
) -> LRScheduler | None:
    """Return the scheduler of ``optimizer``; None without a factory."""
    if factory is None:
        return None
    wanted = "scheduler must be a function of the optimizer, such as lambda o: torch.optim.lr_scheduler.StepLR(o, 30)"
    if isinstance(factory, LRScheduler) or not callable(factory):
        raise ValueError(f"{wanted}, got {type(factory).__name__}")
    try:
        made = factory(optimizer)
    except TypeError as error:
        raise ValueError(f"{wanted}, got {repeated(factory)}: {error}") from error
    if not isinstance(made, LRScheduler):
        raise ValueError(f"{wanted}, got one that returns {type(made).__name__}")
    if made.optimizer is not optimizer:
        raise ValueError("scheduler must be made of the optimizer that it is given, got one of another optimizer")
    if isinstance(made, ReduceLROnPlateau):
        if validation is None:
            raise ValueError("validation must be given with a ReduceLROnPlateau, which watches its score, got None")
        if made.mode != "max":
            raise ValueError(f"scheduler must have mode 'max', since it watches an accuracy, got mode {made.mode!r}")
    return made
