"""The default attack and what cannot matter: offsets, factors and hopeless classes; the reach against closed forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import omnirobust as orb
from omnirobust.core.types import Evaluation
from omnirobust.domains import losses
from omnirobust.domains.losses import reach_of

THREATS = [orb.Linf(0.15), orb.L2(0.8), orb.L1(3.0), orb.L0(6)]
KINDS = st.tuples(st.sampled_from(THREATS), st.sampled_from([2, 5]), st.booleans())
LOWEST = torch.finfo(torch.float32).min


class Smooth(nn.Module):
    """A random smooth classifier of 16 numbers, its logits changed by what should not matter."""

    def __init__(self, seed: int, classes: int, *, factor: float = 1.0, offset: float = 0.0, more: Any = ()) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.first, self.last = torch.randn(16, 12, generator=g), torch.randn(12, classes, generator=g)
        self.factor, self.offset, self.more = factor, offset, torch.tensor(more)

    def forward(self, x: Tensor) -> Tensor:
        z = ((x - 0.5).flatten(1) @ self.first.to(x) * 0.7).tanh() @ self.last.to(x)
        return torch.cat([z * self.factor + self.offset, self.more.to(x).expand(len(x), -1)], 1)


def problem(classes: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    x = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(5)).to(dtype)
    return x, Smooth(0, classes)(x).argmax(1)


def attack(kind: tuple[orb.ThreatModel, int, bool], dtype: torch.dtype = torch.float32, **change: Any):
    """Attack two models by the default, the second of them changed."""
    threat, classes, targeted = kind
    x, y = problem(classes, dtype)
    goal = (y + 1) % classes if targeted else y
    pad = [-1e3] * len(change.get("more", ()))  # models must have the same classes
    models = [Smooth(0, classes, more=pad), Smooth(1, classes, **change)]
    return orb.attack_ensemble(models, x, goal, threat, steps=8, targeted=targeted)


def same(a: orb.AttackResult, b: orb.AttackResult, tol: float) -> None:
    assert torch.equal(a.fooled, b.fooled)
    torch.testing.assert_close(a.weights, b.weights, rtol=0, atol=tol)
    torch.testing.assert_close(a.delta, b.delta, rtol=0, atol=tol)
    torch.testing.assert_close(a.losses, b.losses, rtol=0, atol=10 * tol)


@settings(max_examples=6, deadline=None)
@given(kind=KINDS, power=st.integers(-99, 99))
def test_a_factor_that_costs_no_digits_changes_nothing(kind: tuple[orb.ThreatModel, int, bool], power: int) -> None:
    plain, scaled = attack(kind), attack(kind, factor=2.0**power)
    same(plain, scaled, 1e-6)
    assert bool(scaled.history.losses.isfinite().all())


@settings(max_examples=5, deadline=None)
@given(kind=KINDS, power=st.floats(-30, 30))
def test_any_factor_changes_rounding_only(kind: tuple[orb.ThreatModel, int, bool], power: float) -> None:
    same(attack(kind, torch.float64), attack(kind, torch.float64, factor=10**power), 1e-7)


@settings(max_examples=5, deadline=None)
@given(kind=KINDS, offset=st.floats(-1e4, 1e4))
def test_an_offset_changes_rounding_only(kind: tuple[orb.ThreatModel, int, bool], offset: float) -> None:
    same(attack(kind, torch.float64), attack(kind, torch.float64, offset=offset), 1e-7)


@settings(max_examples=8, deadline=None)
@given(
    kind=KINDS,
    change=st.sampled_from([("factor", 3.7), ("factor", 0.013), ("factor", 1e-20), ("offset", 7.3), ("offset", 1e3)]),
)
def test_in_float32_the_digits_that_a_models_own_sum_loses_are_all_that_changes(
    kind: tuple[orb.ThreatModel, int, bool], change: tuple[str, float]
) -> None:
    """Most that was measured in eight steps: 2e-5 of a weight, 8e-5 of a perturbation; that of an offset of 1,000."""
    plain, changed = attack(kind), attack(kind, **dict([change]))
    assert torch.equal(plain.fooled, changed.fooled)
    torch.testing.assert_close(plain.weights, changed.weights, rtol=0, atol=2e-4)
    torch.testing.assert_close(plain.delta, changed.delta, rtol=0, atol=5e-4)


@settings(max_examples=6, deadline=None)
@given(
    kind=KINDS,
    low=st.sampled_from([-40.0, -1e4, -7e5, -1e9, -1e30, LOWEST]) | st.floats(-1e30, -40.0),
    count=st.sampled_from([1, 3, 200]),
    power=st.sampled_from([-60, 0, 60]),
)
def test_classes_that_never_come_near_winning_change_nothing(
    kind: tuple[orb.ThreatModel, int, bool], low: float, count: int, power: int
) -> None:
    far = max(low * 2.0**power, LOWEST)
    plain, more = attack(kind, factor=2.0**power), attack(kind, factor=2.0**power, more=[far] * count)
    same(plain, more, 1e-5)


@pytest.mark.parametrize("classes", [2, 5])
def test_weights_compare_models_of_other_logit_scales_and_find_the_harder_one(classes: int) -> None:
    x, y = problem(classes)
    hard, easy = Smooth(0, classes, factor=1e-20), Smooth(0, classes, factor=1e20)
    easy.first = easy.first * 3  # the same borders seen from nearer
    y = Smooth(0, classes)(x).argmax(1)
    result = orb.attack_ensemble([hard, easy], x, y, orb.Linf(0.1), steps=20)
    standing = ~result.fooled[:, 0]
    assert bool(standing.any())
    assert float(result.weights[standing, 0].mean()) > 0.6
    assert len(result.losses.unique()) > len(x)  # a measure, not a sign


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.name)
def test_two_classes_fall_as_to_a_plain_margin(threat: orb.ThreatModel) -> None:
    x, y = problem(2)
    models = [Smooth(0, 2), Smooth(1, 2, factor=1e-25), Smooth(2, 2, factor=1e25)]
    plain = [Smooth(seed, 2) for seed in range(3)]
    found = orb.attack_ensemble(models, x, y, threat, steps=30)
    reference = orb.attack_ensemble(plain, x, y, threat, steps=30, loss=losses.signed_margin)
    assert found.asr_all >= reference.asr_all - 1 / len(x)


class Linear(nn.Module):
    """Three classes of 6 numbers, each a weighted sum."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.randn(6, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.to(x)


