"""BatchNorm in a mini-batch, or a process's share of one, of a single example: there is nothing to normalise over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from omnirobust.core.draws import building
from omnirobust.training.outputs import logits_of
from omnirobust.training.schemes import Scheme
from omnirobust.zoo.states import copied


@contextmanager
def lone_row(model: nn.Module) -> Iterator[list[str]]:
    """Let BatchNorm take its running statistics inside where it sees one value a channel, and leave them as they are.

    Yields:
        The names of the layers that did, as they do.

    Raises:
        ValueError: if a layer has no running statistics.
    """
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, _BatchNorm) and m.training]
    handles, found = [], list[str]()

    def before(name: str, module: nn.Module, given: tuple[Any, ...]) -> None:
        if not given or not isinstance(given[0], Tensor) or given[0].numel() != given[0].shape[1]:
            return
        if module.running_mean is None:
            raise ValueError(
                "batch_size must leave no mini-batch, or share of a process, of one example for a model with BatchNorm "
                f"without running statistics, {name}"
            )
        module.training = False
        found.append(name)

    def after(module: nn.Module, *_: object) -> None:
        module.training = True

    for name, layer in layers:
        handles.append(layer.register_forward_pre_hook(partial(before, name)))
        handles.append(layer.register_forward_hook(after, always_call=True))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def check_normalised(model: nn.Module, scheme: Scheme, x: Tensor, largest: int, processes: int) -> None:
    """Refuse mini-batches of which no process ever sees two examples where BatchNorm needs them.

    Args:
        model: to be trained.
        scheme: what against.
        x: an input, (1, *S).
        largest: examples of the largest mini-batch.
        processes: that share it.

    Raises:
        ValueError: if so: its statistics would stay what they were.
    """
    hard = scheme.kind in ("worst", "msd", "alternate") or (scheme.kind == "ramp" and not scheme.pairing)
    single = len(scheme.threats) == 1 or hard  # one attacked input an example
    natural = not scheme.attacks or (scheme.kind == "ramp" and scheme.natural_share > 0)
    alone = natural or (scheme.adversarial_ratio == 1 and single)
    if not alone or largest > processes:
        return
    before, modes = copied(model.state_dict()), [(module, module.training) for module in model.modules()]
    if not model.training:  # then all of it will train
        model.train()
    with building(), torch.no_grad(), lone_row(model) as found:
        logits_of(model, x.to(next(model.parameters()).device, copy=True))
    model.load_state_dict(before)
    for module, mode in modes:
        module.training = mode
    if found:
        raise ValueError(
            f"batch_size must leave every process 2 examples or more for a model with BatchNorm ({found[0]}), got "
            f"{largest} for {processes}"
        )
