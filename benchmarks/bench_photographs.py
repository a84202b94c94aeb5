"""What an attack on three ImageNet networks costs beside their bare passes, and the memory that more networks take.

    python benchmarks/bench_photographs.py [--crops 4] [--rounds 5]

The networks and photographs are those of ``examples/photographs.py``, whose packages must be there. Processor time of
one thread, interleaved in one process: a step is the difference of attacks of three steps and of one, halved; the bare
cost one forward and one input gradient of every network, in the contiguous layout and in channels last. Memory is the
peak of a process of its own for each number of networks.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

import omnirobust as orb

EXAMPLE = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "photographs.py"))
EPS = orb.Linf(1 / 255)


def attack(models: Mapping[str, nn.Module], x: Tensor, y: Tensor, steps: int, precision: str) -> None:
    """Run the default attack on all of ``models``."""
    orb.attack_ensemble(models, x, y, EPS, steps=steps, precision=precision)


def bare(models: Mapping[str, nn.Module], x: Tensor, layout: torch.memory_format, precision: str) -> None:
    """Take one forward and one input gradient of every network."""
    half = torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
    for model in models.values():
        leaf = x.detach().contiguous(memory_format=layout).requires_grad_()
        with half:
            logits = model(leaf)
        torch.autograd.grad(logits.float().logsumexp(1).sum(), leaf)


def seconds(call: Callable[[], None]) -> float:
    """Return the processor time of ``call``."""
    begin = time.process_time()
    call()
    return time.process_time() - begin


def costs(crops: int, rounds: int) -> None:
    """Print a step over the bare passes, in both precisions."""
    models, (x, y) = EXAMPLE["networks"](), EXAMPLE["photographs"](crops)
    for parameter in (p for m in models.values() for p in m.parameters()):
        parameter.requires_grad_(False)
    taken: dict[tuple[str, str], list[float]] = {}
    for turn in range(rounds + 1):
        for precision in ("fp32", "bf16"):
            short = seconds(lambda p=precision: attack(models, x, y, 1, p))
            now = {"step": (seconds(lambda p=precision: attack(models, x, y, 3, p)) - short) / 2}
            for name, layout in (("contiguous", torch.contiguous_format), ("channels last", torch.channels_last)):
                with contextlib.suppress(RuntimeError):  # their code views what it should reshape in channels last
                    now[name] = seconds(lambda p=precision, of=layout: bare(models, x, of, p))
            for name, value in now.items() if turn else ():
                taken.setdefault((precision, name), []).append(value)
        print(f"round {turn} of {rounds}", file=sys.stderr, flush=True)
    print("| precision | what | seconds, median | least |\n|---|---|---|---|")
    for (precision, name), values in taken.items():
        print(f"| {precision} | {name} | {median(values):.2f} | {min(values):.2f} |")


def peak(count: int, crops: int) -> None:
    """Attack ``count`` networks and print the peak memory of this process in MiB."""
    torch.set_num_threads(1)
    models, (x, y) = EXAMPLE["networks"](), EXAMPLE["photographs"](crops)
    attack({name: models[name] for name in list(models)[-count:]}, x, y, 1, "fp32")
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        peak(given.peak, given.crops)
    else:
        torch.set_num_threads(1)
        costs(given.crops, given.rounds)
        for count in (1, 2, 3):
            command = [sys.executable, __file__, "--peak", str(count), "--crops", str(given.crops)]
            found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
            print(f"{count} networks, the largest first: {found} MiB at the peak", flush=True)