def by_hand(w: Tensor, p: float, eps: float, low: Tensor, high: Tensor) -> float:
    """How far <w, delta> can fall in the ball and the box: a greedy filling; for l2 in a wide box only."""
    ends = torch.where(w > 0, -low, high)
    gain = sorted(zip((w.abs()).tolist(), ends.tolist(), strict=True), key=lambda g: -g[0])
    if p == 0:
        return sum(sorted((g * e for g, e in gain), reverse=True)[: int(eps)])
    if p == float("inf"):
        return sum(g * min(e, eps) for g, e in gain)
    if p == 2:
        return eps * float(w.norm())
    total, left = 0.0, eps
    for g, e in gain:
        total, left = total + g * min(e, left), left - min(e, left)
    return total


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("p", [0, 1, 2, float("inf")])
def test_the_reach_of_a_linear_model_is_the_margin_and_its_fall_in_ball_and_box(p: float, targeted: bool) -> None:
    model, g = Linear(), torch.Generator().manual_seed(3)
    x, y = torch.rand(5, 6, generator=g, dtype=torch.float64) * 0.4 + 0.3, torch.tensor([0, 1, 2, 0, 1])
    eps = torch.tensor([0.0, 0.05, 0.1, 0.2, 0.25]).double() * (10 if p in (0, 1) else 1)
    threat = orb.ThreatModel(p, eps)
    grid = orb.DomainGrid(model, x, y, loss=losses.relative_margin, targeted=targeted).scaled(threat.around(x))
    assert grid.reach is not None and tuple(grid.reach.shape) == (5, 1, 1, 1)
    for row in range(5):
        z = model(x[row : row + 1])[0]
        rival = max((c for c in range(3) if c != y[row]), key=lambda c: float(z[c]))
        slope = (model.weight[:, y[row]] - model.weight[:, rival]) * (-1 if targeted else 1)
        fall = by_hand(slope, p, float(eps[row]), -x[row], 1 - x[row])
        expected = abs(float(z[y[row]] - z[rival])) + fall
        assert float(grid.reach[row]) == pytest.approx(expected, rel=2e-3), row
    again = orb.DomainGrid(model, x[3:4], y[3:4], loss=losses.relative_margin, targeted=targeted)
    alone = again.scaled(orb.ThreatModel(p, eps[3:4]).around(x[3:4])).reach
    torch.testing.assert_close(alone, grid.reach[3:4])  # from that row alone
    assert torch.equal(grid.select(torch.tensor([4, 1])).reach, grid.reach[[4, 1]])


