"""Domains: values and gradients against plain autograd, and every kind of model that must be refused or restored."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import omnirobust as orb
from omnirobust.domains import losses


def lenet(view: bool = True) -> nn.Module:
    """A convolutional model written as many are: it flattens with .view, which a channels_last tensor refuses."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)
            self.norm = nn.BatchNorm2d(4)
            self.drop = nn.Dropout(0.5)
            self.last = nn.Linear(64, 4)

        def forward(self, v: Tensor) -> Tensor:
            return self.last(self.drop(self.norm(self.conv(v)).relu()).view(v.size(0), -1))

    torch.manual_seed(0)
    return Net().double()


def test_losses_and_gradients_equal_plain_autograd(models, x, y) -> None:
    delta = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).double() * 0.1
    seen = orb.DomainGrid(models, x, y, loss=losses.smooth_margin).evaluate(delta)
    assert seen.grads is not None and seen.fooled is not None
    for k, model in enumerate(models.values()):
        leaf = delta.clone().requires_grad_()
        logits = model(x + leaf)
        loss = losses.smooth_margin(logits, y)
        assert torch.allclose(seen.losses[:, k], loss)
        assert torch.equal(seen.fooled[:, k], logits.argmax(1) != y)
        assert torch.allclose(seen.grads[k], torch.autograd.grad(loss.sum(), leaf)[0])


def test_without_gradients_none_are_taken(models, x, y) -> None:
    seen = orb.DomainGrid(models, x, y, loss=losses.margin).evaluate(torch.zeros_like(x), grad=False)
    assert seen.grads is None
    assert not seen.losses.requires_grad


def test_labels_may_be_each_models_own(models, x) -> None:
    own = torch.stack([m(x).argmax(1) for m in models.values()], 1)
    seen = orb.DomainGrid(models, x, own, loss=losses.margin).evaluate(torch.zeros_like(x), grad=False)
    assert seen.fooled is not None and not seen.fooled.any()


def test_select_keeps_rows_in_order(models, x, y) -> None:
    grid = orb.DomainGrid(models, x, y, loss=losses.margin)
    rows = torch.tensor([5, 0, 7])
    whole, some = grid.evaluate(torch.zeros_like(x)), grid.select(rows).evaluate(torch.zeros_like(x[rows]))
    assert torch.allclose(some.losses, whole.losses[rows])


def test_names_come_from_the_mapping_or_are_numbered(models, x, y) -> None:
    assert orb.DomainGrid(models, x, y, loss=losses.margin).names == ("a", "b", "c")
    grid = orb.DomainGrid(list(models.values()), x, y, loss=losses.margin)
    assert grid.names == ("model_0", "model_1", "model_2")
    assert grid.axes == {"models": grid.names}


def test_models_are_called_in_eval_mode_frozen_and_restored(x, y) -> None:
    net = lenet()
    net.drop.eval()
    net.last.weight.requires_grad_(False)
    before = {n: b.clone() for n, b in net.named_buffers()}
    modes: list[tuple[bool, bool]] = []
    net.conv.register_forward_pre_hook(lambda m, i: modes.append((m.training, m.weight.requires_grad)))
    orb.DomainGrid(net, x, y, loss=losses.margin).evaluate(torch.zeros_like(x))
    assert modes == [(False, False)]
    assert net.training and net.conv.training and not net.drop.training
    assert net.conv.weight.requires_grad and not net.last.weight.requires_grad
    assert all(torch.equal(b, before[n]) for n, b in net.named_buffers())


def test_models_are_restored_when_they_fail(x, y) -> None:
    net = lenet()
    net.conv.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ValueError, match="ZeroDivisionError: division by zero"):
        orb.DomainGrid(net, x, y, loss=losses.margin).evaluate(torch.zeros_like(x))
    assert net.training and net.conv.weight.requires_grad


