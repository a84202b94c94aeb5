"""Algorithm 1 against a literal transcription, counts of evaluations, a known saddle point and plain bookkeeping."""

from __future__ import annotations

import weakref
from dataclasses import replace
from math import inf, sqrt

import pytest
import torch
from torch import Tensor

import omnirobust as orb
from omnirobust.core.directions import Direction
from omnirobust.domains import losses

THREATS = [orb.Linf(0.1), orb.L2(0.8), orb.L1(3.0), orb.L0(5)]


def literal_algorithm_1(
    models: dict[str, torch.nn.Module],
    x: Tensor,
    y: Tensor,
    p: float,
    eps: float,
    alpha: float,
    beta: float,
    gamma: float,
    T: int,
) -> tuple[Tensor, Tensor]:
    """Algorithm 1 as it is printed: one row at a time, everything evaluated anew at each of its lines."""
    deltas, all_weights = [], []
    K = len(models)

    def f(model: torch.nn.Module, delta: Tensor, row: int) -> Tensor:
        z = model((x[row] + delta).unsqueeze(0))[0]
        wrong = torch.cat([z[: int(y[row])], z[int(y[row]) + 1 :]])
        return torch.relu(z[int(y[row])] - wrong.max() + 50)

    def simplex(b: Tensor) -> Tensor:
        low, high = b.min() - 1 / K, b.max() - 1 / K
        for _ in range(200):  # the bisection that the paper describes below (14)
            mu = (low + high) / 2
            low, high = (mu, high) if (b - mu).clamp_min(0).sum() > 1 else (low, mu)
        return (b - (low + high) / 2).clamp_min(0)

    for row in range(len(x)):
        delta, w = torch.zeros_like(x[row]), torch.full((K,), 1 / K, dtype=x.dtype)
        for _ in range(T):
            leaf = delta.clone().requires_grad_()
            total = sum(w[k] * f(m, leaf, row) for k, m in enumerate(models.values()))
            step = delta - alpha * torch.autograd.grad(total, leaf)[0]
            box = (-x[row]).unsqueeze(0), (1 - x[row]).unsqueeze(0)
            delta = orb.project_lp_box(step.unsqueeze(0), p, eps, *box)[0]
            phi = torch.stack([f(m, delta, row).detach() for m in models.values()])
            w = simplex(w + beta * (phi - gamma * (w - 1 / K)))
        deltas.append(delta)
        all_weights.append(w)
    return torch.stack(deltas), torch.stack(all_weights)


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.name)
def test_trajectory_is_algorithm_1_to_the_letter(models, x, y, threat: orb.ThreatModel) -> None:
    domains = orb.DomainGrid(models, x, y, loss=losses.margin)
    for T in (1, 2, 7):
        found = orb.solve(
            domains,
            threat.around(x),
            orb.ProjectedAscent(0.05, 3.0),
            steps=T,
            step_size=0.3,
            direction=orb.RawGradient(),
        )
        delta, w = literal_algorithm_1(models, x, y, threat.p, threat.eps, 0.3, 0.05, 3.0, T)
        assert (found.delta - delta).abs().max() < 1e-6
        assert (found.weights - w).abs().max() < 1e-6


