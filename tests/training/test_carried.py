"""Perturbations and weights that examples carry: the printed loop, what comes back, what is refused, where it lies."""

import math
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import Tensor, nn

from omnirobust.core.projections import project_lp_box, project_simplex
from omnirobust.core.threat_models import L0, L1, L2, Linf, ThreatModel
from omnirobust.core.weights import ProjectedAscent
from omnirobust.training import Scheme, attack_batch, fit
from omnirobust.training.attackers import PrivateAttacker
from omnirobust.training.batches import Batch
from omnirobust.training.carried import CarriedDeltas
from omnirobust.training.workers import Alone

BOTH = (Linf(0.15), L2(0.5))
SIZES = (0.4, 0.7)
RULE = ProjectedAscent(0.3, 0.8)
RATE = 0.5


def problem(count: int = 7) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.rand(count, 4, generator=g, dtype=torch.float64), torch.arange(count) % 3


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()


class Epochs:
    """A loader that yields the mini-batches of each epoch that it is told, and the numbers of their rows."""

    def __init__(self, epochs: list[list[list[int]]], x: Tensor, y: Tensor) -> None:
        self.epochs, self.x, self.y, self.next = epochs, x, y, 0

    def __iter__(self):
        self.next += 1
        for rows in map(torch.tensor, self.epochs[self.next - 1]):
            yield self.x[rows], self.y[rows], rows


SHUFFLED = [[[0, 1, 2], [3, 4, 5, 6]], [[6, 2, 4], [1, 0, 5, 3]], [[5, 3, 0], [2, 6, 1, 4]]]


class Printed:
    """Algorithm 2, example by example and attack by attack, in plain operations; SGD on clean and attacked inputs."""

    def __init__(self, kind: str, threats: tuple[ThreatModel, ...], steps: int, count: int) -> None:
        self.model, self.kind, self.threats, self.steps = network(), kind, threats, steps
        K = len(threats)
        self.w = torch.full((count, K), 1 / K, dtype=torch.float64)
        self.delta = torch.zeros(count, K, 4, dtype=torch.float64)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        z = self.model(x)
        return z.exp().sum().log() - z[y]

    def perturb(self, x: Tensor, y: Tensor, rows: list[int]) -> None:
        """Step 4: R ascents from w^(t-1) and delta^(t-1) of these rows; delta is kept in half precision."""
        K = len(self.threats)
        for n in rows:
            for _ in range(self.steps):
                losses, grads = [], []
                for i in range(K):
                    point = self.delta[n, i].clone().requires_grad_(True)
                    f = self.loss(x[n] + point, y[n])
                    losses.append(f.detach())
                    grads.append(torch.autograd.grad(f, point)[0])
                for i, (threat, size) in enumerate(zip(self.threats, SIZES, strict=False)):
                    share = 1.0 if self.kind == "worst" else self.w[n, i]
                    moved = self.delta[n, i] + size * share * grads[i]
                    low, high = 0 - x[n], 1 - x[n]
                    self.delta[n, i] = project_lp_box(moved[None], threat.p, threat.eps, low[None], high[None])[0]
                if self.kind == "minmax":
                    ascent = torch.stack(losses) - 0.8 * (self.w[n] - 1 / K)
                    self.w[n] = project_simplex((self.w[n] + 0.3 * ascent)[None])[0]
            if self.kind == "worst":
                reached = torch.stack([self.loss(x[n] + self.delta[n, i], y[n]).detach() for i in range(K)])
                self.w[n] = torch.nn.functional.one_hot(reached.argmax(), K).double()

    def descend(self, x: Tensor, y: Tensor, rows: list[int]) -> None:
        """Step 3: one step of SGD on theta, from these rows' w and delta."""
        total = torch.zeros((), dtype=torch.float64)
        for n in rows:
            attacked = sum(self.w[n, i] * self.loss(x[n] + self.delta[n, i], y[n]) for i in range(len(self.threats)))
            total = total + 0.5 * self.loss(x[n], y[n]) + 0.5 * attacked
        grads = torch.autograd.grad(total / len(rows), list(self.model.parameters()))
        with torch.no_grad():
            for parameter, grad in zip(self.model.parameters(), grads, strict=True):
                parameter -= RATE * grad

    def lay_down(self, x: Tensor, rows: list[int]) -> None:
        """Keep w in single and delta in half precision, and have delta back in its set around x."""
        self.w = self.w.float().double()
        for n in rows:
            for i, threat in enumerate(self.threats):
                kept = self.delta[n, i].half().double()
                low, high = 0 - x[n], 1 - x[n]
                self.delta[n, i] = project_lp_box(kept[None], threat.p, threat.eps, low[None], high[None])[0]