def test_only_what_may_change_counts_and_without_a_gradient_the_margin_does() -> None:
    x, y, mask = torch.full((2, 6), 0.5).double(), torch.tensor([0, 1]), torch.zeros(6, dtype=torch.bool)
    mask[2] = True
    model = Linear()
    z = model(x)
    seen = orb.DomainGrid(model, x, y, loss=losses.signed_margin).evaluate(torch.zeros_like(x))
    assert seen.grads is not None
    grid = orb.DomainGrid(model, x, y, loss=losses.relative_margin).scaled(orb.Linf(0.1, mask=mask).around(x))
    assert grid.reach is not None
    expected = seen.losses[:, 0].abs() + 0.1 * seen.grads[0][:, 2].abs()
    torch.testing.assert_close(grid.reach.flatten(), expected, rtol=1e-9, atol=0)
    for constant, reach in ((z, seen.losses[:, 0].abs()), (torch.zeros_like(z), torch.ones(2))):
        deaf = orb.DomainGrid(lambda v, c=constant: v.sum() * 0 + c, x, y, loss=losses.relative_margin)
        torch.testing.assert_close(deaf.scaled(orb.Linf(0.1).around(x)).reach.flatten(), reach.to(x))


@settings(max_examples=40, deadline=None)
@given(margin=st.floats(-3e38, 3e38), slope=st.floats(0, 3e38), eps=st.sampled_from([0.0, 1e-30, 0.3]))
def test_the_reach_is_finite_and_positive_whatever_the_logits(margin: float, slope: float, eps: float) -> None:
    x = torch.full((1, 4), 0.5)
    seen = Evaluation(torch.tensor([[margin]]), None, (torch.full((1, 4), slope),))
    for p in (0, 1, 2, float("inf")):
        reach = reach_of(orb.ThreatModel(p, eps).around(x), seen)
        assert bool(((reach > 0) & reach.isfinite() & (1 / reach).isfinite()).all())


@settings(max_examples=60, deadline=None)
@given(
    z=st.lists(st.sampled_from([0.0, 1e-45, -1e-30, 1.0, -3.0, 1e19, -1e30, LOWEST, -LOWEST]), min_size=2, max_size=6),
    reach=st.sampled_from([1e-36, 1e-10, 1.0, 1e20, 5e36]),
    targeted=st.booleans(),
)
def test_relative_margin_is_finite_with_its_gradient(z: list[float], reach: float, targeted: bool) -> None:
    logits = torch.tensor([z], requires_grad=True)
    value = losses.relative_margin(logits, torch.tensor([1]), reach=torch.tensor([reach]), targeted=targeted)
    (slope,) = torch.autograd.grad(value.sum(), logits)
    assert bool(value.isfinite().all()) and bool(slope.isfinite().all())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), reach=st.floats(0.1, 100.0), targeted=st.booleans())
