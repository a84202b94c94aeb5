"""How fast the paper's ensemble attack comes near a stationary point: Theorem 1 on networks.

    python benchmarks/stationarity.py

MNIST models A, C and D, the first test images, the paper's linf and l2 attack with its own step sizes (and with alpha
a hundredth of that), several gamma, longer than the paper's 50 steps. At steps evenly spaced by their logarithm
``omnirobust.stationarity`` measures every image, with the alpha and beta of the run. The theorem's O(1/T) is read as
that of the square of that measure, the least so far: a slope of -1 between logarithms. Every run is written to
``stationarity.json`` as it is found; one that is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import torch

import omnirobust as orb
from omnirobust import zoo
from omnirobust._files import replacing
from omnirobust.attacks.presets import PAPER
from omnirobust.core.draws import normal_start
from omnirobust.core.weights import ProjectedAscent
from omnirobust.zoo import data

FILE = Path(__file__).with_suffix(".json")
MODELS = ("a", "c", "d")
THREATS = {"linf": orb.Linf(0.2), "l2": orb.L2(3.0)}
GAMMAS = (0.5, 3.0, 10.0)
FACTORS = (1.0, 0.01)
"""Of the paper's alpha."""

FIRST = 10
"""The step from which a slope is fitted: before it the weights settle."""


def marks(steps: int, per_decade: int = 8) -> list[int]:
    """Return the steps that are measured."""
    top = int(per_decade * log(steps, 10))
    return sorted({0, steps, *(round(10 ** (k / per_decade)) for k in range(top + 1))})


def slope(points: list[tuple[int, float]]) -> float:
    """Return the least-squares slope of log value against log step."""
    x = torch.tensor([log(t) for t, _ in points], dtype=torch.float64)
    y = torch.tensor([log(v) for _, v in points], dtype=torch.float64)
    x = x - x.mean()
    return float((x * y).sum() / (x * x).sum())


def run(norm: str, gamma: float, factor: float, images: int, steps: int) -> dict[str, Any]:
    """Attack, and return the median over images of the least squared measure so far, and the slope of it."""
    shown, setting = data.load("mnist", "test", limit=images), PAPER[norm]
    models = {m: zoo.load(f"mnist/{m}") for m in MODELS}
    domains = orb.DomainGrid(models, shown.x, shown.y, loss=setting.loss)
    feasible = THREATS[norm].around(shown.x)
    rule, alpha = setting.rule, factor * float(setting.step_size or 0)
    assert isinstance(rule, ProjectedAscent)
    wanted, seen = set(marks(steps)), dict[int, torch.Tensor]()

    def watch(now: orb.solver.Progress) -> None:
        if now.step in wanted:
            at = {"gamma": gamma, "alpha": alpha, "beta": rule.beta}
            seen[now.step] = orb.stationarity(domains, feasible, now.delta, now.weights, **at).double() ** 2

    start = normal_start(shown.x, 0, 0, 0)
    found = orb.solve(
        domains, feasible, replace(rule, gamma=gamma), init=start, steps=steps, step_size=alpha,
        direction=setting.direction, callback=watch,
    )  # fmt: skip
    values = torch.stack([seen[t] for t in sorted(seen)])
    least = values.cummin(0).values.median(1).values.tolist()
    curve = list(zip(sorted(seen), least, strict=True))
    fitted = slope([(t, v) for t, v in curve if t >= FIRST and v > 0])
    return {
        "alpha": alpha, "beta": rule.beta, "slope": fitted, "least": curve,
        "last": float(values[-1].median()), "stationary": int((values.min(0).values < 1e-8).sum()),
        "fooled": float(found.fooled.all(1).float().mean()), "images": images, "steps": steps,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for factor in FACTORS:
        for norm in THREATS:
            for gamma in GAMMAS:
                key = f"{norm}/gamma {gamma:g}/alpha x {factor:g}"
                known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
                if key not in known:
                    known[key] = run(norm, gamma, factor, args.images, args.steps)
                    with replacing(FILE) as partial:
                        partial.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
                print(
                    key,
                    f"slope {known[key]['slope']:.2f}",
                    {k: known[key][k] for k in ("last", "stationary", "fooled")},
                )


if __name__ == "__main__":
    main()
