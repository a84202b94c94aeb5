"""Weights of smaller sets than the simplex against a convex solver, and of least norm against it and closed forms."""

from __future__ import annotations

import math

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import omnirobust as orb
from omnirobust.core.types import Evaluation
from omnirobust.core.weights import Uniform, WorstCase

ROUNDING = 1e-5  # of the convex solver, in the value


def losses_for(seed: int, K: int, B: int = 3) -> torch.Tensor:
    """Losses of which every third ties, in units from a thousandth to a thousand."""
    generator = torch.Generator().manual_seed(seed)
    F = torch.randn(B, K, generator=generator, dtype=torch.float64)
    F[::3] = F[::3].round()
    return F * 10 ** (6 * torch.rand(B, 1, generator=generator, dtype=torch.float64) - 3)


def best_of(constraint: str, size: float, F: np.ndarray) -> float:
    """The largest sum_k w_k F_k of the set, found by cvxpy; F in units of its spread."""
    K = len(F)
    w = cp.Variable(K, nonneg=True)
    inside = {
        "CVaR": lambda: w <= 1 / (size * K),
        "ChiSquare": lambda: K * cp.sum_squares(w - 1 / K) <= 2 * size,
        "Tilted": lambda: cp.sum(-cp.entr(w)) + math.log(K) <= size,
    }[constraint]()
    problem = cp.Problem(cp.Maximize(F @ w), [cp.sum(w) == 1, inside])
    problem.solve(solver=cp.CLARABEL)
    return float(problem.value)


def excess(constraint: str, size: float, w: np.ndarray) -> float:
    """How far weights lie outside of their set."""
    K = len(w)
    if constraint == "CVaR":
        return float((w - 1 / (size * K)).max())
    if constraint == "ChiSquare":
        return float(K * ((w - 1 / K) ** 2).sum() - 2 * size)
    return float(sum(v * math.log(K * v) for v in w if v > 0) - size)


SETS = {
    "CVaR": [0.05, 0.3, 0.5, 0.77, 1.0],
    "ChiSquare": [0.001, 0.01, 0.3, 1.0, 2.5, 40.0],
    "Tilted": [0.001, 0.01, 0.2, 1.0, 3.0],
}


@pytest.mark.parametrize(("name", "size"), [(name, size) for name, sizes in SETS.items() for size in sizes])
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), K=st.integers(1, 7))
def test_the_answer_lies_in_its_set_and_no_other_of_it_is_worse(name: str, size: float, seed: int, K: int) -> None:
    losses, rule = losses_for(seed, K), getattr(orb, name)(size)
    w = rule.step(rule.init(3, K, dtype=torch.float64), losses)
    assert torch.allclose(w.sum(1), torch.ones(3, dtype=torch.float64), atol=1e-12) and bool((w >= 0).all())
    for row, F in zip(w.numpy(), losses.numpy(), strict=True):
        assert excess(name, size, row) <= 1e-9
        unit = float(np.ptp(F)) or 1.0
        F = (F - F.max()) / unit
        assert row @ F >= best_of(name, size, F) - ROUNDING


@pytest.mark.parametrize(
    ("average", "worst"),
    [(orb.CVaR(1.0), orb.CVaR(0.25)), (orb.ChiSquare(0), orb.ChiSquare(1.5)), (orb.Tilted(0), orb.Tilted(math.log(4)))],
)
def test_they_go_from_the_average_to_the_worst_case(average, worst) -> None:
    losses = torch.tensor([[1.0, 4.0, 2.0, -3.0], [0.0, -1e-3, -2e-3, 5e-3]], dtype=torch.float64)
    start = Uniform().init(2, 4, dtype=torch.float64)
    assert torch.allclose(average.step(start, losses), start, atol=1e-9)
    assert torch.allclose(worst.step(start, losses), WorstCase().step(start, losses), atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_small_chi_square_ball_adds_standard_deviations_to_the_mean(seed: int) -> None:
    losses, radius = torch.randn(4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), 1e-4
    w = orb.ChiSquare(radius).step(Uniform().init(4, 5, dtype=torch.float64), losses)
    expected = losses.mean(1) + math.sqrt(2 * radius) * losses.std(1, correction=0)
    assert torch.allclose((w * losses).sum(1), expected, atol=1e-12)


@pytest.mark.parametrize("rule", [orb.CVaR(0.4), orb.ChiSquare(0.5), orb.Tilted(0.3)], ids=repr)
def test_a_unit_of_the_losses_or_an_offset_changes_nothing(rule) -> None:
    losses = losses_for(5, 4)
    start = rule.init(3, 4, dtype=torch.float64)
    w = rule.step(start, losses)
    for changed in (losses * 2**20, losses * 2.0**-300, losses + 8):
        assert torch.allclose(rule.step(start, changed), w, atol=1e-6)
    assert rule.step(start.float(), losses.float()).dtype == torch.float32


def evaluation(grads: list[list[float]], fooled: list[bool] | None = None) -> Evaluation:
    slopes = tuple(torch.tensor([g], dtype=torch.float64) for g in grads)
    known = None if fooled is None else torch.tensor([fooled])
    return Evaluation(torch.zeros(1, len(grads), dtype=torch.float64), known, slopes)


def least(rule: orb.MinNorm, seen: Evaluation) -> torch.Tensor:
    B, K = seen.losses.shape
    return rule.step_evaluated(Uniform().init(B, K, dtype=torch.float64), seen)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), K=st.integers(1, 6), dims=st.integers(1, 5), pull=st.sampled_from([0.0, 0.3, 5.0]))
