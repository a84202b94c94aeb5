"""AttackBench's protocol: ``minimal_eps`` beside attacks of adv-lib and foolbox, at most 2,000 propagations an image.

    pip install torch==2.13.0 attackbenchlib==2.0.2 foolbox==3.3.4 'setuptools<81' wheel
    pip install --no-build-isolation visdom && pip install adv-lib==0.2.8    # in an environment of their own
    OMP_NUM_THREADS=1 python benchmarks/against_attackbench.py run [--images 100] [--models mnist/c cifar10/d]
    python benchmarks/against_attackbench.py page --out benchmarks/attackbench.md

Models are wrapped, propagations counted and distances kept by ``attackbench.run_attack``; optimality is what its
``compute_local_optimality`` and ``create_attack_leaderboard`` say. Each attack is run on images in parts of 20, and
what is found of a part is written to ``attackbench.json`` beside this file; a part that is there is not attacked again.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import statistics
import warnings
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from omnirobust import zoo
from omnirobust._files import replacing
from omnirobust.core.arguments import Norm
from omnirobust.evaluation import minimal_eps
from omnirobust.zoo import data

FILE = Path(__file__).with_name("attackbench.json")
PART = 20
BUDGET = 2000
NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
KEPT = ("correct", "num_forwards", "num_backwards", "times", "box_failures", "batch_failures")

PEERS: dict[str, tuple[str, ...]] = {
    "linf": ("adv_lib/fmn", "adv_lib/fab", "foolbox/bim_minimal", "adv_lib/apgd_minimal", "foolbox/fmn"),
    "l2": ("adv_lib/alma", "adv_lib/ddn_NQ", "foolbox/ddn", "adv_lib/pdgd", "adv_lib/fab"),
    "l1": ("adv_lib/fab", "foolbox/fmn", "adv_lib/fmn", "adv_lib/alma", "adv_lib/pdpgd"),
}
"""The five best a norm of nine attacks, by local optimality on other images: the page says how they were chosen."""

OURS = {"omnirobust, 50 steps": 50, "omnirobust, 600 steps": 600}
"""The default, and the steps whose 1.6 gradients each, of two propagations, come nearest to the budget."""

_SETTINGS: dict[str, dict[str, Any]] = {"l1": {"use_large_reps": True}}
"""What a family's settings say of a norm in a remark only."""


_REGISTERED: list[torch.library.Library] = []
"""Names of operators live as long as this."""


@cache
def attackbench() -> Any:
    """Import the package, beside torch's CPU wheel too: the registry's torchvision has no operators there."""
    if "+cpu" in torch.__version__ and "+cpu" not in version("torchvision"):
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):  # nobody calls them; without their names torchvision cannot be imported
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _REGISTERED.append(library)
    return importlib.import_module("attackbench")


class Counting(nn.Module):
    """AttackBench's wrapper of a model, with counts that outlive a call.

    It counts in place in tensors that lie beside its modules, and those ``minimal_eps`` puts back after each call, as
    everything that a model changes in itself. So what is written to is a copy each time.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Answer, and count."""
        bench = self.model
        bench.num_forwards, bench.num_backwards = bench.num_forwards.clone(), bench.num_backwards.clone()
        bench.min_dist = {name: values.clone() for name, values in bench.min_dist.items()}
        return bench(x)


def ours(model: nn.Module, inputs: Tensor, labels: Tensor, norm: Norm, *, steps: int) -> Tensor:
    """Return what ``minimal_eps`` finds, as AttackBench calls an attack."""
    found = minimal_eps({"model": Counting(model)}, inputs, labels, norm, steps=steps)
    return (inputs + found.delta).clamp(0, 1)


def peer(name: str, norm: Norm) -> Callable[..., Tensor]:
    """Build an attack from AttackBench's own settings of it, those for the norm if there are any.

    Its registry does the same for the norms that settings name themselves, and cannot be imported without ART and
    CleverHans.
    """
    library, attack = name.split("/")
    configs = importlib.import_module(f"{attackbench().__name__}.attacks.{library}.configs")
    begin = f"{configs._prefix}_{attack}"
    settings = getattr(configs, f"{begin}_{norm}", None) or getattr(configs, begin)
    make = getattr(configs, f"get_{begin}")
    known = inspect.signature(make).parameters
    given = {**settings(), **_SETTINGS.get(norm, {}), "threat_model": norm}
    return partial(configs._wrapper, attack=make(**{key: value for key, value in given.items() if key in known}))


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def note(file: Path, key: str, found: Mapping[str, Any]) -> None:
    """Write what was found of one part, a line for each."""
    lines = [f"{json.dumps(name)}: {json.dumps(cell)}" for name, cell in sorted((read(file) | {key: found}).items())]
    with replacing(file) as written:
        written.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def measured(model: nn.Module, x: Tensor, y: Tensor, attack: Callable[..., Tensor], norm: Norm) -> dict[str, Any]:
    """Run one attack on one part by the protocol."""
    loader = DataLoader(TensorDataset(x, y), batch_size=len(x))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Out of query budget|Values of produced adversarials")
        found = attackbench().run_attack(
            model, loader, attack, norm, device=torch.device("cpu"), query_budget=BUDGET, seed=0
        )
    return {
        **{name: found[name] for name in KEPT},
        "distances": found["distances"][norm],
        "final": found["final_distances"][norm],
    }


