"""What several processes bring: images a second of one attack from the command line, in one process and in two.

And what one image costs one process, from which docs/scaling.md reckons.

    python benchmarks/bench_processes.py --out benchmarks/processes.md

Every process has one thread. What a run costs before its first step (imports, data) is taken off: the figures are those
of the images by which a larger run exceeds a smaller one. The files of both runs are compared as well.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

import omnirobust as orb
from omnirobust import zoo
from omnirobust.attacks.store import ResultStore
from omnirobust.domains.memory import MemoryBudget

NET = """
import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(
    nn.Upsample(scale_factor=4), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1, stride=2),
    nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 64, 10),
)
"""
BATCH, SMALL, LARGE = 25, 100, 500
KINDS = ("1", "2", "1+1")


def seconds(folder: Path, kind: str, images: int, steps: int, turn: int) -> tuple[float, float]:
    """Return how long the command takes, and how much time of the cores it takes in all its processes.

    The kind is how many processes it runs in: "1", "2", or "1+1" for two independent commands at once, each in one.
    """
    command = [sys.executable, "-m", "omnirobust", "attack", "ensemble", "--data", "digits", "--norm", "linf"]
    command += ["--models", f"{folder}/own.py:net", "--eps", "0.05", "--keep", "last", f"--batch-size={BATCH}"]
    command += [f"--steps={steps}", f"--images={images}"]
    outs = [folder / f"{turn}-{kind}-{images}-{copy}" for copy in range(len(kind.split("+")))]
    before, begin = os.times(), time.perf_counter()
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [*command, f"--processes={kind[0]}", f"--out={out}"],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for out in outs
    ]
    if any(process.wait() for process in running):
        raise SystemExit(f"a command failed: {' '.join(command)}")
    taken, after = time.perf_counter() - begin, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return taken, used


def same(folder: Path, turn: int, images: int) -> bool:
    """Say whether one process and two wrote the same files."""
    one, two = (folder / f"{turn}-{kind}-{images}-0" for kind in ("1", "2"))
    names = {f.name for f in one.iterdir()}
    return names == {f.name for f in two.iterdir()} and all(
        (one / name).read_bytes() == (two / name).read_bytes() for name in names
    )


def multiply_adds(net: nn.Module, x: Tensor) -> int:
    """Return the multiplications of the convolutions and linear layers for one image."""
    total = 0

    def hook(layer: nn.Module, _: object, out: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += out[0].numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            total += out[0].numel() * layer.in_features

    handles = [layer.register_forward_hook(hook) for layer in net.modules()]
    net(x[:1])
    for handle in handles:
        handle.remove()
    return total


def single(arch: str, images: int = 64, steps: int = 10) -> str:
    """Return a row of what one image costs: work, processor time and memory of a step, and its part of the results."""
    torch.manual_seed(0)
    x, net = torch.rand(images, 3, 32, 32), zoo.build(arch, (3, 32, 32), 10).eval()
    y, budget, taken, found = net(x).argmax(1), MemoryBudget(2**40), [], []
    with budget.watching(arch, images, net):
        net(x.clone().requires_grad_()).sum()
    for _ in range(3):
        begin = time.process_time()
        found.append(orb.attack_ensemble({arch: net}, x, y, orb.Linf(0.001), steps=steps, history="full", keep="last"))
        taken.append((time.process_time() - begin) / images / steps)
    with TemporaryDirectory() as folder:
        ResultStore(Path(folder)).put(0, found[-1])
        kept = next(Path(folder).iterdir()).stat().st_size / images
    work, graph = multiply_adds(net, x), budget.image_bytes[arch]
    cells = (
        f"{work / 1e6:.2f}",
        f"{1e3 * min(taken):.2f}",
        f"{2 * work / min(taken) / 1e9:.0f}",
        f"{graph / 1024:.0f}",
    )
    return f"| {arch.upper()} | {' | '.join(cells)} | {kept / 1024:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    asked = parser.parse_args()
    rates, walls, work = ({kind: list[float]() for kind in KINDS} for _ in range(3))
    equal, loads = True, []
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "own.py").write_text(NET)
        for turn in range(asked.rounds):
            for kind in KINDS if turn % 2 == 0 else KINDS[::-1]:
                loads.append(os.getloadavg()[0])
                small, large = (seconds(folder, kind, n, asked.steps, turn) for n in (SMALL, LARGE))
                more = (LARGE - SMALL) * len(kind.split("+"))
                rates[kind].append(more / (large[0] - small[0]))
                work[kind].append((large[1] - small[1]) / more)
                walls[kind].append(large[0])
            equal &= same(folder, turn, LARGE)
    torch.set_num_threads(1)
    rows = "\n".join(single(arch) for arch in "abcd")
    two, ceiling = ([b / a for a, b in zip(rates["1"], rates[kind], strict=True)] for kind in KINDS[1:])
    text = f"""# What several processes bring

`python benchmarks/bench_processes.py --rounds {asked.rounds} --steps {asked.steps}`, \
torch {torch.__version__}, CPU with {os.cpu_count()} cores, one thread a process. Load average of the machine \
before the runs: {min(loads):.1f} to {max(loads):.1f}.

A small convolutional network, {LARGE} images in batches of {BATCH}, {asked.steps} steps, both the average
and min-max.

| | one process | two processes | two commands at once |
|---|---|---|---|
| images a second beyond the first {SMALL}, median | {" | ".join(f"{median(rates[k]):.2f}" for k in KINDS)} |
| core milliseconds an image of these, median | {" | ".join(f"{1e3 * median(work[k]):.1f}" for k in KINDS)} |
| seconds of the whole command, median | {" | ".join(f"{median(walls[k]):.1f}" for k in KINDS)} |

Throughput over that of one process, by the clock, median (least to greatest of the rounds): of two processes
{median(two):.2f} ({min(two):.2f} to {max(two):.2f}); of two independent commands at once, the most that the machine
gives, {median(ceiling):.2f} ({min(ceiling):.2f} to {max(ceiling):.2f}). Files of one process and of two: \
{"the same, byte by byte" if equal else "NOT the same"}.

## What one image of 3 x 32 x 32 costs, one thread

| model | Mmul of a pass | ms of processor time a step | Gmul a second | kB of graph | kB of results |
|---|---|---|---|---|---|
{rows}

Mmul, Gmul: million, billion multiply-adds. A step is a pass forward and one back to the image: two passes' worth.
Time: the least of three.
Results: the perturbation, the perturbed image, and its losses, weights and success at every step.
"""
    print(text)
    if asked.out is not None:
        asked.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
