"""What one inner step does beyond the bare passes, counted."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from omnirobust import L2, Linf
from omnirobust.training import Scheme, attack_batch

N, WIDTH = 6, 2_000
"""Examples, and inputs of each: operations on fewer numbers than one perturbation has are not counted."""

VIEWS = (
    "view",
    "select",
    "slice",
    "unsqueeze",
    "detach",
    "expand",
    "t",
    "transpose",
    "alias",
    "split",
    "squeeze",
    "unbind",
)


class Counting(TorchDispatchMode):
    """Counts what reads or writes as many numbers as one set of perturbations has, views apart."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        sizes = [v.numel() for v in (*args, out) if isinstance(v, torch.Tensor)]
        if name not in VIEWS and max(sizes, default=0) >= N * WIDTH and not name.startswith(("empty", "new_empty")):
            self.seen[name] += 1
        return out


def step(threat, preset=None) -> Counter[str]:
    """Return what one step costs: what an attack of three steps does beyond one of two."""
    torch.manual_seed(0)
    model, x, y = nn.Linear(WIDTH, 3), torch.rand(N, WIDTH), torch.arange(N) % 3
    attack_batch(model, x, y, Scheme("single", (threat,), 1))  # the first call finds out what the model does
    counts = []
    for steps in (2, 3):
        with Counting() as counting:
            attack_batch(model, x, y, Scheme("single", (threat,), steps, preset=preset))
        counts.append(counting.seen)
    return counts[1] - counts[0]


def test_a_linf_step_passes_over_the_perturbation_five_times() -> None:
    """The model's two products, and of its own: x + delta, a look for NaN, sign, move, clamp."""
    assert step(Linf(0.1)) == Counter(addmm=1, mm=1, add=1, sum=1, sign=1, sub=1, clamp=1)


def test_an_l2_step_passes_over_it_for_the_norm_and_the_root_alone() -> None:
    """Besides: the norm, the division by it, the move; and three passes an evaluation of the root."""
    seen = step(L2(1.0))
    rounds = seen["clamp"]
    assert 1 <= rounds <= 6
    assert seen == Counter(
        addmm=1, mm=1, add=1, sum=1, div=1, sub=1, clamp=rounds, mul=rounds, linalg_vector_norm=2 + rounds
    )


@pytest.mark.parametrize("preset", [None, "paper"])
def test_weights_as_printed_cost_one_pass_more(preset: str | None) -> None:
    assert step(Linf(0.1), preset)["mul"] == (preset == "paper")
