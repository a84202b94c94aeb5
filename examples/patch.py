"""Learn a square that fools classifiers of whole images wherever the camera stands, and print it.

    python examples/patch.py [--models cifar10/d] [--side 10] [--train 2000] [--test 1000] [--epochs 6] [--out patch]

The square is put on grey, so that any colour is within 0.5 of what lies under it: an linf ball of 0.5 limited to the
square by a mask. One square serves all training images, under every transformation; min-max weighs transformations
(and models) while it learns. Success is counted on test images, under fresh draws.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import omnirobust as orb
from omnirobust import data, zoo
from omnirobust.transforms import Brightness, Chain, Identity, ImageTransform, Rotate, Scale, Translate
from omnirobust.universal import UniversalPerturbation, UniversalScore, learn_universal, score_universal

GREY = 0.5
VIEWS: dict[str, ImageTransform] = {
    "as is": Identity(),
    "rotated by up to 30 degrees": Rotate((-30.0, 30.0)),
    "darker or lighter by up to 0.3": Brightness((-0.3, 0.3), bounds=(0.0, 1.0)),
    "shifted by up to 4 pixels": Translate((-4.0, 4.0)),
    "scaled by 0.6 to 1.2": Scale((0.6, 1.2)),
    "all of these": Chain(
        (Rotate((-30.0, 30.0)), Scale((0.6, 1.2)), Translate((-4.0, 4.0)), Brightness((-0.3, 0.3), bounds=(0.0, 1.0)))
    ),
}


def square(shape: tuple[int, int, int], side: int) -> Tensor:
    """Return the mask of a square in the lower right corner, one pixel off the edges, (1, H, W)."""
    mask = torch.zeros(1, *shape[1:], dtype=torch.bool)
    mask[:, -side - 1 : -1, -side - 1 : -1] = True
    return mask


def learn(
    models: Mapping[str, nn.Module], x: Tensor, y: Tensor, mask: Tensor, epochs: int, target: int | None
) -> dict[str, UniversalPerturbation]:
    """Learn the square three ways: for the images as they are, for all views on average, and for the worst view."""
    threat = orb.Linf(GREY, mask=mask)
    goal = y if target is None else torch.full_like(y, target)
    ways = {
        "no views": (None, orb.Uniform(), epochs * len(VIEWS)),
        "average of views": (VIEWS, orb.Uniform(), epochs),
        "min-max over views": (VIEWS, None, epochs),
    }
    return {
        name: learn_universal(
            models, x, goal, threat, transforms=views, over="data", rule=rule, epochs=passes, batch_size=100,
            step_size=0.05, targeted=target is not None,
        )
        for name, (views, rule, passes) in ways.items()
    }  # fmt: skip


def save_patch(found: UniversalPerturbation, mask: Tensor, file: Path, width: float = 5.0, dpi: int = 300) -> None:
    """Write the square as a PNG that prints ``width`` centimetres wide."""
    side = int(mask.any(1).sum())
    colours = (GREY + found.delta)[:, mask[0]].reshape(-1, side, side)
    pixels = round(width / 2.54 * dpi)
    _image(colours).resize((pixels, pixels), Image.Resampling.NEAREST).save(file, dpi=(dpi, dpi))


def save_sheet(models: Mapping[str, nn.Module], x: Tensor, classes: Sequence[str], file: Path) -> None:
    """Draw images under every view, one column an image, with what the first model says."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    model = next(iter(models.values()))
    figure, grid = plt.subplots(len(VIEWS), len(x), figsize=(1.25 * len(x), 1.4 * len(VIEWS)), squeeze=False)
    for row, (name, view) in zip(grid, VIEWS.items(), strict=True):
        seen = view(x, torch.Generator().manual_seed(0)).clamp(0, 1)
        with torch.no_grad():
            said = model(seen).argmax(1).tolist()
        for axis, image, label in zip(row, seen, said, strict=True):
            axis.imshow(_image(image), cmap="gray", vmin=0, vmax=255)
            axis.set_title(classes[label], fontsize=8, pad=2)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(name.replace(" by ", "\nby ").replace(" or ", "\nor "), fontsize=7)
    figure.tight_layout(pad=0.4)
    figure.savefig(file, dpi=100)
    plt.close(figure)


def _image(x: Tensor) -> Image.Image:
    array = (x.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.shape[2] == 1 else array))


def table(scores: Mapping[str, UniversalScore], kinds: int) -> list[str]:
    """Return a markdown table: one row a view, one column a way; means over models."""
    lines = ["| view | " + " | ".join(scores) + " |", "|---|" + "---|" * len(scores)]
    by_view = {name: 100 * s.success.view(len(s.y), -1, kinds).mean((0, 1)) for name, s in scores.items()}
    for i, view in enumerate(VIEWS):
        lines.append(f"| {view} | " + " | ".join(f"{v[i]:.1f}" for v in by_view.values()) + " |")
    worst = [f"{100 * s.worst_class:.1f}" for s in scores.values()]
    lines.append("| worst class, mean of views | " + " | ".join(worst) + " |")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Learn, score, print a table, and write patch.png and sheet.png."""
    given = _parser().parse_args(arguments)
    began, out = time.perf_counter(), Path(given.out)
    torch.set_num_threads(given.threads or torch.get_num_threads())
    models = {name: zoo.load(name) for name in given.models}
    name = given.models[0].split("/")[0]
    train, test = data.load(name, "train", limit=given.train), data.load(name, "test", limit=given.test)
    mask = square(train.shape, given.side)
    target = None if given.target is None else train.classes.index(given.target)
    x, shown = (images.x.masked_fill(mask, GREY) for images in (train, test))
    found = learn(models, x, train.y, mask, given.epochs, target)
    keep = slice(None) if target is None else test.y != target
    goal = test.y[keep] if target is None else torch.full_like(test.y[keep], target)
    deltas = {"grey square": torch.zeros(train.shape)} | {name: u.delta for name, u in found.items()}
    scores = {
        name: score_universal(models, shown[keep], goal, delta, transforms=VIEWS, targeted=target is not None)
        for name, delta in deltas.items()
    }
    out.mkdir(parents=True, exist_ok=True)
    best = found["min-max over views"]
    save_patch(best, mask, out / "patch.png")
    save_sheet(models, best.apply(shown[:8]), test.classes, out / "sheet.png")
    print("\n".join(table(scores, len(VIEWS))))
    for view, weight in zip(VIEWS, best.marginal("transforms").tolist(), strict=True):
        print(f"weight {weight:.2f}  {view}")
    print(f"{out / 'patch.png'}, {out / 'sheet.png'}; {time.perf_counter() - began:.0f} s")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["cifar10/d"], help="trained models of the zoo")
    parser.add_argument("--side", type=int, default=10, help="of the square, in pixels")
    parser.add_argument("--target", help="the class to be seen; by default any wrong one")
    parser.add_argument("--train", type=int, default=2000, help="training images")
    parser.add_argument("--test", type=int, default=1000, help="test images")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--out", default="patch", help="folder of the pictures")
    parser.add_argument("--threads", type=int, default=0, help="0 for torch's choice")
    return parser


if __name__ == "__main__":
    main()
