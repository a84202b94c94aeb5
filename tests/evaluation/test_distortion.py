from __future__ import annotations

import math
import os

import cvxpy
import numpy as np
import pytest
import torch
from torch import nn

from omnirobust import zoo
from omnirobust.evaluation import minimal_eps, minimal_l2, minimal_linf
from omnirobust.zoo import data

ORDER = {"l0": 0, "l1": 1, "l2": 2, "linf": math.inf}
SEARCHES = {
    "l2 by C&W": (minimal_l2, 2),
    "linf": (minimal_linf, math.inf),
    "l2": (lambda *a, **k: minimal_eps(*a, "l2", **k), 2),
    "l1": (lambda *a, **k: minimal_eps(*a, "l1", **k), 1),
}


class Linear(nn.Module):
    """Two classes, logits (w . x + b, 0)."""

    def __init__(self, size: int = 6, seed: int = 0, scale: float = 1.0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(scale * torch.randn(size, generator=g, dtype=torch.float64))
        self.b = nn.Parameter(scale * torch.randn((), generator=g, dtype=torch.float64))

    def forward(self, x):
        value = x.flatten(1) @ self.w + self.b
        return torch.stack([value, torch.zeros_like(value)], 1)


def problem(rows: int = 8, seed: int = 1, scale: float = 1.0):
    """Return a linear model, inputs in [0, 1] of which some touch the ends, and the labels the model gives."""
    model = Linear(scale=scale)
    g = torch.Generator().manual_seed(seed)
    x = (torch.rand(rows, 6, generator=g, dtype=torch.float64) * 1.3 - 0.15).clamp(0, 1)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def sizes(delta, p):
    flat = delta.flatten(1)
    return (flat != 0).sum(1).to(flat) if p == 0 else torch.linalg.vector_norm(flat, p, dim=1)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_linear_model_far_from_the_ends_of_the_range_has_a_closed_form(name):
    search, p = SEARCHES[name]
    model, x, y = problem()
    found = search(model, x, y, bounds=(-50.0, 50.0))
    dual = {1: math.inf, 2: 2, math.inf: 1}[p]
    with torch.no_grad():
        exact = model(x)[:, 0].abs() / torch.linalg.vector_norm(model.w, dual)
    assert found.found.all()
    assert (found.distortion >= exact * (1 - 1e-9)).all()
    torch.testing.assert_close(found.distortion, exact, rtol=0.012, atol=0)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_linear_model_in_the_box_agrees_with_a_convex_solver(name):
    search, p = SEARCHES[name]
    model, x, y = problem(seed=3)
    found = search(model, x, y)
    w, b = model.w.detach().numpy(), float(model.b.detach())
    active = 0
    for i, row in enumerate(x.numpy()):
        delta, sign = cvxpy.Variable(6), 1 if int(y[i]) == 0 else -1
        ask = cvxpy.Problem(
            cvxpy.Minimize(cvxpy.norm(delta, p)),
            [sign * (w @ (row + delta) + b) <= 0, row + delta >= 0, row + delta <= 1],
        )
        exact = ask.solve()
        if not np.isfinite(exact):
            assert not found.found[i] and found.distortion[i] == math.inf
            continue
        there = row + delta.value
        active += int((np.minimum(there, 1 - there) < 1e-5).any())
        assert exact * (1 - 1e-5) <= float(found.distortion[i]) <= exact * 1.02
    assert active >= 3  # the box binds


def test_l0_of_a_linear_model_is_what_the_greedy_choice_needs():
    model, x, y = problem(rows=20, seed=5)
    found = minimal_eps(model, x, y, "l0")
    w = model.w.detach()
    for i, row in enumerate(x):
        sign = 1.0 if int(y[i]) == 0 else -1.0
        gains = torch.where(sign * w > 0, sign * w * row, -sign * w * (1 - row)).sort(descending=True).values
        value = sign * (row @ w + model.b.detach())
        needed = [n for n in range(1, 7) if gains[:n].sum() > value]
        assert found.distortion[i] == (needed[0] if needed else math.inf)


@pytest.fixture(scope="module")
def trained(digits_cache):
    """A small network and the digits that it gets right."""
    model = zoo.load("digits/c", digits_cache).eval()
    digits = data.load("digits", split="test", limit=60)
    with torch.no_grad():
        right = model(digits.x).argmax(1) == digits.y
    return model, digits.x[right][:20], digits.y[right][:20]


def _peer(attack, model, x, y):
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # it asks for git, which it does not need here
    import foolbox

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    _, adversarial, success = getattr(foolbox.attacks, attack)(steps=300)(wrapped, x, y, epsilons=None)
    return success, adversarial - x


@pytest.mark.parametrize(
    ("ours", "attack", "p"),
    [
        ("l2 by C&W", "DDNAttack", 2),
        ("l2", "DDNAttack", 2),
        ("linf", "LInfFMNAttack", math.inf),
        ("l1", "L1FMNAttack", 1),
    ],
)
def test_a_peers_attacks_for_the_smallest_norm_find_nothing_much_smaller(trained, ours, attack, p):
    model, x, y = trained
    success, delta = _peer(attack, model, x, y)
    theirs = torch.where(success, sizes(delta, p), math.inf)
    found = SEARCHES[ours][0](model, x, y)
    ratio = found.distortion / theirs
    assert found.found.all()
    assert float(ratio.median()) < 1.02
    assert float(ratio.max()) < 1.6  # another class may be nearer than the one that the search went for


def test_l0_needs_no_more_coordinates_than_a_peer(trained):
    model, x, y = trained
    success, delta = _peer("L0FMNAttack", model, x, y)
    found = minimal_eps(model, x, y, "l0")
    assert success.all()
    assert found.distortion.mean() <= sizes(delta, 0).mean()


@pytest.mark.parametrize("name", SEARCHES)
def test_the_perturbation_attains_what_is_reported_and_a_shorter_one_does_not(trained, name):
    search, p = SEARCHES[name]
    model, x, y = trained
    found = search(model, x, y, steps=20)
    with torch.no_grad():
        assert (model(x + found.delta).argmax(1) != y).all()
        assert (model(x + found.delta * (1 - 2**-9)).argmax(1) == y).float().mean() > 0.9
    torch.testing.assert_close(found.distortion, sizes(found.delta, p).to(found.distortion), rtol=1e-5, atol=1e-6)
    assert float((x + found.delta).min()) >= -1e-6
    assert float((x + found.delta).max()) <= 1 + 1e-6


@pytest.mark.parametrize("search", [minimal_l2, minimal_linf])
def test_what_is_wrong_already_needs_nothing(trained, search):
    model, x, y = trained
    wrong = y.clone()
    wrong[::2] = (y[::2] + 1) % 10
    found = search(model, x[:6], wrong[:6], steps=20)
    assert found.distortion[::2].tolist() == [0, 0, 0]
    assert not found.delta[::2].any()
    assert found.found.all() and (found.distortion[1::2] > 0).all()


class OneWay(nn.Module):
    """Says class 0, whatever it sees, through a gradient that is zero only where the first value is."""

    def forward(self, x):
        first = x.flatten(1)[:, 0] ** 2
        return torch.stack([first + 3, first / 2], 1)


@pytest.mark.parametrize("search", [minimal_l2, minimal_linf, lambda *a, **k: minimal_eps(*a, "l0", **k)])
@pytest.mark.parametrize("batch_size", [None, 1])
def test_where_nothing_fools_the_distortion_is_infinite(search, batch_size):
    x = torch.tensor([[0.3, 0.2], [0.0, 0.5], [1.0, 0.7]])  # no gradient at the second
    found = search(OneWay(), x, torch.zeros(3, dtype=torch.int64), steps=3, batch_size=batch_size)
    assert found.distortion.tolist() == [math.inf] * 3
    assert not found.found.any() and not found.delta.any()


@pytest.mark.processors
@pytest.mark.parametrize("name", SEARCHES)
def test_an_input_does_not_see_its_batch_mates(trained, name, rounding):
    search, _ = SEARCHES[name]
    model, x, y = trained
    model, x = model.double(), x[:7].double()
    try:
        rounded = rounding(model)
        whole = search(rounded, x, y[:7], steps=10)
        cut = search(rounded, x, y[:7], steps=10, batch_size=3)
        alone = search(rounded, x[4:5], y[4:5], steps=10)
    finally:
        model.float()
    torch.testing.assert_close(cut.distortion, whole.distortion)
    torch.testing.assert_close(alone.distortion, whole.distortion[4:5])
    torch.testing.assert_close(alone.delta, whole.delta[4:5])


@pytest.mark.parametrize("name", ["l2 by C&W", "linf"])
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_the_scale_of_the_logits_does_not_matter(name, scale):
    search, _ = SEARCHES[name]
    _, x, y = problem()
    base = search(Linear(), x, y)
    scaled = search(Linear(scale=scale), x, y)
    torch.testing.assert_close(scaled.distortion, base.distortion, rtol=0.01, atol=0)


@pytest.mark.parametrize("search", [minimal_l2, minimal_linf])
def test_targeted_ends_in_the_class_that_was_asked_for_and_costs_no_less(trained, search):
    model, x, y = trained
    goal = (y + 3) % 10
    aimed = search(model, x[:5], goal[:5], targeted=True)
    free = search(model, x[:5], y[:5])
    with torch.no_grad():
        assert (model(x[:5] + aimed.delta).argmax(1) == goal[:5])[aimed.found].all()
    assert aimed.found.float().mean() > 0.8
    assert (aimed.distortion >= free.distortion * 0.97).all()


def test_several_models_fall_together_or_not_at_all(models, x, y):
    both = {name: models[name] for name in "ab"}
    labels = torch.stack([model(x).argmax(1) for model in both.values()], 1).detach()
    joint = minimal_eps(both, x, labels, "linf")
    alone = torch.stack(
        [minimal_linf(m, x, labels[:, k], steps=200).distortion for k, m in enumerate(both.values())], 1
    )
    assert joint.found.all()
    for k, model in enumerate(both.values()):
        assert (model(x + joint.delta).argmax(1) != labels[:, k]).all()
    assert (joint.distortion >= alone.amax(1) * 0.97).all()


@pytest.mark.parametrize(("search", "units"), [(minimal_l2, 5 * 4 * 6), (minimal_linf, 5)])
def test_progress_counts_up_to_its_end(search, units):
    model, x, y = problem(rows=5)
    seen: list[tuple[int, int]] = []
    search(model, x, y, steps=4, batch_size=2, progress=lambda done, of: seen.append((done, of)))
    done, totals = zip(*seen, strict=True)
    assert set(totals) == {units}
    assert list(done) == sorted(done) and done[-1] == units


def test_the_model_is_left_as_it_was():
    model, x, y = problem()
    model.train()
    minimal_l2(model, x, y, steps=2)
    minimal_linf(model, x, y, steps=2)
    assert model.training and model.w.requires_grad and model.w.grad is None


def test_no_inputs_give_no_distortions():
    model, x, y = problem()
    for search in (minimal_l2, minimal_linf):
        assert search(model, x[:0], y[:0]).distortion.shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, y: minimal_eps(m, x, y, "l3"), "norm must be one of l0, l1, l2, linf, got 'l3'"),
        (lambda m, x, y: minimal_linf(m, x, y, steps=0), "steps must be a whole number >= 1, got 0"),
        (lambda m, x, y: minimal_linf(m, x, y, resolution=2), r"resolution must lie in \(0, 1\), got 2"),
        (lambda m, x, y: minimal_linf(m, x, y, batch_size=0), "batch_size must be a whole number >= 1, got 0"),
        (lambda m, x, y: minimal_linf(m, x + 3, y), r"x must lie in bounds \[0.0, 1.0\]"),
        (lambda m, x, y: minimal_linf(m, x, y.float()), "y must be an int64 tensor of class indices"),
        (lambda m, x, y: minimal_l2(m, x, y[:-1]), r"y must have shape \(8,\) or \(8, 1\), got \(7,\)"),
        (lambda m, x, y: minimal_l2(m, x, y, binary_steps=1.5), "binary_steps must be a whole number >= 1, got 1.5"),
        (lambda m, x, y: minimal_l2(m, x, y, step_size=0), "step_size must be finite and > 0, got 0"),
        (lambda m, x, y: minimal_l2([m, m], x, y), "model must be one model, got a list"),
        (lambda m, x, y: minimal_l2(m, x.tolist(), y), "x must be a tensor, got list"),
        (lambda m, x, y: minimal_l2(lambda v: m(v.round()), x, y), "zero input gradient on every row"),
        (lambda m, x, y: minimal_linf(lambda v: m(v.round()), x, m(x.round()).argmax(1)), "zero input gradient"),
        (lambda m, x, y: minimal_linf(m, x, y, mask=torch.zeros_like(x[0], dtype=torch.bool)), "mask of the threat"),
        (lambda m, x, y: minimal_l2(m, x, y, mask=torch.zeros_like(x[0], dtype=torch.bool)), "mask of the threat"),
        (lambda m, x, y: minimal_l2(nn.Softmax(1), x, y), "returns probabilities"),
        (lambda m, x, y: torch.inference_mode()(minimal_l2)(m, x, y), "outside torch.inference_mode"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call(*problem())
