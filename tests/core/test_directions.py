"""Directions against their formulas, by hand, on one step."""

from __future__ import annotations

import itertools
from math import ceil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import omnirobust as orb
from omnirobust.core.adaptive import checkpoints
from omnirobust.core.directions import Sparse, balanced_gradient, unit_l2, weighted_gradient
from omnirobust.core.swaps import swap_coordinates
from omnirobust.core.types import Evaluation


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


def test_sparse_moves_the_largest_coordinates_that_can_still_move() -> None:
    g = torch.Generator().manual_seed(0)
    grad = torch.randn(1, 1, 2, 5, generator=g, dtype=torch.float64)
    order = grad.flatten().abs().argsort(descending=True).tolist()
    lower, upper = torch.full_like(grad, -1.0), torch.full_like(grad, 1.0)
    delta = torch.zeros_like(grad)
    for place, end in ((order[0], 1.0), (order[2], -1.0)):  # the largest stands where it would leave the box
        delta.view(-1)[place] = -end * grad.flatten()[place].sign()
    around = orb.FeasibleSet(1, 100.0, lower, upper)
    stepper = Sparse(0.3, "linear").start(around, 0.6, 4)
    seen = Evaluation(torch.zeros(1, 1).double(), None, (grad,))
    moved = stepper.step(3, delta, torch.ones(1, 1).double(), seen, around) - delta
    expected = torch.zeros_like(grad).flatten()
    for place in order[1:4]:  # 3 of 10, each a third of what is half of 0.6 in the third of four steps
        expected[place] = -grad.flatten()[place].sign() * 0.1
    torch.testing.assert_close(moved.flatten(), expected)
    assert float(moved.abs().sum()) == pytest.approx(0.3)


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


WINDOW_ENDS = [5, 9, 12, 14, 16, 18, 19, 20]
"""The checkpoints of 20 steps, by hand: ceil of 20 times .22, .41, .57, .70, .80, .87, .93 (.925), .98."""


class OneRow:
    """One row of the adaptive rule in plain words: everything it saw is in lists, nothing is updated in place."""

    def __init__(
        self, p: float, eps: float, low: torch.Tensor, high: torch.Tensor, size: float, momentum: float
    ) -> None:
        self.p, self.eps, self.low, self.high, self.size, self.momentum = p, eps, low, high, size, momentum
        self.worst: list[float] = []
        self.at: list[torch.Tensor] = []
        self.slopes: list[torch.Tensor] = []
        self.before: torch.Tensor | None = None
        self.halved_last = False

    def cut(self, d: torch.Tensor) -> torch.Tensor:
        return orb.project_lp_box(d[None], self.p, self.eps, self.low[None], self.high[None])[0]

    def stuck(self, start: int, end: int) -> bool:
        falls = sum(self.worst[t] < self.worst[t - 1] for t in range(start + 1, end + 1))
        new_best = min(self.worst[: end + 1]) < min(self.worst[: start + 1])
        return falls < 0.75 * (end - start) or (not new_best and not self.halved_last)

    def step(self, t: int, d: torch.Tensor, slope: torch.Tensor, worst: float) -> torch.Tensor:
        self.worst.append(worst), self.at.append(d), self.slopes.append(slope)
        if t - 1 in WINDOW_ENDS:
            start = ([0, *WINDOW_ENDS])[WINDOW_ENDS.index(t - 1)]
            self.halved_last = self.stuck(start, t - 1)
            if self.halved_last:
                best = self.worst.index(min(self.worst))
                self.size /= 2
                d, slope, self.before = self.at[best], self.slopes[best], self.at[best]
        u = slope.sign() if self.p == float("inf") else slope / slope.pow(2).sum().sqrt()
        z = self.cut(d - self.size * u)
        if self.before is not None:
            z = self.cut(d + (1 - self.momentum) * (z - d) + self.momentum * (d - self.before))
        self.before = d
        return z


def scripted_losses(rows: int, steps: int, seed: int) -> torch.Tensor:
    """Worst losses (steps, rows): mostly falling, then flat, rising or noisy: every kind of stagnation occurs."""
    g = torch.Generator().manual_seed(seed)
    drift = torch.tensor([-1.0, -0.6, -0.2, 0.3, -0.4, 0.0], dtype=torch.float64)[torch.arange(rows) % 6]
    return 10 + (drift + torch.randn(steps, rows, generator=g, dtype=torch.float64)).cumsum(0)


