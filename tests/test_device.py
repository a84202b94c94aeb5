"""Devices by name; and every job on a stand-in for an accelerator, which refuses what a GPU would refuse.

The stand-in calls itself "meta", computes on the processor, and raises where an operation mixes its tensors with the
processor's: a tensor made without its device shows at once, as it would on a GPU.
"""

import copy
from dataclasses import fields, replace
from functools import cache

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map

import omnirobust as orb
from omnirobust import _device, zoo
from omnirobust._device import check_name, resolved
from omnirobust.attacks.store import ResultStore
from omnirobust.attacks.universal import learn_universal, score_universal, usgd
from omnirobust.domains.transforms import NAMES, named
from omnirobust.evaluation import evaluate_robustness, minimal_eps, minimal_l2, robustness_curve
from omnirobust.jobs import AttackJob, EvaluationJob, Grouping, TrainingJob, run_attack, run_evaluation, run_training
from omnirobust.paper import robustness_cells
from omnirobust.paper.registry import experiments
from omnirobust.paper.robustness_cells import RobustnessCell
from omnirobust.paper.training_budgets import Effort, training_of
from omnirobust.study.cell_cache import CellCache
from omnirobust.training import Scheme
from omnirobust.training.attackers import PrivateAttacker
from omnirobust.training.batches import Batch
from omnirobust.training.workers import Alone
from omnirobust.zoo import Recipe, data
from omnirobust.zoo.recipes import RECIPES

FAR = torch.device("meta")
NEAR = torch.device("cpu")


class Far(torch.Tensor):
    """A tensor that says it is on ``FAR``, and computes with ``near``, one on the processor."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, near):
        return torch.Tensor._make_wrapper_subclass(
            cls, near.size(), strides=near.stride(), storage_offset=near.storage_offset(), dtype=near.dtype, device=FAR
        )

    def __init__(self, near):
        self.near = near

    def tolist(self):
        return self.near.tolist()

    def __tensor_flatten__(self):
        return ["near"], None

    @staticmethod
    def __tensor_unflatten__(parts, *_):
        return Far(parts["near"])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


CROSSING = {"_to_copy", "copy_", "_local_scalar_dense", "lift_fresh"}
"""Operations that may see tensors of both devices."""


def mapped(change, value):
    """Apply ``change`` to every leaf of lists, tuples and mappings, quicker than torch's own"""
    if type(value) in (list, tuple):
        return type(value)([mapped(change, each) for each in value])
    if type(value) is dict:
        return {name: mapped(change, each) for name, each in value.items()}
    return change(value)


@cache
def aliases(func):
    """Say whether what an operation returns may share memory with what it was given."""
    return any(returned.alias_info is not None for returned in func._schema.returns)


def near(value):
    """Return the tensor behind a far one, and the near device for the far one; anything else as it is."""
    if isinstance(value, Far):
        return value.near
    return NEAR if isinstance(value, torch.device) and value == FAR else value


def compute(func, args, kwargs):
    """Run one operation of torch as a machine with two devices would."""
    name = func.overloadpacket.__name__
    tensors = []
    mapped(lambda t: tensors.append(t) if isinstance(t, torch.Tensor) else None, (args, kwargs))
    any_far = any(isinstance(t, Far) for t in tensors)
    if any_far and name not in CROSSING:
        strays = [tuple(t.shape) for t in tensors if not isinstance(t, Far) and t.ndim]
        if strays:
            raise RuntimeError(f"{func} takes tensors of two devices; on the processor: {strays}")
    out = func(*mapped(near, args), **mapped(near, kwargs))
    if name == "copy_":
        return args[0]
    device = kwargs.get("device")
    if device != FAR if device is not None else not any_far:
        return out
    wrapped = mapped(lambda t: Far(t) if isinstance(t, torch.Tensor) else t, out)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if any_far and aliases(func) else wrapped


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


