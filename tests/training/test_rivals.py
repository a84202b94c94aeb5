"""MSD, E-AT and RAMP against short, literal transcriptions of their published updates."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, kl_div, log_softmax, softmax

from omnirobust.core.draws import DrawKey, uniforms
from omnirobust.core.projections import project_lp_box
from omnirobust.core.threat_models import L0, L1, L2, Linf, ThreatModel
from omnirobust.training import Scheme, attack_batch, fit
from omnirobust.training.batches import TensorBatches
from omnirobust.training.rivals.alternate import RunningErrors
from omnirobust.training.rivals.ramp import divergence

BOTH = (Linf(0.15), L2(0.6))
THREE = (Linf(0.15), L1(1.5), L2(0.6))
N, BATCH = 20, 8


def problem() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.rand(N, 1, 4, 4, generator=g, dtype=torch.float64), torch.arange(N) % 3


def network() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3)).double()


def sgd(parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.5, momentum=0.5)


def steepest(g: Tensor, delta: Tensor, x: Tensor, threat: ThreatModel) -> Tensor:
    """Return the steepest direction of one example's gradient under its norm, of length 1."""
    if threat.p == 2:
        return g / g.norm()
    if threat.p == 1:  # one of 16 coordinates: the largest that can still move
        best = max(
            (i for i in range(g.numel()) if 0 < (x + delta).flatten()[i] + 1e-9 * g.flatten()[i].sign() < 1),
            key=lambda i: float(g.flatten()[i].abs()),
        )
        u = torch.zeros_like(g).flatten()
        u[best] = g.flatten()[best].sign()
        return u.view_as(g)
    return g.sign()


