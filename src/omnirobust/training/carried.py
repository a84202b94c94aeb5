"""The perturbations that each training example had last: on the processor, each process with rows of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from omnirobust.core.ranges import one_input
from omnirobust.core.threat_models import ThreatModel, width_of
from omnirobust.training.batches import Batch
from omnirobust.training.workers import Workers

STORED = torch.float16
"""What perturbations are kept in, in units of the width of the data range, so that each is in [-1, 1]."""

_WIDEST = 1024
"""Radii that the unit spans at most: half precision has few digits below 6e-5 of it, and none below 6e-8."""

_JOINED = 4096
"""Rows that the processes put together at a time for a checkpoint."""

_WHOLE = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of a number to the integers that its bits are read as."""


class Carried(NamedTuple):
    """Perturbations that were kept of a mini-batch, K times (n, *S), and which of its rows had any, (n,) bool."""

    deltas: list[Tensor]
    seen: Tensor


class CarriedDeltas:
    """delta_i^(t-1) of every example, by its number: what Algorithm 2 goes on from.

    K numbers an input coordinate, in half precision: 188 MB for 60,000 x 784 x 2. They stay on the processor, whatever
    device trains, and go there by the mini-batch. Row r lies in process r mod P of P; what a process attacks it need
    not keep, since mini-batches are drawn anew in every epoch.

    Beside them stands a mark of each input, so that one that has moved under its perturbation is found out.

    Args:
        threats: K threat models.
        workers: the processes.
    """

    def __init__(self, threats: Sequence[ThreatModel], workers: Workers) -> None:
        self.workers = workers
        self.threats = tuple(_of_all_rows(threat) for threat in threats)
        self.rows = 0  # of all processes
        self.table = torch.empty(0, dtype=STORED)
        self.marks = torch.empty(0, dtype=torch.int64)
        self._factors = torch.empty(0, dtype=torch.int64)
        self._device = torch.device("cpu")

    def fetch(self, batch: Batch) -> Carried:
        """Return the perturbations of this process's share of a mini-batch, on its device, and note its inputs.

        Raises:
            ValueError: in all processes at once, if an input is not what it was when its number was last seen.
        """
        self._device = batch.x.device
        self._reach(int(batch.all_rows.max()) + 1, batch.x.shape[1:])
        marks, before = self.workers.join(self._marks_of(batch.x), batch).cpu(), self._of(self.marks, batch)
        moved = (before != 0) & (before != marks)
        if bool(moved.any()):
            raise ValueError(
                "data must give the same input for a number in every epoch where perturbations are carried "
                f"(persist='all'), got another for row {int(batch.all_rows[moved][0])}: what flips, crops or changes "
                "it moves it under its perturbation; persist='none' draws new ones for each mini-batch"
            )
        found = self._of(self.table, batch)[batch.mine].to(batch.x.device).to(batch.x.dtype)
        self._put(self.marks, marks, batch)
        widths = self._widths(batch.x)
        return Carried([found[:, k] * width for k, width in enumerate(widths)], (before != 0)[batch.mine])

    def keep(self, batch: Batch, deltas: Sequence[Tensor]) -> None:
        """Note what the share's perturbations have become, K times (n, *S)."""
        widths = self._widths(batch.x)
        scaled = [torch.where(delta == 0, delta, delta / width) if isinstance(width, Tensor) else delta / width
                  for delta, width in zip(deltas, widths, strict=True)]  # fmt: skip
        # sums over processes know no negative zero: there is none in a single one either
        stored = torch.stack(scaled, 1).to(STORED) + 0.0
        self._put(self.table, self.workers.join(stored, batch).cpu(), batch)

    def _widths(self, x: Tensor) -> list[float | Tensor]:
        """Return the units in which perturbations of inputs like ``x`` are kept, one a threat."""
        return [_unit(threat, x[:1]) for threat in self.threats]

    def _of(self, table: Tensor, batch: Batch) -> Tensor:
        """Return what a table holds of a whole mini-batch, each row from the process that keeps it."""
        if self.workers.count == 1:
            return table[batch.all_rows]
        own = self._own(batch)
        found = table.new_zeros(batch.size, *table.shape[1:])
        found[own] = table[batch.all_rows[own] // self.workers.count]
        return self.workers.total(found.to(self._device)).cpu()

    def _put(self, table: Tensor, values: Tensor, batch: Batch) -> None:
        """Write what is this process's to keep of the values of a whole mini-batch."""
        own = self._own(batch)
        table[batch.all_rows[own] // self.workers.count] = values[own]

    def _own(self, batch: Batch) -> Tensor:
        return batch.all_rows % self.workers.count == self.workers.rank

    def _reach(self, rows: int, shape: torch.Size) -> None:
        """Grow to hold so many rows, of all processes."""
        if self.rows and self.table.shape[2:] != shape:
            raise ValueError(
                "data must give inputs of one shape where perturbations are carried (persist='all'), got "
                f"{tuple(self.table.shape[2:])} and {tuple(shape)}"
            )
        if rows <= self.rows:
            return
        more = len(range(self.workers.rank, rows, self.workers.count)) - len(self.marks)
        try:
            fresh = torch.zeros(more, len(self.threats), *shape, dtype=STORED)
            self.table = torch.cat([self.table, fresh]) if len(self.marks) else fresh
            self.marks = torch.cat([self.marks, torch.zeros(more, dtype=torch.int64)])
        except RuntimeError as error:
            size = rows * len(self.threats) * shape.numel() * STORED.itemsize / 1e9
            raise ValueError(
                "persist must be 'none' or 'example' where perturbations do not fit into memory, got 'all' and "
                f"{size:,.0f} GB for examples numbered up to {rows - 1}"
            ) from error
        self.rows = rows

    def _marks_of(self, x: Tensor) -> Tensor:
        """Return a number != 0 of each input (n, *S), (n,) int64: a sum of products of its bits, exact in any order."""
        flat = x.detach().flatten(1) + 0.0
        bits = flat.contiguous().view(_WHOLE[flat.element_size()]).to(torch.int64)
        if len(self._factors) != bits.shape[1]:
            g = torch.Generator().manual_seed(0)
            self._factors = torch.randint(2**62, (bits.shape[1],), generator=g) | 1
        return (bits * self._factors.to(bits.device)).sum(1) | 1

    def state(self) -> dict[str, Tensor]:
        """Return the tables of all rows, (rows, K, *S) and (rows,); every process must call it, the first has them."""
        return {"deltas": self._gathered(self.table), "marks": self._gathered(self.marks)}

    def _gathered(self, table: Tensor) -> Tensor:
        if self.workers.count == 1:
            return table
        rank, count, parts = self.workers.rank, self.workers.count, [table[:0]]
        for begin in range(0, self.rows, _JOINED):
            rows = torch.arange(begin, min(begin + _JOINED, self.rows))
            own = rows % count == rank
            part = table.new_zeros(len(rows), *table.shape[1:])
            part[own] = table[rows[own] // count]
            part = self.workers.total(part.to(self._device))
            if rank == 0:
                parts.append(part.cpu())
        return torch.cat(parts)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take this process's rows of what ``state`` returned in the first, of however many there were."""
        rank, count = self.workers.rank, self.workers.count
        self.rows = len(state["marks"])
        self.table, self.marks = state["deltas"][rank::count].clone(), state["marks"][rank::count].clone()


def _of_all_rows(threat: ThreatModel) -> ThreatModel:
    """Return a threat model with the largest of its radii: what lies in a table must not depend on who reads it."""
    if not isinstance(threat.eps, Tensor) or not threat.eps.ndim:
        return threat
    return replace(threat, eps=float(threat.eps.max()))


def _unit(threat: ThreatModel, like: Tensor) -> float | Tensor:
    """Return what perturbations of inputs (1, *S) are kept in units of: the width of the range, or less if it is vast.

    A number, or what broadcasts to (1, *S).
    """
    width, reach = width_of(threat, like), _WIDEST * float(threat.eps)
    if threat.p == 0 or not reach:  # under l0 eps counts, and a coordinate goes as far as the range does
        return width
    if isinstance(width, float | int) and threat.scale is None:
        return min(width, reach)
    scale = torch.as_tensor(1.0 if threat.scale is None else one_input("scale", threat.scale, like)).to(like)
    return torch.minimum(torch.as_tensor(width).to(like), reach * scale)
