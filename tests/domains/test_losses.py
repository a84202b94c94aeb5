"""Losses against loops over classes, closed forms and each other."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omnirobust.attacks.universal import ClippedCrossEntropy
from omnirobust.domains import losses

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
    said = [max(range(len(row)), key=row.__getitem__) for row in z.tolist()]
    others = [
        max(v for c, v in enumerate(row) if c != label) for row, label in zip(z.tolist(), y.tolist(), strict=True)
    ]
    left = torch.tensor([c != label for c, label in zip(said, y.tolist(), strict=True)])
    ahead = torch.tensor([row[label] > v for row, label, v in zip(z.tolist(), y.tolist(), others, strict=True)])
    assert bool(left.any()) and bool(ahead.any())
    for targeted, won in ((False, left), (True, ahead)):
        assert torch.equal(losses.fooled(z, y, targeted=targeted), won)
        assert torch.equal(losses.margin(z, y, kappa=0.0, targeted=targeted) == 0, won)
        for loss in (losses.signed_margin, losses.probability_margin, losses.dlr):
            assert torch.equal(loss(z, y, targeted=targeted) < 0, won)


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
    for loss in EVERY:
        value = loss(z, torch.tensor([0, 3]))
        slope = torch.autograd.grad(value.sum(), z)[0]
        assert bool(value.isfinite().all()) and bool(slope.isfinite().all())
        assert float(slope.abs().max()) <= 1e7


EVERY = [*ALL, losses.signed_margin, losses.standardised_margin, losses.relative_margin]
MARGINS = [0.0, 1.0, 5.0, 17.0, 40.0, 80.0, 1e3, 1e4]


def confident(margin: float, classes: int = 10, rows: int = 24) -> tuple[torch.Tensor, ...]:
    """A linear model's weights and biases, inputs and labels, by how much the label wins; a bias for each input."""
    g = torch.Generator().manual_seed(3)
    w = torch.randn(classes, 60, generator=g, dtype=torch.float64) / 60**0.5
    x, y = torch.rand(rows, 60, generator=g, dtype=torch.float64), torch.randint(classes, (rows,), generator=g)
    z = x @ w.T
    ahead = z.scatter(1, y[:, None], -torch.inf).amax(1) + margin - z.gather(1, y[:, None])[:, 0]
    return w, torch.zeros_like(z).scatter(1, y[:, None], ahead[:, None]), x, y


def slope(loss: losses.Loss, targeted: bool, w, b, x, y, dtype: torch.dtype, bf16: bool = False) -> torch.Tensor:
    """Gradient of a loss in the inputs, (rows, 60)."""
    leaf = x.to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        z = leaf @ w.to(dtype).T
        z = z + b.to(z.dtype)
        assert z.dtype == (torch.bfloat16 if bf16 else dtype)
        value = loss(z, y, targeted=targeted)
    return torch.autograd.grad(value.sum(), leaf)[0].double()


def log_odds(w, b, x, y) -> torch.Tensor:
    """Direction in which log p_y grows, in closed form: w_y less the wrong classes' rows, each by its share of them."""
    others = (x @ w.T + b).scatter(1, y[:, None], -torch.inf)
    return w[y] - others.softmax(1) @ w


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.cosine_similarity(a / a.abs().amax(1, keepdim=True), b / b.abs().amax(1, keepdim=True))


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("margin", [-m for m in MARGINS[:0:-1]] + MARGINS)
def test_cross_entropy_keeps_its_direction_however_sure_the_model_is(margin: float, targeted: bool) -> None:
    *model, x, y = confident(margin)
    right = log_odds(*model, x, y) * (-1 if targeted else 1)
    found = slope(losses.neg_cross_entropy, targeted, *model, x, y, torch.float32)
    assert cosine(found, right).min() > 1 - 1e-5
    assert (found.sign() == right.sign()).double().mean() > 0.999
    rounded = slope(losses.neg_cross_entropy, targeted, *model, x, y, torch.float32, bf16=True)
    assert cosine(rounded, right).min() > 0.99


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("margin", [-m for m in MARGINS[:0:-1]] + MARGINS)
@pytest.mark.parametrize("loss", EVERY, ids=lambda f: f.__name__)
def test_float32_finds_the_direction_of_float64(loss: losses.Loss, margin: float, targeted: bool) -> None:
    *model, x, y = confident(margin)
    found, right = (slope(loss, targeted, *model, x, y, dtype) for dtype in (torch.float32, torch.float64))
    hinge = loss is losses.margin and (margin if targeted else -margin) > 50  # won by kappa
    saturated = loss is losses.probability_margin and margin > 100
    if hinge or saturated:
        assert not found.any()
        return
    assert cosine(found, right).min() > 1 - 1e-4
    assert (found.sign() == right.sign()).double().mean() > 0.99