def msd(model, x, y, threats, first: list[Tensor], sizes, steps: int) -> tuple[Tensor, list[int]]:
    """Algorithm 1 of Maini et al., an example at a time; steps fall linearly to 1/T of the first."""

    def loss(image: Tensor, delta: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(model(image + delta), label)

    found, last = [], []
    for n in range(len(x)):
        image, label = x[n : n + 1], y[n : n + 1]
        delta = max((start[n : n + 1] for start in first), key=lambda d: loss(image, d, label).item())
        for t in range(steps):
            point = delta.clone().requires_grad_(True)
            (g,) = torch.autograd.grad(loss(image, point, label), point)
            moved = []
            for threat, size in zip(threats, sizes, strict=True):
                z = delta + size * (1 - t / steps) * steepest(g, delta, image, threat)
                moved.append(project_lp_box(z, threat.p, threat.eps, 0 - image, 1 - image))
            losses = [loss(image, d, label).item() for d in moved]
            last_kept = losses.index(max(losses))
            delta = moved[last_kept]
        found.append(delta)
        last.append(last_kept)
    return torch.cat(found), last


@pytest.mark.parametrize("start", ["zero", "random"])
def test_msd_is_algorithm_1_of_maini(start) -> None:
    (x, y), model = problem(), network()
    x[0, 0, 0] = torch.tensor([0.0, 1.0, 0.0, 1.0])  # some coordinates stand at the end of their range
    scheme = Scheme("msd", THREE, steps=6, start=start)
    if start == "zero":
        first = [torch.zeros_like(x)]
    else:  # the draws of any other scheme, whose steps are too short to move
        first = attack_batch(model, x, y, Scheme("average", THREE, 1, step_sizes=(1e-30,) * 3), seed=3)[0]
    deltas, weights = attack_batch(model, x, y, scheme, seed=3)
    sizes = [threat.eps * 5 / 6 for threat in THREE]
    expected, last = msd(model, x, y, THREE, first, sizes, 6)
    torch.testing.assert_close(sum(deltas), expected, rtol=0, atol=1e-9)
    assert weights.argmax(1).tolist() == last and len(set(last)) > 1
    for k, (delta, threat) in enumerate(zip(deltas, THREE, strict=True)):
        assert bool(threat.around(x).contains(delta).all())
        assert not bool(delta[weights[:, k] == 0].any())


def test_msd_takes_the_step_sizes_and_radii_of_examples_that_it_is_given() -> None:
    (x, y), model = problem(), network()
    sizes = (0.05, 0.4, 0.2)
    scheme = Scheme("msd", THREE, steps=4, start="zero", step_sizes=sizes)
    expected, _ = msd(model, x, y, THREE, [torch.zeros_like(x)], sizes, 4)
    torch.testing.assert_close(sum(attack_batch(model, x, y, scheme)[0]), expected, rtol=0, atol=1e-9)
    radii = torch.linspace(0.02, 0.3, N, dtype=torch.float64)
    own = Scheme("msd", (Linf(radii), L1(10 * radii)), steps=4, start="zero")
    deltas, _ = attack_batch(model, x, y, own)
    for n in range(N):
        threats = (Linf(float(radii[n])), L1(10 * float(radii[n])))
        alone = x[n : n + 1], y[n : n + 1]
        expected, _ = msd(model, *alone, threats, [torch.zeros_like(alone[0])], [1.25 * t.eps for t in threats], 4)
        torch.testing.assert_close(sum(deltas)[n : n + 1], expected, rtol=0, atol=1e-9)


def test_msd_evaluates_one_gradient_a_step() -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.with_gradient, self.without = network(), 0, 0

        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                self.with_gradient += len(x)
            else:
                self.without += len(x)
            return self.inner(x)

    (x, y), model = problem(), Counted()
    for start, more in (("zero", 0), ("random", 3 * N)):
        model.with_gradient = model.without = 0
        attack_batch(model, x, y, Scheme("msd", THREE, steps=5, start=start))
        assert (model.with_gradient, model.without) == (5 * N, 5 * 3 * N + more)


def test_msd_descends_on_its_perturbation_and_the_clean_examples() -> None:
    (x, y), model, twin = problem(), network(), network()
    scheme = Scheme("msd", BOTH, steps=3, start="zero", adversarial_ratio=0.7)
    fit(model, (x, y), scheme, epochs=1, batch_size=BATCH, optimizer=sgd)
    optimizer = sgd(twin.parameters())
    for images, labels in TensorBatches(x, y, BATCH, 0).epoch(0):
        delta, _ = msd(twin, images, labels, BOTH, [torch.zeros_like(images)], [t.eps * 1.25 for t in BOTH], 3)
        optimizer.zero_grad()
        (0.3 * cross_entropy(twin(images), labels) + 0.7 * cross_entropy(twin(images + delta), labels)).backward()
        optimizer.step()
    same(model, twin)


def same(model: nn.Module, twin: nn.Module, atol: float = 1e-9) -> None:
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, twin.state_dict()[name], rtol=0, atol=atol)


def test_alternate_is_e_at() -> None:
    """Both extremes begin even; then each mini-batch draws by the running errors of the attacks that were made."""
    (x, y), model, twin = problem(), network(), network()
    result = fit(
        model, (x, y), Scheme("alternate", THREE, steps=3, adversarial_ratio=1.0), epochs=6, batch_size=BATCH, seed=4,
        optimizer=sgd,
    )  # fmt: skip
    optimizer, draws, acc, drawn = sgd(twin.parameters()), 0, [[0.0, 0.0], [0.0, 0.0]], []
    two = (THREE[0], THREE[1])  # linf and l1: l2 lies between
    for epoch in range(6):
        for batch in TensorBatches(x, y, BATCH, 4).numbered(epoch):
            ps = [1 - a / n for a, n in acc] if all(n for _, n in acc) else [0.5, 0.5]
            u = float(uniforms(DrawKey(4, -2, draws), torch.zeros(1, dtype=torch.int64), 1))
            k = int(u >= ps[0] / (ps[0] + ps[1]))
            draws += 1
            # every scheme of these three threats draws the same random starts
            every, _ = attack_batch(twin, batch.x, batch.y, single(two[k]), deltas=[starts(twin, batch, epoch)[k]])
            optimizer.zero_grad()
            logits = twin(batch.x + every[0])
            acc[k][0] += float((logits.argmax(1) == batch.y).sum())
            acc[k][1] += len(batch.y)
            cross_entropy(logits, batch.y).backward()
            optimizer.step()
            drawn.append(k)
    same(model, twin)
    assert set(drawn) == {0, 1}
    shares = [(row["weight/linf:0.15"], row["weight/l1:1.5"], row["weight/l2:0.6"]) for row in result.history]
    assert all(share[2] == 0 and share[0] + share[1] == pytest.approx(1) for share in shares)
    assert result.weights is not None and set(result.weights.flatten().tolist()) == {0.0, 1.0}


