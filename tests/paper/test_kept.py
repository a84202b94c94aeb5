"""What was measured before stays: the keys of cells, and files without a digest, from before there were any."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from omnirobust.attacks.presets import PAPER
from omnirobust.paper.registry import experiments
from omnirobust.paper.robustness_cells import RobustnessCell
from omnirobust.paper.training_budgets import TRAINING_BUDGETS, Effort, training_of
from omnirobust.paper.trainings import PRINTED, training_experiments
from omnirobust.study.attack_cells import Cell, MeanWeightsOf
from omnirobust.study.cell_cache import CellCache
from omnirobust.study.store import Measured, key_of
from omnirobust.zoo import build

from .conftest import load_images, make_model

KEYS = {
    "table-1a": (40, "261bbe3097e94cf27db0", "a103b124d77e09911224"),
    "table-1b": (64, "7528c923ef0d2899af5a", "335f44982b4f9f96c9bb"),
    "table-a3": (32, "3d4d32a3ad7fe6fa304c", "04d18048c0714750b6e0"),
    "table-a4": (32, "261bbe3097e94cf27db0", "1682d22041f82bbec5b1"),
    "figure-1": (6, "261bbe3097e94cf27db0", "f764baa0ad5a0a0149a7"),
    "table-a2": (8, "6d13838852882af10cf1", "e6997c51738a3d57066b"),
    "figure-2": (84, "f6f743fdef4274f6e8c6", "59c1c84a30f06b92cb82"),
    "figure-a1": (48, "261bbe3097e94cf27db0", "77fc64c7ac191080e396"),
    "table-2": (320, "7d9160aeae1cd8f24d7f", "fcbe827cbe23699a39f1"),
    "table-3": (32, "94e2e7d41cd6f8dbc49d", "0525a4f96a7e5d6262e1"),
    "table-a6": (32, "d87d9494797962554b91", "a5417915d68971b6e25b"),
    "table-a5": (32, "7d08711f6c3e71b58f7d", "5af18fc4693f48a06fc1"),
    "table-a9": (12, "4ecb0e370d58e77310c5", "65e96678f8a4264b2167"),
    "table-a10": (12, "8c57d632a27016731f37", "806dfd49556ab0b88b0e"),
}
MORE = {"table-a2": 16, "figure-2": 24}
"""How many rows came later, those of CIFAR-10; they follow the others."""

COUNTED = {
    "table-1a": "897758f1fee77c2096a4",
    "table-1b": "62b69fc206c13c60093c",
    "table-a2": "ab303093e67d2fb69a14",
    "table-a3": "30de39ea4f6f111d0eff",
    "table-a4": "be1e4a02a46b2a9bc287",
}
"""The hash of all since tables count success against true labels; before, against each model's own prediction."""

TRAININGS = {
    "smoke": (660, "2a4c740a667966ab64c4", "dc8fcffc2ba4b7e8a727"),
    "quick": (1586, "6bc1f9ebc792c5c9a055", "4cf0284c2b02b7dbdd91"),
}
"""How many keys there were when the published cells were measured, the first of them, and a hash of all."""

CARRIED = {"smoke": "bec0fbd438522486b260", "quick": "1381343b3409f7c34673"}
"""The hash of all since trainings as printed carry weights and perturbations; before, they drew them anew."""


def summed(keys: list[str]) -> tuple[int, str, str]:
    return len(keys), keys[0], hashlib.sha256("".join(keys).encode()).hexdigest()[:20]


class Told:
    """A cell_cache that knows no weights but those that a published cell may have had."""

    def fingerprint(self, name: str) -> str:
        return f"weights of {name}"

    def recall(self, cell: Cell, images: int) -> Measured:
        none = Measured.alone(torch.zeros(4, 2, dtype=torch.bool), torch.zeros(4, 2, dtype=torch.int64))
        return replace(none, weights=torch.tensor([[0.25, 0.75]]).expand(4, 2))


def key(cell: Cell) -> str:
    return key_of(cell.resolved(Told(), 4).describe(Told()))


