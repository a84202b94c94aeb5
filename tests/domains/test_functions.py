"""Losses that are no classifiers: regressions on a table against a convex solver, and distances between embeddings."""

from __future__ import annotations

import cvxpy
import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from torch import Tensor

import omnirobust as orb

Regressors = dict[str, tuple[Tensor, float]]


@pytest.fixture(scope="module")
def patients() -> Tensor:
    """Ten measurements of each of 442 patients, standardised, float64."""
    table = load_diabetes(scaled=False).data
    return torch.from_numpy((table - table.mean(0)) / table.std(0))


@pytest.fixture(scope="module")
def regressors(patients: Tensor) -> Regressors:
    """Three clinics' models of how the disease goes on, each of its own patients: coefficients and intercept."""
    y = load_diabetes().target
    fits = {name: Ridge(alpha=1.0).fit(patients[k::3].numpy(), y[k::3]) for k, name in enumerate("abc")}
    return {name: (torch.from_numpy(f.coef_), float(f.intercept_)) for name, f in fits.items()}


def domains_of(regressors: Regressors, x: Tensor, threshold: float) -> orb.FunctionDomains:
    """How far each model's prediction is from ``threshold``: below zero it is crossed."""
    return orb.FunctionDomains(
        {
            name: lambda delta, rows, coef=coef, intercept=intercept: threshold - (x[rows] + delta) @ coef - intercept
            for name, (coef, intercept) in regressors.items()
        },
        success=lambda losses: losses < 0,
    )


def convex_optimum(regressors: Regressors, x: Tensor, threshold: float, p: float, eps: float) -> float:
    """Return the least worst loss over the ball, by a convex solver."""
    delta, worst = cvxpy.Variable(len(x)), cvxpy.Variable()
    above = [
        threshold - coef.numpy() @ (x.numpy() + delta) - intercept <= worst for coef, intercept in regressors.values()
    ]
    problem = cvxpy.Problem(
        cvxpy.Minimize(worst), [*above, cvxpy.norm(delta, np.inf if p == float("inf") else p) <= eps]
    )
    return float(problem.solve())  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("p", "eps"), [(2, 1.0), (float("inf"), 0.4), (1, 2.0)])
def test_one_change_of_a_patient_fools_three_regressions_as_far_as_a_convex_solver_says(
    patients: Tensor, regressors: Regressors, p: float, eps: float
) -> None:
    x, threshold = patients[:6], 200.0
    wide = torch.full_like(x, 50.0)
    feasible = orb.FeasibleSet(p, eps, -wide, wide)
    got = orb.solve(
        domains_of(regressors, x, threshold), feasible, orb.ProjectedAscent(0.005, 0.0), steps=1000, step_size=0.5,
        direction=orb.Normalised("linear"), keep="best",
    )  # fmt: skip
    average = orb.solve(
        domains_of(regressors, x, threshold), feasible, orb.Uniform(), steps=1000, step_size=0.5,
        direction=orb.Normalised("linear"), keep="best",
    )  # fmt: skip
    for i in range(len(x)):
        best = convex_optimum(regressors, x[i], threshold, p, eps)
        start = float((threshold - torch.stack([x[i] @ c + b for c, b in regressors.values()])).max())
        assert best - 1e-6 <= float(got.losses[i].max()) <= best + 0.01 * (start - best), i
    assert feasible.contains(got.delta).all()
    assert got.fooled is not None and torch.equal(got.fooled, got.losses < 0)
    assert bool((got.losses.amax(1) <= average.losses.amax(1) + 1e-9).all())


def test_one_signal_is_brought_near_a_target_in_every_embedding() -> None:
    """Distances under three embeddings of a signal, none of them a classifier; no success is defined."""
    g = torch.Generator().manual_seed(0)
    signals, target = torch.randn(4, 24, generator=g), torch.randn(24, generator=g)
    maps = {f"embedding {k}": torch.randn(24, 8, generator=g) for k in range(3)}

    def distance(matrix: Tensor):
        goal = (target @ matrix).tanh()
        return lambda delta, rows: (((signals[rows] + delta) @ matrix).tanh() - goal).pow(2).sum(1)

    domains = orb.FunctionDomains({name: distance(matrix) for name, matrix in maps.items()})
    wide = torch.full_like(signals, 10.0)
    kinds = {"steps": 200, "direction": orb.Adaptive(), "keep": "best"}
    feasible = orb.FeasibleSet(2, 3.0, -wide, wide)
    minmax = orb.solve(domains, feasible, orb.ExponentiatedGradient(0.5), **kinds)
    average = orb.solve(domains, feasible, orb.Uniform(), **kinds)
    start = domains.evaluate(torch.zeros_like(signals), grad=False)
    assert minmax.fooled is None and start.fooled is None
    assert bool((minmax.losses.amax(1) < start.losses.amax(1)).all())
    assert float(minmax.losses.amax(1).mean()) < float(average.losses.amax(1).mean())


@pytest.mark.parametrize(
    ("functions", "told"),
    [
        ({"a": lambda delta: delta.sum(1)}, r"must be callable as f\(delta, rows\), got 'a', which takes \(delta\)"),
        ({"a": lambda delta, rows, more: delta}, r"got 'a', which takes \(delta, rows, more\)"),
        (lambda delta, rows: delta, r"functions must map names to callables f\(delta, rows\), got a function alone"),
        ({"a": None}, "got NoneType for 'a'"),
        ({"a": torch.nn.Linear(2, 1)}, r"got 'a', which takes \(input: .*Tensor\)"),
    ],
)  # fmt: skip
def test_functions_that_cannot_be_called_with_rows_are_refused(functions, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        orb.FunctionDomains(functions)


def test_whatever_takes_two_arguments_will_do() -> None:
    forms = {"default": lambda delta, rows, more=1: delta.sum(1), "any": lambda *both: both[0].sum(1)}
    losses = orb.FunctionDomains({**forms, "built in": torch.mul}).evaluate
    with pytest.raises(ValueError, match="'built in' must return shape"):  # it is called: its signature says nothing
        losses(torch.ones(2, 2, dtype=torch.float64))
