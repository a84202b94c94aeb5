"""The score of a perturbation is the count of images that it fools."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import omnirobust as orb
from omnirobust.attacks.universal import UniversalScore, learn_universal, score_universal
from omnirobust.domains.transforms import Brightness, FlipHorizontal, Identity


@pytest.fixture
def delta() -> Tensor:
    return torch.randn(1, 6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 0.4


def test_counts(models, x, y, delta) -> None:
    views = {"as is": Identity(), "mirrored": FlipHorizontal()}
    seen = score_universal(models, x, y, delta, transforms=views, batch_size=4)
    pairs = [(m, t) for m in models.values() for t in (lambda v: v, lambda v: v.flip(3))]
    expected = torch.stack([m(t((x + delta).clamp(0, 1))).argmax(1) != y for m, t in pairs], 1)
    assert torch.equal(seen.success, expected.float())
    assert seen.names == tuple(f"{m}/{t}" for m in "abc" for t in views)
    assert seen.asr == pytest.approx(float(expected.float().mean()))
    for c, rate in seen.by_class.items():
        assert rate == pytest.approx(float(expected[y == c].float().mean()))
    assert set(seen.by_class) == set(y.tolist())
    assert seen.worst_class == min(seen.by_class.values())
    assert list(seen.by_pair.values()) == pytest.approx(expected.float().mean(0).tolist())


def test_without_a_perturbation_it_is_the_error(models, x, y) -> None:
    seen = score_universal(models["b"], x, y, torch.zeros(1, 6, 6))
    assert seen.asr == pytest.approx(float((models["b"](x).argmax(1) != y).double().mean()))


def test_targets(models, x, y, delta) -> None:
    seen = score_universal(models["b"], x, y, delta, targeted=True)
    assert torch.equal(seen.success[:, 0] == 1, models["b"]((x + delta).clamp(0, 1)).argmax(1) == y)


@pytest.mark.processors
def test_draws_are_fresh_by_image_and_do_not_depend_on_the_batch(models, x, y, rounding) -> None:
    """A brightness of +-8 decides alone: the share of draws fooled is between none and all for most images."""
    views = {"light": Brightness((-8.0, 8.0))}
    model = rounding(models["b"])
    whole, cut, other = (
        score_universal(model, x, y, torch.zeros(1, 6, 6), transforms=views, draws=40, batch_size=b, seed=s)
        for b, s in ((500, 0), (2, 0), (500, 1))
    )
    assert torch.equal(whole.success, cut.success)
    assert not torch.equal(whole.success, other.success)
    assert bool(((whole.success * 40).round() == whole.success * 40).all())
    grid = torch.linspace(-8, 8, 4001)[:-1] + 0.002
    images = (x[:, None] + grid.view(1, -1, 1, 1, 1)).flatten(0, 1)
    exact = (models["b"](images).argmax(1).view(len(x), -1) != y[:, None]).float().mean(1)
    assert float((whole.success[:, 0] - exact).abs().max()) < 0.25
    assert float((whole.success[:, 0] - exact).abs().mean()) < 0.08


def test_a_learned_perturbation_brings_its_bounds(models, x, y) -> None:
    wide = orb.Linf(0.5, bounds=(-1.0, 1.0))
    found = learn_universal(models["b"], x * 2 - 1, y, wide, epochs=2, batch_size=5)
    seen = score_universal(models["b"], x * 2 - 1, y, found)
    moved = (x * 2 - 1 + found.delta).clamp(-1, 1)
    assert torch.equal(found.apply(x * 2 - 1), moved)
    assert torch.equal(seen.success[:, 0] == 1, models["b"](moved).argmax(1) != y)


def test_no_images() -> None:
    empty = UniversalScore(torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64), ("model_0",))
    assert (empty.asr, empty.worst_class, empty.by_class) == (0.0, 0.0, {})


def test_bad_arguments(models, x, y, delta) -> None:
    with pytest.raises(ValueError, match=r"perturbation must have the shape of an image, \(1, 6, 6\), got \(6, 6\)"):
        score_universal(models, x, y, delta[0])
    with pytest.raises(ValueError, match="draws must be >= 1, got 0"):
        score_universal(models, x, y, delta, draws=0)
    with pytest.raises(ValueError, match="batch_size must be >= 1, got -1"):
        score_universal(models, x, y, delta, batch_size=-1)


def test_towards_a_class_images_that_are_there_already_do_not_count() -> None:
    y = torch.arange(12) % 4
    x, goal = torch.full((12, 4), 0.2).scatter(1, y.unsqueeze(1), 0.8), torch.full((12,), 3)

    def right(v: Tensor) -> Tensor:
        return v * 5

    def wrong(v: Tensor) -> Tensor:
        return v.roll(1, dims=1) * 5

    push = torch.tensor([0.0, 0.0, 0.0, 0.7])
    score = score_universal({"a": right, "b": wrong}, x, goal, push, bounds=(0.0, 1.0), targeted=True)
    there = torch.stack([y == 3, y == 2], 1)
    assert torch.equal(score.already, there)
    reached = torch.stack([m((x + push).clamp(0, 1)).argmax(1) == 3 for m in (right, wrong)], 1)
    assert score.asr == pytest.approx(float(reached[~there].float().mean()))
    assert score.by_pair == pytest.approx({"a": float(reached[y != 3, 0].float().mean()), "b": 0.0})
    assert score.notes == (
        "The class to reach is there already, without an attack, in 6 of 24: success leaves these out.",
    )
    plain = score_universal({"a": right}, x, y, push)
    assert plain.already is None and plain.notes == ()
    learned = learn_universal(right, x, goal, orb.Linf(0.05), epochs=1, targeted=True)
    assert learned.history[-1]["fooled"] == 0.0  # three of twelve were there before
    assert learned.notes[-1].startswith("The class to reach is there already, without an attack, in 3 of 12")
