"""The state of a training between two epochs, or within one: written in one move, resumed exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch import Tensor, nn

from omnirobust._files import replacing
from omnirobust.training.attackers import Attacker
from omnirobust.training.workers import Workers

CHECKPOINT = "checkpoint.pt"

_KINDS = {"settings": dict, "epoch": int, "history": list, "model": dict, "optimizer": dict}
"""What every checkpoint holds."""


@dataclass(frozen=True)
class Settings:
    """What must be the same for a resumed run to be the run that was interrupted.

    ``data`` is a fingerprint of the tensors trained on, empty for a loader, whose examples nobody knows beforehand.
    """

    scheme: str
    batch_size: int
    batches: int
    seed: int
    precision: str
    optimizer: str
    data: str = ""
    compile: bool = False


@dataclass(frozen=True)
class Within:
    """How far an epoch is that a checkpoint was written in.

    Attributes:
        batches: how many mini-batches have been trained on.
        seen: their examples.
        sums: what is summed over them.
        seconds: what they took.
        draws: states of torch's global generators: of the processor, then of the model's devices.
        good: parameters and buffers that the epoch began with.
    """

    batches: int
    seen: int
    sums: list[float]
    seconds: float
    draws: list[Tensor]
    good: dict[str, Any]


class Run:
    """The state of one training: everything that a checkpoint holds.

    Args:
        model: whose parameters are trained.
        optimizer: its optimizer.
        settings: of the run.
        file: the checkpoint; None writes nothing.
        attacker: what the adversary keeps between mini-batches; None without one.
        scheduler: of the learning rate, or None.
        generators: of the loaders' own shuffling.

    Attributes:
        notes: what a reader of the accuracies must know of the model; None while nobody has looked. No checkpoint holds
            them.
        natural: state of the optimizer in the natural epochs of a scheme that has such beside its own.
        within: how far the epoch is that was begun; None between two.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: Settings,
        file: Path | None,
        attacker: Attacker | None = None,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
        generators: Sequence[torch.Generator] = (),
    ) -> None:
        self.model, self.optimizer, self.settings, self.file = model, optimizer, settings, file
        self._folder = file.parent if file is not None and file.parent.is_dir() else None  # it must not go meanwhile
        self.attacker, self.scheduler, self.generators = attacker, scheduler, generators
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] | None = None
        self.notes: tuple[str, ...] | None = None
        self.natural: dict[Any, Any] | None = None
        self.within: Within | None = None
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    def save(self, workers: Workers) -> None:
        """Write the checkpoint in one move, so that a kill leaves the old one or the new one.

        The first process writes it; all must call this, since the adversary's state may lie in all of them.
        """
        if not workers.broadcast(self.file is not None):
            return
        kept = None if self.attacker is None else self.attacker.state()
        if workers.rank or self.file is None:
            return
        written = BytesIO()
        torch.save(self._state(kept), written)
        with replacing(self.file, self._folder) as partial:
            partial.write_bytes(written.getbuffer())  # of a full disk torch's own writer says nothing one can read
        self._folder = self.file.parent

    def _state(self, kept: dict[str, Tensor] | None) -> dict[str, Any]:
        state: dict[str, Any] = {
            "settings": asdict(self.settings),
            "epoch": self.epoch,
            "history": self.history,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        if kept is not None:
            state["attacker"] = kept
        if self.scheduler is not None:
            state["scheduler"] = self.scheduler.state_dict()
        if self.natural is not None:
            state["natural"] = self.natural
        if self.within is not None:
            state["within"] = {field.name: getattr(self.within, field.name) for field in fields(Within)}
        if self.generators:
            state["generators"] = [generator.get_state() for generator in self.generators]
        return state if self.best is None else state | {"best": self.best}

    def resume(self, workers: Workers) -> None:
        """Load the checkpoint if there is one: the first process reads it for all, which need not share a disk.

        Raises:
            ValueError: if it is damaged, or belongs to other settings.
        """
        state: dict[str, Any] | ValueError | None = None
        if workers.rank == 0:
            try:
                state = self._read()
            except ValueError as error:
                state = error  # for the other processes, which would wait for ever
        state = workers.broadcast(state)
        if isinstance(state, ValueError):
            raise state
        if state is not None:
            self._restore(state)

    def _read(self) -> dict[str, Any] | None:
        if self.file is None or not self.file.exists():
            return None
        state = read_checkpoint(self.file, "delete it, or pass resume=False")
        self._check(state)
        return state

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.attacker is not None:
                self.attacker.load(state["attacker"])
            if self.scheduler is not None:
                self.scheduler.load_state_dict(state["scheduler"])
            for generator, saved in zip(self.generators, state.get("generators", ()), strict=False):
                generator.set_state(saved)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"The checkpoint {self.file} belongs to another model: pass resume=False.") from error
        self.epoch, self.history, self.best = state["epoch"], state["history"], state.get("best")
        self.natural = state.get("natural")
        self.within = None if (within := state.get("within")) is None else Within(**within)

    def _check(self, state: dict[str, Any]) -> None:
        for name, value in asdict(self.settings).items():
            # checkpoints from before there was this setting stay good
            saved = state["settings"].get(name, False if name == "compile" else value)
            if saved != value and name == "data":
                raise ValueError(
                    f"data must be those of the checkpoint {self.file} to resume it, got others; pass resume=False to "
                    "start anew"
                )
            if saved != value:
                raise ValueError(
                    f"{name} must be {_told(saved)} as in the checkpoint {self.file} to resume it, got "
                    f"{_told(value)}; pass resume=False to start anew"
                )
        if (self.scheduler is not None) != ("scheduler" in state):
            raise ValueError(
                f"scheduler must be {'given' if 'scheduler' in state else 'None'} as in the checkpoint {self.file} "
                "to resume it; pass resume=False to start anew"
            )


