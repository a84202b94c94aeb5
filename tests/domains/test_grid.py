"""Products of domains: values and gradients against plain loops, draws, and passes that keep to a budget."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import omnirobust as orb
from omnirobust.domains import losses
from omnirobust.domains.drawing import just_beyond
from omnirobust.domains.transforms import ImageTransform
from omnirobust.domains.transforms.base import Columns

TRANSFORMS = {
    "as is": lambda v: v,
    "flipped": lambda v: v.flip(-1),
    "darker": lambda v: 0.8 * v,
}


class Coin(ImageTransform):
    """Adds a constant to an image or not, by one uniform number; remembers what was drawn for whom."""

    seeds = 1

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "drawn", [])

    def _change(self, v: Tensor, columns: Columns) -> Tensor:
        u = columns.take(1)
        self.drawn.append(u.flatten().clone())
        return v + (u.view(-1, 1, 1, 1) < 0.5).to(v)


@pytest.fixture
def groups(x: Tensor) -> Tensor:
    """Three groups of three images, (3, 3, 1, 6, 6)."""
    return x.view(3, 3, 1, 6, 6)


@pytest.fixture
def delta() -> Tensor:
    """One perturbation a group, large enough that clamping matters, (3, 1, 6, 6)."""
    return torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(1)).double() * 0.4


def plain(models, groups: Tensor, labels: Tensor, delta: Tensor, clamp: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Losses, success and gradients by three nested loops and autograd, one image at a time."""
    values, hits, slopes = [], [], []
    for model, t, e in itertools.product(models.values(), TRANSFORMS.values(), range(groups.shape[1])):
        leaf = delta.clone().requires_grad_()
        image = groups[:, e] + leaf
        logits = model(t(image.clamp(0, 1) if clamp else image))
        loss = losses.smooth_margin(logits, labels[:, e])
        values.append(loss.detach()), hits.append(logits.argmax(1) != labels[:, e])
        slopes.append(torch.autograd.grad(loss.sum(), leaf)[0])
    return torch.stack(values, 1), torch.stack(hits, 1), slopes


@pytest.mark.parametrize("memory", [None, 1, 4000, 20_000])
@pytest.mark.parametrize("clip", ["image", "intersection"])
def test_a_product_is_three_loops(models, groups, y, delta, clip, memory) -> None:
    grid = orb.DomainGrid(
        models, groups, y.view(3, 3), loss=losses.smooth_margin, transforms=TRANSFORMS, shared=True, clip=clip,
        memory=memory,
    )  # fmt: skip
    for _ in range(2):  # with a budget, what a pass costs is known from the second evaluation on
        seen = grid.evaluate(delta)
        values, hits, slopes = plain(models, groups, y.view(3, 3), delta, clamp=clip == "image")
        assert torch.allclose(seen.losses, values, atol=1e-12)
        assert seen.fooled is not None and torch.equal(seen.fooled, hits)
        assert seen.grads is not None and len(seen.grads) == 27
        for got, expected in zip(seen.grads, slopes, strict=True):
            assert torch.allclose(got, expected, atol=1e-12)
    rows = torch.tensor([2, 0])
    part = grid.select(rows).evaluate(delta[rows])
    assert torch.allclose(part.losses, values[rows], atol=1e-12)


def test_names_and_axes_are_row_major_over_the_factors_in_use(models, groups, x, y) -> None:
    def grid(which, v, labels, **rest):
        return orb.DomainGrid(which, v, labels, loss=losses.margin, **rest)

    one = {"a": models["a"]}
    whole = grid(models, groups, y.view(3, 3), transforms=TRANSFORMS, shared=True)
    assert list(whole.axes) == ["models", "transforms", "examples"] and len(whole.names) == 27
    assert whole.names[:4] == ("a/as is/image_0", "a/as is/image_1", "a/as is/image_2", "a/flipped/image_0")
    assert whole.names[9] == "b/as is/image_0" and whole.images == 27
    assert grid(one, groups, y.view(3, 3), shared=True).names == ("image_0", "image_1", "image_2")
    assert grid(one, x, y, transforms=TRANSFORMS).names == ("as is", "flipped", "darker")
    assert grid(models, x, y, transforms=TRANSFORMS).names[3] == "b/as is"
    assert grid(one, x, y).axes == {"models": ("a",)}


