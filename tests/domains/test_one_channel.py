"""Input gradients of convolutions of one channel under pooling, held to those that torch computes itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import omnirobust as orb
from omnirobust import zoo
from omnirobust.domains import classifier as classifiers
from omnirobust.domains.classifier import Classifier
from omnirobust.domains.one_channel import OneChannel, has_one_channel
from omnirobust.domains.soften import Softened
from omnirobust.training import Scheme, attack_batch


def gradient(model: Callable[[Tensor], Tensor], x: Tensor, here: bool) -> tuple[Tensor, Tensor, bool]:
    """Return the output, the gradient of some sum of it, and whether it was taken here."""
    leaf = x.clone().requires_grad_(True)
    if here:
        with OneChannel():
            y = model(leaf)
    else:
        y = model(leaf)
    torch.manual_seed(1)
    (found,) = torch.autograd.grad(y, leaf, torch.randn(y.shape, dtype=y.dtype))
    return y.detach(), found, used(y)


def used(y: Tensor) -> bool:
    """Say whether the graph of y holds the function that takes gradients here."""
    seen, left = set[object](), [y.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [after for after, _ in node.next_functions]
    return any(type(node).__name__ == "_PooledBackward" for node in seen)


@pytest.mark.parametrize(
    ("kernel", "padding"), [(k, p) for k in (1, 2, 3, 4, 5, 7) for p in (0, 1, 2) if p < k]
)  # fmt: skip
@pytest.mark.parametrize("sides", [(12, 12), (13, 10), (9, 11)])
@pytest.mark.parametrize("rectified", [False, True])
def test_gradients_and_values_are_those_of_torch(
    kernel: int, padding: int, sides: tuple[int, int], rectified: bool
) -> None:
    torch.manual_seed(kernel)
    convolution = nn.Conv2d(1, 3, kernel, padding=padding).double().requires_grad_(False)
    x = torch.randn(7, 1, *sides, dtype=torch.float64)
    x[:, :, :4] = 0.5  # places of equal values, the first of which pooling takes

    def model(z: Tensor) -> Tensor:
        y = convolution(z)
        return F.max_pool2d(F.relu(y) if rectified else y, 2)

    said, wanted, _ = gradient(model, x, here=False)
    also, found, here = gradient(model, x, here=True)
    assert here
    assert torch.equal(said, also)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_many_images_are_cut_into_parts_that_join() -> None:
    convolution = nn.Conv2d(1, 6, 5).requires_grad_(False)
    model = nn.Sequential(convolution, nn.ReLU(), nn.MaxPool2d(2))
    x = torch.rand(203, 1, 28, 28)
    _, wanted, _ = gradient(model, x, here=False)
    _, found, here = gradient(model, x, here=True)
    assert here
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


CHANNEL = nn.Conv2d(1, 4, 3).requires_grad_(False)


def noticed(z: Tensor) -> Tensor:
    y = F.relu(CHANNEL(z))
    y.register_hook(lambda slope: 2 * slope)
    return F.max_pool2d(y, 2)


def changed(z: Tensor) -> Tensor:
    y = CHANNEL(z)
    y.mul_(torch.linspace(-1, 1, y.shape[3]))
    return F.max_pool2d(y, 2)


def in_place(z: Tensor) -> Tensor:
    return F.max_pool2d(F.relu(CHANNEL(z), inplace=True), 2)


def twice_used(z: Tensor) -> Tensor:
    y = F.relu(CHANNEL(z))
    return F.max_pool2d(y, 2) + y[..., ::2, ::2].square()


def overlapping(z: Tensor) -> Tensor:
    return F.max_pool2d(F.relu(CHANNEL(z)), 3, 2)


def strided(z: Tensor) -> Tensor:
    return F.max_pool2d(F.conv2d(z, CHANNEL.weight, stride=2), 2)


def of_a_module_with_a_hook(z: Tensor) -> Tensor:
    rectify = nn.ReLU()
    rectify.register_full_backward_hook(lambda module, given, taken: (3 * given[0],))
    return F.max_pool2d(rectify(CHANNEL(z)), 2)


def computed_twice(z: Tensor) -> Tensor:
    return checkpoint(in_place, z, use_reentrant=False)


class StraightThrough(torch.autograd.Function):
    """ReLU whose gradient is that of the identity."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return torch.relu(z)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad


def straight_through(z: Tensor) -> Tensor:
    return F.max_pool2d(cast(Tensor, StraightThrough.apply(CHANNEL(z))), 2)


def without_gradients(z: Tensor) -> Tensor:
    with torch.no_grad():
        y = CHANNEL(z)
    return F.max_pool2d(y, 2) + F.max_pool2d(z[..., :10, :10], 2)


def detached_in_place(z: Tensor) -> Tensor:
    y = F.relu(CHANNEL(z)).detach_()
    return F.max_pool2d(y, 2) + F.max_pool2d(z[..., :10, :10], 2)


def other_numbers(z: Tensor) -> Tensor:
    y = CHANNEL(z)
    y.data = torch.round(y.data * 2) / 2
    return F.max_pool2d(y, 2)


def noticed_at_its_node(z: Tensor) -> Tensor:
    y = CHANNEL(z)
    assert y.grad_fn is not None
    y.grad_fn.register_prehook(lambda slopes: (2 * slopes[0],))
    return F.max_pool2d(y, 2)


