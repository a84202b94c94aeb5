"""Smallest perturbations that fool under all transformations: closed forms, a convex solver, all points of a grid."""

from __future__ import annotations

import math
from itertools import combinations

import cvxpy
import numpy as np
import pytest
import torch
from torch import nn

import omnirobust as orb
from omnirobust.evaluation import minimal_eps, minimal_linf

ORDER = {"l1": 1, "l2": 2, "linf": math.inf}
DUAL = {"l1": math.inf, "l2": 2, "linf": 1}
SHAPE = (1, 2, 3)


class Linear(nn.Module):
    """Two classes of images 2 x 3, logits (w . x + b, 0)."""

    def __init__(self, seed: int, scale: float = 1.0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(scale * torch.randn(6, generator=g, dtype=torch.float64))
        self.b = nn.Parameter(scale * 0.3 * torch.randn((), generator=g, dtype=torch.float64))

    def forward(self, x):
        value = x.flatten(1) @ self.w + self.b
        return torch.stack([value, torch.zeros_like(value)], 1)


def shifted(x):
    """Pad with a column of zeros on the left, and crop."""
    return nn.functional.pad(x, (1, 0))[..., :3]


TURNS = {"flip": orb.transforms.FlipHorizontal(), "crop": shifted, "dim": lambda x: 0.7 * x}

_PIXELS = np.arange(6).reshape(2, 3)
MATRICES = {
    "flip": np.eye(6)[_PIXELS[:, ::-1].reshape(-1)],
    "crop": np.stack([np.eye(6)[i - 1] if i % 3 else np.zeros(6) for i in range(6)]),
    "dim": 0.7 * np.eye(6),
}


def problem(models, rows=6, seed=1):
    """Return images away from the ends of [0, 1], and what every model says of each under every transformation."""
    g = torch.Generator().manual_seed(seed)
    x = (0.25 + 0.5 * torch.rand(rows, *SHAPE, generator=g)).double()
    with torch.no_grad():
        y = torch.stack([m(t(x)).argmax(1) if callable(t) else x for m in models for t in TURNS.values()], 1)
    return x, y


def lines(models):
    """Return the (w, b) of every model behind every transformation, as the matrices have it."""
    return [(a.T @ m.w.detach().numpy(), float(m.b.detach())) for m in models for a in MATRICES.values()]


def exact(x, y, models, norm):
    """Return the smallest radii that a convex solver finds in the box."""
    found = []
    for row, labels in zip(x.flatten(1).numpy(), y.tolist(), strict=True):
        d = cvxpy.Variable(6)
        signs = [1 if label == 0 else -1 for label in labels]
        wrong = [s * (w @ (row + d) + b) <= 0 for s, (w, b) in zip(signs, lines(models), strict=True)]
        size = cvxpy.norm(d, ORDER[norm])
        found.append(cvxpy.Problem(cvxpy.Minimize(size), [*wrong, row + d >= 0, row + d <= 1]).solve())
    return torch.tensor(found, dtype=torch.float64)


def sizes(delta, norm):
    return torch.linalg.vector_norm(delta.flatten(1), ORDER[norm], dim=1)


@pytest.mark.parametrize("norm", ORDER)
@pytest.mark.parametrize("name", TURNS)
def test_under_one_linear_transformation_the_margin_over_the_dual_norm_is_the_radius(norm, name):
    model = Linear(0)
    x, y = problem([model])
    y = y[:, list(TURNS).index(name)]
    found = minimal_eps(model, x, y, norm, bounds=(-50.0, 50.0), transforms={name: TURNS[name]})
    w = MATRICES[name].T @ model.w.detach().numpy()
    margins = np.abs(x.flatten(1).numpy() @ w + float(model.b.detach()))
    radii = torch.from_numpy(margins / np.linalg.norm(w, DUAL[norm]))
    assert found.found.all() and (found.distortion >= radii * (1 - 1e-9)).all()
    torch.testing.assert_close(found.distortion, radii, rtol=0.012, atol=0)


@pytest.mark.parametrize(("norm", "share"), [("linf", 1.05), ("l2", 1.05), ("l1", 1.15)])
@pytest.mark.parametrize("seeds", [(0,), (0, 7)])
def test_all_at_once_agree_with_a_convex_solver(norm, share, seeds):
    models = [Linear(seed, scale) for seed, scale in zip(seeds, (1.0, 30.0), strict=False)]
    x, y = problem(models)
    found, radii = minimal_eps(models, x, y, norm, transforms=TURNS), exact(x, y, models, norm)
    feasible = radii.isfinite()
    assert feasible.sum() >= 3
    assert torch.equal(found.found, feasible) and bool((found.distortion[~feasible] == math.inf).all())
    ratio = (found.distortion / radii)[feasible]
    assert float(ratio.min()) > 1 - 1e-4 and float(ratio.median()) < share
    alone = torch.stack([
        torch.from_numpy(np.abs(x.flatten(1).numpy() @ w + b) / np.linalg.norm(w, DUAL[norm]))
        for w, b in lines(models)
    ])  # fmt: skip
    assert (found.distortion >= alone.amax(0) * (1 - 1e-6)).all()  # each by itself needs as much, at least
    torch.testing.assert_close(found.distortion[feasible], sizes(found.delta, norm)[feasible])
    with torch.no_grad():
        said = torch.stack([m(t(x + found.delta)).argmax(1) for m in models for t in TURNS.values()], 1)
    assert (said != y).all(1)[feasible].all()


def test_l0_is_not_less_than_the_fewest_pixels_that_a_linear_program_needs():
    model = Linear(0)
    x, y = problem([model])
    found, few = minimal_eps(model, x, y, "l0", transforms=TURNS), []
    for row, labels in zip(x.flatten(1).numpy(), y.tolist(), strict=True):
        for count in range(7):
            ends = [
                _reached(row, labels, lines([model]), [i for i in range(6) if i not in chosen])
                for chosen in combinations(range(6), count)
            ]
            if any(ends):
                break
        few.append(float(count) if any(ends) else math.inf)
    radii = torch.tensor(few, dtype=torch.float64)
    assert (found.distortion >= radii).all()
    assert (found.distortion == radii).double().mean() >= 0.5


def _reached(row, labels, wanted, still):
    d = cvxpy.Variable(6)
    signs = [1 if label == 0 else -1 for label in labels]
    wrong = [s * (w @ (row + d) + b) <= -1e-6 for s, (w, b) in zip(signs, wanted, strict=True)]
    stays = [d[still] == 0] if still else []
    return np.isfinite(cvxpy.Problem(cvxpy.Minimize(0), [*wrong, *stays, row + d >= 0, row + d <= 1]).solve())


@pytest.mark.parametrize("norm", ["l0", *ORDER])
def test_where_no_perturbation_beats_an_image_and_its_mirror_image_the_radius_is_infinite(norm):
    """Class 0 loses if w . x + 1 < 0, for the mirror image if 1 - w . x < 0."""
    w = torch.tensor([1.0, 0.0, -1.0, 1.0, 0.0, -1.0])

    def model(v):
        value = v.flatten(1) @ w + 1
        return torch.stack([value, torch.zeros_like(value)], 1)

    x, y = 0.3 + 0.4 * torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0)), torch.zeros(3).long()
    both = {"ori": lambda v: v, "flip": TURNS["flip"]}
    found = minimal_eps(model, x, y, norm, steps=5, transforms=both)
    assert found.distortion.tolist() == [math.inf] * 3
    assert not found.found.any() and not found.delta.any() and not found.found_uint8.any()
    assert minimal_eps(model, x, y, norm, steps=5, transforms={"flip": TURNS["flip"]}).found.all()


