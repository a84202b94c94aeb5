"""What a mini-batch of min-max adversarial training costs, over its bare passes and against the usual ways to write it.

Every figure is of whole mini-batches: R = 20 ascent steps of linf and l2 attacks and one step of SGD on clean and
attacked images, on MNIST's shape with untrained weights. How long that takes does not depend on the weights. Times are
interleaved in one process; memory is the peak of a process of its own.

    python benchmarks/bench_training.py [--rounds N] [--out FILE]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from foolbox.attacks import L2PGD, LinfPGD
from foolbox.models.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import omnirobust as orb
from omnirobust import zoo
from omnirobust.core.draws import DrawKey
from omnirobust.domains.classifier import Classifier, Precision
from omnirobust.domains.compiling import CompiledSteps
from omnirobust.training import Scheme
from omnirobust.training.ampgd import attack_rows
from omnirobust.training.inner_steps import row_seeds
from omnirobust.training.objective import Objective
from timing import interleaved, ratio

R, B = 20, 128
THREATS = (orb.Linf(0.2), orb.L2(2.0))
MANY = (*THREATS, orb.Linf(0.1), orb.L2(1.0), orb.Linf(0.3), orb.L2(3.0), orb.Linf(0.05), orb.L2(0.5))
MIB = 2**20
NAMES = {"a": "A (MLP)", "c": "C (LeNet)"}


@dataclass(frozen=True)
class World:
    """A network, a mini-batch, and an optimizer of the network."""

    model: nn.Module
    x: Tensor
    y: Tensor
    sgd: torch.optim.Optimizer

    @classmethod
    def of(cls, letter: str) -> World:
        """Make the untrained network ``letter`` and random images."""
        torch.manual_seed(0)
        model = zoo.build(letter, (1, 28, 28), 10)
        x, y = torch.rand(B, 1, 28, 28), torch.randint(0, 10, (B,))
        return cls(model, x, y, torch.optim.SGD(model.parameters(), lr=1e-6))

    def descend(self, loss: Tensor) -> None:
        """Take one step on the parameters."""
        self.sgd.zero_grad(set_to_none=True)
        loss.backward()
        self.sgd.step()


def ours(world: World, scheme: Scheme, precision: Precision = "fp32", compiled: bool = False) -> Callable[[], None]:
    """Return one mini-batch as ``fit`` does it; ``precision`` and ``compiled`` are of the inner attack alone."""
    classifier, objective = Classifier("model", world.model, precision), Objective(world.model, scheme, "fp32")
    rows, steps = torch.arange(B), CompiledSteps(classifier) if compiled else None

    def run() -> None:
        seeds = row_seeds(DrawKey(0), rows, len(scheme.threats))
        deltas, weights = attack_rows(classifier, world.x, world.y, scheme, seeds, compiled=steps)
        if steps is not None and steps.notes:
            raise RuntimeError(steps.notes[0])
        world.model.train()
        world.descend(objective(world.x, world.y, torch.stack([world.x + d for d in deltas]), weights)[0])

    return run


def bare(world: World, count: int) -> Callable[[], None]:
    """Return the passes alone: R forward and input-gradient passes of all K B inputs, and the training step."""
    points, labels = world.x.repeat(count, 1, 1, 1), world.y.repeat(count)

    def run() -> None:
        world.model.eval().requires_grad_(False)
        for _ in range(R):
            leaf = points.detach().requires_grad_(True)
            torch.autograd.grad(cross_entropy(world.model(leaf), labels, reduction="sum"), leaf)
        world.model.train().requires_grad_(True)
        inputs, targets = torch.cat([world.x, points]), torch.cat([world.y, labels])
        world.descend(cross_entropy(world.model(inputs), targets))

    return run


def usual(world: World, by_backward: bool) -> Callable[[], None]:
    """Return the same schedule as a loop over attacks, one forward pass each, with rescaling for a projection.

    Args:
        world: what to train.
        by_backward: take input gradients by ``loss.backward()``, which computes those of the parameters too, as most
            published code does; else by ``autograd.grad``.
    """
    lows, highs = -world.x, 1 - world.x

    def gradient(delta: Tensor) -> tuple[Tensor, Tensor]:
        leaf = delta.detach().requires_grad_(True)
        losses = cross_entropy(world.model(world.x + leaf), world.y, reduction="none")
        if not by_backward:
            return losses.detach(), torch.autograd.grad(losses.sum(), leaf)[0]
        losses.sum().backward()
        assert leaf.grad is not None
        return losses.detach(), leaf.grad

    def run() -> None:
        world.model.eval()
        linf, l2 = torch.empty_like(world.x).uniform_(-0.2, 0.2), 0.1 * torch.randn_like(world.x)
        w = torch.full((B, 2), 0.5)
        for _ in range(R):
            first, grad = gradient(linf)
            linf = (linf + 0.05 * grad.sign()).clamp(-0.2, 0.2).clamp(lows, highs)
            second, grad = gradient(l2)
            l2 = l2 + 0.5 * grad / grad.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
            norms = l2.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            l2 = (l2 * (2.0 / norms.clamp_min(1e-12)).clamp_max(1.0)).clamp(lows, highs)
            w = orb.project_simplex(w + 0.02 * (torch.stack([first, second], 1) - 4.0 * (w - 0.5)))
        world.model.train()
        attacked = sum(
            (w[:, k] * cross_entropy(world.model(world.x + delta), world.y, reduction="none")).mean()
            for k, delta in enumerate((linf, l2))
        )
        world.descend(0.5 * cross_entropy(world.model(world.x), world.y) + 0.5 * attacked)

    return run


def by_foolbox(world: World) -> Callable[[], None]:
    """Return average adversarial training with foolbox's attacks: R steps of linf and of l2, and the training step."""
    linf = LinfPGD(steps=R)
    l2 = L2PGD(steps=R)

    def run() -> None:
        world.model.eval()
        wrapped = PyTorchModel(world.model, bounds=(0, 1))
        found = [attack.run(wrapped, world.x, world.y, epsilon=eps) for attack, eps in ((linf, 0.2), (l2, 2.0))]
        world.model.train()
        inputs = torch.cat([world.x, *found])
        world.descend(cross_entropy(world.model(inputs), world.y.repeat(3)))

    return run


