"""The state of a training between two epochs: written in one move, resumed exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from omnirobust._files import replacing
from omnirobust.training.attackers import Attacker
from omnirobust.training.workers import Workers

CHECKPOINT = "checkpoint.pt"


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
        self.attacker, self.scheduler, self.generators = attacker, scheduler, generators
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] | None = None
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    def save(self) -> None:
        """Write the checkpoint in one move, so that a kill leaves the old one or the new one."""
        if self.file is None:
            return
        written = BytesIO()
        torch.save(self._state(), written)
        with replacing(self.file) as partial:
            partial.write_bytes(written.getbuffer())  # of a full disk torch's own writer says nothing one can read

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "settings": asdict(self.settings),
            "epoch": self.epoch,
            "history": self.history,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.attacker is not None:
            state["attacker"] = self.attacker.state()
        if self.scheduler is not None:
            state["scheduler"] = self.scheduler.state_dict()
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
        try:
            state = torch.load(self.file, weights_only=True, map_location="cpu")
        except Exception as error:  # torch reports damage by many types
            raise ValueError(f"The checkpoint {self.file} is damaged: delete it, or pass resume=False.") from error
        self._check(state)
        return state

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise ValueError(f"The checkpoint {self.file} belongs to another model: pass resume=False.") from error
        self.optimizer.load_state_dict(state["optimizer"])
        if self.attacker is not None:
            self.attacker.load(state["attacker"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        for generator, saved in zip(self.generators, state.get("generators", ()), strict=False):
            generator.set_state(saved)
        self.epoch, self.history, self.best = state["epoch"], state["history"], state.get("best")

    def _check(self, state: dict[str, Any]) -> None:
        for name, value in asdict(self.settings).items():
            saved = state["settings"].get(name, value)  # checkpoints from before there was this setting stay good
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


@contextmanager
def own_randomness(model: nn.Module, seed: int) -> Iterator[None]:
    """Seed the generators of the CPU and of the model's devices inside, and put them back as they were."""
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