def test_the_least_norm_is_that_of_a_convex_solver(seed: int, K: int, dims: int, pull: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    slopes = torch.randn(2, K, dims, generator=generator, dtype=torch.float64)
    fooled = torch.rand(2, K, generator=generator) < 0.4
    seen = Evaluation(torch.zeros(2, K, dtype=torch.float64), fooled, tuple(slopes.unbind(1)))
    found = least(orb.MinNorm(pull), seen).numpy(), least(orb.MinNorm(), seen).numpy()
    for G, out, mixed, open_only in zip(slopes.numpy(), fooled.numpy(), *found, strict=True):
        w = cp.Variable(K, nonneg=True)
        value = cp.sum_squares(G.T @ w) / 2 + pull * (out.astype(float) @ w)
        value = cp.Problem(cp.Minimize(value), [cp.sum(w) == 1]).solve(solver=cp.CLARABEL)
        assert ((G.T @ mixed) ** 2).sum() / 2 + pull * mixed[out].sum() <= value + ROUNDING
        closed = out if not out.all() else np.zeros(K, bool)
        inside = [cp.sum(w) == 1, *([w[np.flatnonzero(closed)] == 0] if closed.any() else [])]
        value = cp.Problem(cp.Minimize(cp.sum_squares(G.T @ w) / 2), inside).solve(solver=cp.CLARABEL)
        assert ((G.T @ open_only) ** 2).sum() / 2 <= value + ROUNDING
        assert not open_only[closed].any()


def test_the_least_norm_of_two_is_the_foot_of_the_perpendicular() -> None:
    """On the segment from (2, 0) to (0, 1) the point nearest to zero is (0.4, 0.8)."""
    assert torch.allclose(least(orb.MinNorm(), evaluation([[2, 0], [0, 1]])), torch.tensor([[0.2, 0.8]]).double())
    assert least(orb.MinNorm(), evaluation([[3, 0], [1, 0]])).tolist() == [[0, 1]]


def test_the_direction_of_least_norm_raises_no_loss() -> None:
    slopes = torch.randn(50, 4, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    slopes = slopes + 3 * torch.randn(50, 1, 30, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    w = least(orb.MinNorm(), Evaluation(torch.zeros(50, 4, dtype=torch.float64), None, tuple(slopes.unbind(1))))
    along = torch.einsum("bk,bkd,bjd->bj", w, slopes, slopes)
    norms = torch.einsum("bk,bkd->bd", w, slopes).square().sum(1, keepdim=True)
    assert bool((along >= norms - 1e-6).all()) and bool((norms > 0.1).all())


class Watched:
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def init(self, B: int, K: int) -> torch.Tensor:
        return torch.full((B, K), 1 / K)

    def step(self, weights: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
        self.asked.append("losses")
        return weights

    def step_evaluated(self, weights: torch.Tensor, seen: Evaluation) -> torch.Tensor:
        assert seen.grads is not None and seen.fooled is not None
        self.asked.append("all")
        return weights


def test_a_rule_that_sees_more_is_asked_at_every_iterate_but_the_last() -> None:
    rule = Watched()
    models = {n: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)) for n in "ab"}
    x, y = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 2])
    orb.attack_ensemble(models, x, y, orb.L2(0.3), steps=3, rule=rule)
    assert rule.asked == ["all", "all", "losses"]


def test_what_compares_gradients_of_one_perturbation_is_refused_where_there_are_several() -> None:
    told = r"rule must answer losses alone here, got MinNorm\(pull=None\)"
    with pytest.raises(ValueError, match=told):
        orb.training.Scheme("minmax", [orb.Linf(0.1), orb.L2(1.0)], rule=orb.MinNorm())
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    with pytest.raises(ValueError, match=told):
        orb.universal.learn_universal(
            model, torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 2]), orb.Linf(0.1), rule=orb.MinNorm()
        )


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: orb.CVaR(0), r"alpha must be in \(0, 1\], got 0"),
        (lambda: orb.CVaR(1.5), r"alpha must be in \(0, 1\], got 1.5"),
        (lambda: orb.ChiSquare(-1), "radius must be finite and >= 0, got -1"),
        (lambda: orb.Tilted(math.inf), "radius must be finite and >= 0, got inf"),
        (lambda: orb.MinNorm(-1.0), "pull must be None, or finite and >= 0, got -1.0"),
    ],
)
def test_sizes_that_are_none_are_refused(make, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()


def test_no_gradient_at_all_and_infinite_losses_give_weights() -> None:
    nowhere = evaluation([[0.0, 0.0], [0.0, 0.0]], [True, True])
    for pull in (None, 0.0, 1.0, 100.0, 1e300):
        assert least(orb.MinNorm(pull), nowhere).tolist() == [[0.5, 0.5]]
    tiny = evaluation([[1e-170, 0.0], [0.0, 1e-170]], [True, False])
    assert bool(least(orb.MinNorm(100.0), tiny).isfinite().all())
    start = torch.full((1, 3), 1 / 3, dtype=torch.float64)
    for rule in (orb.CVaR(0.5), orb.ChiSquare(0.5), orb.Tilted(0.5)):
        w = rule.step(start, torch.tensor([[math.inf, 0.0, 1.0]], dtype=torch.float64))
        assert bool(w.isfinite().all()) and int(w.argmax()) == 0


@pytest.mark.parametrize("radius", [1e-9, 1e-7, 1e-4])
def test_the_entropy_of_a_tilt_is_its_radius_however_small(radius: float) -> None:
    losses = torch.linspace(0, 1, 7, dtype=torch.float64)[None]
    w = orb.Tilted(radius).step(torch.full((1, 7), 1 / 7, dtype=torch.float64), losses)
    # by the series: 7 w log(7 w) is exact to the third order, where the sum of the logarithms would cancel
    off = 7 * w - 1
    entropy = float((off**2 / 2 - off**3 / 6 + off**4 / 12).mean())
    assert entropy == pytest.approx(radius, rel=1e-4)
