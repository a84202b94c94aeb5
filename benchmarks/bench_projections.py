"""Projections against AutoAttack's exact l1 projection, plainly written bisections and a copy of the data.

    python benchmarks/bench_projections.py [--rounds 15] [--threads 2] [--out FILE]

Prints a markdown table of times, and of ratios measured interleaved in one process: how many times as long the
alternative takes. The radius puts every row outside its ball; the box is [0, 1] around images of which a third of the
pixels are 0 or 1.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from omnirobust.core.projections import lp_box_unchecked, simplex_unchecked
from timing import interleaved, ratio

SHAPES = ((1000, 784), (1000, 3072), (16, 150528))
RADII = {1: 0.03, 2: 0.1}  # times n for l1, times sqrt(n) for l2
DOMAINS = (3, 5, 10)


def bisect_lp(a: Tensor, p: int, eps: float, lower: Tensor, upper: Tensor, steps: int = 5) -> Tensor:
    """Bisect the multiplier as Appendix B suggests, written as one would first write it."""

    def point(multiplier: Tensor) -> Tensor:
        if p == 1:
            return torch.clamp(torch.sign(a) * torch.clamp(a.abs() - multiplier, min=0), lower, upper)
        return torch.clamp(a / (1 + multiplier), lower, upper)

    low = torch.zeros(len(a), 1)
    high = a.abs().amax(1, keepdim=True) if p == 1 else a.norm(dim=1, keepdim=True) / eps
    for _ in range(steps):
        middle = (low + high) / 2
        over = point(middle).norm(p, dim=1, keepdim=True) > eps
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    return torch.where(a.clamp(lower, upper).norm(p, dim=1, keepdim=True) > eps, point(high), a.clamp(lower, upper))


def bisect_simplex(v: Tensor, steps: int = 20) -> Tensor:
    """Bisect mu of (14) in the interval that the paper gives."""
    low, high = v.amin(1, keepdim=True) - 1 / v.shape[1], v.amax(1, keepdim=True) - 1 / v.shape[1]
    for _ in range(steps):
        middle = (low + high) / 2
        over = torch.clamp(v - middle, min=0).sum(1, keepdim=True) > 1
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    return torch.clamp(v - (low + high) / 2, min=0)


def lp_row(B: int, n: int, p: int, rounds: int) -> str:
    """Time one shape and norm; return its table row."""
    try:
        from pyautoattack.autopgd_base import L1_projection
    except ImportError:
        sys.exit('the peer is missing: pip install "omnirobust[bench]"')
    gen = torch.Generator().manual_seed(0)
    x = torch.rand(B, n, generator=gen).mul_(1.5).sub_(0.25).clamp_(0, 1)
    a, lower, upper = torch.randn(B, n, generator=gen) * 0.3, -x, 1 - x
    eps = RADII[p] * (n if p == 1 else n**0.5)
    contenders: dict[str, Callable[[], object]] = {
        "ours": lambda: lp_box_unchecked(a, p, eps, lower, upper),
        "peer": lambda: L1_projection(x, a, eps),
        "bisection": lambda: bisect_lp(a, p, eps, lower, upper),
        "copy": lambda: a.clone(),
    }
    times = interleaved(contenders, rounds)
    return (
        f"| l{p} | ({B}, {n}) | {1e3 * median(times['ours']):.1f} | {ratio(times, 'peer', 'ours')} "
        f"| {ratio(times, 'bisection', 'ours')} | {ratio(times, 'ours', 'copy').value:.0f} |"
    )


def simplex_row(B: int, K: int, rounds: int) -> str:
    """Time the simplex projection of B rows of K; return its table row."""
    v = torch.rand(B, K, generator=torch.Generator().manual_seed(0)) * 2
    times = interleaved({"ours": lambda: simplex_unchecked(v), "bisection": lambda: bisect_simplex(v)}, 10 * rounds)
    return f"| simplex | ({B}, {K}) | {1e3 * median(times['ours']):.3f} | | {ratio(times, 'bisection', 'ours')} | |"


def main() -> None:
    """Print the table, and write it to ``--out`` if given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="timed runs of each contender")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    command = f"python benchmarks/bench_projections.py {shlex.join(sys.argv[1:])}".strip()
    lines = [
        f"`{command}`, torch {torch.__version__}, {args.threads} threads, float32. Ratios: time of the alternative "
        "over ours, medians (quartiles over rounds).",
        "",
        "| projection | shape | ours, ms | AutoAttack's L1_projection | plain bisection (5 steps; simplex 20) "
        "| ours in copies of the data |",
        "|---|---|---|---|---|---|",
    ]
    lines += [lp_row(B, n, p, args.rounds) for B, n in SHAPES for p in RADII]
    lines += [simplex_row(1000, K, args.rounds) for K in DOMAINS]
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
