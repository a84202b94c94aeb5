"""The page of ``bench_norms.py``, from the cells that have been measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from norms_setting import REFERENCE, SETTINGS, cost, epochs_of, read, rows
from omnirobust.study.sample import Sample


def sample(cells: Mapping[str, Any], prefix: str, what: str) -> Sample | None:
    found = {
        int(key.rpartition("/")[2]): torch.tensor([int(bit) for bit in cell[what]])
        for key, cell in sorted(cells.items())
        if key.rpartition("/")[0] == prefix and what in cell
    }
    return Sample.of(found) if found else None


def told(of: Sample | None) -> str:
    if of is None:
        return "not measured"
    interval = (100 * of).interval()
    return f"{interval.estimate:.1f} ({interval.low:.1f} to {interval.high:.1f})"


def table(name: str, ratio: float) -> list[str]:
    """Return one network's table, lines of Markdown."""
    setting, cells, lines = SETTINGS[name], read(), list[str]()
    base = sample(cells, f"{name}/{ratio:g}/{REFERENCE}", "right")
    of_first_seed = {key: cell for key, cell in cells.items() if key.endswith("/0")}  # all rows have that
    for row, scheme in rows(setting.threats, ratio).items():
        prefix = f"{name}/{ratio:g}/{row}"
        found = sample(cells, prefix, "right")
        if found is None:
            continue
        clean = [cell["clean"] for key, cell in cells.items() if key.rpartition("/")[0] == prefix]
        gap = "" if row == REFERENCE or base is None else told(found - base)
        gradients, passes = cost(scheme)
        lines.append(
            f"| {row} | {scheme.steps} | {gradients} + {passes} | {epochs_of(scheme, setting.gradients)} | "
            f"{len(found.seeds)} | {100 * sum(clean) / len(clean):.1f} | {told(found)} | {gap} | "
            f"{told(sample(of_first_seed, prefix, 'autoattack'))} |"
        )
    if not lines:
        return []
    threats = " and ".join(rows(setting.threats, ratio)["average"].names)
    alone = "attacked examples alone" if ratio == 1 else "clean and attacked examples alike"
    return [
        f"## {setting.told}, {alone}", "",
        f"{threats}; the first {setting.images:,} training images, mini-batches of {setting.batch_size}, "
        f"{setting.gradients} gradients an image, Adam at 0.001; {setting.judged} test images from number 5,000 on.",
        "",
        "| scheme | ascents | gradients + forwards an epoch | epochs | seeds | clean | union | union less carried "
        "min-max | union, AutoAttack |",
        "|---|---|---|---|---|---|---|---|---|", *lines, "",
    ]  # fmt: skip


def cost_table(name: str) -> list[str]:
    """Return the gradients after which each run of ours was first at the level that average training ended with."""
    cells, lines = read(), list[str]()
    for key in sorted(key for key in cells if key.startswith(f"cost/{name}/")):
        _, _, row, seed = key.split("/")
        average, curve = cells.get(f"{name}/0.5/average/{seed}"), cells[key]["curve"]
        if average is None:
            continue
        end = average["epochs"] * cost(rows(SETTINGS[name].threats, 0.5)["average"])[0]
        reached = [int(at) for at in sorted(curve, key=int) if curve[at] >= average["union"]]
        at = f"{reached[0]} | {reached[0] / end:.2f}" if reached else "not | "
        followed = ", ".join(f"{at}: {100 * curve[at]:.1f}" for at in sorted(curve, key=int))
        lines.append(f"| {row} | {seed} | {100 * average['union']:.1f} | {end} | {at} | {followed} |")
    head = [
        "| ours | seed | union of average training | its gradients | ours was there after | share | gradients: union |",
        "|---|---|---|---|---|---|---|",
    ]
    return [f"## Gradients to a level: {SETTINGS[name].told}", "", *head, *lines, ""] if lines else []


def page() -> str:
    """Return the whole page."""
    text = (
        "# Training against two norms, beside its rivals\n\n`python benchmarks/bench_norms.py`, then `autoattack` and "
        "`cost`, go on from what `norms.json` holds.\nUnion accuracy in %, under the strong attacks of "
        "[evaluate](../docs/robustness.md) with 20 steps a run, with 95 % intervals over\nimages and, where there are "
        "several, seeds; differences are paired over both. AutoAttack's standard version, on\n"
        "the first 200 of these, networks of seed 0; its Square fails on 24 x 24 pixels under l1.\n\n"
    )
    found = [line for name in SETTINGS for ratio in (0.5, 1.0) for line in table(name, ratio)]
    return text + "\n".join([*found, *(line for name in SETTINGS for line in cost_table(name))]).rstrip() + "\n"