@pytest.mark.parametrize("margin", [0.0, 20.0, 60.0, 1e4])
def test_second_derivatives_turn_the_gradient_of_a_sure_model_rightly(margin: float) -> None:
    """What the regulariser of trainings asks for: derivatives of the unit gradient along a parameter, here b."""
    w, b, x, y = confident(margin)
    probe = torch.randn(60, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def turned(dtype: torch.dtype, closed: bool) -> torch.Tensor:
        leaf, bias = x.to(dtype).requires_grad_(), b.to(dtype).requires_grad_()
        if closed:
            g = log_odds(w.to(dtype), bias, leaf, y)
        else:
            value = losses.neg_cross_entropy(leaf @ w.to(dtype).T + bias, y)
            (g,) = torch.autograd.grad(value.sum(), leaf, create_graph=True)
            g = g / g.detach().abs().amax(1, keepdim=True)
        along = (g / torch.linalg.vector_norm(g, dim=1, keepdim=True)) @ probe.to(dtype)
        return torch.autograd.grad(along.sum(), bias)[0].double()

    torch.testing.assert_close(turned(torch.float32, False), turned(torch.float64, True), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(
    "z", [[1.0, -torch.inf], [-torch.inf, 1.0], [2.0, -torch.inf, -torch.inf], [1e4, 1.0], [0, 1e4]]
)
def test_two_classes_and_logits_of_minus_infinity_give_no_nan(z: list[float], targeted: bool) -> None:
    for loss in (losses.neg_cross_entropy, losses.smooth_margin, losses.relative_margin):
        leaf = torch.tensor([z], requires_grad=True)
        value = loss(leaf, torch.tensor([0]), targeted=targeted)
        assert not bool(value.isnan()) and not bool(torch.autograd.grad(value.sum(), leaf)[0].isnan().any())


def test_cross_entropy_is_that_of_torch() -> None:
    z, y = random_logits(11, rows=40, scale=12)
    assert torch.allclose(losses.neg_cross_entropy(z, y), -torch.nn.functional.cross_entropy(z, y, reduction="none"))
    half = z.to(torch.bfloat16)
    assert torch.equal(losses.neg_cross_entropy(half, y), losses.neg_cross_entropy(half.float(), y))


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("loss", [*EVERY, ClippedCrossEntropy(3.0)], ids=lambda f: getattr(f, "__name__", "clipped"))
def test_logits_of_half_precision_are_lifted_first(loss: losses.Loss, targeted: bool) -> None:
    """Values and gradients are those of float32 on the same logits, not of arithmetic in halves."""
    z, y = random_logits(11, rows=40, scale=12)
    for half in (z.bfloat16(), z.half()):
        leaf, lifted = half.clone().requires_grad_(), half.float().requires_grad_()
        value, right = loss(leaf, y, targeted=targeted), loss(lifted, y, targeted=targeted)
        assert value.dtype == torch.float32 and torch.equal(value, right)
        found, slope = torch.autograd.grad(value.sum(), leaf)[0], torch.autograd.grad(right.sum(), lifted)[0]
        assert torch.equal(found, slope.to(half.dtype))


OFFSET, FACTOR, CLASSES = (
    EVERY,
    [losses.standardised_margin, losses.dlr],
    [f for f in EVERY if f != losses.standardised_margin],
)
"""The losses whose docstrings say that they are unchanged by it: all others must change."""


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("loss", EVERY, ids=lambda f: f.__name__)
def test_losses_are_unchanged_by_what_their_docstrings_say_and_by_nothing_else(loss, targeted: bool) -> None:
    z, y = random_logits(12, rows=40)
    was = loss(z, y, targeted=targeted)
    added = torch.cat([z, z.amin(1, keepdim=True) - torch.tensor([40.0, 4e3, 3e8])], 1)
    changed = {"offset": z - 31.5, "factor": z * 7.3, "classes": added}
    for invariant, name in ((OFFSET, "offset"), (FACTOR, "factor"), (CLASSES, "classes")):
        same = torch.isclose(loss(changed[name], y, targeted=targeted), was, rtol=1e-9, atol=1e-9)
        assert bool(same.all()) == (loss in invariant), name


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4, 1e38])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_slope_of_the_cross_entropy_is_that_of_autograd(dtype: torch.dtype, scale: float) -> None:
    """Bit for bit, whether a model is sure, surely fooled, or rules classes out."""
    z, y = random_logits(11, rows=400, classes=6)
    z = (z * scale / 4).to(dtype).clamp(-scale * 3, scale * 3)
    z[::7, 2], z[::5, 3] = -torch.inf, z[::5].amax(1)
    z.scatter_(1, y.unsqueeze(1), z.nan_to_num(neginf=0.0).gather(1, y.unsqueeze(1)))
    leaf = z.clone().requires_grad_()
    value = -losses.neg_cross_entropy(leaf, y)
    (grad,) = torch.autograd.grad(value.sum(), leaf)
    found, slope = losses.cross_entropy_slope(z, y)
    assert torch.equal(found, value.detach()) and torch.equal(slope, grad)
    assert bool((slope != 0).any())
