"""Count how many of the package's functions an attack enters, and in how many of its files.

    python scripts/count_calls.py            # the default attack on two small models, 8 images, 3 steps
    python scripts/count_calls.py --by-name  # and how often it enters each function

Entered functions of the package are counted, a generator each time that it goes on; what Python runs for a
comprehension, a lambda or a class body is not, nor is anything below ``probe`` and ``behind``: trying models out, and
looking for what stands behind them, is not attacking.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

import torch
from torch import nn

import omnirobust as orb

PACKAGE = Path(orb.__file__).parent
_PROBES = {str(PACKAGE / "domains" / name) for name in ("probe.py", "behind.py")}


def model(seed: int) -> nn.Module:
    """Return a small classifier of 8 x 8 images, its weights drawn from ``seed``."""
    layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    generator = torch.Generator().manual_seed(seed)
    for parameter in layers.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 4
    return layers.eval()


def entered() -> Counter[tuple[str, str]]:
    """Attack two models on 8 images for 3 steps: how often each function (file, name) was entered."""
    generator = torch.Generator().manual_seed(2)
    x, y = torch.rand(8, 1, 8, 8, generator=generator), torch.randint(0, 10, (8,), generator=generator)
    models, counts = {"a": model(0), "b": model(1)}, Counter[tuple[str, str]]()
    package, attack, linf = f"{PACKAGE}/", orb.attack_ensemble, orb.Linf  # named, and so imported, before the count

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        ours = event == "call" and code.co_filename.startswith(package) and not code.co_name.startswith("<")
        if ours and not _of_probe(frame):
            counts[code.co_filename.removeprefix(package), code.co_qualname] += 1

    sys.setprofile(note)
    try:
        attack(models, x, y, linf(0.1), steps=3)
    finally:
        sys.setprofile(None)
    return counts


def _of_probe(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename in _PROBES:
            return True
        frame = frame.f_back
    return False


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description="Count the functions that an attack enters.")
    parser.add_argument("--by-name", action="store_true", help="list the functions, most often entered first")
    by_name = parser.parse_args().by_name
    counts = entered()
    lines = [f"{times:4} {file}: {name}" for (file, name), times in counts.most_common() if by_name]
    lines.append(f"{counts.total()} calls of {len(counts)} functions in {len({file for file, _ in counts})} files")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
