"""Rounded kinks: the values of the sharp ones, and gradients by hand."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnirobust.domains.soften import Softened


def _z(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _slope(function, z: Tensor, towards: Tensor) -> tuple[Tensor, Tensor]:
    leaf = z.clone().requires_grad_()
    with Softened():
        out = function(leaf)
        (slope,) = torch.autograd.grad((out * towards).sum(), leaf)
    return out.detach(), slope


def _unit(row: Tensor) -> float:
    return 0.5 * float(row.square().mean().sqrt())


@pytest.mark.parametrize("function", [nn.ReLU(), nn.ReLU(inplace=True), F.relu, torch.relu, Tensor.relu])
def test_relu(function):
    z, towards = _z(3, 5), _z(5)
    out, slope = _slope(function, z, towards)
    assert torch.equal(out, z.clamp_min(0))
    want = [[float(towards[j]) / (1 + float(torch.exp(-z[i, j] / _unit(z[i])))) for j in range(5)] for i in range(3)]
    assert torch.allclose(slope, torch.tensor(want).double())


@pytest.mark.parametrize("function", [nn.ReLU6(), F.relu6, nn.Hardtanh(0.0, 6.0)])
def test_relu6(function):
    z, towards = 8 * _z(3, 5), _z(5)
    out, slope = _slope(function, z, towards)
    assert torch.equal(out, z.clamp(0, 6))
    gate = (z[1, 2] / _unit(z[1])).sigmoid() * ((6 - z[1, 2]) / _unit(z[1])).sigmoid()
    assert torch.allclose(slope[1, 2], towards[2] * gate)


@pytest.mark.parametrize("function", [nn.MaxPool2d(2), lambda z: F.max_pool2d(z, 2), lambda z: torch.max_pool2d(z, 2)])
def test_max_pooling(function):
    z, towards = _z(2, 3, 4, 6), _z(3, 2, 3)
    out, slope = _slope(function, z, towards)
    assert torch.equal(out, F.max_pool2d(z, 2))
    for i, c, r, s in product(range(2), range(3), range(2), range(3)):
        window = z[i, c, 2 * r : 2 * r + 2, 2 * s : 2 * s + 2]
        want = (window / _unit(z[i])).flatten().softmax(0).view(2, 2) * towards[c, r, s]
        assert torch.allclose(slope[i, c, 2 * r : 2 * r + 2, 2 * s : 2 * s + 2], want)


def test_overlapping_windows_and_edges():
    z = _z(1, 1, 3, 3)
    out, slope = _slope(nn.MaxPool2d(3, 2, padding=1), z, torch.ones(1, 2, 2).double())
    assert torch.equal(out, F.max_pool2d(z, 3, 2, padding=1))
    want = torch.zeros(3, 3, dtype=torch.float64)
    for r, s in product((slice(0, 2), slice(1, 3)), repeat=2):
        want[r, s] += (z[0, 0, r, s] / _unit(z)).flatten().softmax(0).view(2, 2)
    assert torch.allclose(slope[0, 0], want)


def test_outside_nothing_has_changed_and_what_it_does_not_know_goes_its_way():
    z = _z(2, 1, 4, 4).requires_grad_()
    with Softened():
        assert F.max_pool2d(z, 2, return_indices=False).shape == (2, 1, 2, 2)
        assert torch.equal(torch.tanh(z), z.tanh())
    assert set(torch.autograd.grad(F.relu(z).sum(), z)[0].unique().tolist()) == {0.0, 1.0}
