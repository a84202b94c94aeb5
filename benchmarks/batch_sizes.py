"""Measure what the size of a batch does to an attack: success, weights and perturbations, norm by norm.

    python benchmarks/batch_sizes.py [--models mnist/a mnist/c mnist/d] [--images 60] [--sizes 16 7 1] [--out FILE]

On some processors a row of a matrix product differs in its last bit with the size of its batch, and an attack amplifies
that. Every size is compared with the whole batch: images whose success differs for any model, and the largest change of
a weight and of a pixel.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import torch

import omnirobust as orb
from omnirobust import zoo
from omnirobust.zoo import data

THREATS = {"linf": orb.Linf(0.15), "l2": orb.L2(2.0), "l1": orb.L1(12.0), "l0": orb.L0(20)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["mnist/a", "mnist/c", "mnist/d"])
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 7, 1])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    images = data.load("mnist", limit=asked.images)
    models = {name: zoo.load(name) for name in asked.models}
    rows = ["| norm | radius | batch size | images whose success differs | weights, at most | pixels, at most |"]
    rows.append("|---|---|---|---|---|---|")
    for norm, threat in THREATS.items():
        whole = orb.attack_ensemble(models, images.x, images.y, threat, steps=asked.steps)
        for size in asked.sizes:
            cut = orb.attack_ensemble(models, images.x, images.y, threat, steps=asked.steps, batch_size=size)
            differ = int((whole.fooled != cut.fooled).any(1).sum())
            weights, pixels = (
                float((a - b).abs().max()) for a, b in ((whole.weights, cut.weights), (whole.delta, cut.delta))
            )
            rows.append(f"| {norm} | {float(threat.eps):g} | {size} | {differ} | {weights:.1e} | {pixels:.1e} |")
            print(rows[-1], flush=True)
    said = f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads; {asked.images} images"
    text = "\n".join([f"{', '.join(asked.models)}, {asked.steps} steps, {said}.", "", *rows, ""])
    print(text)
    if asked.out is not None:
        asked.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
