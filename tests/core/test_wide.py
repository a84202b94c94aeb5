"""The detour through a larger ball: what it may return, what it costs, and that it gets somewhere."""

import pytest
import torch

import omnirobust as orb
from omnirobust.core.adaptive import RadiusSchedule
from omnirobust.core.types import Evaluation

STEPS = 50


def two_wells(delta, rows):
    """A bowl whose bottom is (-1, 0), behind a hill along x = -0.5 that is low only far from y = 0."""
    x, y = delta[:, 0], delta[:, 1]
    hill = 3 * torch.exp(-((x + 0.5) ** 2 / 0.02 + y**2 / 0.5))
    return (x + 1) ** 2 + 0.3 * y**2 + hill


class Counting:
    """Domains that count their evaluations and remember where they were asked for."""

    def __init__(self, inner):
        self.inner, self.names, self.axes, self.seen = inner, inner.names, inner.axes, []

    def evaluate(self, delta, grad=True):
        self.seen.append((delta.clone(), grad))
        return self.inner.evaluate(delta, grad)

    def select(self, rows):
        self.inner = self.inner.select(rows)
        return self


def box(B, p, eps, n=2, width=2.0):
    return orb.ThreatModel(p, eps, bounds=(-width, width)).around(torch.zeros(B, n, dtype=torch.float64))


def run(functions, feasible, direction, success=None, **options):
    domains = Counting(orb.FunctionDomains(functions, success=success))
    options = {"steps": STEPS, "keep": "best"} | options
    return orb.solve(domains, feasible, orb.Uniform(), direction=direction, **options), domains.seen


@pytest.mark.parametrize("p", [1, 2, torch.inf])
def test_costs_no_more_evaluations_and_no_iterate_outside_is_returned(p):
    """Where only points outside count as success, the answer is that there was none."""
    feasible = box(3, p, 0.5)
    nearest = feasible.project(torch.full((3, 2), 1.5, dtype=torch.float64))
    least = float((nearest[0] - 1.5).square().sum())  # what no point inside falls below

    found, seen = run(
        {"pull": lambda d, r: (d - 1.5).square().sum(1)}, feasible, orb.Detour(), lambda losses: losses < 0.999 * least
    )
    out = [not bool(feasible.contains(delta).all()) for delta, _ in seen]
    assert len(seen) == STEPS + 1 and [grad for _, grad in seen] == [True] * STEPS + [False]
    assert sum(out) == 8 and out.index(True) == 11  # 0.16 of the steps, after a fifth of them
    assert bool(feasible.contains(found.delta).all()) and not bool(found.fooled.any())
    torch.testing.assert_close(found.delta, nearest, atol=2e-2, rtol=0)


def test_reaches_the_deep_well_from_more_starts_than_plain_descent_does():
    feasible = box(64, 2, 1.1)
    begin = torch.rand(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.6
    direction = orb.Adaptive(first_step=0.2)
    plain, _ = run({"wells": two_wells}, feasible, direction, init=begin)
    wide, _ = run({"wells": two_wells}, feasible, orb.Detour(direction), init=begin)
    deep = [int((found.losses < 0.01).sum()) for found in (plain, wide)]
    assert deep[1] >= deep[0] + 10


def test_history_repeats_the_last_iterate_inside_while_the_weights_go_on():
    feasible = box(2, 2, 0.5)
    functions = {"a": lambda d, r: (d - 1.5).square().sum(1), "b": lambda d, r: (d[:, 0] + 1.5).square()}
    domains = orb.FunctionDomains(functions)
    found = orb.solve(
        domains, feasible, orb.ExponentiatedGradient(0.05), direction=orb.Detour(), steps=STEPS, history="full"
    )
    rows = found.history.rows
    losses, weights = rows.losses, rows.weights
    assert all(torch.equal(losses[t], losses[10]) for t in range(11, 19))
    assert not torch.equal(losses[19], losses[10])
    assert all(not torch.equal(weights[t], weights[t - 1]) for t in range(11, 19))


@pytest.mark.processors
def test_rows_do_not_depend_on_their_batch_and_stopping_changes_no_success():
    torch.manual_seed(0)
    target = torch.randn(6, 2, dtype=torch.float64)

    def pull(delta, rows):
        return (delta - target[rows]).square().sum(1)

    def near(losses):
        return losses < 0.3

    feasible = box(6, 2, 0.9)
    whole, _ = run({"pull": pull}, feasible, orb.Detour(), near)
    stopped, _ = run({"pull": pull}, feasible, orb.Detour(), near, stop_when_fooled=True)
    assert torch.equal(whole.fooled, stopped.fooled) and 0 < int(whole.fooled.sum()) < 6
    reach = target.norm(dim=1) - 0.9  # the nearest feasible point is that far from the target
    assert torch.equal(whole.fooled[:, 0], reach.clamp_min(0).square() < 0.3)
    for row in range(6):
        alone = orb.FunctionDomains({"pull": pull}).select(torch.tensor([row]))
        found = orb.solve(
            alone, feasible.select(torch.tensor([row])), orb.Uniform(), direction=orb.Detour(), steps=STEPS, keep="best"
        )
        torch.testing.assert_close(found.delta[0], whole.delta[row], atol=1e-12, rtol=0)


@pytest.mark.parametrize(("p", "steps"), [(0, STEPS), (2, 19)])
def test_goes_straight_for_l0_and_in_short_runs(p, steps):
    feasible = box(2, p, 1.0)
    functions = {"pull": lambda d, r: (d - torch.tensor([1.0, 0.3], dtype=d.dtype)).square().sum(1)}
    detour, _ = run(functions, feasible, orb.Detour(), steps=steps)
    plain, _ = run(functions, feasible, orb.Adaptive(), steps=steps)
    assert torch.equal(detour.delta, plain.delta)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"radius": 1.0}, "radius must be > 1"),
        ({"begin": 0.0}, r"begin must lie in \(0, 1\)"),
        ({"share": 1.0}, r"share must lie in \(0, 1\)"),
        ({"begin": 0.6, "share": 0.4}, "begin and share must sum to less than 1"),
        ({"radius": float("nan")}, "radius must be > 1"),
    ],
)
def test_refuses_what_makes_no_detour(given, words):
    with pytest.raises(ValueError, match=words):
        orb.Detour(**given)


def test_a_direction_of_ones_own_needs_no_word_of_this():
    """A stepper that says nothing of being outside is taken to be inside."""

    class Still:
        def start(self, feasible, step_size, steps):
            return self

        def step(self, t, delta, weights, evaluation: Evaluation, feasible):
            return feasible.project(delta)

        def select(self, rows):
            """Nothing is kept."""

    found, _ = run({"pull": lambda d, r: d.square().sum(1)}, box(2, 2, 0.5), Still(), steps=3)
    assert torch.equal(found.delta, torch.zeros(2, 2, dtype=torch.float64))


@pytest.mark.parametrize("steps", [20, 33, 50, 101])
def test_every_step_of_a_schedule_has_its_radius(steps):
    phases = RadiusSchedule(((3.0, 0.3), (2.0, 0.3))).phases(steps)
    assert [radius for radius, _ in phases] == [3.0, 2.0, 1.0]
    assert sum(each for _, each in phases) == steps
    assert all(abs(each - share * steps) <= 1 for (_, each), share in zip(phases, (0.3, 0.3, 0.4), strict=True))
    legs = orb.Detour(radius=1.5, begin=0.2, share=0.16).schedule.phases(steps)
    assert [radius for radius, _ in legs] == [1.0, 1.5, 1.0]
    assert RadiusSchedule(()).phases(steps) == [(1.0, steps)]