@pytest.fixture(scope="module")
def bent():
    """Return a network of two inputs and three classes."""
    torch.manual_seed(4)
    net = nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 3)).double().requires_grad_(False)
    net[0].weight *= 3
    net[0].bias *= 3
    return net


SWAPS = {"ori": lambda v: v, "swap": lambda v: v.flip(1), "dim": lambda v: 0.8 * v + 0.1}


@pytest.mark.parametrize("norm", ORDER)
def test_no_point_of_a_fine_grid_is_nearer(bent, norm):
    axis = torch.linspace(0, 1, 401, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    said = torch.stack([bent(t(points)).argmax(1) for t in SWAPS.values()], 1)
    x = 0.1 + 0.8 * torch.rand(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.stack([bent(t(x)).argmax(1) for t in SWAPS.values()], 1)
    found, radii = minimal_eps(bent, x, y, norm, transforms=SWAPS), []
    for row, labels in zip(x, y, strict=True):
        hits = (said != labels).all(1)
        radii.append(float(sizes(points[hits] - row, norm).min()) if hits.any() else math.inf)
    radii, spacing = torch.tensor(radii, dtype=torch.float64), {"l1": 2, "l2": 2**0.5, "linf": 1}[norm] / 400
    assert radii.isfinite().sum() >= 5
    assert torch.equal(found.found, radii.isfinite())
    assert (found.distortion >= radii - spacing)[found.found].all()
    assert (found.distortion <= radii * 1.05 + spacing)[found.found].double().mean() >= 0.8


def test_what_is_found_is_judged_on_the_inputs_as_they_are_returned(models, x, y):
    turns = {"ori": orb.transforms.Identity(), "flip": orb.transforms.FlipHorizontal(), "dim": lambda v: 0.9 * v}
    both = {name: models[name] for name in "ab"}
    with torch.no_grad():
        y = torch.stack([m(t(x)).argmax(1) for m in both.values() for t in turns.values()], 1)
    found = minimal_eps(both, x, y, "linf", transforms=turns)

    def errs(images):
        with torch.no_grad():
            return torch.stack([m(t(images)).argmax(1) for m in both.values() for t in turns.values()], 1) != y

    adversarial = (x + found.delta).clamp(0, 1)
    assert found.found.any() and torch.equal(found.found, errs(adversarial).all(1))
    levels = torch.from_numpy((adversarial.numpy() * 255).round().astype("uint8")).to(x) / 255
    assert torch.equal(found.found_uint8, found.found & errs(levels).all(1))
    parts = minimal_eps(both, x, y, "linf", transforms=turns, batch_size=4)
    torch.testing.assert_close(parts.distortion, found.distortion, rtol=1e-4, atol=1e-6)
    free = minimal_eps(both, x, y, "linf", transforms=turns, bounds=(-math.inf, math.inf))
    assert free.found_uint8 is None


def test_a_mirror_that_is_drawn_takes_a_perturbation_for_both_images():
    model = Linear(2)
    x, _ = problem([model])
    with torch.no_grad():
        y = model(x).argmax(1)
        same = model(x.flip(3)).argmax(1) == y
    x, y = x[same], y[same]
    found = minimal_eps(model, x, y, "l2", steps=20, samples=8, transforms=orb.transforms.FlipHorizontal(p=0.5))
    fixed = minimal_eps(model, x, y, "l2", transforms=[lambda v: v, orb.transforms.FlipHorizontal()])
    both = found.found
    assert both.any() and "A transformation is drawn." in found.notes[0] and fixed.notes == ()
    ratio = (found.distortion / fixed.distortion)[both]
    assert float(ratio.min()) > 0.98 and float(ratio.median()) < 1.15
    moved = (x + found.delta)[both]
    with torch.no_grad():
        assert all((model(seen).argmax(1) != y[both]).all() for seen in (moved, moved.flip(3)))


def test_targets_are_reached_under_every_transformation(bent):
    x = 0.3 + 0.4 * torch.rand(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    goal = torch.tensor([0, 1, 2, 0, 1, 2])
    found = minimal_linf(bent, x, goal, targeted=True, transforms=SWAPS)
    assert found.found.any()
    for turn in SWAPS.values():
        assert (bent(turn(x + found.delta)).argmax(1) == goal)[found.found].all()


def test_models_that_take_what_transformations_make_of_inputs_are_only_given_that():
    small = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    x = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    pools = {"mean": lambda v: nn.functional.avg_pool2d(v, 2), "corner": lambda v: v[..., :2, :2]}
    with torch.no_grad():
        y = torch.stack([small(t(x)).argmax(1) for t in pools.values()], 1)
    assert minimal_linf(small, x, y, transforms=pools, steps=10).distortion.shape == (4,)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"transforms": {}}, "transforms must hold at least one transformation"),
        ({"transforms": {"flat": lambda v: v.detach()}}, "transformation 'flat' does not let gradients"),
        ({"transforms": TURNS, "y": torch.zeros(6, 2).long()}, r"y must have shape \(6,\) or \(6, 1\) or \(6, 3\)"),
        ({"transforms": TURNS, "y": torch.tensor([0] * 5 + [9]), "batch_size": 2}, r"y must lie in \[0, 2\)"),
        ({"transforms": TURNS, "samples": 0}, "samples must be a whole number >= 1, got 0"),
        ({"transforms": 3}, "transforms must be a mapping or a sequence of callables, got int"),
    ],
)
def test_errors_name_the_argument(given, message):
    model = Linear(0)
    x, y = problem([model])
    with pytest.raises(ValueError, match=message):
        minimal_eps(model, x, given.pop("y", y), "l2", **given)


def test_a_label_of_a_later_batch_is_checked_as_well():
    model = Linear(0)
    x, _ = problem([model])
    with pytest.raises(ValueError, match=r"y must lie in \[0, 2\), the classes of model 'model_0', got 0 to 9"):
        orb.attack_ensemble(model, x, torch.tensor([0] * 5 + [9]), orb.Linf(0.1), steps=2, batch_size=2)
