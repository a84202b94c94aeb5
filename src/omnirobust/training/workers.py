"""The processes that train together: this one alone, or those that a Lightning Fabric launched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from omnirobust.domains.classifier import Precision
from omnirobust.training.batches import Batch

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@contextmanager
def unused_told() -> Iterator[None]:
    """Say what to change where torch's gradient averaging waits for a parameter that no loss has used.

    Raises:
        ValueError: instead of torch's RuntimeError.
    """
    try:
        yield
    except RuntimeError as error:
        if "Expected to have finished reduction" not in str(error):
            raise
        raise ValueError(
            "fabric must have strategy 'ddp_find_unused_parameters_true' for this model, of which the loss leaves "
            "parameters out, got one that waits for the gradients of all of them"
        ) from error


class Workers(Protocol):
    """What the training loop asks of its processes."""

    rank: int
    count: int

    def setup(self, objective: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """Return both, wrapped so that gradients are averaged over the processes."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of ``loss`` to the parameters."""
        ...

    def gathering(self, objective: nn.Module) -> AbstractContextManager[object]:
        """Let gradients add up in each process inside: the next ``backward`` outside averages them with its own."""
        ...

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of ``values`` over the processes, the same on all."""
        ...

    def join(self, values: Tensor, batch: Batch) -> Tensor:
        """Return the values of a whole mini-batch, (size, ...), from each process's share (n, ...)."""
        ...

    def broadcast(self, state: Any) -> Any:
        """Return what the first process handed over."""
        ...

    def wait(self) -> None:
        """Go on once every process is here."""
        ...


class Alone:
    """One process."""

    rank, count = 0, 1

    def setup(self, objective: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """Return both as they are."""
        return objective, optimizer

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of ``loss`` to the parameters."""
        loss.backward()

    def gathering(self, objective: nn.Module) -> AbstractContextManager[object]:
        """Do nothing: gradients add up anyway."""
        return nullcontext()

    def total(self, values: Tensor) -> Tensor:
        """Return ``values``."""
        return values

    def join(self, values: Tensor, batch: Batch) -> Tensor:
        """Return ``values``."""
        return values

    def broadcast(self, state: Any) -> Any:
        """Return ``state``."""
        return state

    def wait(self) -> None:
        """Do nothing."""


class Launched:
    """The processes of a Fabric, on one machine or many, each with a share of every mini-batch.

    Raises:
        ValueError: if its precision is neither fp32 nor mixed bf16.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.rank, self.count = fabric.global_rank, fabric.world_size
        known: dict[str, Precision] = {"32-true": "fp32", "bf16-mixed": "bf16"}
        given = fabric.strategy.precision.precision
        if given not in known:
            raise ValueError(f"fabric must have precision 32-true or bf16-mixed, got {given}")
        self.precision: Precision = known[given]

    def setup(self, objective: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """Move both to the Fabric's device and wrap them."""
        return self.fabric.setup(objective, optimizer)

    def backward(self, loss: Tensor) -> None:
        """Add the averaged gradients of ``loss`` to the parameters."""
        self.fabric.backward(loss)

    def gathering(self, objective: nn.Module) -> AbstractContextManager[object]:
        """Keep gradients in their process inside."""
        return self.fabric.no_backward_sync(objective)  # pyright: ignore[reportArgumentType]

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of ``values`` over the processes."""
        if self.count == 1:
            return values
        return torch.as_tensor(self.fabric.all_reduce(values.clone(), reduce_op="sum"))

    def join(self, values: Tensor, batch: Batch) -> Tensor:
        """Return the values of the whole mini-batch: each row is zero but in one process, so that the sum is exact."""
        whole = values.new_zeros(batch.size, *values.shape[1:])
        if batch.factor:
            whole[batch.mine.to(values.device)] = values
        return self.total(whole)

    def broadcast(self, state: Any) -> Any:
        """Return the state of the first process."""
        return self.fabric.broadcast(state)

    def wait(self) -> None:
        """Go on once every process is here."""
        self.fabric.barrier()