def _told(setting: object) -> str:
    """Return a setting on one line: torch's optimizers describe themselves on many."""
    return repr(" ".join(setting.split()) if isinstance(setting, str) else setting)


def read_checkpoint(file: Path, advice: str) -> dict[str, Any]:
    """Read a checkpoint onto the processor; the sums that its format keeps of every part are checked.

    Args:
        file: the checkpoint.
        advice: what to do with one that cannot be used.

    Raises:
        ValueError: if it is damaged, or none of a training.
    """
    try:
        with ZipFile(file) as parts:
            if (name := parts.testzip()) is not None:
                raise ValueError(name)
        state = torch.load(file, weights_only=True, map_location="cpu")
    except Exception as error:  # torch reports damage by many types
        raise ValueError(f"The checkpoint {file} is damaged: {advice}.") from error
    ours = isinstance(state, dict) and all(isinstance(state.get(name), kind) for name, kind in _KINDS.items())
    if not ours or not all(isinstance(row, dict) and "epoch" in row for row in state["history"]):
        raise ValueError(f"The checkpoint {file} is none of a training by omnirobust: {advice}.")
    return state


@contextmanager
def own_randomness(model: nn.Module, seed: int, draws: Sequence[Tensor] = ()) -> Iterator[None]:
    """Seed the generators of the CPU and of the model's devices inside, and put them back as they were.

    Args:
        model: whose devices count.
        seed: of all.
        draws: what ``draws_of`` returned, to go on from there.
    """
    devices = _devices(model)
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        if draws:
            torch.set_rng_state(draws[0])
            for device, state in zip(devices, draws[1:], strict=True):
                torch.cuda.set_rng_state(state, device)
        yield


def draws_of(model: nn.Module) -> list[Tensor]:
    """Return the states of torch's global generators: of the processor, then of the model's devices."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in _devices(model))]


def _devices(model: nn.Module) -> list[int]:
    return sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
