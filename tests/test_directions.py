"""Directions against their formulas, by hand, on one step."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import omnirobust as orb
from omnirobust._types import Evaluation
from omnirobust.adaptive import checkpoints, swap_coordinates
from omnirobust.directions import balanced_gradient, unit_l2, weighted_gradient


@pytest.fixture
def evaluation() -> Evaluation:
    g = torch.Generator().manual_seed(0)
    grads = tuple(torch.randn(3, 1, 2, 2, generator=g, dtype=torch.float64) for _ in range(2))
    return Evaluation(torch.tensor([[1.0, 2.0]] * 3).double(), torch.zeros(3, 2, dtype=torch.bool), grads)


def free(eps: float = 100.0, p: float = 2) -> orb.FeasibleSet:
    """A set so large that nothing is cut off."""
    wide = torch.full((3, 1, 2, 2), 50.0, dtype=torch.float64)
    return orb.FeasibleSet(p, eps, -wide, wide)


W = torch.tensor([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
HERE = torch.full((3, 1, 2, 2), 0.3, dtype=torch.float64)


def gradient_by_hand(e: Evaluation) -> torch.Tensor:
    assert e.grads is not None
    return torch.stack([W[r, 0] * e.grads[0][r] + W[r, 1] * e.grads[1][r] for r in range(3)])


def test_weighted_gradient_is_the_weighted_sum_and_spares_its_arguments(evaluation: Evaluation) -> None:
    assert evaluation.grads is not None
    before = [g.clone() for g in evaluation.grads]
    assert torch.allclose(weighted_gradient(W, evaluation.grads), gradient_by_hand(evaluation))
    assert all(torch.equal(a, b) for a, b in zip(before, evaluation.grads, strict=True))


@pytest.mark.parametrize("t", [1, 3])
@pytest.mark.parametrize("decay", ["constant", "linear"])
@pytest.mark.parametrize("kind", [orb.RawGradient, orb.Sign, orb.Normalised])
def test_plain_directions_follow_their_formulas(evaluation: Evaluation, kind: type, decay: str, t: int) -> None:
    g = gradient_by_hand(evaluation)
    shape = {
        orb.RawGradient: g,
        orb.Sign: torch.sign(g),
        orb.Normalised: torch.stack([r / r.pow(2).sum().sqrt() for r in g]),
    }[kind]
    size = 0.2 * (1.0 if decay == "constant" else (4 - (t - 1)) / 4)
    stepper = kind(decay).start(free(), 0.2, 4)
    assert torch.allclose(stepper.step(t, HERE, W, evaluation, free()), HERE - size * shape)


def test_without_a_step_size_a_quarter_of_the_radius_is_taken(evaluation: Evaluation) -> None:
    ball = free(eps=0.8, p=float("inf"))
    moved = orb.Sign().start(ball, None, 4).step(1, 0 * HERE, W, evaluation, ball)
    assert torch.allclose(moved.abs(), torch.full_like(moved, 0.2))


def test_every_step_is_projected(evaluation: Evaluation) -> None:
    for p, eps in ((0, 2), (1, 0.5), (2, 0.5), (float("inf"), 0.1)):
        tight = free(eps, p)
        for direction in (orb.RawGradient(), orb.Sign(), orb.Normalised(), orb.Adaptive()):
            stepper, delta = direction.start(tight, 5.0, 6), 0 * HERE
            for t in range(1, 7):
                delta = stepper.step(t, delta, W, evaluation, tight)
                assert tight.contains(delta).all()


def test_unit_l2_survives_extremes() -> None:
    rows = torch.tensor([[3e38, 3e38], [1e-38, 0.0], [0.0, 0.0], [3.0, 4.0]])
    got = unit_l2(rows)
    assert torch.allclose(got.norm(dim=1), torch.tensor([1.0, 1.0, 0.0, 1.0]), atol=1e-6)
    assert torch.allclose(got[3], torch.tensor([0.6, 0.8]))


def test_checkpoints_come_closer_and_end_with_the_run() -> None:
    marks = checkpoints(100, 0.22)
    assert marks[:4] == [22, 41, 57, 70]
    assert marks[-1] == 100
    gaps = [b - a for a, b in itertools.pairwise(marks)]
    assert gaps == sorted(gaps, reverse=True)
    assert checkpoints(1, 0.22) == [1]


def test_adaptive_halves_where_the_worst_loss_stagnates_and_goes_back_to_the_best(evaluation: Evaluation) -> None:
    """Row 0 improves at every step, row 1 never does: after the first checkpoint only row 1 has half its step."""
    stepper = orb.Adaptive(momentum=0.0).start(free(), 1.0, 20)
    delta = HERE.clone()
    first_window = checkpoints(20, 0.22)[0]
    for t in range(1, first_window + 2):
        worst = torch.tensor([10.0 - t, 10.0 + t, 10.0], dtype=torch.float64)
        seen = Evaluation(torch.stack([worst - 5, worst], 1), evaluation.fooled, evaluation.grads)
        before, delta = delta, stepper.step(t, delta, W, seen, free())
    moved = (delta - before).flatten(1).norm(dim=1)
    assert moved[0] == pytest.approx(1.0)
    # rows 1 and 2 are back at their best iterate, the start, and half a step from it
    assert (delta - HERE).flatten(1).norm(dim=1)[1:].tolist() == pytest.approx([0.5, 0.5])


def test_adaptive_momentum_is_the_formula(evaluation: Evaluation) -> None:
    g = gradient_by_hand(evaluation)
    u = torch.stack([r / r.pow(2).sum().sqrt() for r in g])
    stepper = orb.Adaptive(momentum=0.4, balance=False).start(free(), 1.0, 50)
    one = stepper.step(1, HERE, W, evaluation, free())
    two = stepper.step(2, one, W, evaluation, free())
    assert torch.allclose(one, HERE - u)
    assert torch.allclose(two, one + 0.6 * (-u) + 0.4 * (one - HERE))


def swap_by_hand(
    delta: list[float], g: list[float], low: list[float], high: list[float], budget: int, most: int
) -> list[float]:
    """One row of the l0 move, with lists: rank, trade, move."""
    n = len(g)
    end = [high[i] if g[i] < 0 else low[i] for i in range(n)]
    worth = [abs(g[i] * end[i]) for i in range(n)]
    inside = sorted((i for i in range(n) if delta[i] != 0), key=lambda i: worth[i])
    outside = sorted((i for i in range(n) if delta[i] == 0), key=lambda i: -worth[i])
    new = [
        min(max(delta[i] - g[i] / max(abs(v) for v in g) * (high[i] - low[i]), low[i]), high[i])
        if delta[i] != 0
        else 0.0
        for i in range(n)
    ]
    free, left = budget - len(inside), list(inside)
    for newcomer in outside[:most]:
        if free > 0 and worth[newcomer] > 0:
            free -= 1
        elif free <= 0 and left and worth[newcomer] > worth[left[0]]:
            new[left.pop(0)] = 0.0
        else:
            break
        new[newcomer] = end[newcomer]
    return new


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), budget=st.integers(0, 9), most=st.integers(0, 9), used=st.integers(0, 9))
def test_l0_swaps_equal_the_rule_by_hand(seed: int, budget: int, most: int, used: int) -> None:
    g = torch.Generator().manual_seed(seed)
    grad = torch.randn(1, 9, generator=g, dtype=torch.float64)
    low, high = -torch.rand(1, 9, generator=g).double(), torch.rand(1, 9, generator=g).double()
    low[0, seed % 9] = high[0, seed % 9] = 0.0  # a pixel that may not move
    delta = (low + (high - low) * torch.rand(1, 9, generator=g).double()) * 0.9
    rank = torch.randperm(9, generator=g)
    delta[0, rank[min(used, budget) :]] = 0.0
    got = swap_coordinates(delta, grad, low, high, torch.tensor([[budget]]), torch.tensor([[most]]))
    expected = swap_by_hand(delta[0].tolist(), grad[0].tolist(), low[0].tolist(), high[0].tolist(), budget, most)
    assert got[0].tolist() == pytest.approx(expected)
    assert int((got != 0).sum()) <= budget
    assert bool(((got >= low) & (got <= high)).all())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: orb.Adaptive(momentum=1.0), "momentum must lie in"),
        (lambda: orb.Adaptive(rho=0.0), "rho must lie in"),
        (lambda: orb.Adaptive(window=2.0), "window must lie in"),
        (lambda: orb.Adaptive(memory=1.0), "memory must lie in"),
        (lambda: orb.Adaptive(first_step=-1.0), "first_step must lie in"),
        (lambda: orb.Sign("cosine").start(free(), 0.1, 3), "decay must be 'constant' or 'linear', got 'cosine'"),
    ],
)
def test_what_directions_refuse(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_balanced_gradient_gives_every_domain_the_same_length(evaluation: Evaluation) -> None:
    assert evaluation.grads is not None
    a, b = evaluation.grads
    got = balanced_gradient(W, (1000 * a, torch.zeros_like(b)))
    expected = torch.stack([W[r, 0] * a[r] / a[r].pow(2).sum().sqrt() for r in range(3)])
    assert torch.allclose(got, expected)
