"""Small problems that many tests share."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from omnirobust import zoo

for _name in ("COLUMNS", "LINES", "FORCE_COLOR", "TTY_COMPATIBLE"):  # what is printed looks as in no terminal
    os.environ.pop(_name, None)
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
gc.disable()  # while modules load, of which all that they make stays

COSTLY = ("test_site.py", "paper/test_runner.py", "paper/test_trainings.py", "training/test_workers.py")
"""Files whose tests share what takes long to make."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the costly files: what one worker begins with no other takes over, so all is made once."""
    items.sort(key=lambda item: not item.path.as_posix().endswith(COSTLY))


def pytest_collection_finish() -> None:
    """Take what is loaded by now out of the garbage collector's rounds, which it would make up a tenth of a run of."""
    gc.collect()
    gc.freeze()
    gc.enable()


class Tiny(nn.Module):
    """A smooth classifier of 1 x 6 x 6 images that counts its calls."""

    def __init__(self, seed: int, classes: int = 4, scale: float = 1.0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(36, 12, generator=g) * scale)
        self.last = nn.Parameter(torch.randn(12, classes, generator=g))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return (x.flatten(1) @ self.first).tanh() @ self.last


class RoundsByBatch(nn.Module):
    """Adds last bits that depend on the size of the batch, as matrix products do on some processors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        return logits * (1 + (len(x) % 5 - 2) * torch.finfo(logits.dtype).eps)


@pytest.fixture(params=[nn.Identity, RoundsByBatch], ids=["as it is", "last bits by batch size"])
def rounding(request: pytest.FixtureRequest) -> Callable[[nn.Module], nn.Module]:
    """Return what makes of a model one that rounds as this processor does, and then one as others do."""
    return (lambda model: model) if request.param is nn.Identity else request.param


@pytest.fixture
def models() -> dict[str, Tiny]:
    """Three smooth classifiers of different scales, in double precision."""
    return {name: Tiny(seed, scale=0.3 * (seed + 1)).double() for seed, name in enumerate("abc")}


@pytest.fixture
def x() -> Tensor:
    """Nine images in [0, 1], some pixels at the very ends, (9, 1, 6, 6) float64."""
    g = torch.Generator().manual_seed(7)
    return (torch.rand(9, 1, 6, 6, generator=g, dtype=torch.float64) * 1.4 - 0.2).clamp(0, 1)


@pytest.fixture
def y(models: dict[str, Tiny], x: Tensor) -> Tensor:
    """Labels that the first model gives, (9,)."""
    labels = models["a"](x).argmax(1)
    models["a"].calls = 0
    return labels


@pytest.fixture(scope="session")
def digits_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache folder that holds digits/a and digits/c and digits/c@seed1, hardly trained."""
    cache = tmp_path_factory.mktemp("cache")
    for name in ("digits/a", "digits/c", "digits/c@seed1"):
        zoo.train(name, epochs=2, cache=cache)
    return cache


@pytest.fixture
def digits(digits_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let names such as digits/a stand for the small models."""
    monkeypatch.setenv("OMNIROBUST_CACHE", str(digits_cache))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # for the processes that a test starts
    return digits_cache
