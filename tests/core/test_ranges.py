"""Ranges, units and masks of features: against cvxpy, brute force, and the same problem written in other units."""

from __future__ import annotations

from itertools import combinations
from math import inf, nan

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import Tensor

from omnirobust.core.adaptive import Adaptive, Detour
from omnirobust.core.directions import Normalised, RawGradient, Sign
from omnirobust.core.projections import project_lp_box
from omnirobust.core.solver import solve
from omnirobust.core.stationarity import stationarity
from omnirobust.core.threat_models import L0, L1, L2, FeasibleSet, Linf, ThreatModel, clamped, range_notes
from omnirobust.core.weights import ProjectedAscent
from omnirobust.domains.functions import FunctionDomains

POWERS = torch.tensor([1.0, 2.0, 1024.0, 0.25, 2.0**-10])
"""Units that are powers of two: to multiply by them rounds nothing."""

ODD = torch.tensor([1.0, 3.7, 1e4, 0.013, 52.0])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def around(p: float, eps: float, x: Tensor, scale: Tensor) -> FeasibleSet:
    return ThreatModel(p, eps, (torch.zeros_like(scale), scale), scale=scale).around(x * scale)


def nearest(a: np.ndarray, scale: np.ndarray, lower: np.ndarray, upper: np.ndarray, p: float, eps: float) -> np.ndarray:
    """Solve the projection in units of ``scale`` by cvxpy, of one row in float64."""
    d = cp.Variable(len(a))
    held = [cp.norm(cp.multiply(d, 1 / scale), "inf" if p == inf else p) <= eps]
    held += [d[i] >= low for i, low in enumerate(lower) if np.isfinite(low)]
    held += [d[i] <= high for i, high in enumerate(upper) if np.isfinite(high)]
    goal = cp.sum_squares(cp.multiply(d - a, 1 / scale))
    cp.Problem(cp.Minimize(goal), held).solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    return np.asarray(d.value)