def same(model: nn.Module, other: nn.Module, tolerance: float = 1e-10) -> None:
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=tolerance)


def sgd(parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=RATE)


def scheme_of(kind: str, threats: tuple[ThreatModel, ...], steps: int = 2, **given) -> Scheme:
    rule = RULE if kind == "minmax" else None
    sizes = SIZES[: len(threats)]
    return Scheme(kind, threats, steps, rule, preset="paper", start="zero", step_sizes=sizes, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["single", "average", "worst", "minmax"])
def test_mini_batches_ascend_from_what_their_rows_carry_then_theta_descends(kind: str) -> None:
    threats = BOTH[:1] if kind == "single" else BOTH
    (x, y), ours = problem(), network()
    result = fit(ours, Epochs(SHUFFLED, x, y), scheme_of(kind, threats), epochs=3, optimizer=sgd)
    printed = Printed(kind, threats, 2, len(x))
    for rows in (rows for epoch in SHUFFLED for rows in epoch):
        printed.perturb(x, y, rows)
        printed.descend(x, y, rows)
        printed.lay_down(x, rows)
    same(ours, printed.model)
    assert result.weights is not None
    torch.testing.assert_close(result.weights.double(), printed.w, rtol=0, atol=1e-6)
    redrawn = network()
    fit(redrawn, Epochs(SHUFFLED, x, y), scheme_of(kind, threats, persist="none"), epochs=3, optimizer=sgd)
    assert max((p - q).abs().max() for p, q in zip(ours.parameters(), redrawn.parameters(), strict=True)) > 1e-3


def test_that_is_the_printed_loop_half_an_iteration_on() -> None:
    """The loop as printed, SGD first, from t = 2 on: what is left out is SGD on the perturbations one begins with."""
    (x, y), ours, T = problem(), network(), 4
    rows = list(range(len(x)))
    fit(ours, Epochs([[rows]] * T, x, y), scheme_of("minmax", BOTH), epochs=T, optimizer=sgd)
    printed = Printed("minmax", BOTH, 2, len(x))
    for t in range(1, T + 2):
        if t > 1:
            printed.descend(x, y, rows)  # given w^(t-1) and delta^(t-1), perform SGD to update theta^(t)
            printed.lay_down(x, rows)
        if t <= T:
            printed.perturb(x, y, rows)  # given theta^(t), perform R-step PGD to update w^(t) and delta^(t)
    same(ours, printed.model)


def test_half_precision_costs_next_to_nothing() -> None:
    (x, y), ours = problem(), network()
    fit(ours, Epochs(SHUFFLED, x, y), scheme_of("minmax", BOTH), epochs=3, optimizer=sgd)
    exact = Printed("minmax", BOTH, 2, len(x))
    for rows in (rows for epoch in SHUFFLED for rows in epoch):
        exact.perturb(x, y, rows)
        exact.descend(x, y, rows)
    same(ours, exact.model, 1e-4)