def test_labels_go_to_their_models_and_examples(models, groups, y) -> None:
    g = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 4, (3, 3, 1, 3), generator=g)
    grid = orb.DomainGrid(models, groups, labels, loss=losses.margin, transforms=TRANSFORMS, shared=True)
    got = grid.evaluate(torch.zeros(3, 1, 6, 6).double(), grad=False).losses.view(3, 3, 3, 3)
    for (m, model), (r, t), e in itertools.product(
        enumerate(models.values()), enumerate(TRANSFORMS.values()), range(3)
    ):
        expected = losses.margin(model(t(groups[:, e])), labels[:, m, 0, e])
        assert torch.allclose(got[:, m, r, e], expected)


def test_the_examples_of_a_group_share_a_forward_pass(models, groups, y, delta) -> None:
    grid = orb.DomainGrid(models, groups, y.view(3, 3), loss=losses.margin, transforms=TRANSFORMS, shared=True)
    before = {name: model.calls for name, model in models.items()}
    grid.evaluate(delta)
    assert all(models[name].calls == before[name] + 1 for name in models)


class Saving(torch.nn.Module):
    """A model whose graph holds 1,152 bytes an image: 144 doubles, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, v: Tensor) -> Tensor:
        self.sizes.append(len(v))
        return v.flatten(1).repeat(1, 4)[:, :125].pow(2)[:, :4]


def total(logits: Tensor, labels: Tensor, *, targeted: bool = False) -> Tensor:
    return logits.sum(1)


@pytest.mark.parametrize(("budget", "largest"), [(10**9, 27), (6000, 3)])
def test_passes_keep_to_the_budget(groups, y, budget: int, largest: int) -> None:
    model = Saving()
    grid = orb.DomainGrid(model, groups, y.view(3, 3), loss=total, transforms=TRANSFORMS, shared=True, memory=budget)
    grid.evaluate(torch.zeros(3, 1, 6, 6).double())
    assert model.sizes[0] <= 8, "the first pass is a probe"
    model.sizes.clear()
    grid.evaluate(torch.zeros(3, 1, 6, 6).double())
    assert sum(model.sizes) == 27 and max(model.sizes) == largest


def test_the_dearest_transformation_sets_the_size_of_a_pass(groups, y) -> None:
    def dear(v: Tensor) -> Tensor:  # keeps ten images more
        return sum(((v * k).sin() for k in range(1, 11)), 0 * v)

    model = Saving()
    grid = orb.DomainGrid(
        model, groups, y.view(3, 3), loss=total, transforms={"as is": lambda v: v, "dear": dear}, shared=True,
        memory=9 * 1152 + 10 * 288,
    )  # fmt: skip
    grid.evaluate(torch.zeros(3, 1, 6, 6).double())
    model.sizes.clear()
    grid.evaluate(torch.zeros(3, 1, 6, 6).double())
    assert sum(model.sizes) == 18 and max(model.sizes) <= (9 * 1152 + 10 * 288) // (1152 + 10 * 288)


def test_draws_belong_to_their_rows(x, y, models) -> None:
    coin = Coin()

    def drawn(rows: list[int], calls: int, **rest) -> list[Tensor]:
        grid = orb.DomainGrid({"a": models["a"]}, x, y, loss=losses.margin, transforms={"coin": coin}, **rest)
        grid = grid.select(torch.tensor(rows))
        coin.drawn.clear()
        for _ in range(calls):
            grid.evaluate(torch.zeros_like(x[rows]), grad=False)
        return list(coin.drawn)

    everyone = drawn(list(range(9)), 3)
    assert not torch.equal(everyone[0], everyone[1]), "each evaluation draws anew"
    for got, all_of_them in zip(drawn([5, 2], 3), everyone, strict=True):
        assert torch.equal(got, all_of_them[[5, 2]])
    assert torch.equal(drawn([0], 1, first_row=4)[0], everyone[0][4:5])
    assert not torch.equal(drawn([0], 1, seed=1)[0], everyone[0][:1])
    assert not torch.equal(drawn([0], 1, restart=1)[0], everyone[0][:1])
    several = drawn(list(range(9)), 1, samples=3)
    assert len(several) == 3 and not torch.equal(several[0], several[1])


def test_images_of_a_group_and_transformations_draw_for_themselves(groups, y, models) -> None:
    coins = {"one": Coin(), "two": Coin()}
    grid = orb.DomainGrid(
        {"a": models["a"]}, groups, y.view(3, 3), loss=losses.margin, transforms=coins, shared=True, samples=2
    )
    for coin in coins.values():
        coin.drawn.clear()
    grid.evaluate(torch.zeros(3, 1, 6, 6).double(), grad=False)
    drawn = torch.cat([u for coin in coins.values() for u in coin.drawn])
    assert len(drawn) == 2 * 2 * 9 and len(drawn.unique()) == len(drawn)


def test_a_single_row_gives_away_a_transformation_whose_rows_see_each_other(x, y, models) -> None:
    bright = {"bright": lambda v: v / v.amax()}
    group = orb.DomainGrid(models, x[None, :3], y[None, :3], loss=losses.margin, transforms=bright, shared=True)
    whole = orb.DomainGrid(
        models, x[:6].view(2, 3, 1, 6, 6), y[:6].view(2, 3), loss=losses.margin, transforms=bright, shared=True
    )
    delta = torch.zeros(2, 1, 6, 6).double()
    assert torch.allclose(group.evaluate(delta[:1]).losses, whole.evaluate(delta).losses[:1], atol=1e-12)


def test_inputs_that_stick_out_by_a_rounding_still_have_gradients(y, models) -> None:
    white = torch.full((3, 3, 1, 6, 6), 1.0 + 5e-7, dtype=torch.float64)
    grid = orb.DomainGrid(models, white, y.view(3, 3), loss=losses.smooth_margin, shared=True)
    seen = grid.evaluate(torch.zeros(3, 1, 6, 6).double())
    assert seen.grads is not None and all(bool((g != 0).any()) for g in seen.grads)


def test_samples_are_averaged_and_all_must_fool(x, y, models) -> None:
    coin, model = Coin(), models["a"]
    grid = orb.DomainGrid(
        {"a": model}, x, y, loss=losses.smooth_margin, transforms={"coin": coin, "as is": lambda v: v}, samples=4
    )
    coin.drawn.clear()
    seen = grid.evaluate(torch.zeros_like(x))
    logits = [model(x + (u.view(-1, 1, 1, 1) < 0.5).double()) for u in coin.drawn]
    assert len(logits) == 4 and grid.random and grid.images == 5
    expected = torch.stack([losses.smooth_margin(z, y) for z in logits]).mean(0)
    assert torch.allclose(seen.losses[:, 0], expected)
    assert torch.allclose(seen.losses[:, 1], losses.smooth_margin(model(x), y))
    assert seen.fooled is not None
    assert torch.equal(seen.fooled[:, 0], torch.stack([z.argmax(1) != y for z in logits]).all(0))


def test_the_same_draws_serve_every_model(x, y, models) -> None:
    coin = Coin()
    grid = orb.DomainGrid(models, x, y, loss=losses.margin, transforms={"coin": coin})
    coin.drawn.clear()
    grid.evaluate(torch.zeros_like(x), grad=False)
    assert len(coin.drawn) == 3 and all(torch.equal(u, coin.drawn[0]) for u in coin.drawn)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.rand(9, 1)}, r"x must be a float tensor of shape \(B, E, \*S\), got torch.float32 of shape"),
        ({"x": torch.rand(3, 0, 1, 6, 6)}, "x must hold at least one input a group"),
        ({"y": torch.zeros(9, dtype=torch.int64)}, r"y must have shape \(3, 3\), or broadcast to \(3, 3, 1, 3\), got"),
        ({"y": torch.zeros(3, 3)}, "y must be an int64 tensor"),
        ({"clip": "box"}, "clip must be 'image' or 'intersection', got 'box'"),
        ({"samples": 0}, "samples must be a whole number >= 1, got 0"),
        ({"samples": True}, "samples must be a whole number >= 1, got True"),
        ({"memory": 0.5}, "memory must be a whole number of bytes >= 1 or None, got 0.5"),
        ({"transforms": {}}, "transforms"),
        ({"transforms": {"t": 3}}, "'t'"),
    ],
)
def test_what_a_grid_refuses(models, groups, y, change: dict, message: str) -> None:
    given = {"x": groups, "y": y.view(3, 3)} | change
    with pytest.raises(ValueError, match=message):
        orb.DomainGrid(models, given.pop("x"), given.pop("y"), loss=losses.margin, shared=True, **given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("ends", [(0.0, 1.0), (-3.0, 0.1), (-(2.0**15), 2.0**14)])
def test_a_clamp_by_hand_passes_gradients_where_autograd_does(dtype, ends):
    """At the ends themselves, and one float to either side of them."""
    low, high = (torch.tensor(end, dtype=dtype).to(dtype if dtype.itemsize > 2 else torch.float32) for end in ends)
    far, slope = torch.tensor(float("inf")).to(low), torch.arange(1.0, 7.0).to(low)
    points = torch.stack([end.nextafter(way) for end in (low, high) for way in (far, -far)] + [low, high])
    points.requires_grad_(True).clamp(float(low), float(high)).backward(slope)
    by_hand = torch.ops.aten.hardtanh_backward(slope, points.detach(), *just_beyond(ends, dtype))
    assert points.grad is not None and by_hand.tolist() == points.grad.tolist()
