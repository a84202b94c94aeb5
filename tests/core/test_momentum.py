"""Accumulated gradients against a literal loop, and the blur against a convolution."""

from __future__ import annotations

from math import ceil, inf

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

import omnirobust as orb
from omnirobust.core.momentum import blurred
from omnirobust.core.types import Evaluation


def _gaussian(images: Tensor, std: float) -> Tensor:
    at = torch.arange(-ceil(std), ceil(std) + 1, dtype=images.dtype)
    bell = torch.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * std**2))
    kernel = (bell / bell.sum()).expand(images.shape[1], 1, -1, -1)
    return conv2d(images, kernel, padding=ceil(std), groups=images.shape[1])


@pytest.mark.parametrize("std", [0.4, 1.0, 1.5, 3.0])
def test_the_blur_is_a_convolution_with_a_gaussian(std):
    images = torch.randn(3, 2, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(blurred(images, std), _gaussian(images, std), atol=1e-12)
    assert torch.equal(blurred(images, std)[1:2], blurred(images[1:2], std))


def test_what_is_not_blurred():
    images = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert blurred(images, 0.0) is images
    features = images.flatten(1)
    assert blurred(features, 2.0) is features


def _grads(t: int) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(t)
    return tuple(torch.randn(3, 1, 6, 6, generator=g, dtype=torch.float64) for _ in range(2))


@pytest.mark.parametrize("given", [None, 0.07])
@pytest.mark.parametrize("p", [2, inf])
def test_steps_are_those_of_a_literal_loop(p, given):
    eps, steps = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64), 4
    x = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    ball = orb.ThreatModel(p, eps).around(x)
    weights = torch.tensor([[0.3, 0.7], [1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    stepper = orb.Momentum(0.8, 1.2, 1.5).start(ball, given, steps)
    delta = torch.zeros_like(x)
    for t in range(1, steps + 1):
        delta = stepper.step(t, delta, weights, Evaluation(torch.zeros(3, 2), None, _grads(t)), ball)
    for row in range(3):
        at, G = torch.zeros(1, 6, 6, dtype=torch.float64), torch.zeros(1, 6, 6, dtype=torch.float64)
        size = 1.5 * float(eps[row]) / steps if given is None else given
        for t in range(1, steps + 1):
            mixed = sum(float(weights[row, k]) * _grads(t)[k][row] for k in range(2))
            assert isinstance(mixed, Tensor)
            soft = _gaussian(mixed[None], 1.2)[0]
            G = 0.8 * G + soft / soft.pow(2).sum().sqrt()
            move = G.sign() if p == inf else G / G.pow(2).sum().sqrt()
            at = orb.project_lp_box(
                (at - size * move)[None], p, float(eps[row]), -x[row : row + 1], 1 - x[row : row + 1]
            )[0]
        assert torch.allclose(delta[row], at, atol=1e-9)


def test_problems_that_leave_take_their_sum_along():
    x = torch.full((3, 1, 6, 6), 0.5, dtype=torch.float64)
    ball, keep, w = orb.Linf(0.3).around(x), torch.tensor([2, 0]), torch.full((3, 2), 0.5, dtype=torch.float64)
    e = [Evaluation(torch.zeros(3, 2), None, _grads(t)) for t in (1, 2)]
    whole, part = (orb.Momentum().start(ball, None, 4) for _ in range(2))
    one = whole.step(1, torch.zeros_like(x), w, e[0], ball)
    assert torch.equal(one, part.step(1, torch.zeros_like(x), w, e[0], ball))
    part.select(keep)
    found = part.step(2, one[keep], w[keep], e[1].select(keep), ball.select(keep))
    assert torch.equal(found, whole.step(2, one, w, e[1], ball)[keep])


def test_a_zero_gradient_moves_nothing():
    x = torch.full((2, 1, 4, 4), 0.5)
    ball = orb.L2(0.3).around(x)
    e = Evaluation(torch.zeros(2, 1), None, (torch.zeros_like(x),))
    assert torch.equal(orb.Momentum(blur=1.0).start(ball, None, 4).step(1, 0 * x, torch.ones(2, 1), e, ball), 0 * x)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("decay", 1.5), ("blur", -1), ("blur", inf), ("length", 0)],
)
def test_what_is_refused(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be"):
        orb.Momentum(**{argument: value})


@pytest.mark.parametrize("threat", [orb.L1(1.0), orb.L0(3)])
def test_norms_that_it_is_not_for(threat):
    with pytest.raises(ValueError, match=f"under {threat.name}: it is for linf and l2"):
        orb.Momentum().start(threat.around(torch.zeros(1, 1, 2, 2)), None, 3)
