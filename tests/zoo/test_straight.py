"""Functions without a useful gradient in front of models, against closed forms."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

import omnirobust as orb
from omnirobust.zoo import StraightThrough


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def levels(x: Tensor) -> Tensor:
    return (x * 7).round() / 7


def test_values_are_f_s_and_gradients_the_identity_s() -> None:
    w, x = drawn(12, 4, seed=1), drawn(5, 3, 2, 2).requires_grad_()
    said = StraightThrough(levels)(x).flatten(1) @ w
    assert torch.equal(said, levels(x.detach()).flatten(1) @ w)
    (slope,) = torch.autograd.grad(said[:, 2].sum(), x)
    assert torch.equal(slope, w[:, 2].view(3, 2, 2).expand_as(slope))


def test_the_gradient_of_a_loss_is_taken_where_f_leads() -> None:
    x = drawn(6, seed=2).view(1, 6).requires_grad_()
    (slope,) = torch.autograd.grad((StraightThrough(levels)(x) ** 2).sum(), x)
    assert torch.equal(slope, 2 * levels(x.detach()))


@pytest.mark.parametrize("kind", [lambda v: v, lambda v: v.numpy(), lambda v: list(v.double().numpy())])
def test_another_function_stands_for_the_gradient(kind) -> None:
    def smaller(x: Tensor) -> object:
        return kind(levels(avg_pool2d(x, 2)))

    x, weights = drawn(2, 3, 4, 4).requires_grad_(), drawn(2, 3, 2, 2, seed=3)
    module = StraightThrough(smaller, lambda v: interpolate(v, (2, 2), mode="bilinear", antialias=False))
    said = module(x)
    assert said.dtype == x.dtype and torch.allclose(said, levels(avg_pool2d(x.detach(), 2)))
    (slope,) = torch.autograd.grad((said * weights).sum(), x)
    # bilinear at half the size is the mean of 2 x 2 pixels: each has a quarter of the gradient
    assert torch.allclose(slope, weights.repeat_interleave(2, 2).repeat_interleave(2, 3) / 4)
    assert torch.equal(module(x.detach()), said)


def test_f_sees_a_copy_and_may_have_no_gradient_of_its_own() -> None:
    x = drawn(2, 3)
    before = x.clone()
    assert torch.equal(StraightThrough(lambda v: v.mul_(2).numpy())(x), 2 * before) and torch.equal(x, before)


@pytest.mark.parametrize(
    ("given", "message"),
    [((3,), "f must be a function of a batch of inputs, got int"),
     ((levels, 3), "gradient must be a function of a batch of inputs, got int")],
)  # fmt: skip
def test_what_is_no_function_is_told(given, message) -> None:
    with pytest.raises(ValueError, match=message):
        StraightThrough(*given)


@pytest.mark.parametrize(
    ("f", "gradient", "message"),
    [
        (
            lambda v: v[:, :2],
            None,
            r"f must return values of its input's shape \(2, 3\), got \(2, 2\); say by gradient",
        ),
        (lambda v: v, lambda v: v[:, :2], r"f must return values of gradient's shape \(2, 2\), got \(2, 3\)"),
        (lambda v: ["a", "b"], None, "f must return numbers, one array for each input, got list"),
        (lambda v: [[1], [1, 2]], None, "f must return numbers, one array for each input, got list"),
    ],
)
def test_what_does_not_fit_is_told(f, gradient, message) -> None:
    with pytest.raises(ValueError, match=message):
        StraightThrough(f, gradient)(drawn(2, 3).requires_grad_())


def jpeg(x: Tensor) -> np.ndarray:
    found = []
    for image in (255 * x).round().byte().permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=60)
        found.append(np.asarray(Image.open(file)).transpose(2, 0, 1) / 255)
    return np.stack(found)


def test_an_attack_through_jpeg_is_judged_through_jpeg() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 256, 5)).eval()
    x = interpolate(drawn(4, 3, 4, 4), (16, 16), mode="bicubic").clamp(0, 1)
    behind = nn.Sequential(StraightThrough(jpeg), net)
    y = behind(x).argmax(1)
    result = orb.attack_ensemble({"jpeg": behind, "plain": net}, x, net(x).argmax(1), orb.Linf(0.06), steps=15)
    again = net(torch.as_tensor(jpeg(result.adversarial)).float()).argmax(1)
    assert torch.equal(result.fooled[:, 0], again != net(x).argmax(1))
    assert bool(result.fooled[:, 0].all()) and torch.equal(y, net(x).argmax(1))
    assert not bool(result.zero_gradient.any())