def test_one_evaluation_a_step(models, x, y, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly K (T + 1) forwards, K T input gradients, and no gradient of a parameter."""
    taken = []
    plain = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: taken.extend(a[1]) or plain(*a, **k))
    domains = orb.DomainGrid(models, x, y, loss=losses.margin)
    orb.solve(domains, orb.Linf(0.1).around(x), orb.ProjectedAscent(0.1, 1.0), steps=6, direction=orb.Sign())
    assert [m.calls for m in models.values()] == [7, 7, 7]
    assert len(taken) == 3 * 6
    assert all(t.shape == x.shape for t in taken)
    assert all(p.grad is None and p.requires_grad for m in models.values() for p in m.parameters())


def test_one_graph_at_a_time(models, x, y) -> None:
    """While a model runs forward, no graph of another is alive: each graph holds a token, and none has survived."""
    alive: list[weakref.ref[Token]] = []
    seen: list[int] = []

    class Token:
        pass

    class Holding(torch.autograd.Function):
        @staticmethod
        def forward(ctx, v: Tensor) -> Tensor:
            seen.append(sum(ref() is not None for ref in alive))
            ctx.token = Token()
            alive.append(weakref.ref(ctx.token))
            return v.clone()

        @staticmethod
        def backward(ctx, g: Tensor) -> Tensor:
            return g

    watched = {name: (lambda v, m=m: m(Holding.apply(v))) for name, m in models.items()}
    orb.DomainGrid(watched, x, y, loss=losses.smooth_margin).evaluate(torch.zeros_like(x))
    assert seen == [0, 0, 0]
    seen.clear(), alive.clear()
    kept = [m(x.clone().requires_grad_()) for m in watched.values()]  # all graphs at once: what must not happen
    assert seen == [0, 1, 2] and len(kept) == 3


def saddle() -> tuple[orb.FunctionDomains, orb.FeasibleSet, Tensor]:
    """Three quadratics ||delta - c_k||^2 / 2 in the plane: (4) is strongly convex-concave, its saddle point unique."""
    centres = torch.tensor([[0.6, 0.1], [-0.5, 0.4], [0.0, -0.7]], dtype=torch.float64)

    def distance(k: int):
        return lambda d, rows: ((d - centres[k]) ** 2).sum(1) / 2

    feasible = orb.FeasibleSet(2, 2.0, torch.full((1, 2), -3.0).double(), torch.full((1, 2), 3.0).double())
    return orb.FunctionDomains({f"f{k}": distance(k) for k in range(3)}), feasible, centres


def test_converges_to_the_known_saddle_point_at_the_promised_rate() -> None:
    domains, feasible, centres = saddle()
    gamma, alpha, beta = 0.5, 0.3, 0.3
    measures: list[float] = []

    def watch(seen: orb.solver.Progress) -> None:
        measures.append(
            float(orb.stationarity(domains, feasible, seen.delta, seen.weights, gamma=gamma, alpha=alpha, beta=beta)[0])
        )

    found = orb.solve(
        domains, feasible, orb.ProjectedAscent(beta, gamma), init=torch.tensor([[1.0, 1.0]]).double(), steps=400,
        step_size=alpha, direction=orb.RawGradient(), callback=watch,
    )  # fmt: skip
    # at the saddle point delta = sum w c, and all weights are positive there: F_k - gamma w_k is one number for all k
    assert torch.allclose(found.delta[0], found.weights[0] @ centres, atol=1e-8)
    level = found.losses[0] - gamma * found.weights[0]
    assert torch.allclose(level, level.mean().expand(3), atol=1e-8)
    assert measures[-1] < 1e-8
    best = [min(measures[: t + 1]) for t in range(len(measures))]
    assert all(best[t] <= 3 * measures[0] / t for t in range(1, len(best)))


def test_stationarity_has_both_its_parts() -> None:
    """By hand: F_1 = d^2 / 2, F_2 = (d - 2)^2 / 2 on the line, far from every bound."""
    domains = orb.FunctionDomains(
        {"near": lambda d, rows: d[:, 0] ** 2 / 2, "far": lambda d, rows: (d[:, 0] - 2) ** 2 / 2}
    )
    wide = torch.full((1, 1), 50.0).double()
    feasible = orb.FeasibleSet(2, 40.0, -wide, wide)
    d, w = torch.tensor([[0.5]]).double(), torch.tensor([[0.7, 0.3]]).double()
    got = orb.stationarity(domains, feasible, d, w, gamma=0.4, alpha=0.1, beta=0.1)
    in_delta = 0.7 * 0.5 + 0.3 * (0.5 - 2)
    slope = [0.125 - 0.4 * 0.2, 1.125 + 0.4 * 0.2]  # F - gamma (w - 1/2), less its mean once projected
    in_weights = [s - sum(slope) / 2 for s in slope]
    assert float(got) == pytest.approx((in_delta**2 + sum(v**2 for v in in_weights)) ** 0.5)


def test_stationarity_is_zero_only_at_stationary_points() -> None:
    domains, feasible, _ = saddle()
    off = orb.stationarity(
        domains, feasible, torch.tensor([[0.4, 0.4]]).double(), torch.full((1, 3), 1 / 3).double(),
        gamma=0.5, alpha=0.1, beta=0.1,
    )  # fmt: skip
    assert float(off) > 0.1


def test_stationarity_equals_values_by_hand() -> None:
    """Three problems of two linear losses: both parts away from zero, the part of delta alone, that of w alone."""
    slopes = torch.tensor([[[-4.0, 0.0], [0.0, 2.0]], [[-4.0, 0.0], [-4.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]).double()
    level = torch.tensor([[0.0, 0.0], [0.0, 0.0], [-2.4, 0.0]], dtype=torch.float64)
    domains = orb.FunctionDomains(
        {f"f{k}": lambda d, rows, k=k: (slopes[rows, k] * d).sum(1) + level[rows, k] for k in range(2)}
    )
    box = torch.full((3, 2), 9.0, dtype=torch.float64)
    delta = torch.tensor([[0.6, 0.0]] * 3, dtype=torch.float64)
    w = torch.tensor([[0.75, 0.25], [0.5, 0.5], [0.75, 0.25]], dtype=torch.float64)
    got = orb.stationarity(domains, orb.FeasibleSet(inf, 1.0, -box, box), delta, w, gamma=2.0, alpha=0.2, beta=0.1)
    # row 0: g = (-3, .5), so delta goes to (1.2, -.1), cut to (1, -.1): (-.4, .1) / .2 = (-2, .5), squared length 4.25.
    # F = (-2.4, 0), less 2 (w - 1/2) = (.5, -.5): (-2.9, .5); w + .1 of it = (.46, .3), projected (.58, .42):
    # (.17, -.17) / .1, squared length 5.78. Row 1: (-.4, 0) / .2, and no pull on w. Row 2: w as in row 0, no slope.
    assert got.tolist() == pytest.approx([sqrt(4.25 + 5.78), 2.0, sqrt(5.78)], abs=1e-12)


def plain_best(history: orb.history.HistoryRows, row: int) -> int:
    """The iterate of ``row`` that fools most domains, ties by the lowest worst loss, then the earliest."""
    keys = [
        (-int(f.sum()), float(v.max()), t)
        for t, (f, v) in enumerate(zip(history.fooled[:, row], history.losses[:, row], strict=True))
    ]
    return min(keys)[2]


def test_keep_best_returns_the_best_iterate_of_each_row(models, x, y) -> None:
    domains = orb.DomainGrid(models, x, y, loss=losses.smooth_margin)
    seen: list[Tensor] = []
    found = orb.solve(
        domains, orb.Linf(0.2).around(x), orb.WorstCase(), steps=15, step_size=0.15, direction=orb.Sign(),
        keep="best", history="full", callback=lambda p: seen.append(p.delta.clone()),
    )  # fmt: skip
    rows = found.history.rows
    best = [plain_best(rows, r) for r in range(len(x))]
    assert len(set(best)) > 1, "the problem is too easy to tell best from last"
    assert found.step.tolist() == best
    for r, t in enumerate(best):
        assert torch.equal(found.delta[r], seen[t][r])
        assert torch.equal(found.losses[r], rows.losses[t, r])
        assert torch.equal(found.weights[r], rows.weights[t, r])


def test_stop_when_fooled_changes_no_success_and_saves_forwards(models, x, y) -> None:
    many, labels = x.repeat(6, 1, 1, 1) * torch.linspace(0.6, 1, 54).view(-1, 1, 1, 1).double(), y.repeat(6)
    rows_seen: list[int] = []

    def run(stop: bool) -> orb.Solution:
        return orb.solve(
            orb.DomainGrid(models, many, labels, loss=losses.smooth_margin), orb.Linf(0.12).around(many),
            orb.ExponentiatedGradient(1.0), steps=20, direction=orb.Sign("linear"), keep="best", stop_when_fooled=stop,
            history="full", callback=lambda p: rows_seen.append(len(p.rows)) if stop else None,
        )  # fmt: skip

    full, stopped = run(False), run(True)
    assert torch.equal(full.fooled.all(1), stopped.fooled.all(1))
    assert 0 < int(full.fooled.all(1).sum()) < len(many)
    assert rows_seen[-1] < len(many)
    assert len(set(rows_seen)) <= 8
    done = stopped.fooled.all(1)
    rows = stopped.history.rows
    for r in done.nonzero().flatten().tolist():
        at = int(stopped.step[r])
        assert bool(rows.fooled[at, r].all())
        assert not bool(rows.fooled[:at, r].all(1).any())
        assert torch.equal(rows.losses[at:, r], rows.losses[at, r].expand(21 - at, 3))
    assert torch.allclose(stopped.history.best_all_fooled[-1], done.float().mean())


@pytest.mark.processors
def test_stopping_ends_rows_at_the_iterate_that_fooled_them_even_with_keep_last(models, x, y, rounding) -> None:
    """Against the trajectory of the same run without stopping: the first iterate that fools all, else the last."""

    many, labels = x.repeat(3, 1, 1, 1) * torch.linspace(0.6, 1, 27).view(-1, 1, 1, 1).double(), y.repeat(3)
    eps = torch.linspace(0.05, 0.25, 27).double()

    def run(stop: bool, seen: list[Tensor]) -> orb.Solution:
        return orb.solve(
            orb.DomainGrid(rounded, many, labels, loss=losses.smooth_margin), orb.Linf(eps).around(many),
            orb.WorstCase(), steps=15, step_size=0.15, direction=orb.Sign(), keep="last", stop_when_fooled=stop,
            history="full", callback=lambda p: seen.append(p.delta.clone()),
        )  # fmt: skip

    path: list[Tensor] = []
    rounded = {name: rounding(model) for name, model in models.items()}
    free, stopped = run(False, path), run(True, [])
    fooled = free.history.rows.fooled.all(2)
    first = [int(fooled[:, r].nonzero()[0]) if bool(fooled[:, r].any()) else 15 for r in range(27)]
    assert any(bool(fooled[t, r]) and not bool(fooled[t + 1 :, r].all()) for r, t in enumerate(first)), "too easy"
    assert not bool(fooled.any(0).all()), "some row must never be fooled"
    assert stopped.step.tolist() == first
    for r, t in enumerate(first):
        # not to the bit: the batch has shrunk, and a row of a matrix product may round differently in it
        torch.testing.assert_close(stopped.delta[r], path[t][r], atol=1e-9, rtol=0)
        torch.testing.assert_close(stopped.losses[r], free.history.rows.losses[t, r], atol=1e-9, rtol=0)
        assert torch.equal(stopped.fooled[r], free.history.rows.fooled[t, r])
        torch.testing.assert_close(stopped.weights[r], free.history.rows.weights[t, r], atol=1e-9, rtol=0)
    assert free.step.tolist() == [15] * 27


DIRECTIONS = [orb.Adaptive(), orb.Adaptive(balance=True, momentum=0.5), orb.Sign("linear")]


@pytest.mark.parametrize("direction", DIRECTIONS, ids=repr)
@pytest.mark.parametrize("threat", [orb.Linf(0.1), orb.L2(0.7), orb.L1(2.5), orb.L0(4)], ids=lambda t: t.name)
def test_dropping_rows_does_not_change_the_way_of_the_others(models, x, y, threat, direction: Direction) -> None:
    """Every iterate of every row that is still in the batch, before and after checkpoints, is that of the full run."""
    many, labels = x.repeat(6, 1, 1, 1) * torch.linspace(0.6, 1, 54).view(-1, 1, 1, 1).double(), y.repeat(6)
    threat = replace(threat, eps=threat.eps * torch.linspace(0.5, 1.5, 54).double())

    def run(stop: bool, seen: list[orb.solver.Progress]) -> orb.Solution:
        return orb.solve(
            orb.DomainGrid(models, many, labels, loss=losses.standardised_margin), threat.around(many),
            orb.ExponentiatedGradient(0.5), steps=15, direction=direction, keep="best", stop_when_fooled=stop,
            callback=seen.append,
        )  # fmt: skip  # with more steps some rows stand still, and rounding decides whether they still descend

    whole: list[orb.solver.Progress] = []
    fewer: list[orb.solver.Progress] = []
    full, stopped = run(False, whole), run(True, fewer)
    assert len({len(p.rows) for p in fewer}) >= 3, "too few rows were dropped to tell"
    for a, b in zip(whole, fewer, strict=False):
        assert torch.allclose(a.delta[b.rows], b.delta, atol=1e-9)
        assert torch.allclose(a.weights[b.rows], b.weights, atol=1e-9)
        assert torch.allclose(a.evaluation.losses[b.rows], b.evaluation.losses, atol=1e-9)
    assert torch.equal(full.fooled.all(1), stopped.fooled.all(1))
    left = ~full.fooled.all(1)
    assert torch.allclose(full.delta[left], stopped.delta[left], atol=1e-9)


def test_everything_fooled_at_the_start_costs_one_evaluation(models, x, y) -> None:
    wrong = (y + 1) % 4
    already = torch.stack([m(x).argmax(1) for m in models.values()]).ne(wrong).all(0)
    for m in models.values():
        m.calls = 0
    domains = orb.DomainGrid(models, x[already], wrong[already], loss=losses.margin)
    found = orb.solve(
        domains, orb.Linf(0.1).around(x[already]), orb.Uniform(), steps=9, direction=orb.Sign(), stop_when_fooled=True
    )
    assert found.fooled.all()
    assert found.history.all_fooled.tolist() == [1.0] * 10
    assert [m.calls for m in models.values()] == [1, 1, 1]


def test_history_means_are_means_of_the_rows(models, x, y) -> None:
    domains = orb.DomainGrid(models, x, y, loss=losses.margin)
    args = (orb.Linf(0.1).around(x), orb.ProjectedAscent(0.1, 1.0))
    full = orb.solve(domains, *args, steps=4, direction=orb.Sign(), history="full").history
    means = orb.solve(domains, *args, steps=4, direction=orb.Sign()).history
    assert means.rows is None
    assert full.rows.losses.shape == (5, 9, 3)
    assert torch.allclose(means.losses, full.rows.losses.mean(1))
    assert torch.allclose(means.weights, full.rows.weights.mean(1))
    assert torch.allclose(means.fooled, full.rows.fooled.float().mean(1))
    assert torch.allclose(means.all_fooled, full.rows.fooled.all(2).float().mean(1))


def test_starts_are_projected_before_they_count(models, x, y) -> None:
    domains = orb.DomainGrid(models, x, y, loss=losses.margin)
    far = torch.full_like(x, 9.0)
    found = orb.solve(domains, orb.L2(0.5).around(x), orb.Uniform(), init=far, steps=0, direction=orb.Sign())
    assert orb.L2(0.5).around(x).contains(found.delta).all()
    assert torch.equal(found.losses, domains.evaluate(found.delta, grad=False).losses)


def test_warm_start_continues_a_run(models, x, y) -> None:
    domains = orb.DomainGrid(models, x, y, loss=losses.margin)

    def go(steps: int, **start: Tensor) -> orb.Solution:
        return orb.solve(
            domains, orb.Linf(0.1).around(x), orb.ProjectedAscent(0.1, 1.0), steps=steps, step_size=0.02,
            direction=orb.RawGradient(), **start,
        )  # fmt: skip

    whole, half = go(8), go(5)
    rest = go(3, init=half.delta, weights=whole.history.weights.new_tensor(half.weights.tolist()))
    # w_0 of the second run is w_5; the first run's next step used the same pair
    assert torch.allclose(rest.delta, whole.delta, atol=1e-12)


def test_random_starts_come_from_the_generator(models, x, y) -> None:
    domains = orb.DomainGrid(models, x, y, loss=losses.margin)

    def go(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return orb.solve(
            domains, orb.Linf(0.1).around(x), orb.Uniform(), steps=0, direction=orb.Sign(), generator=generator
        ).delta

    assert torch.equal(go(1), go(1))
    assert not torch.equal(go(1), go(2))


@pytest.mark.processors
@pytest.mark.parametrize("direction", [orb.RawGradient(), orb.Sign(), orb.Normalised(), orb.Adaptive()])
@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.name)
def test_rows_do_not_see_their_batch_mates(
    models, x, y, rounding, threat: orb.ThreatModel, direction: Direction
) -> None:
    rounded = {name: rounding(model) for name, model in models.items()}

    def go(rows: slice) -> orb.Solution:
        return orb.solve(
            orb.DomainGrid(rounded, x[rows], y[rows], loss=losses.smooth_margin), threat.around(x[rows]),
            orb.ExponentiatedGradient(0.5), steps=8, step_size=0.05 if direction == orb.RawGradient() else None,
            direction=direction, keep="last",  # two iterates may be equally good but for their last bits
        )  # fmt: skip

    whole, alone = go(slice(None)), go(slice(4, 5))
    assert torch.allclose(whole.delta[4:5], alone.delta, atol=1e-9)
    assert torch.allclose(whole.weights[4:5], alone.weights, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": -1}, "steps must be a whole number >= 0, got -1"),
        ({"steps": 10**23}, "steps must be < 2147483648, got 1000"),
        ({"keep": "worst"}, "keep must be 'last' or 'best', got 'worst'"),
        ({"history": "all"}, "history must be 'means' or 'full', got 'all'"),
        ({"init": torch.zeros(2, 2)}, r"init must have shape \(9, 1, 6, 6\), got \(2, 2\)"),
        ({"init": torch.full((9, 1, 6, 6), float("nan"))}, "init must be finite"),
        ({"weights": torch.ones(9, 2)}, r"weights must have shape \(9, 3\), got \(9, 2\)"),
        ({"weights": torch.ones(9, 3)}, "each row must sum to 1"),
        ({"direction": orb.RawGradient()}, "step_size must be given"),
    ],
)
def test_what_solve_refuses(models, x, y, change: dict, message: str) -> None:
    domains = orb.DomainGrid(models, x, y, loss=losses.margin)
    settings = {"steps": 2, "direction": orb.Sign()} | change
    with pytest.raises(ValueError, match=message):
        orb.solve(domains, orb.Linf(0.1).around(x), orb.Uniform(), **settings)


def test_a_nan_on_the_way_names_the_domain_and_the_step() -> None:
    def breaks(d: Tensor, rows: Tensor) -> Tensor:
        return (d.sum(1) + 1).log()  # NaN once the sum falls below -1

    domains = orb.FunctionDomains({"fine": lambda d, rows: d.sum(1), "breaks": breaks})
    box = torch.full((1, 2), 5.0)
    with pytest.raises(ValueError, match="domain 'breaks' gave a NaN loss at step"):
        orb.solve(
            domains, orb.FeasibleSet(2, 9.0, -box, box), orb.Uniform(), steps=5, step_size=0.7,
            direction=orb.RawGradient(),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("feasible", orb.Linf, r"feasible must be the set.* such as Linf\(0.1\).around\(x\), got Linf itself"),
        ("feasible", orb.ThreatModel, "feasible must be the set around given inputs.*got ThreatModel itself"),
        ("feasible", orb.Linf(0.1), r"feasible must be the set around given inputs.*got ThreatModel\(p=inf, eps=0.1"),
        ("rule", "minmax", r"rule must be a weight rule such as ExponentiatedGradient\(0.5\), got 'minmax'"),
        ("rule", orb.Uniform, "rule must be a weight rule.*got Uniform itself"),
        ("rule", None, "rule must be a weight rule.*got None"),
        ("direction", "sign", r"direction must be a direction such as Adaptive\(\), got 'sign'"),
        ("direction", orb.Sign, "direction must be a direction.*got Sign itself"),
        ("domains", "minmax", r"domains must be such as FunctionDomains\(\{name: f\}\), got 'minmax'"),
        ("domains", lambda delta: delta, "domains must be such as FunctionDomains.*got <lambda> itself"),
    ],
)  # fmt: skip
def test_what_is_no_part_of_a_problem_is_refused_in_one_sentence(name: str, given: object, told: str) -> None:
    parts = {
        "domains": orb.FunctionDomains({"a": lambda delta, rows: delta.sum(1)}),
        "feasible": orb.Linf(0.1).around(torch.full((2, 3), 0.5)),
        "rule": orb.Uniform(),
        "direction": orb.Sign(),
    }
    orb.solve(**parts, steps=1)
    with pytest.raises(ValueError, match=told) as refused:
        orb.solve(**(parts | {name: given}), steps=1)
    assert "\n" not in str(refused.value)
