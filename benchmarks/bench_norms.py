"""Training against two norms beside other authors' ways of doing it, at equal numbers of gradients.

    python benchmarks/bench_norms.py --out benchmarks/norms.md    # train and judge what is missing, write the page
    python benchmarks/bench_norms.py autoattack                   # judge the networks by AutoAttack as well
    python benchmarks/bench_norms.py cost                         # gradients to the level of average training
    python benchmarks/bench_norms.py choose                       # settings of ours, on images that judge nothing

A gradient is a forward and a backward pass of one input through the network, in an attack or in the step on theta; each
row trains for as many epochs as fit into the same number of them. Every cell is written to ``norms.json`` beside this
file as it is found, and one that is there is not measured again. Networks are kept in ``--networks``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import omnirobust as orb
from norms_page import page
from norms_setting import SETTINGS, Setting, begun, cost, epochs_of, note, read, rows
from omnirobust.evaluation import evaluate_robustness
from omnirobust.training import Scheme, fit

FIRST = 5000
"""The first test image that judges: by those before, benchmarks/carried.py found how many ascents carried ones need."""


def bits(right: Tensor) -> str:
    return "".join("01"[int(r)] for r in right.tolist())


def judged(model: nn.Module, setting: Setting, part: tuple[Tensor, Tensor], attacks: str = "default") -> dict[str, Any]:
    """Return clean and union accuracy under strong attacks, and which images stand."""
    threats = {threat.name: threat for threat in setting.threats}
    modes = model.training
    report = evaluate_robustness(model.eval(), *part, threats, attacks=cast("Any", attacks), steps=20)
    model.train(modes)
    by_norm = {name: round(rate, 4) for name, rate in report.accuracy.items()}
    right = bits(report.correct.all(1))
    return {"clean": round(report.clean, 4), "union": round(report.union, 4), "by_norm": by_norm, "right": right}


def measure(networks: Path, names: Sequence[str], seeds: range, ratio: float, schemes: Sequence[str] = ()) -> None:
    """Train and judge every cell that is missing, or those of some schemes, a seed at a time."""
    for name in names:
        setting = SETTINGS[name]
        for seed in seeds:
            for row, scheme in rows(setting.threats, ratio).items():
                key = f"{name}/{ratio:g}/{row}/{seed}"
                if read().get(key, {}).get("first") == FIRST or (schemes and row not in schemes):
                    continue
                file = networks / f"{key.replace('/', '_')}.pt"
                if not file.exists():
                    note(key, trained(setting, scheme, seed, file))
                note(key, judged(kept(setting, seed, file), setting, unseen(setting)) | {"first": FIRST})


def trained(setting: Setting, scheme: Scheme, seed: int, file: Path) -> dict[str, int]:
    """Train a network, keep it, and return what it took."""
    model, epochs = begun(setting, seed), epochs_of(scheme, setting.gradients)
    begin, train = time.process_time(), setting.part("train", 0, setting.images)
    fit(model, train, scheme, epochs=epochs, seed=seed, batch_size=setting.batch_size)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), file)
    return {"epochs": epochs, "cpu_seconds": round(time.process_time() - begin)}


def kept(setting: Setting, seed: int, file: Path) -> nn.Module:
    model = begun(setting, seed)
    model.load_state_dict(torch.load(file, weights_only=True))
    return model


def unseen(setting: Setting, images: int | None = None) -> tuple[Tensor, Tensor]:
    return setting.part("test", FIRST, setting.judged if images is None else images)


def by_autoattack(
    networks: Path, names: Sequence[str], seeds: range, ratio: float, images: int, schemes: Sequence[str] = ()
) -> None:
    """Judge networks by AutoAttack on the first test images; those that are not kept are trained and judged anew."""
    for name in names:
        setting = SETTINGS[name]
        if setting.side == 24:  # which AutoAttack's Square cannot take under l1
            continue
        for seed in seeds:
            for row, scheme in rows(setting.threats, ratio).items():
                key = f"{name}/{ratio:g}/{row}/{seed}"
                file = networks / f"{key.replace('/', '_')}.pt"
                if "autoattack" in read().get(key, {}) or (schemes and row not in schemes):
                    continue
                if not file.exists():  # then of the network that both have judged
                    note(key, trained(setting, scheme, seed, file))
                    note(key, judged(kept(setting, seed, file), setting, unseen(setting)) | {"first": FIRST})
                found = judged(kept(setting, seed, file), setting, unseen(setting, images), "autoattack")
                note(key, {"autoattack": found["right"], "autoattack_union": found["union"]})


LEVELLERS = {"min-max, 2 carried": ("minmax", 2), "min-max, 3 carried": ("minmax", 3), "max, 2 carried": ("worst", 2)}
"""Ours, as the tables call them: kinds, and ascents a mini-batch. The last was found on training images that nothing is
trained on, with seeds 10 and 11."""

MARKS = (21, 28, 35, 45, 60, 80, 101)
"""Gradients an image after which the cost to a level is looked at."""


def cost_to_level(names: Sequence[str], seeds: range, most: int) -> None:
    """Follow ours over the gradients that each image has cost, up to ``most``; average training is among the cells."""
    for name in names:
        setting = SETTINGS[name]
        for seed in seeds:
            for row, (kind, R) in LEVELLERS.items():
                scheme = Scheme(cast("Any", kind), setting.threats, R, persist="all")
                if (key := f"cost/{name}/{row}/{seed}") not in read():
                    marks = [mark for mark in MARKS if mark <= most]
                    note(key, {"curve": followed(setting, scheme, seed, unseen(setting), marks)})


def followed(
    setting: Setting, scheme: Scheme, seed: int, part: tuple[Tensor, Tensor], marks: Sequence[int]
) -> dict[str, float]:
    """Return the union accuracy at the last ends of epochs that are not beyond the marks."""
    each, model, curve = cost(scheme)[0], begun(setting, seed), dict[str, float]()
    looks = {max(1, mark // each) for mark in marks}

    def look(epoch: int, last: int, row: Mapping[str, float]) -> None:
        if epoch in looks:
            curve[str(epoch * each)] = judged(model, setting, part)["union"]

    train = setting.part("train", 0, setting.images)
    fit(model, train, scheme, epochs=max(looks), seed=seed, batch_size=setting.batch_size, progress=look)
    return curve


CHOICES: dict[str, Callable[[Sequence[orb.ThreatModel]], Scheme]] = {
    f"{kind}, {R} carried": lambda threats, kind=kind, R=R: Scheme(cast("Any", kind), tuple(threats), R, persist="all")
    for kind in ("minmax", "worst", "average")
    for R in (2, 3, 5)
}
CHOICES |= {
    f"minmax, 3 carried, {name}": lambda threats, rule=rule: Scheme(
        "minmax", tuple(threats), 3, rule=rule, persist="all"
    )
    for name, rule in {
        "beta 0.1, gamma 1": orb.ProjectedAscent(0.1, 1.0),
        "beta 0.5, gamma 0.5": orb.ProjectedAscent(0.5, 0.5),
    }.items()
}


def choose(name: str, seeds: range, ratio: float) -> None:
    """Judge settings of ours on training images that nothing is trained on.

    And with them the mean of the parameters over about the last hundred steps.
    """
    setting = SETTINGS[name]
    for seed in seeds:
        for row, made in CHOICES.items():
            scheme = replace(made(setting.threats), adversarial_ratio=ratio)
            if (key := f"choose/{name}/{ratio:g}/{row}/{seed}") in read():
                continue
            model, epochs = begun(setting, seed), epochs_of(scheme, setting.gradients)
            train, held_out = setting.part("train", 0, setting.images), setting.part("train", 50000, setting.judged)
            mean = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))

            def follow(*_: object, mean: AveragedModel = mean, model: nn.Module = model) -> None:
                mean.update_parameters(model)

            fit(
                model, train, scheme, epochs=epochs, seed=seed, batch_size=setting.batch_size, on_batch=follow
            )  # fmt: skip
            averaged = judged(mean.module, setting, held_out)["union"]
            note(key, judged(model, setting, held_out) | {"epochs": epochs, "averaged": averaged})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="all", choices=("all", "autoattack", "cost", "choose", "page"))
    parser.add_argument("--only", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--schemes", nargs="+", default=[], help="rows of the tables; all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--ratio", type=float, default=0.5, help="share of attacked examples in the loss")
    parser.add_argument("--images", type=int, default=200, help="of autoattack")
    parser.add_argument("--most", type=int, default=MARKS[-1], help="gradients up to which cost follows a training")
    parser.add_argument("--networks", type=Path, default=Path("runs/norms"))
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    given = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    if given.what == "all":
        measure(given.networks, given.only, seeds, given.ratio, given.schemes)
    elif given.what == "autoattack":
        by_autoattack(given.networks, given.only, seeds, given.ratio, given.images, given.schemes)
    elif given.what == "cost":
        cost_to_level(given.only, seeds, given.most)
    elif given.what == "choose":
        choose(given.only[0], seeds, given.ratio)
    if given.out is None:
        print(page())
    else:
        given.out.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