class _FromNumbers(TorchFunctionMode):
    """Makes far tensors of plain numbers, which torch does out of sight of the other mode."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.Tensor.new_tensor and isinstance(args[0], Far):
            return Far(args[0].near.new_tensor(*args[1:], **kwargs))
        device = kwargs.get("device")
        if func in (torch.tensor, torch.as_tensor) and device is not None and torch.device(device) == FAR:
            return Far(func(near(args[0]), **{**kwargs, "device": NEAR}))
        return func(*args, **kwargs)


class _RandomState:
    """The far device's generator, which is in truth the processor's."""

    @staticmethod
    def get_rng_state(device):
        assert device == FAR
        return torch.get_rng_state()

    @staticmethod
    def set_rng_state(state, device):
        assert device == FAR
        torch.set_rng_state(state)


@pytest.fixture
def far(monkeypatch):
    """Have "cuda" stand for a device other than the processor."""
    plain = _device.resolved
    for module in ("jobs.setting", "jobs.evaluate", "jobs.train", "jobs.train_zoo"):
        monkeypatch.setattr(f"omnirobust.{module}.resolved", lambda name: FAR if name == "cuda" else plain(name))
    real = torch.autocast
    monkeypatch.setattr(
        torch, "autocast", lambda kind, *args, **kwargs: real(kind.replace("meta", "cpu"), *args, **kwargs)
    )
    monkeypatch.setattr(torch, "get_device_module", lambda _: _RandomState)
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda state, *args: save(tree_map(near, state), *args))
    with _FromNumbers(), _Operations():
        yield FAR


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 10)).eval()


X, Y = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6)


def moved(*models):
    return [copy.deepcopy(model).to(FAR) for model in models]


def test_the_stand_in_refuses_what_a_gpu_refuses(far):
    with pytest.raises(RuntimeError, match="two devices"):
        X.to(far) + torch.zeros(6, 1, 8, 8)
    assert (X.to(far) + 1).device == far
    assert torch.equal((X.to(far) + 1).cpu(), X + 1)
    (model,) = moved(net(0))
    assert all(p.device == far for p in model.parameters())
    with pytest.raises(RuntimeError, match="two devices"):
        model(X)


@pytest.mark.parametrize("threat", [orb.Linf(0.1), orb.L2(0.5), orb.L1(2.0), orb.L0(5)], ids=lambda t: t.name)
@pytest.mark.parametrize("preset", [None, "paper"])
def test_ensembles(far, threat, preset):
    models = [net(0), net(1)]
    settings = {"steps": 4, "restarts": 2, "preset": preset, "seed": 3, "history": "full"}
    here = orb.attack_ensemble(models, X, Y, threat, **settings)
    there = orb.attack_ensemble(moved(*models), X.to(far), Y.to(far), threat, **settings)
    assert there.delta.device == there.history.rows.weights.device == far
    assert torch.allclose(there.delta.cpu(), here.delta, atol=1e-4)
    assert torch.equal(there.fooled.cpu(), here.fooled)


@pytest.mark.parametrize("rule", [orb.WorstCase(), orb.ExponentiatedGradient(1.0, 0.1), orb.Fixed(torch.ones(2) / 2)])
def test_rules_and_what_leaves_the_batch(far, rule):
    threat = orb.ThreatModel(2, torch.full((6,), 1.0), mask=torch.ones(1, 8, 8, dtype=torch.bool))
    settings = {"steps": 6, "rule": rule, "stop_when_fooled": True, "restarts": 2, "batch_size": 6}
    there = orb.attack_ensemble(moved(net(0), net(1)), X.to(far), Y.to(far), threat, **settings)
    assert torch.equal(there.fooled.cpu(), orb.attack_ensemble([net(0), net(1)], X, Y, threat, **settings).fooled)


def test_what_a_store_held_and_what_is_new_are_joined(far, tmp_path):
    models, store = moved(net(0)), ResultStore(tmp_path)
    settings = {"steps": 3, "batch_size": 2, "store": store, "history": "full"}
    whole = orb.attack_ensemble(models, X.to(far), Y.to(far), orb.Linf(0.1), **settings)
    (tmp_path / "00001.safetensors").unlink()
    again = orb.attack_ensemble(models, X.to(far), Y.to(far), orb.Linf(0.1), **settings)
    assert again.delta.device == far
    assert torch.equal(again.delta.cpu(), whole.delta.cpu())


TRANSFORMS = ["ori", "flh", "bri:0.1", "gam:1.3", "crop:0.8", "rot:-30..30", "hue:0.1", "blur:0.5", "jpeg:70"]


def test_transformations_and_universal_perturbations(far, tmp_path):
    given = dict(named(text) for text in TRANSFORMS if text.partition(":")[0] in NAMES)
    (model,) = moved(net(0))
    here = orb.attack_transforms(net(0), X, Y, given, orb.Linf(0.2), steps=3, samples=2)
    there = orb.attack_transforms(model, X.to(far), Y.to(far), given, orb.Linf(0.2), steps=3, samples=2)
    assert torch.allclose(there.weights.cpu(), here.weights, atol=1e-3)
    shared = orb.attack_universal(model, X.view(2, 3, 1, 8, 8).to(far), Y.view(2, 3).to(far), orb.L2(1.0), steps=3)
    assert shared.delta.device == far


def test_strong_evaluation(far):
    threats = {"linf": orb.Linf(0.1), "l2": orb.L2(0.5), "l1": orb.L1(2.0)}
    here = evaluate_robustness(net(0), X, Y, threats, steps=4)
    there = evaluate_robustness(moved(net(0))[0], X.to(far), Y.to(far), threats, steps=4)
    assert torch.equal(there.to("cpu").correct, here.correct)


def test_smallest_distortions_and_curves(far):
    model, (there,) = net(0), moved(net(0))
    found = minimal_l2(there, X.to(far), Y.to(far), steps=4).distortion
    assert torch.allclose(found.cpu(), minimal_l2(model, X, Y, steps=4).distortion, rtol=1e-2)
    for norm in ("linf", "l1"):
        assert minimal_eps(there, X.to(far), Y.to(far), norm, steps=3).distortion.device == far
    curve = robustness_curve(there, X.to(far), Y.to(far), lambda e: {"linf": orb.Linf(e)}, [0.0, 0.1], steps=2)
    here = robustness_curve(model, X, Y, lambda e: {"linf": orb.Linf(e)}, [0.0, 0.1], steps=2)
    assert torch.equal(torch.as_tensor(curve.union), torch.as_tensor(here.union))


@pytest.mark.parametrize("over", ["classes", "images"])
def test_perturbations_of_a_whole_set(far, over):
    given = {
        "over": over,
        "epochs": 2,
        "batch_size": 4,
        "transforms": {"flh": named("flh")[1], "rot": named("rot:-9..9")[1]},
    }
    here = learn_universal(net(0), X, Y, orb.Linf(0.2), **given)
    there = learn_universal(moved(net(0))[0], X.to(far), Y.to(far), orb.Linf(0.2), **given)
    assert torch.allclose(there.delta.cpu(), here.delta, atol=1e-3)
    score = score_universal(moved(net(0))[0], X.to(far), Y.to(far), there.delta)
    assert score.success.shape == (6, 1)
    assert usgd(moved(net(0))[0], X.to(far), Y.to(far), orb.L2(1.0), epochs=1).delta.device == far


DOMAINS = [
    ({}, {}),
    ({"groups": Grouping(3)}, {"steps": 2}),
    ({"transforms": ("ori", "rot:-30..30"), "models": ("a",)}, {"samples": 2, "draws": 2, "steps": 1}),
    ({"labels": "predicted"}, {"preset": "paper"}),
]


@pytest.mark.parametrize(("domains", "options"), DOMAINS, ids=["ensemble", "universal", "transforms", "paper"])
def test_jobs_write_the_same_files(digits, far, tmp_path, domains, options):
    base = AttackJob("digits", ("a", "c"), orb.Linf(0.1), images=6, options={"steps": 3, "batch_size": 2, **options})
    found = [run_attack(replace(base, **domains, device=d), tmp_path / d) for d in ("cpu", "cuda")]
    assert found[0].config == found[1].config
    first, second = (f.metrics["attacks"]["min-max"] for f in found)
    assert first["accuracy"] == second["accuracy"]
    assert second["recheck"]["feasible"] == 1
    assert torch.allclose(*(f.perturbations["min-max.delta"] for f in found), atol=1e-3)


def test_evaluations_write_the_same_files(digits, far, tmp_path):
    base = EvaluationJob("digits", ("a",), {"linf:0.1": orb.Linf(0.1)}, steps=3, images=6, batch_size=4)
    found = [run_evaluation(replace(base, device=d), tmp_path / d) for d in ("cpu", "cuda")]
    assert found[0].metrics == found[1].metrics


@pytest.mark.parametrize(
    "scheme",
    [
        Scheme("minmax", (orb.Linf(0.1), orb.L2(0.5)), steps=2, dpar=0.1),
        Scheme("minmax", (orb.Linf(0.1), orb.L1(1.0)), steps=2, persist="example"),
        Scheme("minmax", (orb.Linf(0.1), orb.L2(0.5)), steps=2, preset="paper"),
        Scheme("universal", (orb.Linf(0.1),), steps=2),
    ],
    ids=["dpar", "persist", "all", "universal"],
)
def test_trainings_resume_and_are_judged(far, tmp_path, scheme):
    def job(epochs, device):
        recipe = Recipe(epochs, "adam", 1e-3, batch_size=32, holdout=16)
        return TrainingJob("digits", scheme, recipe, model="a", images=64, test_images=4, test_steps=2, device=device)

    here = run_training(job(2, "cpu"), tmp_path / "cpu")
    there = run_training(job(2, "cuda"), tmp_path / "cuda")
    for row, other in zip(here.history, there.history, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-3)


def test_what_is_carried_stays_on_the_processor(far):
    threats = (orb.Linf(0.1), orb.L2(0.5))
    (model,) = moved(net(0))
    attacker = PrivateAttacker(model, Scheme("minmax", threats, 2, persist="all"), 0, "fp32", Alone())
    batch = Batch.whole(X, Y, torch.arange(6), True).to(FAR)
    for epoch in range(2):
        assert attacker.attack(batch, epoch).points.device == FAR
    assert attacker.carried is not None
    assert attacker.carried.table.device == NEAR and attacker.carried.table.shape == (6, 2, 1, 8, 8)
    assert all(value.device == NEAR for value in attacker.carried.state().values())


def images(name, split, limit):
    found = data.load("digits", split, limit=limit)
    return replace(found, name=name)


@pytest.mark.parametrize("name", ["table-1a", "table-2", "table-3", "table-a5", "figure-1"])
def test_cells_measure_the_same(far, tmp_path, name):
    cell = next(row.cell for row in experiments()[name].rows if row.variant == "paper")
    cell = replace(cell, steps=3)
    found = [
        CellCache(tmp_path / device.type, lambda name: net(ord(name[-1])), images, device).measure(cell, 10)
        for device in (NEAR, far)
    ]
    for field in fields(found[0]):
        first, second = (getattr(f, field.name) for f in found)
        assert second.device == NEAR
        assert torch.allclose(first.float(), second.float(), atol=2e-3), field.name


@pytest.mark.parametrize("metric", ["pgd", "universal", "gradients_dpar", "strong"])
def test_trainings_of_the_paper_are_judged(far, tmp_path, monkeypatch, metric):
    monkeypatch.setattr(robustness_cells, "LEARNED_FROM", 20)
    training = training_of("a", "minmax", 1.0, 0, Effort(epochs=1, images=64, steps=2, holdout=16))
    cell = RobustnessCell(training, metric, "l2", 1.0, 2)
    cell_cache = CellCache(tmp_path, load_images=lambda name, split, _: data.load("digits", split), device=far)
    for found in cell_cache.measure(cell, 10).values():
        assert found.device == NEAR
        assert len(found) == 10


@pytest.mark.filterwarnings("ignore:.*to a meta parameter:UserWarning")  # torch does not know the stand-in
def test_the_zoo_trains_and_resumes(far, tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "digits/b", replace(RECIPES["digits/b"], holdout=1233))  # trained on two mini-batches
    card = zoo.train("digits/b", epochs=1, cache=tmp_path, device="cuda")
    again = zoo.train("digits/b", epochs=2, cache=tmp_path, device="cuda")
    assert (card.epochs, again.epochs) == (1, 2)
    assert next(zoo.load("digits/b", tmp_path).parameters()).device == NEAR
    with pytest.raises(ValueError, match="device must be"):
        zoo.train("digits/b", cache=tmp_path, device="gpu")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:", "cuda:x", "CPU", "meta", "cuda:1:2"])
def test_names_that_are_none(name):
    for take in (check_name, resolved):
        with pytest.raises(ValueError, match=f"^device must be auto, cpu, cuda, cuda:N or mps, got {name!r}$"):
            take(name)


@pytest.mark.parametrize(
    ("gpus", "name", "rank", "found"),
    [
        (0, "auto", None, "cpu"), (0, "cpu", None, "cpu"), (2, "auto", None, "cuda:0"), (2, "cuda", None, "cuda:0"),
        (2, "cuda:1", None, "cuda:1"), (2, "auto", "1", "cuda:1"), (2, "cuda", "3", "cuda:1"), (2, "cpu", "1", "cpu"),
        (2, "cuda:0", "1", "cuda:0"),
    ],
)  # fmt: skip
def test_names_that_are_there(monkeypatch, gpus, name, rank, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert resolved(name) == torch.device(found)


@pytest.mark.parametrize(("gpus", "name", "has"), [(0, "cuda", "no"), (0, "cuda:0", "no"), (1, "cuda:1", "1")])
def test_devices_that_are_not_there(monkeypatch, gpus, name, has):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(
        ValueError, match=f"^device must be one that is there, got {name}: torch finds {has} CUDA device$"
    ):
        resolved(name)