def run(
    models: list[str], norms: list[Norm], images: int, first: int, attacks: list[str] | None, file: Path = FILE
) -> None:
    """Attack what ``file`` does not hold yet."""
    torch.set_num_threads(1)
    for name in models:
        model = cast(nn.Module, zoo.load_model(name)).eval().requires_grad_(False)
        found = data.load(name.split("/")[0], "test", start=first, limit=images)
        for norm in norms:
            for attack in attacks or (*OURS, *PEERS[norm]):
                for begin in range(0, images, PART):
                    rows = slice(begin, min(begin + PART, images))
                    key = f"{name}/{norm}/{attack}/{first + begin}-{first + rows.stop - 1}"
                    if key in read(file):
                        continue
                    made = partial(ours, steps=OURS[attack]) if attack in OURS else peer(attack, norm)
                    part = measured(model, found.x[rows], found.y[rows], made, norm)
                    note(file, key, part)
                    print(key, f"{sum(part['times']):.1f} s", flush=True)


def joined(cells: Mapping[str, Any]) -> dict[tuple[str, Norm], dict[str, dict[str, Any]]]:
    """Put the parts of every attack together, as ``run_attack`` would give them; (model, norm) to attack to results.

    Of each model and norm those images count that every attack there has seen.
    """
    parts: dict[tuple[str, Norm], dict[str, dict[str, Any]]] = {}
    for key, cell in cells.items():
        data_name, letter, norm, *attack, rows = key.split("/")
        parts.setdefault((f"{data_name}/{letter}", cast(Norm, norm)), {}).setdefault("/".join(attack), {})[rows] = cell
    whole: dict[tuple[str, Norm], dict[str, dict[str, Any]]] = {}
    for (model, norm), of_attack in parts.items():
        common = sorted(set.intersection(*(set(rows) for rows in of_attack.values())), key=_first)
        for attack, rows in of_attack.items():
            chosen = [rows[row] for row in common]
            flat: dict[str, Any] = {
                name: [value for cell in chosen for value in cell[name]] for name in (*KEPT, "distances", "final")
            }
            flat["distances"] = {norm: flat["distances"]}
            flat["metadata"] = {"threat_model": norm, "model_name": model}
            whole.setdefault((model, norm), {})[attack] = flat
    return whole


def _first(rows: str) -> int:
    return int(rows.split("-")[0])


def page(cells: Mapping[str, Any]) -> str:
    """Return the tables: of every model and norm, and over models."""
    told, bench, whole = list[str](), attackbench(), joined(cells)
    for (model, norm), of_attack in whole.items():
        count, results = len(next(iter(of_attack.values()))["correct"]), list(of_attack.values())
        told += [f"## {model}, {norm}, {count} images", "", _HEAD, "|---|---|---|---|---|---|---|"]
        scores = {
            attack: bench.compute_local_optimality(result, results, norm, use_wandb=False)["optimality"]
            for attack, result in of_attack.items()
        }
        for attack in sorted(scores, key=lambda name: -scores[name]):
            told.append(_row(attack, scores[attack], of_attack[attack], norm))
        told.append("")
    for norm in dict.fromkeys(norm for _, norm in whole):
        by_attack: dict[str, dict[str, Any]] = {}
        for (model, other), of_attack in whole.items():
            for attack, result in of_attack.items() if other == norm else ():
                by_attack.setdefault(attack, {})[model] = result
        leaders = bench.create_attack_leaderboard(by_attack, norm)
        names = ", ".join(leaders["models"])
        told += [f"## Over models, {norm}: {names}", "", "| attack | global optimality |", "|---|---|"]
        told += [f"| {attack} | {score:.4f} |" for attack, score in leaders["leaderboard"]] + [""]
    return "\n".join(told)


_HEAD = "| attack | local optimality | fooled | median d* | forwards | backwards | seconds |"


def _row(attack: str, score: float, result: Mapping[str, Any], norm: Norm) -> str:
    right = [i for i, ok in enumerate(result["correct"]) if ok]
    sizes = [result["distances"][norm][i] for i in right]
    fooled = sum(size < float("inf") for size in sizes)
    means = [statistics.mean(result[name][i] for i in right) for name in ("num_forwards", "num_backwards")]
    failed = f" ({sum(result['batch_failures'])} parts failed)" if any(result["batch_failures"]) else ""
    return (
        f"| {attack}{failed} | {score:.4f} | {fooled} of {len(right)} | {statistics.median(sizes):.4f} "
        f"| {means[0]:.0f} | {means[1]:.0f} | {sum(result['times']):.1f} |"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=["run", "page"])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--first", type=int, default=3000)
    parser.add_argument("--models", nargs="+", default=["mnist/c", "cifar10/d"])
    parser.add_argument("--norms", nargs="+", choices=NORMS, default=list(NORMS))
    parser.add_argument("--attacks", nargs="+", help="LIBRARY/NAME of AttackBench's settings, or one of ours")
    parser.add_argument("--file", type=Path, default=FILE, help="where results are kept")
    parser.add_argument("--out", type=Path, help="a page whose tables are replaced; else they are printed")
    asked = parser.parse_args()
    if asked.work == "run":
        run(asked.models, asked.norms, asked.images, asked.first, asked.attacks, asked.file)
    elif asked.out is None:
        print(page(read(asked.file)))
    else:
        above = asked.out.read_text(encoding="utf-8").split("\n## ")[0] if asked.out.exists() else "# AttackBench\n"
        with replacing(asked.out) as file:
            file.write_text(f"{above.rstrip()}\n\n{page(read(asked.file)).rstrip()}\n", encoding="utf-8")