@pytest.mark.parametrize("momentum", [0.0, 0.25])
@pytest.mark.parametrize(("p", "eps"), [(float("inf"), 0.3), (2, 0.9), (1, 1.5)])
def test_adaptive_descent_is_its_rule_in_plain_words(p: float, eps: float, momentum: float) -> None:
    """Every step of 18 rows through all checkpoints; from step 8 on only some rows are left, in another order."""
    rows, steps = 18, 20
    g = torch.Generator().manual_seed(5)
    low, high = -torch.rand(rows, 1, 2, 3, generator=g).double(), torch.rand(rows, 1, 2, 3, generator=g).double()
    radius = eps * torch.linspace(0.5, 1.5, rows).double()
    feasible = orb.FeasibleSet(p, radius, low, high)
    worst = scripted_losses(rows, steps, seed=11)
    left = torch.arange(rows)
    by_hand = []
    for r in range(rows):
        width = (high[r] - low[r]).flatten()
        wide = {float("inf"): width.max(), 2: width.pow(2).sum().sqrt(), 1: width.sum()}[p]
        size = min(float(radius[r]), float(wide))
        by_hand.append(OneRow(p, float(radius[r]), low[r], high[r], size, momentum))
    stepper = orb.Adaptive(momentum=momentum).start(feasible, None, steps)
    delta = torch.zeros(rows, 1, 2, 3, dtype=torch.float64)
    expected = [delta[r] for r in range(rows)]
    returned: set[tuple[int, int]] = set()
    for t in range(1, steps + 1):
        if t in (8, 11):
            keep = torch.randperm(len(left), generator=g)[: len(left) - 4]
            left, delta, feasible = left[keep], delta[keep], feasible.select(keep)
            stepper.select(keep)
        slopes = torch.randn(2, rows, 1, 2, 3, generator=g, dtype=torch.float64)
        w = torch.tensor([0.3, 0.7], dtype=torch.float64).expand(len(left), 2)
        values = torch.stack([worst[t - 1] - 3, worst[t - 1]], 1)
        seen = Evaluation(values[left], None, (slopes[0][left], slopes[1][left]))
        delta = stepper.step(t, delta, w, seen, feasible)
        for i, r in enumerate(left.tolist()):
            slope = 0.3 * slopes[0, r] + 0.7 * slopes[1, r]
            expected[r] = by_hand[r].step(t, expected[r], slope, float(worst[t - 1, r]))
            if by_hand[r].halved_last:
                returned.add((r, t))
            assert torch.allclose(delta[i], expected[r], atol=1e-7), (t, r)
    assert len({r for r, _ in returned}) > 5 and len({t for _, t in returned}) > 3, "too few rows went back to tell"


def sizes_after(worst: list[float], steps: int = 20) -> list[float]:
    """Return how far a step goes after each evaluation of a single row, measured in steps of size 1."""
    wide = torch.full((1, 2), 500.0, dtype=torch.float64)
    space = orb.FeasibleSet(2, 400.0, -wide, wide)
    stepper = orb.Adaptive(momentum=0.0).start(space, 1.0, steps)
    slope = torch.tensor([[3.0, -4.0]], dtype=torch.float64)
    at, delta, lengths = [], torch.zeros(1, 2, dtype=torch.float64), []
    for t, value in enumerate(worst, start=1):
        at.append(delta)
        seen = Evaluation(torch.tensor([[value]], dtype=torch.float64), None, (slope,))
        delta = stepper.step(t, delta, torch.ones(1, 1, dtype=torch.float64), seen, space)
        lengths.append(min(float((delta - a).norm()) for a in at))
    return lengths


@pytest.mark.parametrize(
    ("worst", "size"),
    [
        ([10, 9, 8, 7, 6, 7], 1.0),  # 4 falls in 5 steps, a new best
        ([10, 9, 8, 7, 8, 8], 0.5),  # 3 falls only, though with a new best
        ([10, 14, 13, 12, 11, 10.5], 0.5),  # 4 falls, but no new best
        ([10, 9, 8, 7, 6, 7, 6.9, 6.8, 6.7, 6.6], 0.5),  # no new best in the second window
        ([10, 9, 8, 7, 6, 7, 6.9, 6.8, 6.7, 5.9], 1.0),  # a new best just in time
        ([10, 9, 8, 7, 8, 8, 7.9, 7.8, 6, 7], 0.5),  # halved at first, 3 falls in 4 steps since: not again
        ([10, 14, 13, 12, 11, 10.5, 10.4, 10.3, 10.2, 10.1], 0.5),  # no new best, but halved the last time
        ([10, 14, 13, 12, 11, 10.5, 10.4, 10.3, 10.2, 10.1, 10.09, 10.08, 10.07], 0.25),  # and now it counts again
        ([10, 9, 8, 7, 8, 8, 6, 5, 9, 9], 0.25),  # 2 falls in the second window, whatever the first had
    ],
)
def test_adaptive_halves_on_either_sign_of_stagnation(worst: list[float], size: float) -> None:
    assert sizes_after(worst)[-1] == pytest.approx(size)


