"""DPAR against numpy, its bounds, and finite differences of first and second order."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.nn.functional import cross_entropy

from omnirobust.core.threat_models import L1, L2, Linf
from omnirobust.training import Scheme, attack_batch, cosines, diversity
from omnirobust.training.diversity import RIDGE
from omnirobust.training.objective import Objective


def drawn(K: int, B: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(K, B, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("K", [2, 3, 5])
def test_value_is_the_log_determinant_of_the_gram_matrix(K: int) -> None:
    grads = drawn(K, 4, 2, 3, 4)
    h, cos = diversity(grads), cosines(grads)
    for b in range(4):
        G = np.stack([g[b].flatten().numpy() / np.linalg.norm(g[b].numpy()) for g in grads], axis=1)
        np.testing.assert_allclose(h[b], np.log(np.linalg.det(G.T @ G + RIDGE * np.eye(K))) / (K - 1), atol=1e-10)
        np.testing.assert_allclose(cos[b], G.T @ G, atol=1e-12)


def test_orthogonal_gradients_reach_the_top_and_equal_ones_the_bottom() -> None:
    orthogonal = torch.eye(3, dtype=torch.float64).unsqueeze(1) * torch.tensor([1e-8, 1.0, 1e8]).view(3, 1, 1)
    assert diversity(orthogonal).item() == pytest.approx(3 * math.log1p(RIDGE) / 2, abs=1e-12)
    equal = drawn(1, 1, 5).expand(3, 1, 5)
    assert diversity(equal).item() == pytest.approx(math.log(RIDGE) + math.log(3 + RIDGE) / 2, abs=1e-6)
    assert diversity(equal[:2]).item() == pytest.approx(-13.12, abs=0.01)


@given(
    st.integers(2, 4), st.integers(0, 10_000), st.floats(0, 1), st.sampled_from([1e-30, 1e-6, 1.0, 1e30]), st.booleans()
)
@settings(max_examples=60, deadline=None)
def test_bounded_whatever_the_gradients(K: int, seed: int, mix: float, scale: float, single: bool) -> None:
    grads = drawn(K, 3, 7, seed=seed)
    grads = ((1 - mix) * grads + mix * grads[:1]) * scale
    if single:
        grads = grads.float()
    grads.requires_grad_(True)
    h = diversity(grads)
    low, high = math.log(RIDGE) + math.log(K) / (K - 1), K * math.log1p(RIDGE)
    assert (h >= low - (0.5 if single else 1e-3)).all() and (h <= high + 1e-5).all()
    (push,) = torch.autograd.grad(h.sum(), grads)
    assert push.isfinite().all()


def test_slope_in_the_angle_is_bounded_and_vanishes_with_it() -> None:
    angle = torch.logspace(-8, 0, 200, dtype=torch.float64, requires_grad=True)
    pair = torch.stack([torch.stack([angle.cos(), angle.sin()], 1), torch.tensor([[1.0, 0.0]]).double().expand(200, 2)])
    (slope,) = torch.autograd.grad(diversity(pair).sum(), angle)
    assert slope.abs().max() <= (2 * RIDGE) ** -0.5
    assert slope.abs().max() >= 0.9 * (2 * RIDGE) ** -0.5
    assert slope[0] < 0.02


def test_vanished_gradients_are_finite_and_pass_nothing_on() -> None:
    grads = drawn(3, 2, 6)
    grads[1, 0] = 0
    grads.requires_grad_(True)
    h = diversity(grads)
    (push,) = torch.autograd.grad(h.sum(), grads)
    assert h[0].item() == pytest.approx((math.log(RIDGE) + diversity(grads[[0, 2], :1]).item()) / 2, abs=1e-9)
    assert push.isfinite().all() and (push[1, 0] == 0).all() and (push[0, 0] != 0).any()


def test_half_precision_is_taken_in_float32_even_under_autocast() -> None:
    grads = drawn(2, 3, 50)
    with torch.autocast("cpu", torch.bfloat16):
        h = diversity(grads.float())
    assert h.dtype == torch.float32
    torch.testing.assert_close(h.double(), diversity(grads), rtol=1e-5, atol=1e-6)
    assert diversity(grads.bfloat16()).dtype == torch.float32


def test_gradcheck_of_the_value() -> None:
    assert gradcheck(diversity, (drawn(3, 2, 4).requires_grad_(True),), atol=1e-6)


class Smooth(nn.Module):
    def __init__(self, middle: nn.Module | None = None) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(6, 5, generator=g, dtype=torch.float64))
        self.last = nn.Parameter(torch.randn(5, 3, generator=g, dtype=torch.float64))
        self.middle = middle or nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.middle(x @ self.first) @ self.last


def h_at(model: nn.Module, points: Tensor, y: Tensor) -> Tensor:
    """Return h of K perturbed batches (K, B, n), written with the model alone."""
    losses = cross_entropy(model(points.flatten(0, 1)), y.repeat(len(points)), reduction="sum")
    (grads,) = torch.autograd.grad(losses, points, create_graph=True)
    return diversity(grads)


POINTS, Y = drawn(2, 3, 6, seed=4), torch.tensor([0, 1, 2])


def test_gradcheck_through_the_input_gradients_of_a_smooth_model() -> None:
    model = Smooth()
    assert gradcheck(lambda points: h_at(model, points, Y), (POINTS.clone().requires_grad_(True),), atol=1e-5)


@pytest.mark.parametrize("middle", [nn.Tanh(), nn.ReLU()])
@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_the_training_loss_agrees_with_finite_differences_in_every_parameter(middle: nn.Module, ratio: float) -> None:
    model = Smooth(middle)
    scheme = Scheme("average", (Linf(0.1), L2(0.1)), dpar=0.1, adversarial_ratio=ratio)
    objective, weights = Objective(model, scheme, "fp32"), torch.tensor([[0.2, 0.8]]).double().expand(3, 2)
    clean = POINTS.mean(0)

    def loss() -> Tensor:
        return objective(clean, Y, POINTS, weights)[0]

    plain = (1 - ratio) * cross_entropy(model(clean), Y)
    for k in range(2):
        plain = plain + ratio * (weights[:, k] * cross_entropy(model(POINTS[k]), Y, reduction="none")).mean()
        h = h_at(model, POINTS.clone().requires_grad_(True), Y)
    torch.testing.assert_close(loss(), plain + ratio * 0.1 * h.mean(), rtol=1e-12, atol=1e-12)
    grads = torch.autograd.grad(loss(), list(model.parameters()))
    size = 1e-6
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        for index in range(parameter.numel()):
            with torch.no_grad():
                values = []
                for sign in (1, -1):
                    parameter.view(-1)[index] += sign * size
                    with torch.enable_grad():
                        values.append(loss().item())
                    parameter.view(-1)[index] -= sign * size
            assert grad.view(-1)[index].item() == pytest.approx((values[0] - values[1]) / (2 * size), abs=2e-7)


@pytest.mark.parametrize("middle", [nn.Tanh(), nn.ReLU()])
def test_the_attacker_climbs_the_gradient_that_finite_differences_give(middle: nn.Module) -> None:
    """One paper step of lambda: delta moves by alpha (w_k grad f + lambda grad h), each by central differences."""
    model, x = Smooth(middle), POINTS[0].sigmoid()
    threats = (Linf(0.1), L2(0.1))
    moving = Scheme("average", threats, 1, dpar=0.3, preset="paper", step_sizes=(1e-5, 1e-5))
    start = Scheme("average", threats, 1, preset="paper", step_sizes=(1e-30, 1e-30))
    before, after = (attack_batch(model, x, Y, scheme, seed=3)[0] for scheme in (start, moving))
    points = torch.stack([x + d for d in before])

    def psi(points: Tensor) -> float:
        f = cross_entropy(model(points.flatten(0, 1)), Y.repeat(2), reduction="sum")
        h = h_at(model, points.clone().requires_grad_(True), Y).sum()
        return (0.5 * f + 0.3 * h).item()

    for k in range(2):
        step = (after[k] - before[k]) / 1e-5
        for n, j in np.ndindex(3, 6):  # random starts lie inside their balls: no projection binds
            shifted = [points.clone(), points.clone()]
            shifted[0][k, n, j] += 1e-6
            shifted[1][k, n, j] -= 1e-6
            assert step[n, j].item() == pytest.approx((psi(shifted[0]) - psi(shifted[1])) / 2e-6, rel=1e-3, abs=1e-4)


def test_a_direction_that_watches_progress_is_told_of_what_the_attacker_climbs(monkeypatch) -> None:
    """The losses that steppers descend are -(f + lambda h) at the perturbation of which they have the gradients."""
    model, x, seen = Smooth(), POINTS[0].sigmoid(), []

    class Recording:
        def step(self, t, delta, weights, evaluation, feasible):
            seen.append((delta, evaluation.losses))
            return feasible.project(delta + 0.01 * len(seen))

        def select(self, rows) -> None: ...

    monkeypatch.setattr("omnirobust.training.ampgd.steppers", lambda scheme, feasible: [Recording(), Recording()])
    attack_batch(model, x, Y, Scheme("average", (L1(0.5), L2(0.1)), 3, dpar=0.3))
    assert len(seen) == 6
    for r in range(0, 6, 2):
        points = torch.stack([x + delta for delta, _ in seen[r : r + 2]])
        h = h_at(model, points.clone().requires_grad_(True), Y)
        for k, point in enumerate(points):
            climbed = cross_entropy(model(point), Y, reduction="none") + 0.3 * h
            for column in seen[r + k][1].unbind(1):
                torch.testing.assert_close(-column, climbed.detach(), rtol=1e-10, atol=1e-12)


def test_the_attacker_spreads_the_gradients(models, x, y) -> None:
    spread = []
    for dpar in (0.0, 1.0):
        scheme = Scheme("average", (Linf(0.2), L2(1.0)), steps=20, dpar=dpar)
        deltas, _ = attack_batch(models["c"], x, y, scheme)
        points = torch.stack([x + d for d in deltas]).requires_grad_(True)
        losses = cross_entropy(models["c"](points.flatten(0, 1)), y.repeat(2), reduction="sum")
        spread.append(diversity(torch.autograd.grad(losses, points)[0]).mean().item())
    assert spread[1] > spread[0] + 0.1


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        return 2 * grad


def test_a_model_without_second_derivatives_is_told_so() -> None:
    class Model(Smooth):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(Once.apply(x))

    scheme = Scheme("average", (Linf(0.1), L2(0.1)), dpar=0.1)
    with pytest.raises(ValueError, match="dpar must be 0 for this model, which has no second derivatives: "):
        attack_batch(Model(), POINTS[0].sigmoid(), Y, scheme)