@pytest.mark.parametrize(("preset", "kind", "carried"), [
    ("paper", "single", "all"), ("paper", "minmax", "all"), ("paper", "universal", "none"), (None, "minmax", "none"),
])  # fmt: skip
def test_the_preset_carries_and_the_default_does_not(preset, kind: str, carried: str) -> None:
    scheme = Scheme(kind, BOTH if kind == "minmax" else BOTH[:1], preset=preset)  # type: ignore[arg-type]
    assert scheme.persisting == carried
    assert f"persist='{carried}'" in scheme.fingerprint()
    assert Scheme("minmax", BOTH, preset="paper", persist="none").persisting == "none"


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.4), L1(0.9), L0(2)])
def test_steps_of_two_calls_are_those_of_one(threat: ThreatModel) -> None:
    x, y = problem()
    scheme = lambda steps: Scheme(  # noqa: E731
        "minmax", (threat, Linf(0.05)), steps, RULE, preset="paper", start="zero", step_sizes=SIZES
    )
    whole, w = attack_batch(network(), x, y, scheme(5))
    deltas, weights = attack_batch(network(), x, y, scheme(2))
    parts, v = attack_batch(network(), x, y, scheme(3), weights=weights, deltas=deltas)
    for delta, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(delta, other, rtol=0, atol=1e-12)
    torch.testing.assert_close(w, v, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("deltas", "message"),
    [
        ([torch.zeros(7, 4)], "deltas must be 2 perturbations, one a threat model, got 1"),
        (torch.zeros(2, 7, 4), "deltas must be 2 perturbations, one a threat model, got one tensor"),
        ([torch.zeros(7, 4), torch.zeros(6, 4)], r"deltas must have shape \(7, 4\), got \(6, 4\)"),
        ([torch.zeros(7, 4), torch.full((7, 4), math.nan)], "deltas must be finite, got NaN or infinity"),
        ([torch.zeros(7, 4), None], "deltas must be tensors, got NoneType"),
    ],
)
def test_perturbations_that_do_not_fit_are_refused(deltas, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attack_batch(network(), *problem(), Scheme("average", BOTH, 1), deltas=deltas)


@pytest.mark.parametrize("row", [[2.0, -1.0], [9.0, 9.0], [math.nan, 0.5], [0.5, 0.4]])
def test_given_weights_lie_on_the_simplex(row: list[float]) -> None:
    with pytest.raises(ValueError, match="weights must be non-negative and each row must sum to 1"):
        attack_batch(network(), *problem(), Scheme("minmax", BOTH, 1, preset="paper"), weights=torch.tensor([row] * 7))


def test_given_perturbations_come_back_into_their_sets() -> None:
    x, y = problem()
    scheme = Scheme("average", BOTH, 1, preset="paper", step_sizes=(1e-12, 1e-12))
    deltas, _ = attack_batch(network(), x, y, scheme, deltas=[torch.full_like(x, 3.0)] * 2)
    for threat, delta in zip(BOTH, deltas, strict=True):
        expected = project_lp_box(torch.full_like(x, 3.0), threat.p, threat.eps, 0 - x, 1 - x)
        torch.testing.assert_close(delta, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (0.0, 1e6)])
def test_half_precision_is_of_the_width_of_the_range(bounds: tuple[float, float]) -> None:
    low, high = bounds
    x = problem()[0] * (high - low) + low
    threat = Linf(0.3 * (high - low), bounds)
    kept = CarriedDeltas((threat, threat), Alone())
    batch = Batch.whole(x, problem()[1], torch.arange(7), known=True)
    assert not kept.fetch(batch).seen.any()
    deltas = [threat.around(x).project(torch.full_like(x, size * (high - low))) for size in (0.2, -0.1234567)]
    kept.keep(batch, deltas)
    found = kept.fetch(batch)
    assert found.seen.all()
    for delta, back in zip(deltas, found.deltas, strict=True):
        torch.testing.assert_close(back, delta, rtol=2**-11, atol=0)
    assert kept.table.element_size() == 2 and kept.table.shape == (7, 2, 4)


UNITS = torch.tensor([0.1, 1.0, 3.0, 20.0], dtype=torch.float64)