def test_adaptive_takes_the_width_of_the_box_where_the_radius_is_more() -> None:
    box = torch.full((1, 4), 0.25, dtype=torch.float64)
    seen = Evaluation(torch.zeros(1, 1).double(), None, (torch.tensor([[0.1, 1.0, 1.0, 1.0]]).double(),))
    one = torch.ones(1, 1, dtype=torch.float64)
    for p, radius, size in ((2, 0.1, 0.1), (2, 9.0, 1.0), (1, 9.0, 2.0)):  # the widths: sqrt(4 / 4) and 4 / 2
        feasible = orb.FeasibleSet(p, radius, -box, box)
        for first in (0.01, 0.05):  # so small that nothing is cut, and the length of the step is seen
            delta = orb.Adaptive(first_step=first).start(feasible, None, 9).step(1, 0 * box, one, seen, feasible)
            assert float(delta.norm()) == pytest.approx(first * size)


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("first", [None, 0.3])
def test_adaptive_swaps_steps_follow_the_mean_gradient_and_the_falling_share(
    memory: float, first: float | None
) -> None:
    """Six steps of the l0 move against lists: what enters shrinks from the first share of eps to .04 of it."""
    steps, n, rows = 6, 40, 3
    g = torch.Generator().manual_seed(2)
    low, high = -torch.rand(rows, n, generator=g).double(), torch.rand(rows, n, generator=g).double()
    eps = torch.tensor([20.0, 13.9, 99.0])
    feasible = orb.FeasibleSet(0, eps, low, high)
    stepper = orb.Adaptive(memory=memory, first_step=first).start(feasible, None, steps)
    delta, mean, entered = torch.zeros(rows, n, dtype=torch.float64), [[0.0] * n] * rows, []
    w = torch.tensor([[0.2, 0.8]] * rows, dtype=torch.float64)
    for t in range(1, steps + 1):
        slopes = torch.randn(2, rows, n, generator=g, dtype=torch.float64)
        values = torch.zeros(rows, 2, dtype=torch.float64)
        got = stepper.step(t, delta, w, Evaluation(values, None, (slopes[0], slopes[1])), feasible)
        now = (0.2 * slopes[0] + 0.8 * slopes[1]).tolist()
        keep = memory if t > 1 else 0.0
        mean = [[keep * a + (1 - keep) * b for a, b in zip(m, v, strict=True)] for m, v in zip(mean, now, strict=True)]
        start = first or 0.5
        share = 1.0 if t == 1 else start * (0.04 / start) ** ((t - 1) / (steps - 1))
        for r, budget in enumerate((20, 13, n)):
            most = ceil(budget * share)
            by_hand = swap_by_hand(delta[r].tolist(), mean[r], low[r].tolist(), high[r].tolist(), budget, most)
            assert got[r].tolist() == pytest.approx(by_hand), (t, r)
        entered.append(int(((got[0] != 0) & (delta[0] == 0)).sum()))
        delta = got
    assert entered[0] == 20 and 0 < entered[-1] <= 1


def test_sparse_takes_its_whole_step_where_fewer_coordinates_can_move_than_it_would_choose() -> None:
    grad = torch.randn(2, 1, 2, 5, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, 2, 5, dtype=torch.bool)
    mask[0, 0, :2] = True
    around = orb.L1(100.0, mask=mask).around(torch.full_like(grad, 0.5))
    grad[1] = 0.0
    seen = Evaluation(torch.zeros(2, 1), None, (grad,))
    moved = Sparse(0.5).start(around, 0.3, 4).step(1, torch.zeros_like(grad), torch.ones(2, 1), seen, around)
    assert moved[0, 0, 0, :2].tolist() == pytest.approx((-0.15 * grad[0, 0, 0, :2].sign()).tolist())
    assert moved.abs().flatten(1).sum(1).tolist() == pytest.approx([0.3, 0.0])
