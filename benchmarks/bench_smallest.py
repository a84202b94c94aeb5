"""How many gradients ``minimal_eps`` takes of an image and a model, and how small the radii are that it finds.

    OMNIROBUST_DATA=... python benchmarks/bench_smallest.py [--images 60] [--first 3000] [--models mnist/c]

Beside it, of one model, FMN (foolbox, 100 steps), in the same process. Nothing was chosen on test images from 3000 on.
Under ``PYTHONPATH=OTHER/src`` the same of another checkout. Gradients are counted by a wrapper around each model.
"""

from __future__ import annotations

import argparse
import time
from typing import cast, get_args

import torch
from foolbox.attacks import fast_minimum_norm as fmn
from foolbox.models.pytorch import PyTorchModel
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


PEERS = {"linf": fmn.LInfFMNAttack, "l2": fmn.L2FMNAttack, "l1": fmn.L1FMNAttack}


def peer(model: nn.Module, x: Tensor, y: Tensor, norm: Norm) -> str:
    """Return FMN's median radius and processor seconds."""
    begin = time.process_time()
    found = PEERS[norm](steps=100)(PyTorchModel(model, bounds=(0, 1)), x, y, epsilons=None)[1]
    seconds, order = time.process_time() - begin, {"linf": float("inf"), "l2": 2, "l1": 1}[norm]
    radii = torch.linalg.vector_norm((found - x).flatten(1), order, dim=1)
    return f"{float(radii[radii > 0].median()):.4f} | {seconds:.2f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--first", type=int, default=3000)
    parser.add_argument("--models", nargs="+", default=["mnist/c"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    models = {name: Counted(cast(nn.Module, zoo.load_model(name))).eval() for name in given.models}
    found = data.load("mnist", "test", limit=given.first + given.images + 40)
    every_x, every_y = found.x[given.first :], found.y[given.first :]
    with torch.no_grad():
        right = torch.stack([m(every_x).argmax(1) == every_y for m in models.values()]).all(0)
    x, y = every_x[right][: given.images], every_y[right][: given.images]
    minimal_eps(models, x[:8], y[:8], "linf", steps=5)  # what is made at the first call
    print("| norm | radius, median | geometric mean | gradients an image and model | seconds | FMN, median | seconds |")
    print("|---|---|---|---|---|---|---|")
    for norm in (n for n in get_args(Norm) if n != "l0"):
        before, begin = sum(m.gradients for m in models.values()), time.process_time()
        radii = minimal_eps(models, x, y, norm).distortion
        taken = (sum(m.gradients for m in models.values()) - before) / len(models) / len(x)
        mean, seconds = float(radii.log().mean().exp()), time.process_time() - begin
        theirs = peer(next(iter(models.values())), x, y, norm) if len(models) == 1 else "- | -"
        print(
            f"| {norm} | {float(radii.median()):.4f} | {mean:.4f} | {taken:.0f} | {seconds:.2f} | {theirs} |",
            flush=True,
        )
