"""What an attack step costs over the bare cost of its models, and what the options bring.

The bare cost of a step is K forwards and K input gradients of the same batch, in eager float32, with nothing else.
All ratios are of runs interleaved in one process.

    python benchmarks/bench_attack.py [--rounds N] [--out FILE]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import omnirobust as orb
from omnirobust import zoo
from omnirobust.attacks.presets import DEFAULT, PAPER
from omnirobust.domains import losses
from omnirobust.zoo import data
from steps import bare, solved
from timing import interleaved, ratio

THREATS = {
    "linf": orb.Linf(0.2),
    "l2": orb.L2(3.0),
    "l1": orb.L1(20.0),
    "l0": orb.L0(30),
}
STEPS = 5


def overhead_rows(rounds: int) -> list[str]:
    """Measure the cost of a step over the bare cost, for two ensembles, four norms, two presets."""
    rows = []
    x, y = _images(1000)
    for letters, count in (("acd", 1000), ("ac", 200)):
        models = {letter: zoo.load(f"mnist/{letter}") for letter in letters}
        some, labels = x[:count], y[:count]
        for preset in (None, "paper"):
            runs: dict[str, Callable[[], object]] = {
                "bare": bare(models.values(), (), some, labels, losses.margin, STEPS)
            }
            for name, threat in THREATS.items():
                chosen = (PAPER if preset == "paper" else DEFAULT)[name]
                runs[name] = solved(models, some, labels, threat, chosen, chosen.loss, STEPS)
            times = interleaved(runs, rounds=rounds)
            cells = " | ".join(str(ratio(times, of=name, over="bare")) for name in THREATS)
            rows.append(f"| {', '.join(letters).upper()} | {count} | {preset or 'default'} | {cells} |")
    return rows


def stopping_row(rounds: int) -> list[str]:
    """Measure how much sooner ``stop_when_fooled`` reaches the success of all 50 steps, on A to D, per norm."""
    rows = []
    x, y = _images(100)
    models = {letter: zoo.load(f"mnist/{letter}") for letter in "abcd"}
    for name, threat in THREATS.items():
        seconds: dict[bool, list[float]] = {True: [], False: []}
        success: dict[bool, float] = {}
        for _ in range(max(1, rounds // 5)):
            for stop in (True, False):
                start = time.perf_counter()
                success[stop] = orb.attack_ensemble(models, x, y, threat, stop_when_fooled=stop).asr_all
                seconds[stop].append(time.perf_counter() - start)
        gain = statistics.median(seconds[False]) / statistics.median(seconds[True])
        rows.append(f"| {name} | {gain:.1f} | {100 * success[False]:.1f} | {100 * success[True]:.1f} |")
    return rows


def option_rows(rounds: int) -> list[str]:
    """Measure the evaluation of each model as the attacks run it, and in bf16, over the bare cost."""
    rows = []
    x, y = _images(500)
    for letter in "abcd":
        models = {letter: zoo.load(f"mnist/{letter}")}
        runs: dict[str, Callable[[], object]] = {"bare": bare(models.values(), (), x, y, losses.margin, 1, last=False)}
        for precision in ("fp32", "bf16"):
            grid = orb.DomainGrid(models, x, y, loss=losses.margin, precision=precision)
            runs[precision] = lambda grid=grid: grid.evaluate(torch.zeros_like(x))
        times = interleaved(runs, rounds=rounds)
        cells = " | ".join(str(ratio(times, of=name, over="bare")) for name in ("fp32", "bf16"))
        rows.append(f"| {letter.upper()} | {cells} |")
    return rows


def _images(count: int) -> tuple[Tensor, Tensor]:
    images = data.load("mnist", limit=count)
    return images.x, images.y


def main() -> None:
    """Measure, and write the tables to the terminal or to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    lines = [
        "# Cost of an attack",
        "",
        f"`python benchmarks/bench_attack.py --rounds {given.rounds}`, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, CPU. Ratios of medians (quartiles over rounds), interleaved in one process.",
        "",
        "## A step over the bare cost (K forwards and input gradients, eager float32, the same batch)",
        "",
        "| models | images | settings | linf | l2 | l1 | l0 |",
        "|---|---|---|---|---|---|---|",
        *overhead_rows(given.rounds),
        "",
        "Below 1: convolutional models see channels_last images, in cache-sized pieces for more than 256 images.",
        "",
        "## Default attack, 50 steps, A to D, 100 images: time without over with `stop_when_fooled`",
        "",
        "| norm | times faster | ASR_all without | ASR_all with |",
        "|---|---|---|---|",
        *stopping_row(given.rounds),
        "",
        "## One evaluation with gradients, 500 images, over the bare cost",
        "",
        "| model | as attacked, fp32 | as attacked, bf16 |",
        "|---|---|---|",
        *option_rows(given.rounds),
    ]
    text = "\n".join(lines) + "\n"
    if given.out:
        given.out.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
