"""What universal, transformation and product steps cost over the bare cost, and what memory a grid of domains takes.

The bare cost of a step is one forward and input gradient of the same images in eager float32, with nothing else. With
transformations there are two: of images already transformed, and with the transformations inside, differentiated too.
Time ratios are of runs interleaved in one process; memory is the peak of a process of its own.

    python benchmarks/bench_grid.py [--rounds N] [--out FILE]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

import omnirobust as orb
from omnirobust.attacks.presets import DEFAULT, PAPER_OF, Task
from omnirobust.domains import losses
from omnirobust.domains.transforms import PAPER_DETERMINISTIC, PAPER_STOCHASTIC
from steps import bare, solved, untrained
from timing import interleaved, ratio

STEPS = 5
MIB = 2**20


def _bare(model: nn.Module, views: list[Callable[[Tensor], Tensor]], x: Tensor, y: Tensor) -> Callable[[], None]:
    return bare([model], views, x, y, losses.margin, STEPS)


def _solved(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    task: Task,
    preset: str | None,
    **grid: object,
) -> Callable[[], object]:
    chosen = (PAPER_OF[task] if preset == "paper" else DEFAULT)["linf"]
    return solved(model, x, y, orb.Linf(0.1), chosen, chosen.loss, STEPS, **grid)


def universal_rows(rounds: int) -> list[str]:
    """Measure 200 groups of 5 images of MNIST's shape."""
    rows = []
    x, y = torch.rand(200, 5, 1, 28, 28), torch.randint(0, 10, (200, 5))
    for letter, model in untrained("acd", (1, 28, 28)).items():
        runs: dict[str, Callable[[], object]] = {"bare": _bare(model, [], x.flatten(0, 1), y.flatten())}
        for preset, clip in (
            (None, "image"),
            (None, "intersection"),
            ("paper", "intersection"),
        ):
            runs[f"{preset} {clip}"] = _solved(model, x, y, "universal", preset, shared=True, clip=clip)
        rows.append(_row(letter.upper(), runs, rounds, over=("bare",)))
    return rows


def transform_rows(rounds: int) -> list[str]:
    """Measure 200 images of CIFAR-10's shape under the paper's transformations."""
    rows = []
    x, y = torch.rand(200, 3, 32, 32), torch.randint(0, 10, (200,))
    for letter, model in untrained("acd", (3, 32, 32)).items():
        for kind, transforms in (
            ("6 deterministic", PAPER_DETERMINISTIC),
            ("5 stochastic", PAPER_STOCHASTIC),
        ):
            views: list[Callable[[Tensor], Tensor]] = list(transforms.values())
            runs = {
                "done before": _bare(model, [], torch.cat([t(x) for t in views]), y.repeat(len(views))),
                "inside": _bare(model, views, x, y),
                "default": _solved(model, x, y, "transforms", None, transforms=transforms),
                "paper": _solved(model, x, y, "transforms", "paper", transforms=transforms),
            }
            rows.append(
                _row(
                    f"{letter.upper()} | {kind}",
                    runs,
                    rounds,
                    over=("done before", "inside"),
                )
            )
    return rows


def _row(
    title: str,
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    over: tuple[str, ...],
) -> str:
    times = interleaved(runs, rounds=rounds)
    cells = [str(ratio(times, of=name, over=base)) for name in runs if name not in over for base in over]
    return f"| {title} | {' | '.join(cells)} |"


def product(examples: int, transforms: int, memory: int | None) -> Callable[[], object]:
    """Return a function that takes two steps on models A, C and D times transformations times examples."""
    chosen = dict(list(PAPER_DETERMINISTIC.items())[:transforms])
    x, y = torch.rand(20, examples, 3, 32, 32), torch.randint(0, 10, (20, examples))
    models = untrained("acd", (3, 32, 32))
    domains = orb.DomainGrid(models, x, y, loss=losses.margin, transforms=chosen, shared=True, memory=memory)
    delta = torch.zeros(20, 3, 32, 32)
    return lambda: [domains.evaluate(delta) for _ in range(2)]


def product_rows(rounds: int) -> list[str]:
    """Measure time and peak memory of evaluations of 20 problems against the number of domains."""
    rows = []
    sizes = [(1, 1), (5, 1), (5, 2), (5, 4), (10, 4)]
    times = interleaved({str(size): product(*size, memory=None) for size in sizes}, rounds=rounds)
    for examples, transforms in sizes:
        each = examples * transforms / (5 * 4)
        cost = ratio(times, of=str((examples, transforms)), over=str((5, 4)))
        peaks = [_peak(examples, transforms, budget) / MIB for budget in (None, 64 * MIB, 8 * MIB)]
        K = 3 * examples * transforms
        cells = [
            f"{cost.value / each:.2f}",
            *(f"{peak:.0f}" for peak in peaks),
            f"{K * 20 * 3 * 32 * 32 * 4 / MIB:.0f}",
        ]
        rows.append(f"| {K} | {' | '.join(cells)} |")
    return rows


def _peak(examples: int, transforms: int, budget: int | None) -> float:
    """Return how many bytes a process of its own takes at most for two evaluations, over what it takes before."""
    out = subprocess.run(
        [sys.executable, __file__, "--peak", str(examples), str(transforms), str(budget or 0)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return float(out.stdout)


def _report_peak(examples: int, transforms: int, budget: int) -> None:
    run = product(examples, transforms, budget or None)
    product(1, 1, None)()  # what the first pass of any size loads into memory is not counted
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _memory("VmRSS")
    run()
    print(_memory("VmHWM") - before)


def _memory(field: str) -> int:
    """Return a field of this process's status in bytes; Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def main() -> None:
    """Measure, and write the tables to the terminal or to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak", type=int, nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        _report_peak(*given.peak)
        return
    lines = [
        "# Cost of groups, transformations and products",
        "",
        f"`python benchmarks/bench_grid.py --rounds {given.rounds}`, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, CPU. Ratios of medians (quartiles over rounds), interleaved in one process.",
        "",
        "## A universal step over the bare cost: 200 groups of 5 images, 28 x 28",
        "",
        "| model | default, clip image | default, intersection | paper, intersection |",
        "|---|---|---|---|",
        *universal_rows(given.rounds),
        "",
        "## A transformation step over the bare cost: 200 images, 3 x 32 x 32",
        "",
        "The bare cost of images transformed before, and with the transformations inside.",
        "",
        "| model | transformations | default / before | default / inside | paper / before | paper / inside |",
        "|---|---|---|---|---|---|",
        *transform_rows(given.rounds),
        "",
        "## A product of models A, C, D, transformations and examples: 20 problems, 3 x 32 x 32",
        "",
        "Time of an evaluation for each domain, over that at 60 domains; and peak memory in MiB under three budgets",
        "for the graph of a pass. The last column is what the gradients of all domains take, which no budget saves.",
        "",
        "| domains | time a domain | no budget | 64 MiB | 8 MiB | of it gradients |",
        "|---|---|---|---|---|---|",
        *product_rows(given.rounds),
    ]
    text = "\n".join(lines) + "\n"
    if given.out:
        given.out.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
