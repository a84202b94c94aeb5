"""Fool the model that was not attacked: one of several is left out, the others are attacked at equal gradients.

    python benchmarks/bench_transfer.py [--data mnist] [--models a b c d] [--left-out a ...] [--start 5000]
        [--images 1000] [--steps 10] [--norm linf] [--eps 0.15 0.2] [--targeted] [--only NAME ...] [--batch-size 250]
        [--kept FILE] [--out FILE]

For each choice of the model left out and each radius, every attack gets ``steps`` gradients of each of the others, its
copies, views and inner steps included. Told are the errors of the model left out, and the share of images that fool all
of the others at once, each with what it lacks to the first attack of the table: the difference of the means over all
choices and radii, with a 95 % interval of a bootstrap over images (the choices of one image are drawn together). With
``--targeted`` the class after the true one is to be reached, and told is who says it.

What is measured is kept (in ``transfer.json`` beside this script, or elsewhere) attack by attack, and not measured
again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

import omnirobust as orb
from omnirobust import zoo
from omnirobust._files import replacing
from omnirobust.zoo import data
from rivals_transfer import CWA, SVRE, AdaEA, Copies, Rival, gaussian, resized

Measure: TypeAlias = Callable[[dict[str, nn.Module], Tensor, Tensor, "Task"], Tensor]
"""Models, inputs, labels (with targets: the classes to reach) and the task to adversarial images."""


@dataclass(frozen=True)
class Task:
    """What all attacks are to do."""

    threat: orb.ThreatModel
    steps: int
    targeted: bool


FILE = Path(__file__).with_name("transfer.json")
DRAWS = 2000


def _of_rival(rival: Rival) -> Measure:
    """Let a rival be asked as ours are; under l2 and with targets, one of ``Copies``."""

    def run(models: dict[str, nn.Module], x: Tensor, y: Tensor, task: Task) -> Tensor:
        eps = torch.full((len(x),), float(task.threat.eps))
        asked = replace(rival, p=task.threat.p, targeted=task.targeted) if isinstance(rival, Copies) else rival
        return asked(list(models.values()), x, y, eps, task.steps, torch.Generator().manual_seed(0))

    return run


def _ours(**options: Any) -> Measure:
    """Return ``attack_ensemble`` with some options."""

    def run(models: dict[str, nn.Module], x: Tensor, y: Tensor, task: Task) -> Tensor:
        found = orb.attack_ensemble(models, x, y, task.threat, steps=task.steps, targeted=task.targeted, **options)
        return found.adversarial

    return run


OURS: dict[str, Measure] = {
    "transfer": _ours(preset="transfer"),
    "default": _ours(),
    "average": _ours(rule=orb.Uniform()),
}

PARTS: dict[str, Measure] = {
    "without the blur": _ours(preset="transfer", direction=orb.Momentum()),
    "without the consensus": _ours(preset="transfer", loss=orb.losses.standardised_margin),
    "without min-max": _ours(preset="transfer", rule=orb.Uniform()),
    "with a blur": _ours(preset="transfer", direction=orb.Momentum(blur=1.2, length=4.0)),
    "with min-max": _ours(preset="transfer", rule=orb.ExponentiatedGradient(0.5)),
}
"""The preset without one of its parts, or with one of grey images' for those in colour, for --only."""

RIVALS: dict[str, Measure] = {
    name: _of_rival(rival)
    for name, rival in {
        "MI": Copies(),
        "DI": Copies(see=resized()),
        "TI": Copies(kernel=gaussian()),
        "SI": Copies(scales=5),
        "SI, 2 copies": Copies(scales=2),
        "Admix": Copies(scales=5, others=1),
        "Admix, 1 copy": Copies(others=1),
        "SVRE": SVRE(),
        "SVRE, 1 inner step": SVRE(inner=1),
        "AdaEA": AdaEA(),
        "CWA": CWA(),
        "CWA, short steps": CWA(pace=0.3),
    }.items()
}
"""The rivals; those with many copies or inner steps also with few, which leaves them more steps."""

ANYWHERE = ("MI", "DI", "TI", "SI", "SI, 2 copies", "Admix", "Admix, 1 copy")
"""Those that there are under l2 and with targets, too."""


def measured(
    measure: Measure, models: dict[str, nn.Module], out: str, x: Tensor, y: Tensor, task: Task, batch_size: int
) -> dict[str, str]:
    """Attack all models but ``out``; return who is fooled, image by image: that one, and all of the others at once."""
    attacked = {name: model for name, model in models.items() if name != out}
    parts = zip(x.split(batch_size), y.split(batch_size), strict=True)
    seen = [(measure(attacked, a, b, task), b) for a, b in parts]
    with torch.no_grad():
        said = {name: torch.cat([model(a).argmax(1) == b for a, b in seen]) for name, model in models.items()}
    hits = {name: each if task.targeted else ~each for name, each in said.items()}
    return {"left out": packed(hits.pop(out)), "attacked": packed(torch.stack([*hits.values()]).all(0))}


