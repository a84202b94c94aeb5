"""Any callable as a transformation: what is random, what it may depend on, and the sentences where one does not fit."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import kornia.augmentation as K
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from omnirobust.core.draws import DrawKey, forked, random_states, same_states
from omnirobust.domains.transforms import NAMES, Brightness, FlipHorizontal, Identity, Noise, Rotate
from omnirobust.domains.transforms.seeded import View, as_views


def noisy(x: Tensor, generator: torch.Generator) -> Tensor:
    return x + 0.1 * torch.randn(x.shape, generator=generator)


class Dim(nn.Module):
    """A module that takes a generator, and has a mode."""

    def forward(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return x * (1 if self.training else torch.rand(1, generator=generator))


def by_numpy(x: Tensor) -> Tensor:
    return x * float(np.random.rand())  # noqa: NPY002


def sometimes(x: Tensor) -> Tensor:
    return x.flip(3) if random.random() < 0.5 else x


RANDOM: dict[str, Callable[..., Any]] = {
    "rot": Rotate((-30.0, 30.0)),
    "flh": FlipHorizontal(p=0.5),
    "noise": Noise(0.1),
    "generator": noisy,
    "second": lambda x, g: x + torch.rand((), generator=g),
    "module": Dim().eval(),
    "partial": functools.partial(noisy),
    "torch": lambda x: x * torch.rand(len(x), 1, 1, 1),
    "python": sometimes,
    "numpy": by_numpy,
    "dropout": nn.Dropout(0.3),
    "kornia": K.RandomAffine(degrees=30.0, translate=(0.1, 0.1), p=0.9),
    "kornia sequence": K.AugmentationSequential(K.RandomHorizontalFlip(p=0.5), K.ColorJitter(0.2, 0.2, 0.2, 0.1)),
}

FIXED: dict[str, Callable[..., Any]] = {
    "rot": Rotate(30.0),
    "lambda": lambda x: 1 - x,
    "pooled": lambda x, size=2: nn.functional.avg_pool2d(x, size),
    "module": nn.Sequential(nn.ReflectionPad2d(1), nn.AvgPool2d(3, 1)),
    "eval dropout": nn.Dropout(0.3).eval(),
    "builtin": torch.square,
    "in place": lambda x: x.mul_(0.5),
    "kornia": K.CenterCrop(6),
}


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


KEY, ROWS = DrawKey(1, 2, 3, 4), torch.tensor([10, 3, 77, 4, 2**40, 0])


@pytest.mark.parametrize("name", RANDOM)
def test_draws_depend_on_key_and_row_only(name: str, images: Tensor) -> None:
    (view,) = as_views({name: RANDOM[name]}, images)
    assert view.random and view.name == name
    whole = view(images, KEY, ROWS)
    assert whole.dtype == images.dtype
    order = torch.tensor([4, 0, 2])
    torch.manual_seed(123)  # nothing outside matters either
    random.seed(9)
    assert torch.allclose(view(images[order], KEY, ROWS[order]), whole[order], atol=1e-6)
    assert torch.equal(view(images, KEY, ROWS), whole)
    for other in (DrawKey(0, 2, 3, 4), DrawKey(1, 0, 3, 4), DrawKey(1, 2, 0, 4), DrawKey(1, 2, 3, 0)):
        assert not torch.equal(view(images, other, ROWS), whole)
    same_image = images[:1].expand(6, -1, -1, -1)
    rows = view(same_image, KEY, torch.arange(6))
    assert any(not torch.equal(rows[0], row) for row in rows[1:])


@pytest.mark.parametrize("name", FIXED)
def test_what_draws_nothing_runs_on_the_whole_batch(name: str, images: Tensor) -> None:
    (view,) = as_views({name: FIXED[name]}, images)
    assert not view.random
    before = images.clone()
    assert torch.allclose(view(images, KEY, ROWS), FIXED[name](images.clone()), atol=1e-6)
    assert torch.equal(images, before)


def test_deterministic_callables_are_called_once_a_batch_and_random_ones_once_a_row(images: Tensor) -> None:
    sizes: list[int] = []

    def plain(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return 2 * x

    def drawn(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x * torch.rand(1)

    one, two = as_views([plain, drawn], images)
    sizes.clear()
    one(images, KEY, ROWS)
    assert sizes == [6]
    sizes.clear()
    two(images, KEY, ROWS)
    assert sizes == [1] * 6


def test_rows_that_would_see_each_other_are_called_alone(images: Tensor) -> None:
    norm = nn.BatchNorm2d(3)
    for transform in (lambda x: x / x.max(), norm, lambda x: x - x.mean(0, keepdim=True)):
        (view,) = as_views([transform], images)
        assert not view.random
        expected = torch.cat([transform(image.clone()) for image in images.split(1)])
        assert torch.allclose(view(images, KEY, ROWS), expected, atol=1e-6)
    assert not as_views([norm.eval()], images)[0].random


@pytest.mark.parametrize("name", RANDOM)
def test_random_states_outside_stay_as_they_are(name: str, images: Tensor) -> None:
    before = random_states(images)
    (view,) = as_views({name: RANDOM[name]}, images)
    view(images, KEY, ROWS)
    assert same_states(before, random_states(images))


@settings(max_examples=15, deadline=None)
@given(cut=st.integers(1, 5), seed=st.integers(0, 2**31), step=st.integers(0, 1000))
def test_batches_may_be_cut_anywhere(cut: int, seed: int, step: int) -> None:
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    key = DrawKey(seed, 0, step, 0)
    for view in as_views({n: RANDOM[n] for n in ("rot", "noise", "generator", "torch", "numpy")}, images):
        parts = [view(images[:cut], key, ROWS[:cut]), view(images[cut:], key, ROWS[cut:])]
        assert torch.allclose(torch.cat(parts), view(images, key, ROWS), atol=1e-6)


@pytest.mark.parametrize("name", [*RANDOM, *NAMES])
def test_gradients_are_those_of_the_very_draw(name: str, images: Tensor) -> None:
    transform = RANDOM[name] if name in RANDOM else NAMES[name]()
    (view,) = as_views({name: transform}, images.double()[:1] * 0.5 + 0.25)
    x = (images.double()[:2] * 0.5 + 0.25).requires_grad_()
    direction = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    out = view(x, KEY, ROWS[:2])
    (slope,) = torch.autograd.grad((out * direction).sum(), x)
    assert bool(slope.isfinite().all()) and float(slope.abs().max()) > 0
    if name == "jpeg":
        return  # its gradient is that of a smooth rounding: tests/transforms/test_blur.py
    step = 1e-6 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        ends = [(view(x + s * step, KEY, ROWS[:2]) * direction).sum() for s in (1, -1)]
    assert float(ends[0] - ends[1]) == pytest.approx(2 * float((slope * step).sum()), rel=1e-2, abs=1e-7)


def test_modules_stay_in_the_mode_that_they_are_in(images: Tensor) -> None:
    training, quiet = Dim().train(), Dim().eval()
    one, two = as_views({"training": training, "quiet": quiet}, images)
    assert torch.equal(one(images, KEY, ROWS), images) and not torch.equal(two(images, KEY, ROWS), images)
    assert training.training and not quiet.training


def test_a_generator_is_on_the_cpu_and_given_by_its_name_or_second(images: Tensor) -> None:
    seen: list[Any] = []

    def named(x: Tensor, strength: float = 2.0, generator: torch.Generator | None = None) -> Tensor:
        seen.append((strength, generator))
        return strength * x

    def by_place(x: Tensor, generator: torch.Generator | None = None, /) -> Tensor:
        seen.append((0, generator))
        return x + 0

    for view in as_views([named, by_place], images):
        seen.clear()
        view(images[:2], KEY, ROWS[:2])
        assert len({g.initial_seed() for _, g in seen}) == 2
        assert all(g.device.type == "cpu" for _, g in seen)


def test_outputs_may_have_another_size_and_come_back_in_the_dtype_of_the_input(images: Tensor) -> None:
    (view,) = as_views([lambda x: x.double()[:, :1, 1:5, 2:]], images)
    assert view(images, KEY, ROWS).shape == (6, 1, 4, 6) and view(images, KEY, ROWS).dtype == torch.float32


def test_inputs_need_not_be_images_for_callables() -> None:
    x = torch.rand(4, 5)
    views = as_views({"half": lambda x: x / 2, "drop": nn.Dropout(0.5)}, x)
    assert torch.equal(views[0](x, KEY, ROWS[:4]), x / 2) and views[1](x, KEY, ROWS[:4]).shape == (4, 5)
    with pytest.raises(ValueError, match=r"transformation 'rot:30' needs images \(n, C, H, W\), got .* \(2, 5\)"):
        as_views([Rotate()], x)


def test_an_empty_batch_passes(images: Tensor) -> None:
    for view in as_views({n: RANDOM[n] for n in ("rot", "generator", "torch")} | {"x": lambda x: x + 1}, images[:0]):
        assert view(images[:0], KEY, ROWS[:0]).shape == images[:0].shape


def test_names(images: Tensor) -> None:
    assert [v.name for v in as_views(None, images)] == ["ori"]
    assert [v.name for v in as_views(Rotate((-30.0, 30.0)), images)] == ["rot:-30..30"]
    assert [v.name for v in as_views([Identity(), torch.square, Rotate()], images)] == ["ori", "transform_1", "rot:30"]
    assert [v.name for v in as_views(nn.ModuleDict({"a": nn.Identity(), "b": nn.ReLU()}), images)] == ["a", "b"]
    assert [v.name for v in as_views(nn.ModuleList([nn.Identity()]), images)] == ["transform_0"]
    assert [v.name for v in as_views(nn.Sequential(nn.Identity(), nn.ReLU()), images)] == ["transform_0"]
    views = as_views({"a": Rotate(), "b": noisy}, images)
    assert as_views(views, images) == views and all(isinstance(v, View) for v in views)
    assert torch.equal(as_views(None, images)[0](images, KEY, ROWS), images)


def test_views_say_what_they_do(images: Tensor) -> None:
    given = {"r": Rotate((-30.0, 30.0)), "f": noisy, "m": nn.AvgPool2d(2), "p": functools.partial(noisy)}
    assert [repr(v) for v in as_views(given, images)] == [
        "rot:-30..30", "noisy", "AvgPool2d(kernel_size=2, stride=2, padding=0)", "partial",
    ]  # fmt: skip


hidden = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (3, r"must be a callable t\(x\) or t\(x, generator\), got 3"),
        (nn.ReLU, "must be a callable"),
        (lambda x, y, z: x, "must be t\\(x\\) or t\\(x, generator\\), it needs 3 arguments"),
        (lambda x: x.numpy(), "must return a float tensor, got ndarray"),
        (lambda x: None, "must return a float tensor, got NoneType"),
        (lambda x: (x > 0.5).long(), "must return a float tensor, got torch.int64"),
        (lambda x: x[0], r"must return a batch of 2, got shape \(3, 8, 8\)"),
        (lambda x: x.mean((1, 2, 3)), r"must return a batch of 2, got shape \(2,\)"),
        (lambda x: x / 0, "returned NaN or infinite values on the given inputs"),
        (lambda x: x.detach() * 2, "does not let gradients reach its input"),
        (lambda x: torch.ones_like(x, requires_grad=True), "does not let gradients reach its input"),
        (lambda x: (x * 0).sqrt(), "has NaN or infinite gradients on the given inputs"),
        (lambda x: x * float(hidden.random()), "draws from a source that no seed reaches: let it"),
        (nn.Linear(3, 2), "cannot take inputs of shape .*: mat1 and mat2"),
        (lambda x: {}["k"], "cannot take inputs of shape .*: KeyError 'k'"),
        (lambda x: 1 // 0 * x, "cannot take inputs of shape .*: integer division or modulo by zero"),
        (lambda x: next(iter(())), "cannot take inputs of shape .*: StopIteration"),
        (lambda x, generator: x[:, :, :, : int(torch.randint(1, 8, (), generator=generator))], "must return one shape"),
    ],
)  # fmt: skip
def test_what_is_refused(transform: Any, message: str, images: Tensor) -> None:
    before = random_states(images)
    with pytest.raises(ValueError, match=f"transformation 'mine' {message}"):
        as_views({"mine": transform}, images)[0](images, KEY, ROWS)
    assert same_states(before, random_states(images))


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ({}, "must hold at least one transformation, got none"),
        ([], "must hold at least one transformation, got none"),
        ("flh", "must be a mapping or a sequence of callables, got str"),
        (5, "must be a mapping or a sequence of callables, got int"),
        ((t for t in [Identity()]), "must be a mapping or a sequence of callables, got generator"),
        (Brightness, "must be a mapping or a sequence of callables, got ABCMeta"),
        ([Identity(), Identity()], r"must have names that differ, got \['ori', 'ori'\]"),
        ({"1": Identity(), 1: Brightness()}, r"must have names that differ, got \['1', '1'\]"),
    ],
)
def test_what_is_no_set_of_transformations(transforms: Any, message: str, images: Tensor) -> None:
    with pytest.raises(ValueError, match=f"transforms {message}"):
        as_views(transforms, images)


def test_a_bad_row_later_is_told_too(images: Tensor) -> None:
    (view,) = as_views({"mine": lambda x: x[:2] + 0}, images)
    with forked(images), pytest.raises(ValueError, match=r"transformation 'mine' must return a batch of 6, got shape"):
        view(images, KEY, ROWS)
