"""Losses against loops over classes, closed forms and each other."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omnirobust import losses

ALL = [losses.margin, losses.smooth_margin, losses.probability_margin, losses.neg_cross_entropy, losses.dlr]


def random_logits(seed: int, rows: int = 7, classes: int = 5, scale: float = 4.0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, classes, generator=g, dtype=torch.float64) * scale,
        torch.randint(classes, (rows,), generator=g),
    )


def by_hand(name: str, z: list[float], y: int, targeted: bool) -> float:
    """Each loss of one row, written out with plain numbers."""
    wrong = [v for j, v in enumerate(z) if j != y]
    top = sorted(z, reverse=True)
    total = sum(math.exp(v) for v in z)
    sign = -1.0 if targeted else 1.0
    if name == "margin":
        return max(sign * (z[y] - max(wrong)) + 50.0, 0.0)
    if name == "smooth_margin":
        return sign * (z[y] - math.log(sum(math.exp(v) for v in wrong)))
    if name == "probability_margin":
        return sign * (math.exp(z[y]) - math.exp(max(wrong))) / total
    if name == "neg_cross_entropy":
        return sign * math.log(math.exp(z[y]) / total)
    scale = top[0] - (top[2] + top[3]) / 2 if targeted else top[0] - top[2]
    return sign * (z[y] - max(wrong)) / scale


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("loss", ALL, ids=lambda f: f.__name__)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_losses_equal_the_formulas_written_out(loss: losses.Loss, targeted: bool, seed: int) -> None:
    z, y = random_logits(seed)
    got = loss(z, y, targeted=targeted)
    expected = [by_hand(loss.__name__, row, label, targeted) for row, label in zip(z.tolist(), y.tolist(), strict=True)]
    assert got.shape == (7,)
    assert torch.allclose(got, torch.tensor(expected, dtype=torch.float64), atol=1e-10)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("loss", ALL, ids=lambda f: f.__name__)
def test_gradients_agree_with_finite_differences(loss: losses.Loss, targeted: bool) -> None:
    z, y = random_logits(3)
    assert torch.autograd.gradcheck(lambda v: loss(v, y, targeted=targeted), z.requires_grad_())


def test_margin_takes_the_largest_wrong_logit_even_when_all_are_negative() -> None:
    z = torch.tensor([[-1.0, -9.0, -3.0]])
    assert losses.margin(z, torch.tensor([0]), kappa=0.0).item() == 2.0
    assert losses.margin(z, torch.tensor([1]), kappa=0.0).item() == 0.0
    assert losses.margin(z, torch.tensor([1]), kappa=10.0).item() == 2.0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_low_loss_means_fooled(seed: int) -> None:
    z, y = random_logits(seed, rows=50)
    hit = losses.fooled(z, y)
    assert torch.equal(hit, losses.margin(z, y, kappa=0.0) == 0) | bool((z.topk(2).values.diff() == 0).any())
    assert torch.equal(hit, losses.probability_margin(z, y) < 0)
    assert torch.equal(hit, losses.dlr(z, y) < 0)
    reached = losses.fooled(z, y, targeted=True)
    assert torch.equal(reached, ~hit)


def test_dlr_does_not_change_with_shift_and_scale_and_says_how_many_classes_it_needs() -> None:
    z, y = random_logits(5)
    assert torch.allclose(losses.dlr(z, y), losses.dlr(3.7 * z - 11, y))
    with pytest.raises(ValueError, match="at least 3 classes, got 2"):
        losses.dlr(z[:, :2], torch.zeros(7, dtype=torch.int64))
    with pytest.raises(ValueError, match="at least 4 classes, got 3"):
        losses.dlr(z[:, :3], torch.zeros(7, dtype=torch.int64), targeted=True)


@pytest.mark.parametrize("loss", ALL, ids=lambda f: f.__name__)
def test_rows_do_not_see_each_other(loss: losses.Loss) -> None:
    z, y = random_logits(8, rows=6)
    assert torch.equal(loss(z, y)[2:3], loss(z[2:3], y[2:3]))


def test_nan_logits_never_count_as_fooled() -> None:
    z = torch.tensor([[float("nan"), 1.0, 2.0]])
    assert not losses.fooled(z, torch.tensor([1])).any()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-2, 1e3), targeted=st.booleans())
def test_standardised_margin_is_the_formula_and_does_not_see_the_scale_of_the_logits(
    seed: int, scale: float, targeted: bool
) -> None:
    z, y = random_logits(seed)
    got = losses.standardised_margin(z, y, targeted=targeted)
    for value, row, label in zip(got.tolist(), z.tolist(), y.tolist(), strict=True):
        mean = sum(row) / 5
        s = math.sqrt(sum((v - mean) ** 2 for v in row) / 5)
        expected = by_hand("smooth_margin", [10 * v / s for v in row], label, targeted) / 10
        assert value == pytest.approx(expected, abs=1e-9)
    assert torch.allclose(losses.standardised_margin(z * scale, y, targeted=targeted), got, atol=1e-9)


def test_standardised_margin_holds_the_scale_constant_in_its_gradient() -> None:
    z, y = random_logits(4)
    s = z.std(dim=1, keepdim=True, correction=0)
    ours, plain = z.clone().requires_grad_(), z.clone().requires_grad_()
    got = torch.autograd.grad(losses.standardised_margin(ours, y).sum(), ours)[0]
    assert torch.allclose(got, torch.autograd.grad((losses.smooth_margin(plain * 10 / s, y) / 10).sum(), plain)[0])


def test_losses_stay_finite_where_logits_tie() -> None:
    z = torch.zeros(2, 4, requires_grad=True)
    for loss in [*ALL, losses.standardised_margin]:
        value = loss(z, torch.tensor([0, 3]))
        slope = torch.autograd.grad(value.sum(), z)[0]
        assert bool(value.isfinite().all()) and bool(slope.isfinite().all())
        assert float(slope.abs().max()) <= 1e7