def packed(hits: Tensor) -> str:
    """Write who was hit, (images,), as hexadecimal digits, four images each, after a 1."""
    return f"{int('1' + ''.join('1' if hit else '0' for hit in hits.tolist()), 2):x}"


def unpacked(digits: str) -> list[float]:
    """Return what ``packed`` was given, as 0 and 1."""
    return [float(digit) for digit in f"{int(digits, 16):b}"[1:]]


def table(found: dict[str, Any], names: Sequence[str], runs: Sequence[str], models: Sequence[str]) -> list[str]:
    """Return the lines of the table over ``runs`` (radii), held against the first of ``names``."""
    head = ["attack", *(f"{model} left out" for model in models), "mean", "first less this", "attacked at once"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    left = {name: _matrix(found, runs, models, name, "left out") for name in names}
    first = left[names[0]].mean(0)
    for name in names:
        each = left[name].view(len(runs), len(models), -1).mean((0, 2)).tolist()
        gap = interval(first - left[name].mean(0)) if name != names[0] else ""
        all_of_them = float(_matrix(found, runs, models, name, "attacked").mean())
        cells = [name, *(f"{100 * v:.1f}" for v in [*each, sum(each) / len(each)]), gap, f"{100 * all_of_them:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _matrix(found: dict[str, Any], runs: Sequence[str], models: Sequence[str], name: str, of: str) -> Tensor:
    """Return who erred, (radii x choices, images), as 0 and 1."""
    rows = [unpacked(found[run][name][model][of]) for run in runs for model in models]
    return torch.tensor(rows, dtype=torch.float64)


def interval(gaps: Tensor) -> str:
    """Say the mean of ``gaps`` (images,) in points, and the 95 % interval of a bootstrap over images."""
    draws = torch.randint(len(gaps), (DRAWS, len(gaps)), generator=torch.Generator().manual_seed(0))
    low, high = gaps[draws].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return f"{100 * float(gaps.mean()):.1f} ({100 * low:.1f} to {100 * high:.1f})"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--models", nargs="+", default=list("abcd"), help="letters, or letters@seedN")
    parser.add_argument("--left-out", nargs="+", help="the choices: some of the models; not given, each of them")
    parser.add_argument("--start", type=int, default=5000)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--norm", choices=["linf", "l2"], default="linf")
    parser.add_argument("--eps", type=float, nargs="+", default=[0.15, 0.2])
    parser.add_argument("--targeted", action="store_true", help="reach the class after the true one")
    parser.add_argument("--only", nargs="+", help="names of attacks, as the table has them; the first is compared")
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--kept", type=Path, default=FILE, help="what is measured, and not measured again")
    parser.add_argument("--out", type=Path, help="the table as a page; not given, it is printed")
    return parser.parse_args()


def main() -> None:
    """Measure what is not there yet, and print the table."""
    given = arguments()
    plain = given.norm == "linf" and not given.targeted
    attacks = OURS | {name: rival for name, rival in RIVALS.items() if plain or name in ANYWHERE}
    names = given.only or list(attacks)
    attacks = attacks | PARTS
    models = {letter: zoo.load(f"{given.data}/{letter}") for letter in given.models}
    images = data.load(given.data, start=given.start, limit=given.images)
    found: dict[str, Any] = json.loads(given.kept.read_text(encoding="utf-8")) if given.kept.exists() else {}
    y = (images.y + 1) % len(images.classes) if given.targeted else images.y
    aim = ", to the next class" if given.targeted else ""
    span = f"{given.start} to {given.start + given.images - 1}"
    keys = {
        eps: f"{given.data} {' '.join(given.models)}, images {span}, {given.norm} {eps:g}, {given.steps} steps{aim}"
        for eps in given.eps
    }
    left_out = given.left_out or given.models
    for name, (eps, key), out in ((name, run, out) for name in names for run in keys.items() for out in left_out):
        there = found.setdefault(key, {}).setdefault(name, {})
        if out in there:
            continue
        began = time.perf_counter()
        task = Task(orb.Linf(eps) if given.norm == "linf" else orb.L2(eps), given.steps, given.targeted)
        there[out] = measured(attacks[name], models, out, images.x, y, task, given.batch_size)
        with replacing(given.kept) as partial:
            partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"{key}: {name}, {out} left out, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    command = f"`{shlex.join(['python', 'benchmarks/bench_transfer.py', *sys.argv[1:]])}`"
    page = "\n".join([command, "", *table(found, names, list(keys.values()), left_out)]) + "\n"
    if given.out:
        given.out.write_text(page, encoding="utf-8")
    else:
        print(page, end="")


if __name__ == "__main__":
    main()