@pytest.mark.parametrize("p", [1, 2, inf])
@pytest.mark.parametrize("seed", range(4))
def test_the_projection_is_the_nearest_in_units_of_the_features(p: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.uniform(-3, 4, 6)
    lower, upper = -rng.uniform(0, 0.6, 6) * scale, rng.uniform(0, 0.6, 6) * scale
    upper[rng.integers(6)], lower[rng.integers(6)] = inf, -inf
    a, eps = rng.normal(0, 1, 6) * scale, {1: 0.9, 2: 0.6, inf: 0.3}[p]
    row = [torch.from_numpy(v).unsqueeze(0) for v in (a, lower, upper)]
    feasible = FeasibleSet(p, eps, row[1], row[2], scale=torch.from_numpy(scale))
    found = feasible.project(row[0])
    np.testing.assert_allclose(found[0].numpy() / scale, nearest(a, scale, lower, upper, p, eps) / scale, atol=2e-5)
    u = [v / torch.from_numpy(scale) for v in row]
    torch.testing.assert_close(
        found, project_lp_box(u[0], p, eps, u[1], u[2]) * torch.from_numpy(scale), rtol=1e-12, atol=0
    )
    assert feasible.contains(found).all()
    assert not feasible.contains(row[0]).any()
    torch.testing.assert_close(
        feasible.norm(found), torch.linalg.vector_norm(u[0] * 0 + found / torch.from_numpy(scale), p, 1)
    )


@pytest.mark.parametrize("p", [0, 1, 2, inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_projections_in_units_stay_in_ball_and_range_in_every_dtype(p: float, dtype: torch.dtype) -> None:
    scale = torch.tensor([1.0, 3.0, 100.0, 0.3, 7.0])
    x = (drawn(20, 5) * scale).to(dtype)
    feasible = ThreatModel(p, {0: 2, 1: 0.5, 2: 0.3, inf: 0.1}[p], (0 * scale, scale), scale=scale).around(x)
    delta = feasible.project((torch.randn(20, 5, generator=torch.Generator().manual_seed(1)) * scale).to(dtype))
    assert delta.dtype == dtype
    assert feasible.contains(delta).all()
    moved = x.double() + delta.double()
    slack = 0 if dtype == torch.float32 else torch.finfo(dtype).eps
    assert bool((moved >= -(slack + 1e-6) * scale).all()) and bool((moved <= (1 + slack + 1e-6) * scale).all())


@pytest.mark.parametrize("seed", range(5))
def test_pixels_that_are_kept_are_those_that_brute_force_keeps(seed: int) -> None:
    x, a = drawn(3, 2, 2, 3, seed=seed), torch.randn(3, 2, 2, 3, generator=torch.Generator().manual_seed(seed)) * 0.7
    eps = torch.tensor([0.0, 2.9, 4.0])
    feasible = L0(eps, unit="pixel").around(x)
    found = feasible.project(a)
    for row in range(3):
        boxed, best = torch.clamp(a[row], -x[row], 1 - x[row]), (inf, None)
        for places in combinations(range(6), int(eps[row])):
            kept = torch.zeros(6).index_fill(0, torch.tensor(places, dtype=torch.int64), 1).view(2, 3)
            cost = float((boxed.double() * kept - a[row].double()).square().sum())
            best = min(best, (cost, places))
        assert float((found[row].double() - a[row].double()).square().sum()) == pytest.approx(best[0], rel=1e-9)
    counted = (found != 0).any(1).flatten(1).sum(1)
    assert torch.equal(feasible.norm(found), counted.float())
    assert bool((counted <= eps.floor()).all()) and feasible.contains(found).all()
    assert not feasible.contains(a)[0]


def targets(scale: Tensor) -> FunctionDomains:
    """Two quadratics with different minima, of what lies in units of ``scale``."""
    ends = torch.tensor([[0.9, -0.4, 0.3, 0.7, -0.8], [0.2, -0.9, 0.8, -0.1, 0.5]])
    losses = {f"to {k}": lambda d, rows, k=k: ((d / scale - ends[k]).square() * (k + 1)).sum(1) for k in range(2)}
    return FunctionDomains(losses)


DIRECTIONS = {"sign": Sign("linear"), "unit": Normalised(), "adaptive": Adaptive(balance=True), "detour": Detour()}


@pytest.mark.parametrize("p", [0, 1, 2, inf])
@pytest.mark.parametrize("name", DIRECTIONS)
@pytest.mark.parametrize("scale", [POWERS, ODD], ids=["powers", "odd"])
def test_in_other_units_the_same_problem_has_the_same_answer(p: float, name: str, scale: Tensor) -> None:
    """The data times ``scale`` with that as scale, against the data as they were: bit for bit where nothing rounds."""
    x, eps = drawn(4, 5), {0: 2.0, 1: 1.0, 2: 0.6, inf: 0.3}[p]
    # rounding grows from step to step: where there is some, a few steps must do
    setting = {"steps": 25 if scale is POWERS else 4, "direction": DIRECTIONS[name], "keep": "best"}
    plain = solve(targets(torch.ones(5)), ThreatModel(p, eps).around(x), ProjectedAscent(0.1, 1.0), **setting)
    ours = solve(targets(scale), around(p, eps, x, scale), ProjectedAscent(0.1, 1.0), **setting)
    tolerance = {"rtol": 0, "atol": 0} if scale is POWERS else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(ours.delta / scale, plain.delta, **tolerance)
    torch.testing.assert_close(ours.losses, plain.losses, **tolerance)
    torch.testing.assert_close(ours.weights, plain.weights, **tolerance)


def test_raw_gradients_noise_and_stationarity_are_those_of_the_units() -> None:
    x, feasible = drawn(4, 5), around(2, 0.6, drawn(4, 5), POWERS)
    setting = {"steps": 5, "step_size": 0.1, "direction": RawGradient()}
    plain, ours = (
        solve(domains, inside, ProjectedAscent(0.1, 1.0), generator=torch.Generator().manual_seed(3), **setting)
        for domains, inside in ((targets(torch.ones(5)), L2(0.6).around(x)), (targets(POWERS), feasible))
    )
    assert torch.equal(ours.delta / POWERS, plain.delta)
    measured = {"gamma": 1.0, "alpha": 0.1, "beta": 0.1}
    there = stationarity(targets(torch.ones(5)), L2(0.6).around(x), plain.delta, plain.weights, **measured)
    assert torch.equal(stationarity(targets(POWERS), feasible, ours.delta, ours.weights, **measured), there)


@pytest.mark.parametrize("make", [Linf, L2, L1])
@pytest.mark.parametrize("scale", [None, POWERS])
def test_a_range_without_ends_is_a_very_wide_one(make: type, scale: Tensor | None) -> None:
    x, far = drawn(4, 5), 2.0**30
    found = [
        solve(targets(POWERS), make(0.4, bounds=bounds, scale=scale).around(x), ProjectedAscent(0.1, 1.0), steps=25,
              direction=Detour()).delta
        for bounds in ((-inf, inf), (-far, far), (torch.full((5,), -inf), far))
    ]  # fmt: skip
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5 * float(POWERS.max()))
    assert torch.equal(found[0], found[2])
    assert bool(found[0].isfinite().all()) and bool((found[0] != 0).any())


def test_features_have_ranges_of_their_own_and_a_number_is_one_for_all() -> None:
    x = torch.tensor([[5.0, 0.5, 40.0]])
    ends = (torch.tensor([0.0, 0.0, -inf]), torch.tensor([10.0, 1.0, 50.0]))
    feasible = Linf(20.0, bounds=ends).around(x)
    assert feasible.lower.tolist() == [[-5.0, -0.5, -inf]] and feasible.upper.tolist() == [[5.0, 0.5, 10.0]]
    assert feasible.project(torch.full((1, 3), -99.0)).tolist() == [[-5.0, -0.5, -20.0]]
    assert clamped(torch.full((2, 3), 99.0), ends).tolist() == [[10.0, 1.0, 50.0]] * 2
    mixed = Linf(1.0, bounds=(0.0, torch.tensor([10.0, 1.0, 50.0]))).around(x)
    assert mixed.lower.tolist() == [[-5.0, -0.5, -40.0]]
    shared = Linf(1.0, bounds=ends).around(torch.stack([x, x + torch.tensor([1.0, 0.25, 1.0])], 1), shared=True)
    assert shared.upper.tolist() == [[10.0, 1.0, inf]]


def test_a_mask_of_the_dimensions_of_x_is_one_for_each_example() -> None:
    x, mask = drawn(3, 4), torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]]) > 0
    everywhere = torch.ones(3, 4)
    feasible = Linf(0.1, bounds=(-inf, inf), mask=mask).around(x)
    assert torch.equal(feasible.project(everywhere) != 0, mask)
    cut = Linf(0.1, mask=mask).select(torch.tensor([2, 0]), 1)
    assert cut.mask is not None and torch.equal(cut.mask, mask[[2, 0]])
    groups = drawn(3, 2, 4)
    of_groups = Linf(0.1, bounds=(-inf, inf), mask=torch.stack([mask, ~mask | mask[2]], 1)).around(groups, shared=True)
    assert torch.equal(of_groups.project(everywhere) != 0, mask)  # a shared perturbation moves where all inputs may
    one_each = Linf(0.1, bounds=(-inf, inf), mask=mask).around(groups, shared=True)
    assert torch.equal(one_each.project(everywhere) != 0, mask)
    with pytest.raises(ValueError, match=r"^mask must broadcast to \(3, 4\), got \(2, 4\)$"):
        Linf(0.1, mask=mask[:2]).around(x)


