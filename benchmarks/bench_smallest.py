"""How many gradients ``minimal_eps`` takes of an image and a model, and how small the radii are that it finds.

    OMNIROBUST_DATA=... python benchmarks/bench_smallest.py [--images 60] [--models mnist/c]

Under ``PYTHONPATH=OTHER/src`` the same of another checkout. Gradients are counted by a wrapper around each model.
"""

from __future__ import annotations

import argparse
import time
from typing import get_args

import torch
from torch import Tensor, nn

from omnirobust import data, zoo
from omnirobust.core.arguments import Norm
from omnirobust.evaluation import minimal_eps


class Counted(nn.Module):
    """A model that counts the inputs whose gradients are asked for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.gradients = model.eval(), 0

    def forward(self, x: Tensor) -> Tensor:
        """Answer, and count."""
        self.gradients += len(x) * (torch.is_grad_enabled() and x.requires_grad)
        return self.model(x)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--models", nargs="+", default=["mnist/c"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    models = {name: Counted(zoo.load_model(name)) for name in given.models}
    found = data.load("mnist", "test", limit=given.images + 40)
    with torch.no_grad():
        right = torch.stack([m(found.x).argmax(1) == found.y for m in models.values()]).all(0)
    x, y = found.x[right][: given.images], found.y[right][: given.images]
    print("| norm | radius, median | geometric mean | gradients an image and model | processor seconds |")
    print("|---|---|---|---|---|")
    for norm in (n for n in get_args(Norm) if n != "l0"):
        before, begin = sum(m.gradients for m in models.values()), time.process_time()
        radii = minimal_eps(models, x, y, norm).distortion
        taken = (sum(m.gradients for m in models.values()) - before) / len(models) / len(x)
        mean, seconds = float(radii.log().mean().exp()), time.process_time() - begin
        print(f"| {norm} | {float(radii.median()):.4f} | {mean:.4f} | {taken:.0f} | {seconds:.1f} |", flush=True)
