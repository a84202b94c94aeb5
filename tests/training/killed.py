"""Train under a scheme, and die by SIGKILL in the middle of an epoch."""

import os
import signal
from pathlib import Path

import torch
from torch import Tensor, nn

from omnirobust.core.threat_models import L2, Linf
from omnirobust.core.weights import ProjectedAscent
from omnirobust.training import FitResult, Scheme, fit

SCHEMES = {
    "dpar": Scheme("minmax", (Linf(0.1), L2(0.4)), 2, ProjectedAscent(0.3, 0.5), dpar=0.1, persist="example"),
    "universal": Scheme("universal", (Linf(0.1),), 1),
    "natural": Scheme("natural"),
    "msd": Scheme("msd", (Linf(0.1), L2(0.4)), 2),
    "alternate": Scheme("alternate", (Linf(0.1), L2(0.4)), 2),
    "carried": Scheme("minmax", (Linf(0.1), L2(0.4)), 2, ProjectedAscent(0.3, 0.5), preset="paper"),
}


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


def problem() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.rand(30, 5, generator=g), torch.arange(30) % 3


def train(
    model: nn.Module, scheme: str, epochs: int, out: Path | None, on_batch=None, save_every: float | None = None
) -> FitResult:
    return fit(
        model, problem(), SCHEMES[scheme], epochs=epochs, batch_size=8, out=out, validation=problem(), keep="best",
        optimizer=lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9, nesterov=True), on_batch=on_batch,
        scheduler=lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 4], 0.5), save_every=save_every,
    )  # fmt: skip


def die(scheme: str, out: Path, batches: int, save_every: float | None = None) -> None:
    """Train, and be killed after some mini-batches."""
    torch.set_num_threads(1)
    left = batches

    def count(batch: int, total: int, loss: float) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    train(network(), scheme, 6, out, count, save_every)