WRONG = [
    (lambda: Linf(0.1, bounds=(nan, 1.0)), "bounds must be .lo, hi. with lo < hi, got"),
    (lambda: Linf(0.1, bounds=(inf, inf)), "bounds must be .lo, hi. with lo < hi, got"),
    (lambda: Linf(0.1, bounds=(torch.tensor([0.0, 2.0]), 1.0)), r"bounds must be .* everywhere, got 2, 1 at \(1,\)"),
    (lambda: Linf(0.1, bounds=(torch.zeros(2), torch.ones(3))), "bounds must broadcast to each other, got shapes"),
    (lambda: Linf(0.1, bounds=(torch.zeros(2), torch.ones(2))).around(torch.zeros(1, 3)),
     r"bounds must broadcast to one input, \(3,\), got shape \(2,\)"),
    (lambda: Linf(0.1, bounds=(torch.zeros(3), 1.0)).around(torch.tensor([[0.0, 0.0, 3.0]])),
     r"x must lie in bounds, got 3 at \(0, 2\), whose bounds are \[0, 1\]; normalisation"),
    (lambda: Linf(0.1, bounds=(0.0, inf)).around(torch.tensor([[-1.0, 0.0]])), r"x must lie in bounds, got -1 at"),
    (lambda: Linf(0.1, scale=0.0), "scale must be finite and > 0, got 0"),
    (lambda: Linf(0.1, scale=torch.tensor([1.0, inf])), "scale must be finite and > 0, got inf"),
    (lambda: Linf(0.1, scale=torch.ones(2)).around(torch.zeros(1, 3)), r"scale must broadcast to one input, \(3,\)"),
    (lambda: L0(3, bounds=(0.0, inf)), "bounds must be finite for l0, .* got features without an end"),
    (lambda: L0(3, bounds=(torch.zeros(2), torch.tensor([1.0, inf]))), "bounds must be finite for l0"),
    (lambda: L0(3, unit="pixels"), "unit must be 'value' or 'pixel', got 'pixels'"),
    (lambda: ThreatModel(2, 1.0, unit="pixel"), "unit must be 'value' unless p is 0, .* got 'pixel' with p 2"),
    (lambda: Linf(0.1, unit="pixel"), "unit must be 'value' unless p is 0, .* got 'pixel' with p inf"),
    (lambda: L0(3, unit="pixel").around(torch.zeros(2, 5)), "unit must be 'value' where inputs have no channels"),
    (lambda: project_lp_box(torch.zeros(1, 6), 0, 1, -1, 1, channels=4), "channels must be 1 unless p is 0, and"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_what_cannot_be_is_refused_in_a_sentence(call, message) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        call()
    assert "\n" not in str(caught.value)


def test_l0_takes_features_without_an_end_where_a_mask_holds_them_still() -> None:
    threat = L0(1, bounds=(0.0, torch.tensor([1.0, inf])), mask=torch.tensor([True, False]))
    assert threat.around(torch.zeros(1, 2)).project(torch.tensor([[5.0, 7.0]])).tolist() == [[1.0, 0.0]]
    with pytest.raises(ValueError, match=r"^bounds must be finite for l0"):
        L0(1, bounds=(0.0, torch.tensor([1.0, inf])), mask=torch.tensor([True, True])).around(torch.zeros(1, 2))


@pytest.mark.parametrize("scale", ["1", True, [1.0], torch.ones(2, dtype=torch.bool)])
def test_a_scale_is_a_number_or_a_tensor(scale) -> None:
    with pytest.raises(TypeError, match=r"^scale must be a number or a tensor of numbers, got"):
        Linf(0.1, scale=scale)


def test_notes_tell_of_radii_and_ranges_in_units() -> None:
    ends = (torch.zeros(3), torch.tensor([1.0, 10.0, 1e4]))
    x = drawn(6, 3) * ends[1]
    assert range_notes(Linf(0.5, bounds=ends, scale=ends[1]), x) == []
    assert "reaches across the whole data range" in range_notes(Linf(1.0, bounds=ends, scale=ends[1]), x)[0]
    assert range_notes(Linf(1e9, bounds=(-inf, inf)), x) == []
    assert "fill less than 1 % of the bounds of every" in range_notes(Linf(0.1, bounds=ends, scale=ends[1]), x / 1e3)[0]
    held = (torch.tensor([0.0, -inf]), torch.tensor([0.0, inf]))  # the one feature with ends cannot move
    assert range_notes(L2(0.5, bounds=held), torch.tensor([[0.0, 0.3], [0.0, 2.0]])) == []


def test_the_name_of_a_threat_says_what_came_later_only_where_it_is_unusual() -> None:
    assert repr(L2(0.5)) == "ThreatModel(p=2, eps=0.5, bounds=(0.0, 1.0), mask=None)"
    assert repr(L0(3, scale=2.0, unit="pixel")).endswith("mask=None, scale=2.0, unit='pixel')")
    one, other = (repr(L2(0.5, scale=torch.arange(1.0, n))) for n in (3000, 3001))
    assert one != other and len(one) < 200


def test_kinds_of_tensors_do_not_matter() -> None:
    whole = Linf(
        1.0, bounds=(torch.zeros(3, dtype=torch.int64), torch.tensor([9, 9, 9])), scale=torch.tensor([1, 2, 3])
    )
    assert whole.around(torch.full((1, 3), 4.0)).project(torch.full((1, 3), 99.0)).tolist() == [[1.0, 2.0, 3.0]]
    wide = Linf(1.0, bounds=(torch.zeros(3).double(), torch.ones(3).double()), scale=torch.ones(3).double())
    assert wide.around(torch.rand(2, 3)).project(torch.rand(2, 3)).dtype == torch.float32