def test_the_keys_of_attacks_are_those_of_the_published_cells():
    first = {name: e.rows[: KEYS[name][0]] for name, e in experiments().items()}
    before = {name: summed([key(by_the_first_labels(name, row.cell)) for row in rows]) for name, rows in first.items()}
    assert before == KEYS
    more = {name: len(e.rows) - KEYS[name][0] for name, e in experiments().items()}
    assert {name: count for name, count in more.items() if count} == MORE
    now = {name: summed([key(row.cell) for row in rows])[2] for name, rows in first.items()}
    assert {name: now[name] for name in COUNTED} == COUNTED
    assert all(now[name] == KEYS[name][2] for name in now.keys() - COUNTED.keys())


def by_the_first_labels(name: str, cell: Cell) -> Cell:
    """Return a cell as it was when its table counted success against each model's own prediction."""
    if name not in COUNTED or cell.labels != "released":
        return cell
    then = replace(cell, labels="true" if name == "table-a2" else "predicted")
    if not isinstance(then.rule, MeanWeightsOf):
        return then
    return replace(then, rule=MeanWeightsOf(replace(then.rule.cell, labels="predicted")))


@pytest.mark.parametrize("name", ["table-1a", "table-1b", "table-a2", "table-a3", "table-a4"])
def test_tables_count_success_against_the_true_label_of_each_image(name):
    """As the paper does, which prints accuracies; what is attacked is each model's own prediction."""
    labels = {row.variant.endswith("-true"): set() for row in experiments()[name].rows}
    for row in experiments()[name].rows:
        labels[row.variant.endswith("-true")].add(row.cell.labels)
    assert labels == ({False: {"released"}} if name == "table-a2" else {False: {"released"}, True: {"true"}})


@pytest.mark.parametrize("name", TRAININGS)
def test_the_keys_of_trainings_are_those_of_the_published_cells(name):
    now, then = list[str](), list[str]()
    for experiment in training_experiments().values():
        for training, asked in experiment.work(TRAINING_BUDGETS[name]):
            every = [training.describe(), *(cell.settings | {"n": images} for cell, images in asked)]
            now += [key_of(settings) for settings in every]
            then += [key_of(redrawn(settings)) for settings in every]
            changed = [a != b for a, b in zip(now[-len(every) :], then[-len(every) :], strict=True)]
            assert set(changed) == {training.method in PRINTED}
    assert summed(then) == TRAININGS[name]
    assert summed(now) == (*TRAININGS[name][:2], CARRIED[name])


