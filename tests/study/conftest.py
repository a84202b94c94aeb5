"""Small linear models and random images, in place of the zoo and MNIST."""

import pytest
import torch
from torch import nn

from omnirobust.study.cell_cache import CellCache
from omnirobust.zoo import MissingWeightsError
from omnirobust.zoo.data import ImageData

SIDE = 6


class Counted(nn.Module):
    """A linear classifier that counts its forward passes."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(10, SIDE * SIDE, generator=generator))
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x.flatten(1) @ self.weight.T


def make_model(name: str) -> Counted:
    if name[-1] not in "abcd":
        raise MissingWeightsError(f"There are no weights of {name} yet")
    return Counted("abcd".index(name[-1]))


def make_images(name: str, limit: int) -> ImageData:
    generator = torch.Generator().manual_seed(7)
    x = torch.rand(450, 1, SIDE, SIDE, generator=generator)[:limit]
    # The labels of the first model, two in three times: true and predicted labels differ on some images, not on all.
    y = make_model("mnist/a")(x).argmax(1).detach()
    y[::3] = (y[::3] + 1) % 10
    return ImageData(x, y, name, "test", tuple("0123456789"))


def load_images(name: str, split: str, limit: int | None) -> ImageData:
    assert split == "test"
    return make_images(name, 450 if limit is None else limit)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def cell_cache(tmp_path):
    return CellCache(tmp_path / "cells", make_model, load_images)
