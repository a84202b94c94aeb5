"""How long steps take beside another commit of the library, each in a process of its own, run by run in turn.

    git worktree add /tmp/other COMMIT
    python benchmarks/against_commit.py /tmp/other [--rounds N] [--steps T] [--only TEXT]

Both solve the same problems with one loss (``smooth_margin``) and their own defaults of the rest; "own loss" takes each
one's default loss, too. Times are of the processor in one thread, the least of all rounds: what else the machine does
disturbs them least. The bare cost is that of ``bench_attack.py`` and ``bench_grid.py``: the passes and nothing else.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__)
ENSEMBLES = [
    f"{letters} {count} {norm}"
    for letters, count in (("AC", 200), ("ACD", 1000))
    for norm in ("linf", "l2", "l1", "l0")
]
GRIDS = [f"{letter} {kind}" for kind in ("image", "intersection", "deterministic", "stochastic") for letter in "ACD"]
CASES = [*ENSEMBLES, "AC 200 linf, own loss", *GRIDS]


def ensemble(letters: str, count: int, norm: str, own_loss: bool, steps: int) -> tuple[Callable[[], Any], ...]:
    """Return an attack on MNIST models, and its bare passes."""
    from omnirobust import data, losses, zoo
    from steps import bare, solved

    models = {letter: zoo.load(f"mnist/{letter.lower()}") for letter in letters}
    images, settings = data.load("mnist", limit=count), _defaults()[norm]
    loss = settings.loss if own_loss else losses.smooth_margin
    attack = solved(models, images.x, images.y, _threats()[norm], settings, loss, steps)
    return attack, bare(list(models.values()), (), images.x, images.y, losses.smooth_margin, steps)


def grid(letter: str, kind: str, steps: int) -> tuple[Callable[[], Any], ...]:
    """Return an attack on groups of five images or under transformations, and its bare passes."""
    import torch

    import omnirobust as orb
    from omnirobust import losses, transforms
    from steps import bare, solved, untrained

    shared, settings = kind in ("image", "intersection"), _defaults()["linf"]
    shape = (1, 28, 28) if shared else (3, 32, 32)
    (model,) = untrained(letter.lower(), shape).values()
    x = torch.rand(200, *([5] if shared else []), *shape)
    y = torch.randint(0, 10, x.shape[:2] if shared else x.shape[:1])
    views = {
        "deterministic": transforms.PAPER_DETERMINISTIC,
        "stochastic": transforms.PAPER_STOCHASTIC,
    }.get(kind, {})
    of_grid = {"shared": True, "clip": kind} if shared else {"transforms": views}
    attack = solved(model, x, y, orb.Linf(0.1), settings, losses.smooth_margin, steps, **of_grid)
    images, labels = (x.flatten(0, 1), y.flatten()) if shared else (x, y)
    return attack, bare([model], list(views.values()), images, labels, losses.smooth_margin, steps)


def _threats() -> dict[str, Any]:
    import omnirobust as orb

    return {
        "linf": orb.Linf(0.2),
        "l2": orb.L2(3.0),
        "l1": orb.L1(20.0),
        "l0": orb.L0(30),
    }


def _defaults() -> dict[str, Any]:
    """Return the default settings of every norm, wherever the commit has them."""
    try:
        from omnirobust.attacks.presets import DEFAULT
    except ImportError:
        from omnirobust.settings import DEFAULT  # pyright: ignore[reportMissingImports]
    return DEFAULT


def work(steps: int) -> None:
    """Answer each case that comes in with the processor seconds of a run and of its bare passes."""
    import torch

    torch.set_num_threads(1)
    made: dict[str, tuple[Callable[[], Any], ...]] = {}
    for line in sys.stdin:
        case = line.strip()
        if case not in made:
            first, second, *rest = case.removesuffix(", own loss").split()
            made = {
                case: ensemble(first, int(second), rest[0], case.endswith("own loss"), steps)
                if rest
                else grid(first, second, steps)
            }
            for run in made[case]:
                run()
        seconds = []
        for run in made[case]:
            before = time.process_time()
            run()
            seconds.append(time.process_time() - before)
        print(*seconds, flush=True)


def start(checkout: Path, steps: int) -> subprocess.Popen[str]:
    """Start a process that runs what is asked with the library of a checkout."""
    env = {
        **os.environ,
        "PYTHONPATH": str(checkout / "src"),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    command = [sys.executable, str(HERE), "--work", "--steps", str(steps), "-"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)


def ask(worker: subprocess.Popen[str], case: str) -> list[float]:
    """Let a process run a case once."""
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write(case + "\n")
    worker.stdin.flush()
    return [float(number) for number in worker.stdout.readline().split()]


def main() -> None:
    """Print a row for each case as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", default="")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.steps)
        return
    workers = [start(path, given.steps) for path in (given.other, HERE.parents[1])]
    print(f"| {given.steps} steps | other, ms | this, ms | times faster | this over the bare passes |")
    print("|---|---|---|---|---|")
    for case in (case for case in CASES if given.only in case):
        times: list[list[list[float]]] = [[], []]
        for turn in range(given.rounds):
            for w in (0, 1) if turn % 2 else (1, 0):
                times[w].append(ask(workers[w], case))
        other, this = (min(run for run, _ in of_one) for of_one in times)
        bare = min(run for of_one in times for _, run in of_one)
        print(
            f"| {case} | {1e3 * other:.0f} | {1e3 * this:.0f} | {other / this:.2f} | {this / bare:.2f} |",
            flush=True,
        )
    for worker in workers:
        worker.communicate()


if __name__ == "__main__":
    main()
