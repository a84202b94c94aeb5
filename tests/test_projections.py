"""Projections against oracles that share nothing with them: KKT conditions, long bisection, cvxpy, brute force."""

from __future__ import annotations

import itertools
from math import inf

import pytest
import torch
from torch import Tensor

from omnirobust.projections import project_lp_box, project_simplex


def bisect_oracle(a: Tensor, p: float, eps: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Project by 2,000 halvings in float64, one multiplier a row; p in {1, 2}."""
    a, lower, upper = a.double(), lower.double(), upper.double()
    eps = eps.double()[:, None]

    def point(multiplier: Tensor) -> Tensor:
        if p == 1:
            return torch.clamp(a.sign() * (a.abs() - multiplier).clamp_min(0), lower, upper)
        return torch.clamp(a * multiplier, lower, upper)

    def inside(multiplier: Tensor) -> Tensor:
        return point(multiplier).norm(p, dim=1, keepdim=True) <= eps

    low, high = torch.zeros_like(eps), torch.ones_like(eps)
    if p == 1:
        low, high = a.abs().amax(1, keepdim=True), low
    # ``low`` is always feasible, ``high`` is the unconstrained end.
    start = inside(high)
    for _ in range(200):
        middle = (low + high) / 2
        ok = inside(middle)
        low, high = torch.where(ok, middle, low), torch.where(ok, high, middle)
    return torch.where(start, point(torch.full_like(eps, 0.0 if p == 1 else 1.0)), point(low))


def random_problem(seed: int, B: int = 50, n: int = 37) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gen = torch.Generator().manual_seed(seed)
    a = torch.randn(B, n, generator=gen, dtype=torch.float64)
    x = torch.rand(B, n, generator=gen, dtype=torch.float64).mul(1.6).sub(0.3).clamp(0, 1)
    eps = torch.rand(B, generator=gen, dtype=torch.float64) * 5
    return a, eps, -x, 1 - x


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_equals_long_bisection(p: int, seed: int) -> None:
    a, eps, lower, upper = random_problem(seed)
    got = project_lp_box(a, p, eps, lower, upper)
    torch.testing.assert_close(got, bisect_oracle(a, p, eps, lower, upper), rtol=0, atol=1e-10)
    single = project_lp_box(a.float(), p, eps, lower.float(), upper.float())
    torch.testing.assert_close(single.double(), got, rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", range(8))
def test_l0_equals_brute_force(count: int) -> None:
    a, _, lower, upper = random_problem(count, B=6, n=7)
    got = project_lp_box(a, 0, float(count), lower, upper)
    best = torch.full((6,), inf, dtype=torch.float64)
    for kept in itertools.combinations(range(7), count):
        keep = torch.zeros(7, dtype=torch.bool)
        keep[list(kept)] = True
        candidate = torch.where(keep, a.clamp(lower, upper), 0)
        best = torch.minimum(best, (candidate - a).norm(dim=1))
    torch.testing.assert_close((got - a).norm(dim=1), best, rtol=0, atol=1e-12)


def test_simplex_of_two_points_by_hand() -> None:
    v = torch.tensor([[0.2, 0.4], [5.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(project_simplex(v), torch.tensor([[0.4, 0.6], [1.0, 0.0]], dtype=torch.float64))
