"""What ``bench_norms.py`` compares: networks, data, schemes, what each costs, and where cells are kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import omnirobust as orb
from omnirobust import zoo
from omnirobust._files import replacing
from omnirobust.training import Scheme
from omnirobust.zoo import data

FILE = Path(__file__).with_name("norms.json")
MNIST = (orb.Linf(0.2), orb.L2(2.0))
CIFAR = (orb.Linf(4 / 255), orb.L1(6.0))
REFERENCE = "min-max, carried"


@dataclass(frozen=True)
class Setting:
    """One network and its data.

    Attributes:
        told: what the page calls it.
        data: name of the set; ``side`` the pixels that are left of its images, in the middle.
        images: of the training split, from its beginning.
        batch_size: of a mini-batch.
        gradients: that each image may cost.
        judged: images of the test split.
        threats: linf and another norm.
        build: makes the network.
    """

    told: str
    data: str
    side: int
    images: int
    batch_size: int
    gradients: int
    judged: int
    threats: tuple[orb.ThreatModel, orb.ThreatModel]
    build: Callable[[], nn.Module]

    def part(self, split: str, start: int, count: int) -> tuple[Tensor, Tensor]:
        """Return images and classes, cropped."""
        found = data.load(self.data, split, start=start, limit=count)
        off = (found.x.shape[-1] - self.side) // 2
        return found.x[..., off : off + self.side, off : off + self.side].contiguous(), found.y


def small_conv() -> nn.Module:
    """Build three convolutions and a linear layer for 24 x 24 pixels in colour."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 6 * 6, 10),
    )  # fmt: skip


SETTINGS = {
    "mlp": Setting("MLP, MNIST", "mnist", 28, 2000, 32, 101, 500, MNIST, lambda: zoo.build("a", (1, 28, 28), 10)),
    "lenet": Setting("LeNet, MNIST", "mnist", 28, 1000, 32, 101, 400, MNIST, lambda: zoo.build("c", (1, 28, 28), 10)),
    "conv": Setting("small CNN, CIFAR-10 24 x 24", "cifar10", 24, 2000, 64, 101, 400, CIFAR, small_conv),
}


def rows(threats: Sequence[orb.ThreatModel], ratio: float) -> dict[str, Scheme]:
    """Return what is compared: ten ascents each, but for what is carried, where fewer do (docs/training.md)."""
    two = tuple(threats)
    made = {
        "average": Scheme("average", two, 10),
        "worst (MAX)": Scheme("worst", two, 10),
        "min-max": Scheme("minmax", two, 10),
        REFERENCE: Scheme("minmax", two, 3, persist="all"),
        "max, carried": Scheme("worst", two, 2, persist="all"),
        "max, anew": Scheme("worst", two, 2),
        "MSD": Scheme("msd", two, 10, start="zero"),
        "E-AT": Scheme("alternate", two, 10),
        "RAMP": Scheme("ramp", two, 10),
    }
    return {name: replace(scheme, adversarial_ratio=ratio) for name, scheme in made.items()}


def cost(scheme: Scheme) -> tuple[int, int]:
    """Return the gradients and the forward passes beside them that an image costs in an epoch of two threats."""
    K, R = len(scheme.threats), scheme.steps
    inner = {"msd": R, "alternate": R}.get(scheme.kind, K * R)
    outer = {"worst": 1, "msd": 1, "alternate": 1, "ramp": K + (scheme.natural_share > 0)}.get(scheme.kind, K)
    passes = {"worst": K, "ramp": K, "alternate": 1, "msd": K * R + K * (scheme.start == "random")}
    return inner + outer + (scheme.adversarial_ratio < 1), passes.get(scheme.kind, 0)


def epochs_of(scheme: Scheme, gradients: int) -> int:
    return max(1, round(gradients / cost(scheme)[0]))


def read() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


def note(key: str, found: Mapping[str, Any]) -> None:
    """Write one cell, beside what is known of it."""
    known = read()
    with replacing(FILE) as partial:
        text = json.dumps(known | {key: known.get(key, {}) | found}, indent=0, sort_keys=True)
        partial.write_text(text + "\n", encoding="utf-8")
    told = {name: value for name, value in found.items() if not isinstance(value, str)}
    print(time.strftime("%H:%M:%S"), key, json.dumps(told), flush=True)


def begun(setting: Setting, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return setting.build()