def speed_rows(letter: str, rounds: int, bf16: bool = True) -> list[str]:
    """Measure a mini-batch of min-max training against the bare passes and the other ways."""
    world, scheme = World.of(letter), Scheme("minmax", THREATS, R)
    runs = {
        "ours": ours(world, scheme),
        "ours, bf16 inner attack": ours(world, scheme, "bf16"),
        "ours, compiled": ours(world, scheme, compiled=True),
        "bare passes": bare(world, 2),
        "usual loop, autograd.grad": usual(world, by_backward=False),
        "usual loop, backward": usual(world, by_backward=True),
        "foolbox": by_foolbox(world),
    }
    if not bf16:
        del runs["ours, bf16 inner attack"]
    times = interleaved(runs, rounds=rounds, warmup=1, clock=time.process_time)
    name = NAMES[letter]
    rows = [f"| {name} | ours / bare passes | {ratio(times, of='ours', over='bare passes')} |"]
    rows.append(f"| {name} | ours, compiled / bare passes | {ratio(times, of='ours, compiled', over='bare passes')} |")
    for other in ("usual loop, autograd.grad", "usual loop, backward", "foolbox"):
        rows.append(f"| {name} | {other} / ours | {ratio(times, of=other, over='ours')} |")
        if bf16:
            rows.append(f"| {name} | {other} / ours, bf16 | {ratio(times, of=other, over='ours, bf16 inner attack')} |")
        rows.append(f"| {name} | {other} / ours, compiled | {ratio(times, of=other, over='ours, compiled')} |")
    return rows


