"""One perturbation for five photographs that fools three models under four transformations: 60 domains at once.

    python examples/product.py [--groups 20] [--images 5] [--eps 0.06] [--steps 50] [--out product.png]

Needs CIFAR-10 (from the hub, or $OMNIROBUST_DATA) and the zoo's cifar10/a, c and d (``omnirobust zoo list``).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

import omnirobust as orb
from omnirobust import data, zoo
from omnirobust.domains.groups import make_groups
from omnirobust.transforms import named

MODELS = ("cifar10/a", "cifar10/c", "cifar10/d")
TRANSFORMS = ("ori", "flh", "crop:0.8", "rot:30")


def photographs(models: dict[str, torch.nn.Module], groups: int, size: int) -> tuple[Tensor, Tensor]:
    """Return groups of test images, put together at random, that every model gets right: (B, E, *S) and (B, E)."""
    images = data.load("cifar10", "test", limit=8 * groups * size)
    with torch.no_grad():
        right = torch.stack([model(images.x).argmax(1) == images.y for model in models.values()]).all(0)
    x, y = images.x[right], images.y[right]
    chosen = make_groups(y, size)[:groups]
    return x[chosen], y[chosen]


def draw(clean: Tensor, result: orb.AttackResult, out: Path) -> None:
    """Draw the photographs before and after, the perturbation, and what each factor weighs."""
    count = len(clean)
    figure = plt.figure(figsize=(1.6 * (count + 1), 6))
    grid = figure.add_gridspec(3, count + 1, height_ratios=(1, 1, 1.3))
    delta = result.delta[0]
    rows = [[*clean, None], [*result.adversarial[0], delta / (2 * delta.abs().max()) + 0.5]]
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            axes = figure.add_subplot(grid[i, j])
            axes.axis("off")
            if image is not None:
                axes.imshow(image.permute(1, 2, 0), interpolation="nearest")
            if i == 1 and j == count:
                axes.set_title("perturbation", fontsize=9)
    bars = grid[2, :].subgridspec(1, len(result.axes), wspace=0.35)
    for place, (axis, members) in enumerate(result.axes.items()):
        axes = figure.add_subplot(bars[place])
        axes.bar(range(len(members)), result.marginal(axis)[0])
        axes.set_xticks(range(len(members)), [m.removeprefix("image_") for m in members], fontsize=8)
        axes.set_title(f"weights of {axis}", fontsize=9)
    figure.savefig(out, dpi=110, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    """Attack by the average and by min-max, print what they reach, and draw the second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=20)
    parser.add_argument("--images", type=int, default=5, help="photographs that share a perturbation")
    parser.add_argument("--eps", type=float, default=0.06)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("product.png"))
    given = parser.parse_args()
    models = {name[-1]: zoo.load(name) for name in MODELS}
    x, y = photographs(models, given.groups, given.images)
    transforms = dict(named(text) for text in TRANSFORMS)
    results = {
        name: orb.attack_product(
            models, x, y, orb.Linf(given.eps), transforms=transforms, shared=True, steps=given.steps, rule=rule
        )
        for name, rule in (("average", orb.Uniform()), ("min-max", None))
    }
    for name, result in results.items():
        every, some = result.asr_gp, result.asr_avg
        print(f"{name}: {every:.0%} of {len(x)} groups fool all {len(result.names)} domains; {some:.1%} of all domains")
    best = results["min-max"]
    for axis, members in best.axes.items():
        mean = best.marginal(axis).mean(0).tolist()
        print(f"mean weight of {axis}: " + ", ".join(f"{m} {w:.2f}" for m, w in zip(members, mean, strict=True)))
    draw(x[0], best, given.out)
    print(f"picture of the first group: {given.out}")


if __name__ == "__main__":
    main()
