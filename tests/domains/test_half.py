"""Inputs of half precision and models of full: what is reported is what the model says of the returned tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import omnirobust as orb
from omnirobust.training import Scheme, attack_batch

HALVES = [torch.float16, torch.bfloat16]
THREATS = [orb.Linf(0.12), orb.L2(0.6), orb.L1(3.0), orb.L0(5)]


class Mlp(nn.Module):
    """Thirty-six numbers to five logits, changed by a factor and an offset."""

    def __init__(self, seed: int = 1, factor: float = 1.0, offset: float = 0.0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(36, 16, generator=g) * 0.5)
        self.last = nn.Parameter(torch.randn(16, 5, generator=g))
        self.factor, self.offset = factor, offset

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.first).tanh() @ self.last * self.factor + self.offset


def problem(dtype: torch.dtype, n: int = 24) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        return x, Mlp()(x.float()).argmax(1)


def says(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images.float()).argmax(1)


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.name)
@pytest.mark.parametrize("dtype", HALVES)
def test_what_is_reported_is_true_of_the_returned_tensors_whatever_the_offset(
    dtype: torch.dtype, threat: orb.ThreatModel
) -> None:
    x, y = problem(dtype)
    for offset in (0.0, 30.0, 1000.0):
        model = Mlp(offset=offset)
        result = orb.attack_ensemble([model], x, y, threat, steps=6)
        assert result.adversarial.dtype == result.delta.dtype == dtype
        assert result.losses.dtype == result.weights.dtype == result.success.dtype == torch.float32
        assert torch.equal(result.fooled[:, 0], says(model, result.adversarial) != y)
        assert bool(threat.around(x).contains(result.delta).all())


@pytest.mark.parametrize("factor", [1e-20, 1e-5, 1e4, 1e25])
@pytest.mark.parametrize("dtype", HALVES)
def test_gradients_that_half_precision_cannot_hold_are_taken_in_full(dtype: torch.dtype, factor: float) -> None:
    x, y = problem(dtype)
    plain = orb.attack_ensemble([Mlp()], x, y, THREATS[0], steps=6)
    scaled = orb.attack_ensemble([Mlp(factor=factor)], x, y, THREATS[0], steps=6)
    assert 0 < plain.asr_all < 1
    assert torch.equal(plain.fooled, scaled.fooled)
    grid = orb.DomainGrid([Mlp()], x, y, loss=orb.losses.signed_margin)
    seen = grid.evaluate(torch.zeros_like(x))
    leaf = x.float().requires_grad_()
    (slope,) = torch.autograd.grad(orb.losses.signed_margin(Mlp()(leaf), y).sum(), leaf)
    assert seen.grads is not None
    torch.testing.assert_close(seen.grads[0], slope)


@pytest.mark.parametrize("dtype", HALVES)
def test_our_transformations_pass_gradients_on_in_full_and_show_what_they_show_in_half(dtype: torch.dtype) -> None:
    x, y = problem(dtype)
    ours, own = orb.transforms.Brightness(0.1), lambda v: v * 0.7
    seen_by: list[Tensor] = []

    def model(v: Tensor) -> Tensor:
        seen_by.append(v.detach().clone())
        return Mlp(factor=1e4)(v.float())

    grid = orb.DomainGrid(Mlp(factor=1e8), x, y, loss=orb.losses.signed_margin, transforms={"ours": ours})
    seen = grid.evaluate(torch.zeros_like(x))
    assert seen.grads is not None and seen.grads[0].dtype == torch.float32
    assert float(seen.grads[0].abs().max()) > 1e5
    orb.DomainGrid(model, x, y, loss=orb.losses.signed_margin, transforms=[ours, own]).evaluate(
        torch.zeros_like(x), False
    )
    assert torch.equal(torch.cat(seen_by).to(dtype), torch.cat([ours(x), own(x)]))
    assert seen_by[0].dtype == dtype


def test_an_evaluation_judges_half_images_as_the_model_sees_them() -> None:
    x, y = problem(torch.bfloat16)
    model = Mlp(offset=1000.0)
    report = orb.evaluation.evaluate_robustness(model, x, y, [orb.Linf(0.12)], steps=4)
    (delta,) = report.delta.values()
    assert torch.equal(report.correct[:, 0], says(model, (x + delta).clamp(0, 1)) == y)
    assert report.clean == 1.0 and report.margin.dtype == torch.float32


@pytest.mark.parametrize("dtype", HALVES)
def test_smallest_distortions_of_half_images_fool_the_model_in_full(dtype: torch.dtype) -> None:
    x, y = problem(dtype, n=6)
    model: Any = Mlp(offset=100.0)
    for found in (
        orb.evaluation.minimal_l2(model, x, y, steps=20, binary_steps=2),
        orb.evaluation.minimal_eps(model, x, y, "linf", steps=5),
    ):
        assert bool(found.found.any()) and found.delta.dtype == dtype
        moved = (x + found.delta)[found.found].clamp(0, 1)
        assert bool((says(model, moved) != y[found.found]).all())


def test_a_universal_perturbation_of_half_images_counts_what_the_model_says() -> None:
    x, y = problem(torch.bfloat16)
    model = Mlp(offset=1000.0)
    found = orb.universal.learn_universal(model, x, y, orb.Linf(0.2), epochs=2, batch_size=8)
    score = orb.universal.score_universal(model, x, y, found)
    expected = says(model, (x + found.delta).clamp(0, 1)) != y
    assert torch.equal(score.success[:, 0] == 1, expected)


@pytest.mark.parametrize("factor", [1.0, 1e5])
def test_training_attacks_half_images_with_gradients_in_full(factor: float) -> None:
    x, y = problem(torch.float16)
    scheme = Scheme("minmax", (orb.Linf(0.1), orb.L2(0.5)), steps=3)
    deltas, weights = attack_batch(Mlp(factor=factor), x, y, scheme)
    assert all(d.dtype == torch.float16 and bool(d.isfinite().all()) for d in deltas)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum(1), torch.ones(len(x)))