def single(threat: ThreatModel) -> Scheme:
    return Scheme("single", (threat,), steps=3)


def starts(model, batch, epoch: int) -> list[Tensor]:
    """Return the first perturbations of linf and l1 in a training against ``THREE`` of seed 4."""
    from omnirobust.training.inner_steps import row_seeds
    from omnirobust.training.inner_steps import starts as of

    feasible = [threat.around(batch.x) for threat in THREE]
    return of(Scheme("average", THREE), feasible, row_seeds(DrawKey(4, epoch), batch.rows, 3))[:2]


def test_the_draws_of_e_at_follow_the_errors() -> None:
    errors = RunningErrors()
    assert errors.chances() == (0.5, 0.5)
    errors.note(0, 60, 100)
    assert errors.chances() == (0.5, 0.5)  # the other has not been drawn
    errors.note(1, 90, 100)
    assert errors.chances() == pytest.approx((0.8, 0.2))
    drawn = [errors.draw(0) for _ in range(4000)]
    assert sum(drawn) / 4000 == pytest.approx(0.2, abs=0.02)
    other = RunningErrors()
    other.load(errors.state())
    assert [other.draw(0) for _ in range(50)] == [errors.draw(0) for _ in range(50)]
    nothing_beats = RunningErrors()
    for k in (0, 1):
        nothing_beats.note(k, 10, 10)
    assert nothing_beats.chances() == (0.5, 0.5)


def ramp_epoch(model, optimizer, natural_optimizer, x, y, epoch: int, pairing: float, share: float) -> None:
    """One epoch of RAMP: of a copy by natural training, of the model by both attacks, then both are put together."""
    from copy import deepcopy

    old, nat = deepcopy(model), natural_optimizer.model
    nat.load_state_dict(model.state_dict())
    for images, labels in TensorBatches(x, y, BATCH, 0).epoch(epoch):
        natural_optimizer.zero_grad()
        cross_entropy(nat(images), labels).backward()
        natural_optimizer.step()
    for batch in TensorBatches(x, y, BATCH, 0).numbered(epoch):
        (inf_, two), _ = attack_batch(
            model, batch.x, batch.y, Scheme("average", BOTH, 3, start="zero"), rows=batch.rows
        )
        optimizer.zero_grad()
        z_s, z_t = model(batch.x + inf_), model(batch.x + two)
        per = torch.stack([cross_entropy(z, batch.y, reduction="none") for z in (z_s, z_t)])
        right = z_s.argmax(1) == batch.y
        kl = torch.zeros(())
        if bool(right.any()):
            kl = kl_div(log_softmax(z_t[right], 1), softmax(z_s[right], 1), reduction="sum") / right.sum()
        (per.amax(0).mean() + pairing * kl).backward()
        optimizer.step()
    with torch.no_grad():
        for p, before, natural in zip(model.parameters(), old.parameters(), nat.parameters(), strict=True):
            g_a, g_n = p - before, natural - before
            cos = cosine_similarity(g_a.reshape(1, -1), g_n.reshape(1, -1), eps=0.0)
            p.copy_(before + share * cos.clamp_min(0) * g_n + (1 - share) * g_a)


