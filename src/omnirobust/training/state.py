"""The state of a training between two epochs: written in one move, resumed exactly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from omnirobust._files import replacing

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Settings:
    """What must be the same for a resumed run to be the run that was interrupted."""

    scheme: str
    batch_size: int
    batches: int
    seed: int
    precision: str
    optimizer: str


class Run:
    """The state of one training: everything that a checkpoint holds."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, settings: Settings, file: Path | None
    ) -> None:
        self.model, self.optimizer, self.settings, self.file = model, optimizer, settings, file
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    def save(self) -> None:
        """Write the checkpoint in one move, so that a kill leaves the old one or the new one."""
        if self.file is None:
            return
        with replacing(self.file) as partial:
            torch.save(
                {
                    "settings": asdict(self.settings),
                    "epoch": self.epoch,
                    "history": self.history,
                    "model": self.model.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                },
                partial,
            )

    def resume(self) -> None:
        """Load the checkpoint if there is one."""
        if self.file is None or not self.file.exists():
            return
        try:
            state = torch.load(self.file, weights_only=True, map_location="cpu")
        except Exception as error:  # torch reports damage by many types
            raise ValueError(f"The checkpoint {self.file} is damaged: delete it, or pass resume=False.") from error
        for name, value in asdict(self.settings).items():
            saved = state["settings"].get(name)
            if saved != value:
                raise ValueError(
                    f"{name} must be {saved!r} as in the checkpoint {self.file} to resume it, got "
                    f"{value!r}; pass resume=False to start anew"
                )
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise ValueError(f"The checkpoint {self.file} belongs to another model: pass resume=False.") from error
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.history = state["epoch"], state["history"]


@contextmanager
def own_randomness(model: nn.Module, seed: int) -> Iterator[None]:
    """Seed the generators of the CPU and of the model's devices inside, and put them back as they were."""
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
