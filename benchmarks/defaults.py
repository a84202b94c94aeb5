"""Compare the default attack with its rivals, and with the union of much longer searches, norm by norm.

    python benchmarks/defaults.py [--models mnist/a mnist/b mnist/c mnist/d] [--start 5000] [--images 400] [--out FILE]
        [--only "default" "standardised margin"]

Every rival gets 50 steps, so as many gradient evaluations as the default, but for the one that its loss asks for before
the first step. The union asks more: all rivals, then 300 steps, noisy starts and other losses on whatever is left. All
runs stop at an image once it fools every model. With --only the table is of these rivals, without the union, and says
beside each of them which images it left that the first one fools, and the other way round.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import omnirobust as orb
from omnirobust import zoo
from omnirobust.domains import losses
from omnirobust.zoo import data

THREATS = {"linf": orb.Linf(0.2), "l2": orb.L2(3.0), "l1": orb.L1(20.0), "l0": orb.L0(30)}
STEEPEST: dict[str, Any] = {"linf": orb.Sign("linear"), "l2": orb.Normalised("linear"), "l1": orb.Normalised("linear")}

DETOURS = {
    norm: s.direction for norm, s in orb.settings.DEFAULT_OF["ensemble"].items() if isinstance(s.direction, orb.Detour)
}


def balanced(norm: str) -> orb.Adaptive | orb.Detour:
    """Return the default direction with every model's gradient scaled to unit length."""
    plain = orb.Adaptive(balance=True)
    return replace(DETOURS[norm], direction=plain) if norm in DETOURS else plain


def rivals(norm: str) -> dict[str, dict[str, Any]]:
    """Return the settings that compete at 50 steps: what differs from the default."""
    found: dict[str, dict[str, Any]] = {
        "default": {},
        "standardised margin": {"loss": losses.standardised_margin},
        "the paper's, last iterate": {"preset": "paper"},
        "the paper's, best iterate": {"preset": "paper", "keep": "best"},
        "average of the default": {"rule": orb.Uniform()},
        "worst case only": {"rule": orb.WorstCase()},
        "hinge, the paper's weights": {"loss": losses.margin, "rule": orb.settings.PAPER[norm].rule},
        "probability margin": {"loss": losses.probability_margin, "rule": orb.ExponentiatedGradient(1.0)},
        "gradients balanced": {"direction": balanced(norm)},
    }
    if norm in DETOURS:
        found["without the detour"] = {"direction": orb.Adaptive()}
    if norm in STEEPEST:
        found["steepest descent, decayed linearly"] = {"direction": STEEPEST[norm]}
    return found


RULES: dict[str, dict[str, Any]] = {
    "CVaR 0.5": {"rule": orb.CVaR(0.5)},
    "chi-square 0.5": {"rule": orb.ChiSquare(0.5)},
    "tilted 0.3": {"rule": orb.Tilted(0.3)},
    "least norm": {"rule": orb.MinNorm()},
    "least norm of all": {"rule": orb.MinNorm(0.0)},
}
"""Other weights, for --only; for four models these sets reach about half as far as the simplex."""

LONGER: tuple[dict[str, Any], ...] = (
    {"steps": 300},
    {"steps": 300, "init": "normal", "seed": 1},
    {"steps": 150, "init": "normal", "seed": 2},
    {"steps": 150, "loss": losses.probability_margin, "rule": orb.ExponentiatedGradient(1.0)},
    {"steps": 300, "preset": "paper", "keep": "best"},
)


def fooled(models: dict[str, nn.Module], x: Tensor, y: Tensor, norm: str, change: dict[str, Any]) -> Tensor:
    """Say which images fool every model under the default with some settings changed, (B,) bool."""
    stop = change.get("preset") is None or change.get("keep") == "best"
    return orb.attack_ensemble(models, x, y, THREATS[norm], stop_when_fooled=stop, **change).fooled.all(1)


def compare(models: dict[str, nn.Module], x: Tensor, y: Tensor, norm: str) -> list[str]:
    """Run every rival and the union on one norm; return their table rows."""
    hits = {name: fooled(models, x, y, norm, change) for name, change in rivals(norm).items()}
    union = torch.stack(list(hits.values())).any(0)
    for change in LONGER:
        left = (~union).nonzero().flatten()
        if len(left):
            union[left] |= fooled(models, x[left], y[left], norm, change)
    hits["union of all, and of longer searches"] = union
    return [f"| {norm} | {name} | {100 * float(hit.float().mean()):.2f} |" for name, hit in hits.items()]


def pairs(models: dict[str, nn.Module], x: Tensor, y: Tensor, norm: str, names: list[str]) -> list[str]:
    """Run some rivals on one norm; return their table rows, each held against the first."""
    hits = {name: fooled(models, x, y, norm, (rivals(norm) | RULES)[name]) for name in names}
    first = hits[names[0]]
    return [
        f"| {norm} | {name} | {100 * float(hit.float().mean()):.2f} | {int((first & ~hit).sum())} | "
        f"{int((hit & ~first).sum())} |"
        for name, hit in hits.items()
    ]


def main() -> None:
    """Measure, and print the table or write it to a file as it grows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=[f"mnist/{letter}" for letter in "abcd"])
    parser.add_argument("--start", type=int, default=5000)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="+", default=[], help="names of rivals, as the table has them")
    given = parser.parse_args()
    images = data.load("mnist", start=given.start, limit=given.images)
    models = {name: zoo.load(name) for name in given.models}
    command = shlex.join(["python", "benchmarks/defaults.py", *sys.argv[1:]])
    more = ("| lost | won |", "---|---|") if given.only else ("|", "")
    lines = [f"`{command}`", "", f"| norm | attack | ASR_all, % {more[0]}", f"|---|---|---|{more[1]}"]
    for norm in THREATS:
        rows = pairs(models, images.x, images.y, norm, given.only) if given.only else None
        lines += rows or compare(models, images.x, images.y, norm)
        if given.out:
            given.out.write_text("\n".join(lines) + "\n")
    if not given.out:
        print("\n".join(lines))


if __name__ == "__main__":
    main()