def test_relative_margin_is_the_smooth_margin_in_quarters_of_the_reach(seed: int, reach: float, targeted: bool) -> None:
    g = torch.Generator().manual_seed(seed)
    z, y = torch.randn(6, 5, generator=g, dtype=torch.float64) * 4, torch.randint(5, (6,), generator=g)
    each = torch.full((6,), reach, dtype=torch.float64)
    got = losses.relative_margin(z, y, reach=each, targeted=targeted)
    torch.testing.assert_close(got, losses.smooth_margin(z * 40 / reach, y, targeted=targeted) / 10)
    torch.testing.assert_close(losses.relative_margin(z * 7 + 3, y, reach=each * 7, targeted=targeted), got)
    plain = losses.relative_margin(z, y, targeted=targeted)
    torch.testing.assert_close(plain, losses.relative_margin(z, y, reach=torch.full_like(each, 4.0), targeted=targeted))


def test_a_solve_on_a_grid_sets_the_reach_as_the_recipe_does(models, x, y) -> None:
    setting, threat = orb.settings.DEFAULT["l2"], orb.L2(0.8)
    grid = orb.DomainGrid(models, x, y, loss=losses.relative_margin)
    assert grid.reach is None
    found = orb.solve(
        grid, threat.around(x), setting.rule, steps=10, direction=setting.direction, keep="best",
    )  # fmt: skip
    expected = orb.attack_ensemble(models, x, y, threat, steps=10)
    torch.testing.assert_close(found.delta, expected.delta)
    torch.testing.assert_close(found.weights, expected.weights)
    torch.testing.assert_close(found.losses, expected.losses)


def test_own_losses_that_ask_for_the_reach_get_it_and_others_do_not(models, x, y) -> None:
    seen: list[Tensor] = []

    def asks(logits: Tensor, labels: Tensor, *, targeted: bool = False, reach: Tensor | None = None) -> Tensor:
        assert reach is not None
        seen.append(reach)
        return losses.signed_margin(logits, labels, targeted=targeted) / reach

    orb.attack_ensemble(models, x, y, orb.Linf(0.1), steps=2, loss=asks)
    del seen[0]  # of the made-up logits that a loss of one's own is tried on
    assert len(seen) == 3 * (3 + 1)
    for again in (seen[3:6], seen[6:9], seen[9:]):  # fixed for the run, and for what is returned
        assert all(torch.equal(a, b) for a, b in zip(seen[:3], again, strict=True))
    assert not any(
        losses.wants_reach(f) for f in (losses.margin, losses.standardised_margin, nn.CrossEntropyLoss(), len, 3)
    )


def test_the_reach_is_of_each_model_and_image_and_the_same_under_all_transformations(models, x, y) -> None:
    groups, labels = x.view(3, 3, 1, 6, 6), y.view(3, 3)
    views = {"as is": lambda v: v, "flipped": lambda v: v.flip(-1)}
    feasible = orb.L2(0.8).around(groups, shared=True)
    grid = orb.DomainGrid(models, groups, labels, loss=losses.relative_margin, transforms=views, shared=True)
    reach = grid.scaled(feasible).reach
    assert reach is not None and tuple(reach.shape) == (3, 3, 2, 3)
    assert torch.equal(reach[:, :, 0], reach[:, :, 1])
    each = [
        orb.DomainGrid(models, groups, labels, loss=losses.relative_margin, transforms={"t": t}, shared=True)
        .scaled(feasible).reach
        for t in views.values()
    ]  # fmt: skip
    torch.testing.assert_close(reach[:, :, :1], torch.stack(each).mean(0))  # pyright: ignore[reportArgumentType]