@pytest.mark.parametrize(("pairing", "share"), [(5.0, 0.5), (1.5, 0.0), (0.0, 0.3)])
def test_ramp_is_published_ramp(pairing: float, share: float) -> None:
    (x, y), model, twin, nat = problem(), network(), network(), network()
    scheme = Scheme("ramp", BOTH, 3, start="zero", adversarial_ratio=1.0, pairing=pairing, natural_share=share)
    fit(model, (x, y), scheme, epochs=4, batch_size=BATCH, optimizer=sgd)
    optimizer, natural_optimizer = sgd(twin.parameters()), sgd(nat.parameters())
    natural_optimizer.model = nat  # type: ignore[attr-defined]
    for epoch in range(4):
        ramp_epoch(twin, optimizer, natural_optimizer, x, y, epoch, pairing, share)
    same(model, twin)


def test_ramp_goes_through_a_loader_twice_an_epoch() -> None:
    x, y = problem()
    once = iter([(x[:10], y[:10]), (x[10:], y[10:])])
    with pytest.raises(ValueError, match="got none in epoch 1: a loader must begin anew each time"):
        fit(network(), once, Scheme("ramp", BOTH, 1), epochs=1)
    model, twin = network(), network()
    scheme = Scheme("ramp", BOTH, 2)
    fit(model, (x, y), scheme, epochs=2, batch_size=BATCH, optimizer=sgd)

    class Loader:  # the mini-batches of the tensors, epoch by epoch, each twice
        def __init__(self) -> None:
            self.passes = 0

        def __iter__(self):
            batches = TensorBatches(x, y, BATCH, 0).numbered(self.passes // 2)
            self.passes += 1
            return ((b.x, b.y, b.rows) for b in batches)

    fit(twin, Loader(), scheme, epochs=2, optimizer=sgd)
    same(model, twin, 0.0)


def test_ramp_keeps_the_statistics_of_adversarial_training_and_knows_which_attack_is_which() -> None:
    x, y = problem()

    def normed() -> nn.Module:
        return nn.Sequential(network()[0], nn.BatchNorm1d(16).double(), *network()[1:])

    states = []
    for order in (BOTH, BOTH[::-1]):
        model = normed()
        fit(model, (x, y), Scheme("ramp", order, 2, start="zero"), epochs=2, batch_size=BATCH, optimizer=sgd)
        states.append(model)
    same(*states)
    twin = normed()
    fit(
        twin,
        (x, y),
        Scheme("ramp", BOTH, 2, start="zero", natural_share=0.0),
        epochs=1,
        batch_size=BATCH,
        optimizer=sgd,
    )
    one = normed()
    fit(one, (x, y), Scheme("ramp", BOTH, 2, start="zero"), epochs=1, batch_size=BATCH, optimizer=sgd)
    torch.testing.assert_close(one[1].running_mean, twin[1].running_mean, rtol=0, atol=0)
    assert not torch.equal(one[2].weight, twin[2].weight)


@pytest.mark.parametrize("kind", ["msd", "alternate", "ramp"])
def test_a_training_goes_on_bit_for_bit(kind, tmp_path: Path) -> None:
    scheme, found = Scheme(kind, BOTH, 3), []
    for name, stops in (("whole", (5,)), ("parts", (2, 3, 5))):
        for epochs in stops:
            model = network()
            result = fit(
                model, problem(), scheme, epochs=epochs, batch_size=BATCH, out=tmp_path / name, seed=7,
                optimizer=lambda p: torch.optim.Adam(p, 0.01), validation=problem(),
            )  # fmt: skip
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in result.history]
        found.append((model.state_dict(), rows, result.weights))
    assert all(torch.equal(value, found[1][0][name]) for name, value in found[0][0].items())
    assert found[0][1] == found[1][1] and torch.equal(found[0][2], found[1][2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "msd", "threats": BOTH[:1]}, "threats must be two or more for kind msd, got linf"),
        ({"kind": "msd", "threats": (L2(1.0), L0(3))}, "threats must be of norms with a steepest direction, l1, l2 or"),
        (
            {"kind": "alternate", "threats": (L2(1.0), L2(2.0))},
            "threats must be of two norms or more for kind alternat",
        ),
        (
            {"kind": "ramp", "threats": THREE},
            "threats must be exactly two, of different norms, for kind ramp, got linf",
        ),
        ({"kind": "ramp", "threats": (L2(1.0), L2(2.0))}, "threats must be exactly two, of different norms"),
        ({"kind": "ramp"}, "threats must be at least one for kind ramp, got none"),
        (
            {"kind": "msd", "threats": BOTH, "persist": "all"},
            "persist must be 'none' unless kind is one of single, ave",
        ),
        (
            {"kind": "msd", "threats": BOTH, "persist": "example"},
            "persist must be 'none' or 'all' unless kind is minmax",
        ),
        ({"kind": "alternate", "threats": BOTH, "dpar": 0.1}, "dpar must be 0 for kind alternate, got 0.1"),
        ({"kind": "ramp", "threats": BOTH, "dpar": 0.1}, "dpar must be 0 for kind ramp, got 0.1"),
        ({"kind": "msd", "threats": BOTH, "preset": "paper"}, "preset must be None for kind msd, got 'paper'"),
        ({"kind": "ramp", "threats": BOTH, "pairing": -1}, "pairing must be >= 0, got -1"),
        ({"kind": "ramp", "threats": BOTH, "natural_share": 1.5}, r"natural_share must be in \[0, 1\], got 1.5"),
        ({"kind": "worst", "threats": BOTH, "pairing": 1.0}, "pairing must be left out unless kind is ramp, got 1.0"),
        ({"kind": "msd", "threats": BOTH, "natural_share": 0.1}, "natural_share must be left out unless kind is ramp"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scheme(**settings)  # type: ignore[arg-type]


def test_an_attack_in_turns_needs_a_training() -> None:
    x, y = problem()
    with pytest.raises(ValueError, match="scheme must attack each example by itself, got kind 'alternate'"):
        attack_batch(network(), x, y, Scheme("alternate", BOTH))


def test_fingerprints_tell_the_settings_of_ramp() -> None:
    schemes = [Scheme("ramp", BOTH), Scheme("ramp", BOTH, pairing=1.5), Scheme("ramp", BOTH, natural_share=0.4)]
    assert len({scheme.fingerprint() for scheme in schemes}) == 3
    assert "pairing" not in Scheme("worst", BOTH).fingerprint()


def test_classes_that_a_model_rules_out_add_nothing_to_the_divergence() -> None:
    logits = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits[:, :, 2] = -torch.inf
    rest = [z[:, [0, 1, 3, 4]].clone().requires_grad_() for z in logits]
    leaves = [z.clone().requires_grad_() for z in logits]
    expected = kl_div(log_softmax(rest[1], 1), softmax(rest[0], 1), reduction="none").sum(1)
    found = divergence(leaves[0], leaves[1])
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    expected.sum().backward()
    for leaf, other in zip(leaves, rest, strict=True):
        torch.testing.assert_close(leaf.grad[:, [0, 1, 3, 4]], other.grad)
        assert not bool(leaf.grad[:, 2].any())


def test_ramp_without_divergence_needs_two_examples_for_batchnorm() -> None:
    (x, y), scheme = problem(), Scheme("ramp", BOTH, 1, adversarial_ratio=1.0, pairing=0.0, natural_share=0.0)
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16).double(), nn.Linear(16, 3).double())
    with pytest.raises(ValueError, match="batch_size must leave every process 2 examples or more for a model with Bat"):
        fit(model, (x[:3], y[:3]), scheme, epochs=1, batch_size=1)


def test_what_fails_after_an_attack_in_turns_is_told_by_its_number() -> None:
    (x, y), place = problem(), 3
    number = int(next(iter(TensorBatches(x, y, BATCH, 0).numbered(0))).rows[place])
    assert number != place

    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.ascents = network(), 0

        def forward(self, x: Tensor) -> Tensor:
            self.ascents += torch.is_grad_enabled()
            z = self.inner(x)
            if not torch.is_grad_enabled() and self.ascents == 3:
                z[place] = torch.nan
            return z

    with pytest.raises(ValueError, match=rf"(example|row|input) {number}\b"):
        fit(Failing(), (x, y), Scheme("alternate", BOTH, 3), epochs=1, batch_size=BATCH)