def redrawn(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that the published cells of trainings as printed have: they are named persist="none"."""
    return json.loads(json.dumps(settings).replace("persist='all'", "persist='none'"))


def test_a_training_as_printed_that_drew_anew_is_not_passed_off_as_one_that_carries():
    training = training_of("a", "minmax_printed", 2.0, 0, Effort(epochs=2, images=64, steps=2))
    assert training.scheme.persisting == "all" and training.plan.scheme.persisting == "all"
    named = replace(training.scheme, persist="none").fingerprint()
    assert redrawn(training.describe())["scheme"] == named != training.describe()["scheme"]
    assert training_of("a", "minmax", 2.0, 0, training.effort).scheme.persisting == "none"


def weights_hash(module: str, state: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(module.encode())
    for name, value in sorted(state.items()):
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode() + value.numpy().tobytes())
    return digest.hexdigest()


def written(cells, settings, name, tensors, facts):
    """Write a chunk as it was written before there were digests."""
    hashed = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:20]
    (cells / hashed).mkdir(parents=True)
    save_file(tensors, cells / hashed / f"{name}.safetensors", metadata={"facts": json.dumps(facts)})


def test_an_attack_of_before_is_recalled(tmp_path):
    attack = {
        "rule": {"name": "ProjectedAscent", "beta": 0.02, "gamma": 3},
        "direction": {"name": "RawGradient", "decay": "constant"},
        "step_size": 0.25, "loss": "margin", "start": "normal", "keep": "last",
    }  # fmt: skip
    weights = {n: weights_hash("Counted", {"weight": make_model(n).weight.data}) for n in ("mnist/a", "mnist/b")}
    settings = {
        "models": ["mnist/a", "mnist/b"], "norm": "linf", "eps": 0.05, "labels": "predicted", "data": "mnist",
        "steps": 2, "seed": 0, "precision": "fp32", "judges": ["mnist/a", "mnist/b"], "attack": attack,
        "weights": weights,
    }  # fmt: skip
    tensors = {
        "fooled": torch.tensor([[True, False], [True, True], [False, False]]),
        "any_iterate": torch.tensor([False, True, False]),
        "weights": torch.tensor([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]]),
        "fooled_path": torch.zeros(3, 3, 2, dtype=torch.bool),
        "weights_path": torch.full((3, 3, 2), 0.5).half(),
        "labels": torch.tensor([[1, 2], [3, 4], [5, 6]]),
    }  # fmt: skip
    written(tmp_path, settings, "rows-000000-000003", tensors, {"seconds": 2.5, "torch": "2.13.0"})
    lab = CellCache(tmp_path, make_model, load_images)
    cell = Cell(("mnist/a", "mnist/b"), "linf", 0.05, PAPER["linf"], steps=2)
    found = lab.recall(cell, 3)
    assert found is not None
    assert all(torch.equal(found.tensors[name], value) for name, value in tensors.items())
    assert found.distortion.shape == (3, 0)
    assert lab.seconds(cell, 3) == 2.5
    assert lab.recall(cell, 4) is None


def test_a_training_of_before_is_recalled_and_judged_no_second_time(tmp_path):
    threats = ", ".join(
        f"ThreatModel(p={p}, eps={e}, bounds=(0.0, 1.0), mask=None)" for p, e in (("inf", 0.2), (2, 1.0))
    )
    scheme = f"Scheme(kind='minmax', threats=({threats}), steps=2, rule=None, dpar=0.0, persist='none', "
    effort = {"epochs": 2, "images": 64, "steps": 2, "precision": "fp32", "holdout": 0}
    settings = {
        "arch": "a", "opt": "minmax", "eps_l2": 1.0, "seed": 0, "effort": effort,
        "scheme": f"{scheme}adversarial_ratio=0.5)",
    }  # fmt: skip
    net = build("a", (1, 8, 8), 10)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    facts = {"history": [{"epoch": 1, "loss": 2.0, "seconds": 3.0}], "shape": [1, 8, 8], "classes": 10}
    written(tmp_path, settings, "trained", state | {"weights/": torch.full((64, 2), 0.5).half()}, facts)
    judged = {"how": "pgd", "norm": "linf", "eps": 0.2, "steps": 2, "training": settings}
    right = {"clean": torch.tensor([True, True]), "right": torch.tensor([True, False]), "l2": torch.ones(2),
             "linf": torch.full((2,), 0.2)}  # fmt: skip
    judged["model"] = weights_hash(type(net).__qualname__, state)
    written(tmp_path, judged, "rows-000000-000002", right, {"seconds": 0.5})

    lab = CellCache(tmp_path, load_images=lambda *_: pytest.fail("images were asked for"))
    training = training_of("a", "minmax", 1.0, 0, Effort(epochs=2, images=64, steps=2))
    found = lab.recall(training, 0)
    assert found is not None
    assert found.seconds == 3.0
    assert all(torch.equal(found.model.state_dict()[name], value) for name, value in state.items())
    measured = lab.measure(RobustnessCell(training, "pgd", "linf", 0.2, 2), 2)
    assert {name: value.tolist() for name, value in measured.items()} == {n: v.tolist() for n, v in right.items()}


def test_a_flipped_byte_of_a_cell_counts_as_missing(tmp_path, cell_cache):
    cell = Cell(("mnist/a",), "linf", 0.05, PAPER["linf"], steps=1)
    whole = cell_cache.measure(cell, 5)
    (file,) = tmp_path.glob("cells/*/rows-*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert cell_cache.recall(cell, 5) is None
    again = cell_cache.measure(cell, 5)
    assert all(torch.equal(again.tensors[name], value) for name, value in whole.tensors.items())


def test_other_rows_in_the_place_of_a_chunk_count_as_missing(tmp_path, cell_cache):
    cell = Cell(("mnist/a",), "linf", 0.05, PAPER["linf"], steps=1)
    cell_cache.measure(cell, 5)
    (file,) = tmp_path.glob("cells/*/rows-*.safetensors")
    file.replace(file.with_name("rows-000000-000007.safetensors"))
    assert cell_cache.recall(cell, 7) is None