@pytest.mark.parametrize("rows", [9, 300])
def test_layout_and_pieces_change_nothing_but_rounding(x, y, rows: int) -> None:
    net = lenet().eval()
    big, labels = x.repeat(34, 1, 1, 1)[:rows], y.repeat(34)[:rows]
    seen = orb.DomainGrid(net, big, labels, loss=losses.smooth_margin).evaluate(torch.zeros_like(big))
    leaf = big.clone().requires_grad_()
    plain = losses.smooth_margin(net(leaf), labels)
    assert torch.allclose(seen.losses[:, 0], plain, atol=1e-12)
    assert seen.grads is not None
    assert torch.allclose(seen.grads[0], torch.autograd.grad(plain.sum(), leaf)[0], atol=1e-12)


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_few_channels_with_pooling_stay_apart_where_a_processor_takes_eight_at_once(
    x, y, monkeypatch: pytest.MonkeyPatch, capability: str
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    pool = torch.nn.MaxPool2d(2)
    for channels, after, last in ((6, pool, capability != "AVX2"), (8, pool, True), (6, torch.nn.ReLU(), True)):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Conv2d(x.shape[1], channels, 3), after, torch.nn.Flatten()).double().eval()
        net.append(torch.nn.Linear(net(x).shape[1], 3).double())
        strides = list[tuple[int, ...]]()
        net[1].register_forward_pre_hook(lambda _, given, seen=strides: seen.append(given[0].stride()))
        labels = y.clamp_max(2)
        seen = orb.DomainGrid(net, x, labels, loss=losses.smooth_margin).evaluate(torch.zeros_like(x))
        assert {stride[1] == 1 for stride in strides} == {last}
        leaf = x.clone().requires_grad_()
        plain = losses.smooth_margin(net(leaf), labels)
        assert torch.allclose(seen.losses[:, 0], plain, atol=1e-12)
        assert seen.grads is not None
        assert torch.allclose(seen.grads[0], torch.autograd.grad(plain.sum(), leaf)[0], atol=1e-12)


def test_outputs_with_logits_are_accepted(models, x, y) -> None:
    inner = models["a"]
    wrapped = lambda v: SimpleNamespace(logits=inner(v))  # noqa: E731
    got = orb.DomainGrid({"m": wrapped}, x, y, loss=losses.margin).evaluate(torch.zeros_like(x))
    assert torch.equal(got.losses, orb.DomainGrid(inner, x, y, loss=losses.margin).evaluate(torch.zeros_like(x)).losses)


def test_bf16_stays_close_and_returns_the_inputs_dtype(x, y) -> None:
    net = lenet().float().eval()
    args = (x.float(), y)
    exact = orb.DomainGrid(net, *args, loss=losses.smooth_margin).evaluate(torch.zeros_like(args[0]))
    rough = orb.DomainGrid(net, *args, loss=losses.smooth_margin, precision="bf16").evaluate(torch.zeros_like(args[0]))
    assert rough.losses.dtype == torch.float32
    assert not torch.equal(rough.losses, exact.losses)
    assert torch.allclose(rough.losses, exact.losses, atol=0.1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda v: v.flatten(1)[:, :4].softmax(1), "model 'm' returns probabilities"),
        (lambda v: v.flatten(1)[:, :4] * float("nan"), "model 'm' returned NaN or infinite logits"),
        (lambda v: v, r"model 'm' must return logits of shape \(9, C\) with C >= 2, .* got \(9, 1, 6, 6\)"),
        (lambda v: v.flatten(1)[:, :1], r"y must lie in \[0, 2\), the classes of model 'm'"),
        (lambda v: [1, 2], "must return logits .* got list"),
        (lambda v: v.flatten(1)[:, :4].detach(), "model 'm' does not let gradients reach its input"),
        (lambda v: v.flatten(1)[:, :2], r"y must lie in \[0, 2\), the classes of model 'm'"),
        ("resnet", "models must be callables of a batch, got str for 'm'"),
    ],
)
def test_models_that_are_refused(x, model, message: str) -> None:
    labels = torch.arange(9) % 4
    with pytest.raises(ValueError, match=message):
        orb.DomainGrid({"m": model}, x, labels, loss=losses.margin).evaluate(torch.zeros_like(x))


