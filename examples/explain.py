"""Ask what the weights of attacks on MNIST say: of images that share a perturbation, of models and of transformations.

    python examples/explain.py [--images 600] [--groups 50] [--model mnist/c] [--out explain]

Groups of five images of one digit share a perturbation, in each of the four norms; the weights of their images are held
against how hard each image is by itself, as Tables A9 and A10 of the paper do. Then the same for the models A to D, and
for transformations. Tables are printed; the pictures go to the folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from omnirobust.report.weights import as_svg, group_picture, marginal_picture
from torch import Tensor, nn

import omnirobust as orb
from omnirobust import data, zoo
from omnirobust.domains.groups import make_groups
from omnirobust.evaluation import Explanation, Interval, explain, minimal_l2, minimal_linf
from omnirobust.transforms import PAPER_DETERMINISTIC

EPS = {"l0": orb.L0(30), "l1": orb.L1(20), "l2": orb.L2(3.0), "linf": orb.Linf(0.2)}
ORDER = ("c", "d", "a", "b")


def of_images(model: nn.Module, x: Tensor, y: Tensor, groups: Tensor, out: Path) -> None:
    """Hold the weights of the images of each group against the smallest distortion of every image."""
    images, labels = x[groups], y[groups]
    alone = {
        "dist (C&W l2)": minimal_l2(model, x[groups.flatten()], y[groups.flatten()]),
        "eps_min (linf)": minimal_linf(model, x[groups.flatten()], y[groups.flatten()]),
    }
    facts = {name: found.distortion.view(groups.shape) for name, found in alone.items()}
    for preset in ("paper", None):
        results = {
            norm: orb.attack_universal(model, images, labels, threat, preset=preset, clip="intersection", steps=20)
            for norm, threat in EPS.items()
        }
        print(f"\n## Images of a group, {preset or 'default'} settings, {len(groups)} groups\n")
        print("| norm | measure | rho within groups | rho pooled | heaviest is hardest, % | verdict |")
        print("|---|---|---|---|---|---|")
        for norm, result in results.items():
            others = {f"weights under {n}": r.weights for n, r in results.items() if n != norm}
            _table(norm, explain(result, facts | others))
        if preset == "paper":
            first = slice(0, 10)
            weights = {norm: result.weights[first] for norm, result in results.items()}
            titles = [f"digit {int(digit)}" for digit in labels[first, 0]]
            picture = group_picture(images[first], weights, {k: v[first] for k, v in facts.items()}, titles=titles)
            svg = as_svg(picture, "Ten groups of digits with the weights of their images")
            (out / "groups.svg").write_text(svg, encoding="utf-8")


def of_models(models: Mapping[str, nn.Module], x: Tensor, y: Tensor, out: Path) -> None:
    """Hold the weights of models against the order in the paper, and against attacks on each alone."""
    distances = torch.stack([minimal_linf(model, x, y).distortion for model in models.values()], 1)
    for preset in ("paper", None):
        result = orb.attack_ensemble(models, x, y, EPS["linf"], preset=preset)
        told = explain(result, {"eps_min (linf)": distances})
        print(f"\n## Models, {preset or 'default'} settings, {len(x)} images\n")
        print("\n".join([*told.sentences, str(told.order_holds(ORDER))]))
        if preset is None:
            picture = as_svg(marginal_picture(result.axes, result.weights), "Weights of the models A to D")
            (out / "models.svg").write_text(picture, encoding="utf-8")


def of_transforms(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Hold the weights of transformations against the smallest distortion that fools the model behind each."""
    views = [nn.Sequential(Transformed(t), model).eval() for t in PAPER_DETERMINISTIC.values()]
    distances = torch.stack([minimal_linf(view, x, y).distortion for view in views], 1)
    clean = orb.attack_transforms(model, x, y, PAPER_DETERMINISTIC, orb.Linf(0.0), steps=0)
    print(f"\n## Transformations, {len(x)} images\n")
    print(
        "Accuracy before any attack:",
        ", ".join(f"{n} {a:.3f}" for n, a in zip(clean.names, clean.accuracy, strict=True)),
    )
    for preset in ("paper", None):
        result = orb.attack_transforms(model, x, y, PAPER_DETERMINISTIC, EPS["linf"], preset=preset)
        print(f"\n{preset or 'default'} settings:\n")
        print("\n".join(explain(result, {"eps_min (linf)": distances}).sentences))


class Transformed(nn.Module):
    """A transformation as the first layer of a model."""

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, images: Tensor) -> Tensor:
        """Return the transformed images."""
        return self.transform(images)


def _table(norm: str, told: Explanation) -> None:
    for name, c in told.correlations.items():
        hardest = f"{100 * c.hardest.estimate:.0f} (chance {100 * c.chance:.0f})"
        print(f"| {norm} | {name} | {_interval(c.within)} | {_interval(c.pooled)} | {hardest} | {c.verdict} |")


def _interval(i: Interval) -> str:
    return f"{i.estimate:.2f} ({i.low:.2f} to {i.high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description="What the weights of attacks on MNIST say.")
    parser.add_argument("--images", type=int, default=600, help="test images, from the first")
    parser.add_argument("--groups", type=int, default=50, help="groups of five images of one digit")
    parser.add_argument("--model", default="mnist/c", help="whose weights of images and transformations are looked at")
    parser.add_argument("--out", type=Path, default=Path("explain"), help="folder of the pictures")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    digits = data.load("mnist", limit=args.images)
    model = zoo.load(args.model)
    with torch.no_grad():
        right = model.eval()(digits.x).argmax(1) == digits.y
    x, y = digits.x[right], digits.y[right]
    of_images(model, x, y, make_groups(y, 5, "class")[: args.groups], args.out)
    of_models({name: zoo.load(f"mnist/{name}") for name in "abcd"}, x[:200], y[:200], args.out)
    of_transforms(model, x[:200], y[:200])


if __name__ == "__main__":
    main()
