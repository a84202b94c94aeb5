"""Weight rules against scipy's projection, closed forms, limits and the equivalence of (1), (2) and (3)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from omnirobust.core.ambiguity import CVaR
from omnirobust.core.weights import ExponentiatedGradient, Fixed, ProjectedAscent, Uniform, WorstCase

RULES = [
    Uniform(),
    Fixed(torch.tensor([0.5, 0.3, 0.2, 0.0])),
    ProjectedAscent(0.3, 1.5),
    ExponentiatedGradient(0.7, 0.2),
    WorstCase(),
]


def losses_for(seed: int, B: int = 5, K: int = 4) -> torch.Tensor:
    return torch.randn(B, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


@pytest.mark.parametrize("rule", RULES, ids=lambda r: type(r).__name__)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_weights_stay_in_the_simplex_and_rows_stay_apart(rule: ProjectedAscent, seed: int) -> None:
    losses = losses_for(seed)
    w = rule.init(5, 4, dtype=torch.float64)
    for _ in range(4):
        w = rule.step(w, losses)
    assert w.shape == (5, 4)
    assert bool((w >= 0).all())
    assert torch.allclose(w.sum(1), torch.ones(5, dtype=torch.float64), atol=1e-12)
    alone = rule.init(1, 4, dtype=torch.float64)
    for _ in range(4):
        alone = rule.step(alone, losses[2:3])
    assert torch.allclose(alone[0], w[2], atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_projected_ascent_solves_its_proximal_problem(seed: int) -> None:
    """(14) is the maximiser over the simplex of the linearised psi minus ||v - w||^2 / (2 beta): scipy finds it too."""
    beta, gamma = 0.3, 1.5
    losses = losses_for(seed, B=1)
    w = torch.distributions.Dirichlet(torch.ones(4, dtype=torch.float64)).sample((1,))
    got = ProjectedAscent(beta, gamma).step(w, losses)[0].numpy()
    w0, f = w[0].numpy(), losses[0].numpy()
    slope = f - gamma * (w0 - 0.25)
    found = minimize(
        lambda v: -slope @ v + ((v - w0) ** 2).sum() / (2 * beta),
        np.full(4, 0.25),
        jac=lambda v: -slope + (v - w0) / beta,
        bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda v: v.sum() - 1, "jac": lambda v: np.ones(4)},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 300},
    )
    assert np.allclose(got, found.x, atol=1e-5)


def test_exponentiated_gradient_multiplies_and_normalises() -> None:
    w, losses = torch.tensor([[0.2, 0.5, 0.3]]), torch.tensor([[1.0, -1.0, 0.5]])
    raw = [wk * math.exp(0.4 * (fk - 2.0 * (wk - 1 / 3))) for wk, fk in zip([0.2, 0.5, 0.3], [1, -1, 0.5], strict=True)]
    expected = torch.tensor([[v / sum(raw) for v in raw]])
    assert torch.allclose(ExponentiatedGradient(0.4, 2.0).step(w, losses), expected, atol=1e-6)


def test_a_weight_that_has_underflowed_comes_back_under_exponentiated_gradient() -> None:
    """Losses of a hundred logits drive a weight to exactly 0; once its domain is the worst it must recover."""
    rule = ExponentiatedGradient(1.0)
    w = rule.step(rule.init(1, 2), torch.tensor([[-200.0, 200.0]]))
    assert w.tolist() == [[0.0, 1.0]]
    for _ in range(4):
        w = rule.step(w, torch.tensor([[5.0, 0.0]]))
    assert float(w[0, 0]) > 0.9


def test_large_gamma_gives_uniform() -> None:
    gamma = 1e6
    rule = ProjectedAscent(0.99 / gamma, gamma)
    w = Fixed(torch.tensor([0.7, 0.1, 0.1, 0.1])).init(5, 4, dtype=torch.float64)
    for _ in range(60):
        w = rule.step(w, losses_for(0))
    assert torch.allclose(w, Uniform().init(5, 4, dtype=torch.float64), atol=1e-4)


def test_no_gamma_and_large_beta_gives_the_worst_case() -> None:
    losses = losses_for(1)
    w = ProjectedAscent(1e6, 0.0).step(Uniform().init(5, 4, dtype=torch.float64), losses)
    assert torch.allclose(w, WorstCase().step(w, losses), atol=1e-9)


def test_the_three_forms_of_the_problem_have_the_same_value() -> None:
    """min_v max_w sum w F (1), min_v max F (2) and min t with F <= t (3), over a finite set of points v."""
    losses = losses_for(2, B=40)
    for row in losses.numpy():
        inner = linprog(-row, A_eq=np.ones((1, 4)), b_eq=[1], bounds=[(0, 1)] * 4)
        epigraph = linprog([1.0], A_ub=-np.ones((4, 1)), b_ub=-row, bounds=[(None, None)])
        assert -inner.fun == pytest.approx(row.max(), abs=1e-9)
        assert epigraph.fun == pytest.approx(row.max(), abs=1e-9)
    by_rule = (WorstCase().step(losses, losses) * losses).sum(1)
    assert float(by_rule.min()) == pytest.approx(losses.numpy().max(axis=1).min(), abs=1e-12)


def test_projected_ascent_ends_at_the_maximiser_of_the_regularised_inner_problem() -> None:
    losses = losses_for(3)
    rule = ProjectedAscent(0.2, 2.0)
    w = rule.init(5, 4, dtype=torch.float64)
    for _ in range(400):
        w = rule.step(w, losses)
    for row, f in zip(w.numpy(), losses.numpy(), strict=True):
        found = minimize(
            lambda v, f=f: -(v @ f) + ((v - 0.25) ** 2).sum(),
            np.full(4, 0.25),
            bounds=[(0, 1)] * 4,
            constraints={"type": "eq", "fun": lambda v: v.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 300},
        )
        assert np.allclose(row, found.x, atol=1e-4)


def test_ties_go_to_the_first_domain() -> None:
    tied = torch.tensor([[1.0, 3.0, 3.0]])
    assert WorstCase().step(tied, tied).tolist() == [[0.0, 1.0, 0.0]]


def test_fixed_takes_a_row_for_all_or_a_row_for_each() -> None:
    each = torch.tensor([[1.0, 0.0], [0.25, 0.75]])
    assert torch.equal(Fixed(each).init(2, 2), each)
    assert torch.equal(Fixed(each[1]).init(3, 2), each[1].expand(3, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ProjectedAscent(0.0, 1.0), "beta must be finite and > 0, got 0.0"),
        (lambda: ProjectedAscent(0.1, -1.0), "gamma must be finite and >= 0, got -1.0"),
        (lambda: ExponentiatedGradient(float("nan")), "eta must be finite and > 0, got nan"),
        (lambda: Fixed(torch.tensor([0.5, 0.6])), "each row must sum to 1"),
        (lambda: Fixed(torch.tensor([1.5, -0.5])), "non-negative"),
        (lambda: Fixed("even"), "w must be a tensor of weights, got str"),  # pyright: ignore
        (lambda: Fixed(None), "w must be a tensor of weights, got NoneType"),  # pyright: ignore
        (lambda: Fixed(torch.tensor([0.5 + 0.5j, 0.5])), "w must hold real numbers, got torch.complex64"),
        (lambda: Fixed(torch.tensor([True, False])), "w must hold real numbers, got torch.bool"),
        (lambda: Fixed(torch.tensor(1.0)), r"w must have shape \(K,\) or \(B, K\)"),
        (lambda: Fixed(torch.tensor([0.5, 0.5])).init(2, 3), r"w must have shape \(3,\) or \(2, 3\), got \(2,\)"),
    ],
)
def test_what_a_rule_refuses(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_worst_of_the_smallest_share_is_the_worst_case() -> None:
    losses = torch.tensor([[1.0, 3.0, 2.0]])
    assert CVaR(5e-324).step(Uniform().init(1, 3), losses).tolist() == [[0.0, 1.0, 0.0]]


def test_a_step_too_long_for_theorem_1_warns() -> None:
    with pytest.warns(RuntimeWarning, match="beta \\* gamma < 1"):
        ProjectedAscent(0.5, 2.0)
