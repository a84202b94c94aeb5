"""Speed on one device: what attacks and trainings cost over the bare passes of their models."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import omnirobust as orb
from omnirobust import zoo
from omnirobust._files import replacing
from omnirobust.training import Scheme, attack_batch

STEPS = 10


def timed(run: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Return the median seconds of ``rounds`` runs, after one that does not count."""
    seconds = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return median(seconds[1:])


def bare(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    """Return a function that takes ``STEPS`` input gradients and nothing else."""

    def run() -> None:
        for _ in range(STEPS):
            leaf = x.detach().requires_grad_()
            torch.autograd.grad(cross_entropy(model(leaf), y, reduction="sum"), leaf)

    return run


def attack(model: nn.Module, x: Tensor, y: Tensor, threat: orb.ThreatModel) -> Callable[[], object]:
    """Return a function that runs ``STEPS`` steps of the default attack."""
    return lambda: orb.attack_ensemble({"model": model}, x, y, threat, steps=STEPS)


def training(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], object]:
    """Return a function that runs Algorithm 2's inner loop, ``STEPS`` steps against two threat models."""
    scheme = Scheme("minmax", (orb.Linf(8 / 255), orb.L2(1.0)), steps=STEPS)
    return lambda: attack_batch(model, x, y, scheme)


def measure(
    file: Path, device: torch.device, letters: Sequence[str] = "abcdefgh", batch: int = 256, rounds: int = 5
) -> None:
    """Write a Markdown table: images a second, and the cost over bare passes, of every network on 3 x 32 x 32."""
    lines = [
        f"One device, {_name(device)}; torch {torch.__version__}; random weights, batches of {batch}, {STEPS} steps, "
        f"fp32, median of {rounds}. Images a second through all steps; in brackets, seconds over those of bare passes.",
        "",
        "| model | bare passes | default attack, linf | default attack, l2 | inner loop against two |",
        "|---|---|---|---|---|",
    ]
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, 3, 32, 32, generator=generator).to(device)
    y = torch.randint(10, (batch,), generator=generator).to(device)
    for letter in letters:
        torch.manual_seed(0)
        model = zoo.build(letter, (3, 32, 32), 10).eval().requires_grad_(False).to(device)
        alone = timed(bare(model, x, y), device, rounds)
        runs = [attack(model, x, y, orb.Linf(8 / 255)), attack(model, x, y, orb.L2(1.0)), training(model, x, y)]
        found = [timed(run, device, rounds) for run in runs]
        cells = [f"{batch / alone:.0f}", *(f"{batch / s:.0f} ({s / alone:.2f})" for s in found)]
        lines.append(f"| {letter.upper()} | {' | '.join(cells)} |")
        with replacing(file) as partial:
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the processor"