@pytest.mark.parametrize("p", [math.inf, 1, 2])
@pytest.mark.parametrize("scale", [None, UNITS])
@pytest.mark.parametrize("bounds", [(-math.inf, math.inf), (0.0, math.inf), (-1e7, 1e7), (-math.inf, 1e7)])
def test_any_row_comes_back_wherever_the_range_ends_and_whatever_its_radius(bounds, scale, p: float) -> None:
    x, y = problem()
    radii = torch.linspace(0.0, 0.9, 7, dtype=torch.float64)
    threat = ThreatModel(p, radii, bounds, scale=scale)
    drawn = torch.randn(7, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * UNITS
    deltas = threat.around(x).project(drawn)
    kept, order = CarriedDeltas((threat,), Alone()), torch.tensor([4, 0, 6, 3, 1, 5, 2])
    for rows in order.split(3):  # mini-batches of 3, 3 and 1 of 7 rows
        batch = Batch.whole(x[rows], y[rows], rows, known=True)
        kept.fetch(batch)
        kept.keep(batch, [deltas[rows]])
    for rows in torch.arange(7).split(4):
        (found,), _ = kept.fetch(Batch.whole(x[rows], y[rows], rows, known=True))
        unit = 1.0 if scale is None else scale
        torch.testing.assert_close(found / unit, deltas[rows] / unit, rtol=2**-11, atol=3e-5)  # radii are up to 0.9


def test_wide_or_endless_ranges_and_a_radius_for_each_example_train_as_ranges_that_are_never_reached() -> None:
    (x, y), radii = problem(), torch.linspace(0.0, 0.3, 7, dtype=torch.float64)

    def trained(bounds: tuple[float, float], persist: str = "all") -> nn.Module:
        ours, threats = network(), (Linf(radii, bounds), L2(3 * radii, bounds))
        scheme = scheme_of("minmax", threats, persist=persist)
        fit(ours, Epochs(SHUFFLED, x, y), scheme, epochs=3, optimizer=sgd)
        return ours

    expected = trained((-4.0, 4.0))
    for bounds in ((-math.inf, math.inf), (-1e7, 1e7)):
        same(trained(bounds), expected, 1e-5)
    with pytest.raises(AssertionError):
        same(trained((-4.0, 4.0), "none"), expected, 1e-4)


def attacker_of(threats: tuple[ThreatModel, ...] = BOTH) -> PrivateAttacker:
    return PrivateAttacker(network(), Scheme("minmax", threats, 2, persist="all"), 0, "fp32", Alone())


def test_rows_that_have_not_been_seen_start_as_the_scheme_says() -> None:
    (x, y), first = problem(), torch.arange(3)
    scheme = Scheme("average", BOTH, 1, persist="all", step_sizes=(1e-9, 1e-9))
    attacker = PrivateAttacker(network(), scheme, 0, "fp32", Alone())
    attacker.attack(Batch.whole(x[:3], y[:3], first, True), 0)
    kept = attacker.attack(Batch.whole(x, y, torch.arange(7), True), 1).points
    drawn = PrivateAttacker(network(), scheme, 0, "fp32", Alone())
    at = [drawn.attack(Batch.whole(x, y, torch.arange(7), True), epoch).points for epoch in (0, 1)]
    fresh = PrivateAttacker(network(), scheme, 0, "fp32", Alone()).attack(
        Batch.whole(x, y, torch.arange(7), True), 1
    ).points  # fmt: skip
    torch.testing.assert_close(kept[:, :3], at[0][:, :3], rtol=0, atol=1e-3)
    assert torch.equal(kept[:, 3:], fresh[:, 3:])
    assert (at[0][:, 3:] - fresh[:, 3:]).abs().max() > 0.01


def test_a_loader_without_numbers_is_refused() -> None:
    x, y = problem()
    for scheme in (Scheme("single", BOTH[:1], 2, persist="all"), Scheme("minmax", BOTH, 2, preset="paper")):
        with pytest.raises(
            ValueError,
            match=r"data must yield \(x, y, rows\) with .* where weights and perturbations persist, got pairs",
        ):
            fit(network(), [(x, y)], scheme, epochs=1)
    assert fit(network(), [(x, y)], Scheme("minmax", BOTH, 2, preset="paper", persist="none"), epochs=1).epochs == 1


@pytest.mark.parametrize("change", [lambda x: x.flip(1), lambda x: x.roll(1, 1), lambda x: x * 0.999])
def test_inputs_that_move_under_their_perturbations_are_refused_and_the_model_kept(change) -> None:
    (x, y), model = problem(), network()

    class Augmented(Epochs):
        def __iter__(self):
            for images, labels, rows in super().__iter__():
                images[rows == 4] = change(images[rows == 4]) if self.next == 2 else images[rows == 4]
                yield images, labels, rows

    after_one = network()
    fit(after_one, Epochs(SHUFFLED, x, y), scheme_of("minmax", BOTH), epochs=1, optimizer=sgd)
    with pytest.raises(ValueError, match=r"data must give the same input for a number .* got another for row 4: what"):
        fit(model, Augmented(SHUFFLED, x, y), scheme_of("minmax", BOTH), epochs=2, optimizer=sgd)
    same(model, after_one, 0)
    fit(network(), Augmented(SHUFFLED, x, y), scheme_of("minmax", BOTH, persist="example"), epochs=2)


def test_inputs_of_another_shape_are_refused() -> None:
    attacker = attacker_of()
    x, y = problem()
    attacker.attack(Batch.whole(x, y, torch.arange(7), True), 0)
    with pytest.raises(ValueError, match=r"data must give inputs of one shape .*, got \(4,\) and \(2, 2\)"):
        attacker.attack(Batch.whole(x.view(7, 2, 2), y, torch.arange(7), True), 0)


def test_what_fits_no_memory_is_refused_before_anything_is_trained() -> None:
    x, y = problem()
    far = [(x, y, torch.arange(7) + 2**50)]
    with pytest.raises(
        ValueError, match=r"persist must be 'none' or 'example' where .*, got 'all' and 18,014,399 GB for"
    ):
        fit(network(), far, Scheme("average", BOTH, 1, persist="all"), epochs=1)


class Team:
    """One process of several, played by threads: what they hand over is summed once all of them have."""

    def __init__(self, rank: int, count: int, meeting: Barrier, handed: list[Tensor | None]) -> None:
        self.rank, self.count, self.meeting, self.handed = rank, count, meeting, handed

    def total(self, values: Tensor) -> Tensor:
        self.handed[self.rank] = values
        self.meeting.wait(20)
        found = torch.stack([value for value in self.handed if value is not None]).sum(0, dtype=values.dtype)
        self.meeting.wait(20)
        return found

    def join(self, values: Tensor, batch: Batch) -> Tensor:
        whole = values.new_zeros(batch.size, *values.shape[1:])
        if batch.factor:
            whole[batch.mine] = values
        return self.total(whole)


def two_epochs(kept: CarriedDeltas, rank: int, count: int) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Fetch and keep every mini-batch, the last of which leaves processes without rows; return what came back."""
    (x, y), back = problem(9), list[Tensor]()
    for epoch in range(2):
        for rows in ([8, 1, 5, 2], [0, 3, 7, 4], [6]):
            some = torch.tensor(rows)
            batch = Batch.whole(x[some], y[some], some, True).share(rank, count)
            found = kept.fetch(batch)
            assert found.seen.tolist() == [epoch == 1] * len(batch.x)
            deltas = [delta + sign * (batch.x - 0.5) / 3 for delta, sign in zip(found.deltas, (1, -1), strict=True)]
            kept.keep(batch, deltas)
            back += deltas if batch.factor else []
    return back, kept.state()


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_the_rows_bit_for_bit_and_any_number_of_them_goes_on(count: int) -> None:
    alone = CarriedDeltas(BOTH, Alone())
    _, state = two_epochs(alone, 0, 1)
    meeting, handed = Barrier(count), [None] * count
    shares = [CarriedDeltas(BOTH, Team(rank, count, meeting, handed)) for rank in range(count)]  # type: ignore[arg-type]
    with ThreadPoolExecutor(count) as pool:
        done = list(pool.map(two_epochs, shares, range(count), [count] * count))
    assert [len(share.table) for share in shares] == [len(range(rank, 9, count)) for rank in range(count)]
    for name, whole in state.items():
        assert torch.equal(done[0][1][name], whole) and whole.shape[0] == 9
    again = [CarriedDeltas(BOTH, Team(rank, count, meeting, handed)) for rank in range(count)]  # type: ignore[arg-type]
    for share, other in zip(again, shares, strict=True):
        share.load(state)
        assert torch.equal(share.table, other.table) and torch.equal(share.marks, other.marks)
