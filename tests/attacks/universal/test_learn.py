"""One perturbation for a data set agrees with a transcription of the baseline, closed forms, and a full-batch solve."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import omnirobust as orb
from omnirobust.attacks.universal import ClippedCrossEntropy, learn_universal, usgd
from omnirobust.attacks.universal.learn import _order
from omnirobust.domains import losses
from omnirobust.domains.transforms import Brightness, Identity


class Linear(nn.Module):
    """Logits of which class 0 is the brightness of the left, class 1 that of the right half of 1 x 2 x 4 images."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[..., :2].sum((1, 2, 3)), x[..., 2:].sum((1, 2, 3))], 1)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Linear(16, 4)).double()
    with torch.no_grad():
        net[3].weight.mul_(4)
        net[3].bias.sub_(net(torch.rand(200, 1, 6, 6, dtype=torch.float64)).mean(0))  # so that all classes occur
    return net


@pytest.fixture
def images() -> Tensor:
    return torch.rand(50, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def labels(net: nn.Module, images: Tensor) -> Tensor:
    labels = net(images).argmax(1)
    assert len(labels.unique()) == 4
    return labels


def test_usgd_is_its_transcription(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    eps, alpha, cap = 0.2, 0.03, 1.5
    delta = torch.zeros(1, 6, 6, dtype=torch.float64)
    for epoch in range(3):
        for batch in _order(images, 4, epoch).split(16):
            leaf = delta.clone().requires_grad_()
            loss = cross_entropy(net((images[batch] + leaf).clamp(0, 1)), labels[batch], reduction="none")
            (grad,) = torch.autograd.grad(loss.clamp_max(cap).mean(), leaf)
            delta = (delta + alpha * grad.sign()).clamp(-eps, eps)
    found = usgd(net, images, labels, orb.Linf(eps), epochs=3, batch_size=16, step_size=alpha, cap=cap, seed=4)
    torch.testing.assert_close(found.delta, delta, rtol=0, atol=1e-12)
    assert found.gradient_evaluations == 3 * 50
    assert found.axes == {"models": ("model_0",)}
    assert found.weights.tolist() == [1.0]


def test_usgd_takes_unit_steps_in_l2(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    delta = torch.zeros(1, 6, 6, dtype=torch.float64)
    for batch in _order(images, 0, 0).split(10):
        leaf = delta.clone().requires_grad_()
        loss = cross_entropy(net((images[batch] + leaf).clamp(0, 1)), labels[batch])
        (grad,) = torch.autograd.grad(loss, leaf)
        delta = delta + 0.2 * grad / grad.norm()
        delta = delta * min(1.0, 0.5 / float(delta.norm()))
    found = usgd(net, images, labels, orb.L2(0.5), epochs=1, batch_size=10, step_size=0.2)
    torch.testing.assert_close(found.delta, delta, rtol=0, atol=1e-9)


def test_a_step_is_weighted_by_class(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Min-max over classes written out: w <- w exp(eta F) over a batch's classes, delta down sum_c w_c grad F_c."""
    eta, alpha, eps = 0.1, 0.05, 0.3
    delta = torch.zeros(1, 6, 6, dtype=torch.float64)
    w = {int(c): 1 / len(labels.unique()) for c in labels.unique()}
    for epoch in range(2):
        for batch in _order(images, 0, epoch).split(7):
            leaf = delta.clone().requires_grad_()
            loss = losses.smooth_margin(net((images[batch] + leaf).clamp(0, 1)), labels[batch])
            means = {int(c): loss[labels[batch] == c].mean() for c in labels[batch].unique()}
            mass = sum(w[c] for c in means)
            raised = {c: w[c] / mass * float((eta * f.detach()).exp()) for c, f in means.items()}
            for c in means:
                w[c] = mass * raised[c] / sum(raised.values())
            (grad,) = torch.autograd.grad(sum(w[c] * f for c, f in means.items()), leaf)
            delta = (delta - alpha * grad.sign()).clamp(-eps, eps)
    found = learn_universal(
        net, images, labels, orb.Linf(eps), loss=losses.smooth_margin, rule=orb.ExponentiatedGradient(eta),
        direction=orb.Sign(), step_size=alpha, epochs=2, batch_size=7,
    )  # fmt: skip
    torch.testing.assert_close(found.delta, delta, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        found.weights, torch.tensor([w[c] for c in sorted(w)], dtype=torch.float64), rtol=0, atol=1e-9
    )
    assert found.axes == {"classes": tuple(f"class_{c}" for c in sorted(w))}


def test_weights_of_images_over_a_whole_batch_are_the_solver(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    """With all images in one batch, a step is a step of ``solve`` on the group, its first weights uniform."""
    few, y = images[:6], labels[:6]
    order = _order(few, 0, 0)
    grid = orb.DomainGrid(net, few[order].unsqueeze(0), y[order].unsqueeze(0), loss=losses.smooth_margin, shared=True)
    feasible = orb.Linf(0.2).around(few.unsqueeze(0), shared=True)
    rule = orb.ProjectedAscent(0.1, 1.0)
    start = rule.step(rule.init(1, 6, dtype=few.dtype), grid.evaluate(torch.zeros_like(few[:1])).losses)
    solved = orb.solve(grid, feasible, rule, steps=1, step_size=0.05, direction=orb.RawGradient(), weights=start)
    found = learn_universal(
        net, few, y, orb.Linf(0.2), over="images", loss=losses.smooth_margin, rule=rule,
        direction=orb.RawGradient(), step_size=0.05, epochs=1, batch_size=6,
    )  # fmt: skip
    torch.testing.assert_close(found.delta, solved.delta[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(found.weights[order], start[0], rtol=0, atol=1e-12)


def test_the_linear_game_of_two_classes_is_balanced() -> None:
    """Two classes of a linear model pull delta in opposite directions: the worst is least where margins are equal.

    With margins a for class 0 and b < a for class 1, delta moves F_0 by -2 s and F_1 by +2 s for some s. The maximum of
    the two is least where they are equal, at (a + b) / 2; the average does not depend on s at all.
    """
    x = torch.zeros(40, 1, 2, 4)
    x[:20, ..., :2], x[20:, ..., 2:] = 0.75, 0.5
    x += 0.125  # margins 3.0 and 2.0, and nothing is clamped within 0.125
    y = torch.arange(40) // 20
    margins = {}
    for rule in (orb.WorstCase(), orb.Uniform()):
        found = learn_universal(
            Linear(), x, y, orb.Linf(0.12), loss=lambda z, t, targeted=False: (z[:, 0] - z[:, 1]) * (1 - 2 * t),
            rule=rule, direction=orb.Sign("linear"), step_size=0.01, epochs=20, batch_size=20,
        )  # fmt: skip
        logits = Linear()(found.apply(x))
        margins[type(rule)] = ((logits[:, 0] - logits[:, 1]) * (1 - 2 * y)).view(2, 20).mean(1).tolist()
    assert margins[orb.WorstCase] == pytest.approx([2.5, 2.5], abs=0.05)
    assert max(margins[orb.Uniform]) > 2.7


def test_weights_persist_and_absent_classes_are_left_alone(net: nn.Module, images: Tensor) -> None:
    y = torch.zeros(50, dtype=torch.int64)
    y[0] = 2
    found = learn_universal(net, images, y, orb.Linf(0.0), rule=orb.ExponentiatedGradient(0.5), epochs=1, batch_size=5)
    # class 2 sits in one batch of ten: its weight moved once, against class 0 alone
    grid = orb.DomainGrid(net, images, y, loss=losses.relative_margin).scaled(orb.Linf(0.0).around(images))
    loss = grid.evaluate(torch.zeros_like(images)).losses[:, 0]
    batch = next(b for b in _order(images, 0, 0).split(5) if 0 in b)
    others = loss[batch[batch != 0]].mean()
    expected = torch.softmax(0.5 * torch.stack([others, loss[0]]), 0)
    torch.testing.assert_close(found.weights, expected.detach(), rtol=0, atol=1e-9)


def test_products_of_models_transforms_and_classes(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    calls = []
    counted = {"one": net, "two": lambda x: calls.append(len(x)) or net(x.flip(3))}
    views = {"as is": Identity(), "light": Brightness((0.0, 0.2))}
    found = learn_universal(
        counted, images, labels, orb.Linf(0.1), transforms=views, samples=3, epochs=2, batch_size=25
    )
    classes = len(labels.unique())
    assert {k: len(v) for k, v in found.axes.items()} == {"models": 2, "transforms": 2, "classes": classes}
    assert found.weights.shape == (4 * classes,)
    assert float(found.weights.sum()) == pytest.approx(1)
    assert found.marginal("classes").shape == (classes,)
    torch.testing.assert_close(found.marginal("models"), found.weights.view(2, -1).sum(1))
    assert sum(calls) == 4 * 32 + 50 * 2 + 2 * 50 * (1 + 3)  # to probe; reaches, of one draw; two epochs
    assert found.gradient_evaluations == 2 * (50 * 2 + 2 * 50 * (1 + 3))
    with pytest.raises(ValueError, match="axis must be one of models, transforms, classes, got 'images'"):
        found.marginal("images")


def test_delta_stays_in_the_ball_and_under_the_mask(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    mask = torch.zeros(1, 6, 6, dtype=torch.bool)
    mask[:, 1:4, 2:5] = True
    found = learn_universal(net, images, labels, orb.Linf(1.0, mask=mask), epochs=2, batch_size=20)
    assert bool((found.delta[~mask] == 0).all())
    assert bool((found.delta[mask] != 0).all())
    assert found.settings["masked"]
    for threat in (orb.L2(0.4), orb.L1(1.0), orb.L0(3)):
        delta = learn_universal(net, images, labels, threat, epochs=2, batch_size=20).delta
        assert bool(threat.around(images.unsqueeze(0), shared=True).contains(delta.unsqueeze(0)).all())
        assert float(delta.norm()) > 0


def test_it_learns_fools_and_says_so(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    steps = []
    found = learn_universal(
        net, images, labels, orb.Linf(0.4), epochs=8, batch_size=10, over="images",
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert steps == [(i, 40) for i in range(1, 41)]
    assert [row["epoch"] for row in found.history] == list(range(1, 9))
    assert found.history[-1]["worst_loss"] < found.history[0]["worst_loss"]
    assert found.history[-1]["fooled"] > found.history[0]["fooled"]
    assert found.history[-1]["worst_loss"] >= found.history[-1]["loss"]
    share = (net(found.apply(images)).argmax(1) != labels).double().mean()
    assert share > 0.5
    assert found.settings["over"] == "images" and found.settings["rule"] == "ExponentiatedGradient(eta=0.3, gamma=0.0)"


def test_targets_are_reached(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    goal = torch.full_like(labels, int(labels.bincount(minlength=4).argmin()))
    found = learn_universal(net, images, goal, orb.Linf(0.5), epochs=10, batch_size=10, over="data", targeted=True)
    before, after = ((net(v).argmax(1) == goal).double().mean() for v in (images, found.apply(images)))
    assert after > before + 0.3


def test_the_same_seed_gives_the_same_and_the_model_is_left_as_it_was(images: Tensor, labels: Tensor) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.Dropout(0.5)).double()
    state = torch.get_rng_state()
    views = {"light": Brightness((-0.2, 0.2))}
    one, two, other = (
        learn_universal(net, images, labels, orb.Linf(0.2), transforms=views, epochs=1, batch_size=9, seed=s)
        for s in (5, 5, 6)
    )
    assert torch.equal(one.delta, two.delta) and torch.equal(one.weights, two.weights)
    assert not torch.equal(one.weights, other.weights)
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training and all(p.requires_grad and p.grad is None for p in net.parameters())


def test_the_start_is_projected(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    given = torch.full((1, 6, 6), 0.5, dtype=torch.float64)
    found = usgd(net, images, labels, orb.Linf(0.2), epochs=1, batch_size=50, step_size=1e-9)
    begun = learn_universal(
        net, images, labels, orb.Linf(0.2), init=given, epochs=1, batch_size=50, step_size=1e-9, direction=orb.Sign()
    )
    assert float(found.delta.abs().max()) <= 1e-8
    torch.testing.assert_close(begun.delta, torch.full_like(given, 0.2), rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number >= 1, got 0"),
        ({"batch_size": 0}, "batch_size must be a whole number >= 1, got 0"),
        ({"y": torch.zeros(50)}, "y must be an int64 tensor of class indices, got torch.float32"),
        ({"y": torch.zeros(49, dtype=torch.int64)}, r"y must have shape \(50,\), got \(49,\)"),
        ({"x": torch.zeros(0, 1, 6, 6)}, r"x must be a float tensor of shape \(N, \*S\) with N >= 1"),
        ({"x": torch.full((50, 1, 6, 6), 2.0).double()}, r"x must lie in bounds \[0.0, 1.0\]"),
        ({"over": "pixels"}, "over must be one of classes, images, data, got 'pixels'"),
        ({"threat_model": orb.Linf(torch.full((50,), 0.1))}, r"eps must be one number .*, got shape \(50,\)"),
        ({"samples": 0}, "samples must be a whole number >= 1, got 0"),
        ({"rule": orb.Fixed(torch.tensor([0.5, 0.5])), "over": "data"}, r"w must have shape \(1,\)"),
    ],
)  # fmt: skip
def test_bad_arguments(net: nn.Module, images: Tensor, labels: Tensor, change: dict, message: str) -> None:
    arguments = {"x": images, "y": labels, "threat_model": orb.Linf(0.1)} | change
    with pytest.raises(ValueError, match=message):
        learn_universal(net, **arguments)


def test_the_clipped_loss() -> None:
    logits = torch.tensor([[3.0, 0.0, 0.0], [-9.0, 0.0, 0.0], [0.0, 0.0, 5.0]], dtype=torch.float64)
    y = torch.tensor([0, 0, 1])
    expected = -cross_entropy(logits, y, reduction="none").clamp_max(2.0)
    torch.testing.assert_close(ClippedCrossEntropy(2.0)(logits, y), expected)
    torch.testing.assert_close(
        ClippedCrossEntropy(2.0)(logits, y, targeted=True), cross_entropy(logits, y, reduction="none")
    )
    with pytest.raises(ValueError, match=r"cap must be > 0, got 0.0"):
        ClippedCrossEntropy(0.0)


def test_images_without_any_gradient_are_counted_and_named(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Gradients of those images whose first pixel is bright are cut: as many as the note says, of those that resist."""
    bright = images[:, 0, 0, 0] > 0.8

    def half(x: Tensor) -> Tensor:
        cut = (x[:, 0, 0, 0] > 0.8).view(-1, 1, 1, 1)
        return net(torch.where(cut, x.detach(), x))

    with pytest.warns(UserWarning, match=f"of model 'model_0' is zero on {2 * int(bright.sum())}.00 % of the rows as"):
        found = learn_universal(half, images, labels, orb.Linf(1e-6), epochs=2, batch_size=16)
    assert len(found.notes) == 1
    assert found.notes[0].startswith("Gradient masking: ") and "losses.smooth_margin" in found.notes[0]
    assert learn_universal(net, images, labels, orb.Linf(1e-6), epochs=1).notes == ()
    with pytest.raises(ValueError, match="gradient masking: model 'model_0' has zero input gradient on every row"):
        learn_universal(lambda x: net((x * 8).round() / 8), images, labels, orb.Linf(0.1), epochs=1)


class Spoiled(torch.autograd.Function):
    """Hands its input on, and a gradient that is NaN where the first pixel is above 0.999."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx, slope: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.where(x[:, :1, :1, :1] > 0.999, torch.nan, slope)


def test_an_image_whose_gradient_is_nan_is_named_by_its_number_in_the_data(
    net: nn.Module, images: Tensor, labels: Tensor
) -> None:
    images[37, 0, 0, 0] = 1.0
    for loss in (losses.relative_margin, losses.margin):
        with pytest.raises(ValueError, match=r"NaN or infinite input gradients, .*, first on row 37$"):
            learn_universal(lambda v: net(Spoiled.apply(v)), images, labels, orb.Linf(1e-6), batch_size=8, loss=loss)


def test_ranges_that_cannot_be_meant_are_noted(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    said = learn_universal(net, images / 255, labels, orb.Linf(1.0), epochs=1).notes
    assert [note.split()[0:4] for note in said] == [["The", "radius", "of", "linf"], ["The", "inputs", "fill", "less"]]