def dpar_row(letter: str, rounds: int) -> str:
    """Measure what the second derivatives of DPAR cost."""
    world, scheme = World.of(letter), Scheme("minmax", THREATS, R)
    runs = {"without": ours(world, scheme), "with": ours(world, replace(scheme, dpar=0.1))}
    return f"| {NAMES[letter]} | {ratio(interleaved(runs, rounds=rounds, warmup=1), of='with', over='without')} |"


def growth_rows(letter: str, rounds: int) -> list[str]:
    """Measure time and peak memory against the number of threat models."""
    world = World.of(letter)
    schemes = {K: Scheme("minmax", MANY[:K], R) for K in (1, 2, 4, 8)}
    times = interleaved({str(K): ours(world, scheme) for K, scheme in schemes.items()}, rounds=rounds, warmup=1)
    return [
        f"| {NAMES[letter]} | {K} | {ratio(times, of=str(K), over='1')} | {_peak(letter, K) / MIB:.0f} |"
        for K in schemes
    ]


def _peak(letter: str, count: int) -> float:
    """Return how many bytes a process of its own takes at most for one mini-batch, over what it takes before."""
    out = subprocess.run(
        [sys.executable, __file__, "--peak", letter, str(count)], check=True, capture_output=True, text=True
    )
    return float(out.stdout)


def _report_peak(letter: str, count: int) -> None:
    world = World.of(letter)
    small = World(world.model, world.x[:1], world.y[:1], world.sgd)
    bare(small, 1)()  # what the first pass of any size loads into memory is not counted
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _memory("VmRSS")
    ours(world, Scheme("minmax", MANY[:count], 2))()
    print(_memory("VmHWM") - before)


def _memory(field: str) -> int:
    """Return a field of this process's status in bytes; Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def main() -> None:
    """Measure, and write the tables to the terminal or to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--speed", choices=list(NAMES), help="Print the first table for one network alone.")
    parser.add_argument("--fp32", action="store_true", help="With --speed: leave bf16 out.")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        _report_peak(given.peak[0], int(given.peak[1]))
        return
    began, rounds = _load(), given.rounds
    if given.speed:
        print("\n".join(speed_rows(given.speed, rounds, bf16=not given.fp32)))
        return
    speed = [row for letter in NAMES for row in speed_rows(letter, rounds)]
    dpar = [dpar_row(letter, rounds) for letter in NAMES]
    growth = [row for letter in NAMES for row in growth_rows(letter, max(2, rounds // 2))]
    lines = [
        "# Cost of adversarial training",
        "",
        f"`python benchmarks/bench_training.py --rounds {rounds}`, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, CPU; {os.cpu_count()} cores, load {began} before and {_load()} after (above the number "
        "of cores, others were at work). Ratios of medians (quartiles over rounds), interleaved in one process.",
        "",
        f"One mini-batch of {B} images of 28 x 28: {R} ascent steps of linf 0.2 and l2 2.0, min-max weights, then one",
        "step of SGD.",
        "",
        "## Against the bare passes, the usual loop and foolbox",
        "",
        "Bare passes: as many forward and backward passes of the same size in eager PyTorch, nothing else. The usual",
        "loop: the same schedule with one forward pass for each attack, and rescaling and clamping where ours projects",
        "exactly. foolbox: its PGD attacks of as many steps, without weights. bf16 and compiled (fit(compile=True))",
        "concern the inner attack alone.",
        "",
        "| network | ratio of times | value |",
        "|---|---|---|",
        *speed,
        "",
        "## DPAR: a mini-batch with the regulariser over one without",
        "",
        "| network | ratio |",
        "|---|---|",
        *dpar,
        "",
        "## Time and memory per number K of threat models",
        "",
        "Time over that of K = 1; peak memory in MiB over what the process takes before.",
        "",
        "| network | K | time | memory |",
        "|---|---|---|---|",
        *growth,
    ]
    text = "\n".join(lines) + "\n"
    if given.out:
        given.out.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