def rounded_up(z: Tensor) -> Tensor:
    return F.max_pool2d(CHANNEL(z[..., 1:, 1:]), 2, ceil_mode=True)


@pytest.mark.parametrize(
    ("model", "here"),
    [(noticed, False), (changed, False), (in_place, True), (twice_used, True), (overlapping, False), (strided, False),
     (of_a_module_with_a_hook, False), (rounded_up, False), (computed_twice, False),
     (straight_through, False), (without_gradients, False), (detached_in_place, False), (other_numbers, False),
     (noticed_at_its_node, False)],
)  # fmt: skip
def test_what_else_a_model_does_counts_as_ever(model: Callable[[Tensor], Tensor], here: bool) -> None:
    x = torch.randn(5, 1, 12, 12)
    said, wanted, _ = gradient(model, x, here=False)
    also, found, taken = gradient(model, x, here=True)
    assert taken == here
    torch.testing.assert_close(also, said, rtol=0, atol=0)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


class Late(nn.Module):
    """Doubles the gradient at its features, by a hook that it sets once they are pooled; or asks for it."""

    def __init__(self, asks: bool) -> None:
        super().__init__()
        self.first, self.last, self.asks = nn.Conv2d(1, 4, 3), nn.Linear(4 * 25, 3), asks

    def forward(self, z: Tensor) -> Tensor:
        y = F.relu(self.first(z))
        out = self.last(F.max_pool2d(y, 2).flatten(1))
        if self.asks:
            (slope,) = torch.autograd.grad(out.sum(), y, retain_graph=True)
            return out + slope.flatten(1)[:, :3]
        with suppress(Exception):  # nothing that stops it is to go unnoticed
            y.register_hook(lambda slope: 2 * slope)
        return out


class Experts(nn.Module):
    """Two networks, each of which answers a part of the images, and the second of none here."""

    def __init__(self) -> None:
        super().__init__()
        made = [
            nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(100, 3)) for _ in "ab"
        ]
        self.each = nn.ModuleList(made)

    def forward(self, z: Tensor) -> Tensor:
        dark = z.flatten(1).mean(1) < 5
        out = z.new_zeros(len(z), 3)
        for mask, expert in zip((dark, ~dark), self.each, strict=True):
            out[mask] = expert(z[mask])
        return out


@pytest.fixture
def contiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take all processors for one that runs few channels fastest as rows of pixels."""
    monkeypatch.setattr(classifiers, "prefers_channels_last", lambda modules: False)


@pytest.mark.usefixtures("contiguous")
@pytest.mark.parametrize("make", [lambda: Late(False), lambda: Late(True), Experts])
def test_models_that_look_inside_themselves_and_parts_without_images(make: Callable[[], nn.Module]) -> None:
    model, x = make().eval(), torch.randn(6, 1, 12, 12)
    classifier = Classifier("late", model)
    leaf = x.clone().requires_grad_(True)
    with classifier.held:
        logits = classifier.logits(leaf)
        slope = classifier.gradient(logits.square().sum(1), leaf)
    model.requires_grad_(False)
    other = x.clone().requires_grad_(True)
    (wanted,) = torch.autograd.grad(model(other).square().sum(), other)
    torch.testing.assert_close(slope, wanted, rtol=1e-5, atol=1e-6)


def slopes_of(classifier: Classifier, x: Tensor) -> tuple[Tensor, bool]:
    leaf = x.clone().requires_grad_(True)
    with classifier.held:
        logits = classifier.logits(leaf)
        return classifier.gradient(logits.square().sum(1), leaf), used(logits)


@pytest.mark.usefixtures("contiguous")
def test_attacks_on_a_lenet_take_them_and_leave_the_model_as_it_was() -> None:
    torch.manual_seed(0)
    model, x = zoo.build("c", (1, 28, 28), 10).eval(), torch.rand(9, 1, 28, 28)
    found, here = slopes_of(Classifier("c", model), x)
    assert here
    assert all(p.requires_grad for p in model.parameters())
    leaf = x.clone().requires_grad_(True)
    (wanted,) = torch.autograd.grad(model(leaf).square().sum(), leaf)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)
    with Softened():  # whose own gradients are others
        _, here = slopes_of(Classifier("c", model), x)
    assert not here
    assert not slopes_of(Classifier("c", model, "bf16"), x)[1]


def test_compiled_and_other_models_are_not_looked_at() -> None:
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2))
    assert has_one_channel(plain.modules())
    assert not has_one_channel(nn.Sequential(nn.Conv2d(3, 4, 3)).modules())
    assert not has_one_channel(nn.Sequential(nn.Conv2d(1, 4, 3, stride=2)).modules())
    assert not has_one_channel(cast(nn.Module, torch.compile(plain)).modules())
    plain.compile()
    assert not has_one_channel(plain.modules())


@pytest.mark.usefixtures("contiguous")
def test_second_derivatives_of_dpar_are_still_there() -> None:
    torch.manual_seed(0)
    model, x, y = zoo.build("c", (1, 28, 28), 10), torch.rand(4, 1, 28, 28), torch.arange(4)
    threats = (orb.Linf(0.1), orb.L2(1.0))
    with_, without = (
        attack_batch(model, x, y, Scheme("minmax", threats, 2, dpar=dpar), seed=3)[0] for dpar in (0.5, 0.0)
    )
    assert all(bool(delta.isfinite().all()) for delta in with_)
    assert not torch.equal(with_[1], without[1])
