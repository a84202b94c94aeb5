"""Our evaluation beside AutoAttack's standard version, on images and networks that nothing here was chosen by.

    OMNIROBUST_DATA=... python benchmarks/against_autoattack.py --networks runs/judges --out benchmarks/autoattack.md

Two LeNets, one trained as they are and one by min-max against linf 0.2 and l2 2, with seed 1, on test images from 3000
on. Both evaluations take turns in one process, threat by threat, seed after seed; what is measured is kept beside the
networks, so that a call goes on where another ended. Needs ``omnirobust[autoattack]``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

import omnirobust as orb
from omnirobust import data
from omnirobust.evaluation import evaluate_robustness
from omnirobust.training import Scheme, fit
from omnirobust.zoo.architectures import build

FIRST, SEED = 3000, 1
THREATS = {
    "natural": {"linf 0.08": orb.Linf(0.08), "l2 1.2": orb.L2(1.2), "l1 6": orb.L1(6.0)},
    "min-max": {"linf 0.2": orb.Linf(0.2), "l2 2": orb.L2(2.0), "l1 10": orb.L1(10.0)},
}


def network(kind: str, folder: Path) -> nn.Module:
    """Return the LeNet, trained if ``folder`` has it not yet: one minute, or three."""
    file = folder / f"{kind}.pt"
    torch.manual_seed(SEED)
    model = build("c", (1, 28, 28), 10)
    if not file.exists():
        found, natural = data.load("mnist", "train"), kind == "natural"
        images, epochs = (len(found.x), 6) if natural else (12_000, 5)
        against = Scheme("natural") if natural else Scheme("minmax", (orb.Linf(0.2), orb.L2(2.0)), steps=8)
        fit(model, (found.x[:images], found.y[:images]), against, epochs=epochs, seed=SEED)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), file)
    model.load_state_dict(torch.load(file))
    return model.eval()


def measured(model: nn.Module, x: torch.Tensor, y: torch.Tensor, threat: orb.ThreatModel, seed: int) -> dict[str, Any]:
    """Return what stands under both, a flag an image, and the processor seconds of each."""
    found: dict[str, Any] = {}
    choices: dict[str, Literal["default", "autoattack"]] = {"ours": "default", "theirs": "autoattack"}
    for name, attacks in choices.items():
        begin = time.process_time()
        report = evaluate_robustness(model, x, y, {"it": threat}, attacks=attacks, seed=seed)
        found[name] = report.correct[:, 0].int().tolist()
        found[f"{name} seconds"] = time.process_time() - begin
    return found


def row(what: str, runs: list[dict[str, Any]]) -> str:
    """Return a row of the table: means over the seeds, sums of what stands under one alone, and times."""
    ours, theirs = (torch.tensor([run[name] for run in runs]) for name in ("ours", "theirs"))
    alone = int((ours & ~theirs & 1).sum()), int((theirs & ~ours & 1).sum())
    standing = f"{float(ours.sum(1).float().mean()):.1f} | {float(theirs.sum(1).float().mean()):.1f}"
    seconds = [sum(run[f"{name} seconds"] for run in runs) for name in ("ours", "theirs")]
    return f"| {what} | {len(runs)} | {standing} | {alone[0]} | {alone[1]} | {seconds[1] / seconds[0]:.1f} |"


def together(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the union of the threats of one seed: an image stands that stands under all."""
    union = {name: torch.tensor([run[name] for run in runs]).amin(0).tolist() for name in ("ours", "theirs")}
    return {**union, **{f"{n} seconds": sum(run[f"{n} seconds"] for run in runs) for n in ("ours", "theirs")}}


def page(kept: dict[str, Any], images: int) -> str:
    """Return the table of all that was measured."""
    rows = []
    for kind, threats in THREATS.items():
        seeds = [s for s, runs in kept.get(kind, {}).items() if len(runs) == len(threats)]
        if not seeds:
            continue
        rows += [row(f"{kind}: {t}", [kept[kind][s][t] for s in seeds]) for t in threats]
        rows.append(row(f"{kind}: all at once", [together(list(kept[kind][s].values())) for s in seeds]))
    return f"""# Beside AutoAttack

`python benchmarks/against_autoattack.py --images {images}`, torch {torch.__version__}. MNIST test images {FIRST} to \
{FIRST + images - 1}, LeNets of
training seed {SEED}, on which nothing was chosen. Images that stand, means over seeds of the evaluation, under ours
with 100 steps and under AutoAttack's standard version; how many stand under one alone, summed over seeds; and how many
times the processor time of ours AutoAttack took.

| network, threat | seeds | ours | AutoAttack | ours alone | AutoAttack alone | times |
|---|---|---|---|---|---|---|
""" + "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=Path, default=Path("runs/judges"), help="folder of networks and results")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    images = data.load("mnist", "test", limit=FIRST + asked.images)
    x, y = images.x[FIRST:], images.y[FIRST:]
    models = {kind: network(kind, asked.networks) for kind in THREATS}
    file = asked.networks / f"standing-{asked.images}.json"
    kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for seed in map(str, range(asked.seeds)):
        for kind, threats in THREATS.items():
            runs = kept.setdefault(kind, {}).setdefault(seed, {})
            for name, threat in threats.items():
                if name not in runs:
                    runs[name] = measured(models[kind], x, y, threat, int(seed))
                    file.write_text(json.dumps(kept), encoding="utf-8")
                    print(row(f"{kind}: {name}", [runs[name]]), flush=True)
    if asked.out is not None:
        asked.out.write_text(page(kept, asked.images) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
