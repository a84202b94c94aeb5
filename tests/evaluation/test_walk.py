"""The walk ends near the smallest perturbation that a convex solver finds for two linear models at once."""

from __future__ import annotations

import math

import cvxpy
import pytest
import torch
from torch import nn

from omnirobust.core.threat_models import ThreatModel
from omnirobust.domains.grid import DomainGrid
from omnirobust.domains.losses import signed_margin
from omnirobust.evaluation.walk import nearest, walk


class Line(nn.Module):
    """Two classes, logits (w . x + b, 0)."""

    def __init__(self, seed: int, scale: float) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(scale * torch.randn(6, generator=g, dtype=torch.float64))

    def forward(self, x):
        value = (x.flatten(1) - 0.5) @ self.w
        return torch.stack([value, torch.zeros_like(value)], 1)


@pytest.mark.parametrize(("p", "share"), [(math.inf, 1.05), (2, 1.03), (1, 1.15)])
def test_two_linear_models_at_once(p, share):
    models = [Line(0, 1.0), Line(1, 30.0)]
    g = torch.Generator().manual_seed(2)
    x = 0.3 + 0.4 * torch.rand(10, 6, generator=g, dtype=torch.float64)
    with torch.no_grad():
        y = torch.stack([m(x).argmax(1) for m in models], 1)
    grid = DomainGrid(models, x, y, loss=signed_margin)
    delta, size = walk(grid, ThreatModel(p, 1.0).around(x), torch.full((10,), 0.05, dtype=torch.float64), 60)
    exact = []
    for row, labels in zip(x.numpy(), y.tolist(), strict=True):
        d = cvxpy.Variable(6)
        signs = [1 if label == 0 else -1 for label in labels]
        lines = [m.w.detach().numpy() for m in models]
        wrong = [s * (w @ (row - 0.5 + d)) <= 0 for s, w in zip(signs, lines, strict=True)]
        exact.append(cvxpy.Problem(cvxpy.Minimize(cvxpy.norm(d, p)), [*wrong, row + d >= 0, row + d <= 1]).solve())
    ratio = size / torch.tensor(exact, dtype=torch.float64)
    with torch.no_grad():
        assert all((m(x + delta).argmax(1) != y[:, k]).all() for k, m in enumerate(models))
    assert float(ratio.min()) > 1 - 1e-4 and float(ratio.median()) < share


class Steep(nn.Module):
    """Logits (0, 0.1 x_0 - 0.03, 5 x_1 - 0.5) of x - 0.5: what comes second lies three times as far as the third."""

    def forward(self, x):
        first, second = (x - 0.5).unbind(1)
        return torch.stack([0 * first, 0.1 * first - 0.03, 5 * second - 0.5], 1)


@pytest.mark.parametrize("p", [math.inf, 2, 1])
def test_the_nearest_class_is_found_though_it_is_not_the_likeliest(p):
    x, y = torch.full((3, 2), 0.5, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    grid, feasible = DomainGrid([Steep()], x, y, loss=signed_margin), ThreatModel(p, 1.0).around(x)

    def aimed(rows, goals):
        return DomainGrid([Steep()], x[rows], goals, loss=signed_margin, targeted=True)

    eps = torch.full((3,), 0.05, dtype=torch.float64)
    delta, size = nearest(grid, feasible, eps, 50, aimed)
    torch.testing.assert_close(size, torch.full_like(size, 0.1), rtol=0.02, atol=0)  # to class 2; 0.3 to class 1
    assert bool((Steep()(x + delta).argmax(1) == 2).all())
    if p != math.inf:  # linf moves both coordinates at once
        assert float(nearest(grid, feasible, eps, 50, None)[1].min()) > 0.2