def test_outputs_that_look_like_a_sigmoids_are_warned_of(x) -> None:
    labels = torch.arange(9) % 4
    steep = {"m": lambda v: (40 * (v.flatten(1)[:, :4] - 0.5)).sigmoid()}
    grid = orb.DomainGrid(steep, x, labels, loss=losses.margin)
    with pytest.warns(UserWarning, match=r"model 'm' returns values in \[0, 1\], most of them near the ends"):
        grid.evaluate(torch.zeros_like(x))


def test_bounded_scores_are_not_warned_of(x) -> None:
    labels = torch.arange(9) % 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for scores in (lambda v: v.flatten(1)[:, :4], lambda v: (v.flatten(1)[:, :4] - 0.5).sigmoid()):
            orb.DomainGrid({"m": scores}, x, labels, loss=losses.margin).evaluate(torch.zeros_like(x))


def test_models_must_agree_on_the_classes(x) -> None:
    pair = {"four": lambda v: v.flatten(1)[:, :4], "five": lambda v: v.flatten(1)[:, :5]}
    labels = torch.zeros(9, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"models must agree on the number of classes, got .*'four': 4, 'five': 5"):
        orb.DomainGrid(pair, x, labels, loss=losses.margin).evaluate(torch.zeros_like(x))


def test_devices_must_agree(x, y) -> None:
    with pytest.raises(ValueError, match="model 'm' is on meta but x is on cpu"):
        orb.DomainGrid({"m": nn.Linear(3, 2, device="meta")}, x, y, loss=losses.margin)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(9, 4, dtype=torch.int64)}, "x must be a float tensor"),
        ({"y": torch.zeros(9)}, "y must be an int64 tensor of class indices, got torch.float32"),
        ({"y": torch.zeros(8, dtype=torch.int64)}, r"y must have shape \(9,\) or \(9, 1\), got \(8,\)"),
        ({"models": {}}, "models must hold at least one model"),
        ({"precision": "fp8"}, "precision must be 'fp32' or 'bf16', got 'fp8'"),
    ],
)
def test_arguments_that_are_refused(models, x, y, change: dict, message: str) -> None:
    given = {"models": models["a"], "x": x, "y": y, "loss": losses.margin} | change
    with pytest.raises(ValueError, match=message):
        orb.DomainGrid(given.pop("models"), given.pop("x"), given.pop("y"), **given)


def test_function_domains_serve_any_loss_and_follow_their_rows() -> None:
    targets = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    domains = orb.FunctionDomains(
        {"near": lambda d, rows: ((d - targets[rows]) ** 2).sum(1), "small": lambda d, rows: (d**2).sum(1)},
        success=lambda losses: losses < 5,
    )
    delta = torch.zeros(3, 2)
    seen = domains.evaluate(delta)
    assert seen.losses.tolist() == [[1.0, 0.0], [4.0, 0.0], [18.0, 0.0]]
    assert seen.fooled is not None and seen.fooled[:, 0].tolist() == [True, True, False]
    assert seen.grads is not None and torch.equal(seen.grads[0], -2 * targets)
    some = domains.select(torch.tensor([2, 1])).select(torch.tensor([1]))
    assert some.evaluate(torch.zeros(1, 2)).losses.tolist() == [[4.0, 0.0]]
    assert domains.axes == {"functions": ("near", "small")}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda d, rows: d, r"function 'f' must return shape \(3,\), got \(3, 2\)"),
        (lambda d, rows: torch.zeros(3), "function 'f' must be differentiable in delta"),
    ],
)
def test_functions_that_are_refused(function, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        orb.FunctionDomains({"f": function}).evaluate(torch.zeros(3, 2))
