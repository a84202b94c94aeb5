"""Whatever takes a threat model, on data in other units: the same answers, bit for bit in units of powers of two."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import omnirobust as orb
from omnirobust import evaluation, training, universal
from omnirobust.attacks.options import Plan
from omnirobust.evaluation.suite import STRONG
from omnirobust.evaluation.threats import lies_inside, same_threat

UNITS = torch.tensor([1.0, 4.0, 512.0, 0.125, 2.0**-8, 2.0])
"""Powers of two: nothing rounds that does not round in the data as they are."""

RADII = {inf: 0.25, 2: 0.6, 1: 0.9, 0: 2.0}
ORDERS = list(RADII)


class Scaled(nn.Module):
    """A model of data in other units."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("units", UNITS)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x / self.units)


def network(seed: int) -> nn.Module:
    layers = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    generator = torch.Generator().manual_seed(seed)
    for parameter in layers.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 2
    return layers.eval()


MODELS = {"a": network(0), "b": network(1)}
OTHERS = {name: Scaled(model) for name, model in MODELS.items()}
X = torch.rand(12, 6, generator=torch.Generator().manual_seed(2))
with torch.no_grad():
    Y = MODELS["a"](X).argmax(1)


def both(p: float, **others: Any) -> tuple[orb.ThreatModel, orb.ThreatModel]:
    """One threat model of data in [0, 1], and the same of data in other units."""
    ends = (torch.zeros(6), UNITS)
    return orb.ThreatModel(p, RADII[p], **others), orb.ThreatModel(p, RADII[p], ends, scale=UNITS, **others)


def same(ours: orb.AttackResult, plain: orb.AttackResult) -> None:
    assert torch.equal(ours.delta / UNITS, plain.delta)
    assert torch.equal(ours.adversarial / UNITS, plain.adversarial)
    for name in ("weights", "losses", "fooled", "zero_gradient"):
        assert torch.equal(getattr(ours, name), getattr(plain, name)), name
    assert bool((plain.delta != 0).any())
    assert ours.settings["scale"]["shape"] == [6] and "scale" not in plain.settings


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "restarts": {"restarts": 2, "batch_size": 5},
    "rule that sees gradients": {"rule": orb.MinNorm() if hasattr(orb, "MinNorm") else orb.WorstCase()},
    "paper": {"preset": "paper"},
    "sign": {"direction": orb.Sign(), "stop_when_fooled": True},
}


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("options", OPTIONS)
def test_ensembles(p: float, options: str) -> None:
    threats = both(p, mask=torch.arange(6) != 1)
    plain, ours = (
        orb.attack_ensemble(models, x, Y, threat, steps=24, **OPTIONS[options])
        for models, x, threat in zip((MODELS, OTHERS), (X, X * UNITS), threats, strict=True)
    )
    same(ours, plain)


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("clip", ["image", "intersection"])
def test_groups_that_share_a_perturbation(p: float, clip: Any) -> None:
    groups = X.view(4, 3, 6)
    plain, ours = (
        orb.attack_universal(models, x, Y.view(4, 3), threat, steps=10, clip=clip)
        for models, x, threat in zip((MODELS, OTHERS), (groups, groups * UNITS), both(p), strict=True)
    )
    same(ours, plain)


@pytest.mark.parametrize("p", ORDERS)
def test_transformations(p: float) -> None:
    views = ({"flip": lambda x: x.flip(1), "half": lambda x: x / 2}, {
        "flip": lambda x: (x / UNITS).flip(1) * UNITS, "half": lambda x: x / 2})  # fmt: skip
    plain, ours = (
        orb.attack_transforms(models, x, Y, view, threat, steps=10)
        for models, x, view, threat in zip((MODELS, OTHERS), (X, X * UNITS), views, both(p), strict=True)
    )
    same(ours, plain)


def test_masks_for_each_example_in_batches_and_in_the_record() -> None:
    mask = torch.rand(12, 6, generator=torch.Generator().manual_seed(3)) < 0.5
    whole, parts = (
        orb.attack_ensemble(MODELS, X, Y, orb.Linf(0.3, mask=mask), steps=8, batch_size=size) for size in (12, 12)
    )
    cut = orb.attack_ensemble(MODELS, X, Y, orb.Linf(0.3, mask=mask), steps=8, batch_size=5)
    assert torch.equal(whole.delta, parts.delta)
    torch.testing.assert_close(cut.delta, whole.delta, rtol=0, atol=1e-5)
    assert not bool(whole.delta[~mask].any()) and bool(whole.delta[mask].any())
    other = orb.attack_ensemble(MODELS, X, Y, orb.Linf(0.3, mask=mask.flip(0)), steps=1)
    assert whole.settings["mask"] == other.settings["mask"]  # as many: the digest tells them apart
    assert whole.settings["mask_digest"] != other.settings["mask_digest"]


@pytest.mark.parametrize("make", [orb.Linf, orb.L2, orb.L1])
def test_without_ends_restarts_and_defaults_stay_finite_and_equal_those_of_a_wide_range(make: Any) -> None:
    found = [
        orb.attack_ensemble(OTHERS, X * UNITS, Y, make(0.3, bounds=bounds, scale=UNITS), steps=12, init="zero")
        for bounds in ((-inf, inf), (-(2.0**40), 2.0**40))
    ]
    torch.testing.assert_close(found[0].delta / UNITS, found[1].delta / UNITS, rtol=1e-4, atol=1e-5)
    noisy = orb.attack_ensemble(
        OTHERS, X * UNITS, Y, make(0.3, bounds=(-inf, inf), scale=UNITS), steps=0, init="normal", restarts=2
    )
    u = noisy.delta / UNITS
    order = {"Linf": inf, "L2": 2, "L1": 1}[make.__name__]
    reached = torch.linalg.vector_norm(u, order, dim=1)
    assert bool(noisy.adversarial.isfinite().all()) and bool((reached > 0.29).all())  # it fills the ball
    assert noisy.settings["bounds"] == ["-inf", "inf"]


@pytest.mark.parametrize("p", ORDERS)
def test_evaluations(p: float) -> None:
    plain, ours = (
        evaluation.evaluate_robustness(models["a"], x, Y, {"it": threat}, steps=10, attacks=STRONG[:2])
        for models, x, threat in zip((MODELS, OTHERS), (X, X * UNITS), both(p), strict=True)
    )
    assert torch.equal(ours.correct, plain.correct) and torch.equal(ours.margin, plain.margin)
    assert torch.equal(ours.delta["it"] / UNITS, plain.delta["it"])
    assert plain.union < plain.clean


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_smallest_perturbations(norm: Any) -> None:
    plain = evaluation.minimal_eps(MODELS, X, Y, norm, steps=20)
    ours = evaluation.minimal_eps(OTHERS, X * UNITS, Y, norm, steps=20, bounds=(0 * UNITS, UNITS), scale=UNITS)
    assert torch.equal(ours.distortion, plain.distortion) and torch.equal(ours.delta / UNITS, plain.delta)
    assert int(plain.found.sum()) > 0


def test_smallest_perturbations_by_carlini_and_wagner_and_without_ends() -> None:
    plain = evaluation.minimal_l2(MODELS["a"], X, Y, steps=20)
    ours = evaluation.minimal_l2(OTHERS["a"], X * UNITS, Y, steps=20, bounds=(0 * UNITS, UNITS), scale=UNITS)
    torch.testing.assert_close(ours.distortion, plain.distortion, rtol=1e-4, atol=1e-6)
    linear = nn.Linear(6, 2)
    x = torch.randn(12, 6, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        y, logits, slope = linear(x).argmax(1), linear(x), (linear.weight[0] - linear.weight[1]) * UNITS
    for norm, dual in (("linf", 1), ("l2", 2), ("l1", inf)):  # distance to a plane, in units: |margin| / dual norm
        exact = (logits[:, 0] - logits[:, 1]).abs() / torch.linalg.vector_norm(slope, dual)
        found = evaluation.minimal_eps(linear, x, y, norm, bounds=(-inf, inf), scale=UNITS, resolution=0.001)
        torch.testing.assert_close(found.distortion, exact, rtol=0.01, atol=0)
    torch.testing.assert_close(
        evaluation.minimal_l2(linear, x, y, bounds=(-inf, inf), scale=UNITS).distortion,
        (logits[:, 0] - logits[:, 1]).abs() / torch.linalg.vector_norm(slope), rtol=0.05, atol=0,
    )  # fmt: skip


@pytest.mark.parametrize("p", [inf, 2])
def test_one_perturbation_for_a_data_set(p: float) -> None:
    plain, ours = (
        universal.learn_universal(models, x, Y, threat, over="data", epochs=2, batch_size=4)
        for models, x, threat in zip((MODELS, OTHERS), (X, X * UNITS), both(p), strict=True)
    )
    assert torch.equal(ours.delta / UNITS, plain.delta) and bool(plain.delta.any())
    assert torch.equal(ours.apply(X * UNITS) / UNITS, plain.apply(X))
    scores = [universal.score_universal(m, x, Y, f).asr for m, x, f in
              ((MODELS, X, plain), (OTHERS, X * UNITS, ours))]  # fmt: skip
    assert scores[0] == scores[1]
    with pytest.raises(ValueError, match=r"^mask must be one for the data set, got shape \(12, 6\)"):
        universal.learn_universal(MODELS, X, Y, orb.Linf(0.1, mask=X > 0), over="data")


@pytest.mark.parametrize("persist", ["none", "all"])
def test_trainings(persist: Any) -> None:
    found = []
    for scaled in (False, True):
        model = network(5)
        net = Scaled(model) if scaled else model
        threats = [both(p)[scaled] for p in ORDERS]
        scheme = training.Scheme("minmax", threats, steps=3, persist=persist)
        x = X * UNITS if scaled else X
        training.fit(net, (x, Y), scheme, epochs=2, batch_size=6, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
        found.append(list(model.parameters()))
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=0 if persist == "none" else 1e-3)


def test_trainings_without_ends_and_what_they_refuse() -> None:
    for persist in ("none", "all"):
        threats = [orb.Linf(0.1, bounds=(-inf, inf), scale=UNITS), orb.L2(0.2, bounds=(-inf, inf), scale=UNITS)]
        scheme = training.Scheme("minmax", threats, steps=2, persist=persist)
        result = training.fit(Scaled(network(6)), (X * UNITS, Y), scheme, epochs=2, batch_size=6)
        assert all(bool(p.isfinite().all()) for p in result.model.parameters())
    training.fit(Scaled(network(6)), (X * UNITS, Y), training.Scheme("universal", threats[:1], steps=2), epochs=1)
    with pytest.raises(ValueError, match=r"^mask must be one for all examples of a training, got shape \(12, 6\)"):
        training.fit(network(6), (X, Y), training.Scheme("single", [orb.Linf(0.1, mask=X > 0)]), epochs=1)
    unlike = [training.Scheme("single", [t]).fingerprint() for t in (*both(2), orb.L2(RADII[2], scale=2.0))]
    assert len(set(unlike)) == 3


def test_the_paper_needs_one_finite_width(tmp_path: Path) -> None:
    for bounds, scale in (((-inf, inf), None), ((0 * UNITS, UNITS), None), ((0.0, inf), UNITS)):
        threat = orb.Linf(0.1, bounds=bounds, scale=scale)
        for call in (
            lambda t=threat: orb.attack_ensemble(OTHERS, X * UNITS, Y, t, preset="paper"),
            lambda t=threat: training.fit(
                OTHERS["a"], (X * UNITS, Y), training.Scheme("single", [t], preset="paper"), epochs=1,
                out=tmp_path / "run",
            ),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=r"^preset='paper' needs one finite width for the range of all feat"):
                call()
    assert not (tmp_path / "run").exists()  # nothing is left of what was refused
    endless = [orb.Linf(0.1, bounds=(-inf, inf))]
    for kind, share in (("universal", 0.5), ("single", 0.0)):  # which take no such steps
        scheme = training.Scheme(kind, endless, steps=1, preset="paper", adversarial_ratio=share)
        assert training.fit(network(6), (X * UNITS, Y), scheme, epochs=1).history


def test_threats_are_compared_in_their_units() -> None:
    x = X * UNITS
    ours = orb.Linf(0.1, (0 * UNITS, UNITS), scale=UNITS)
    assert bool(lies_inside(ours, orb.L2(0.3, (0 * UNITS, UNITS), scale=UNITS), x).all())  # 0.1 sqrt(6) < 0.3
    assert not bool(lies_inside(ours, orb.L2(0.3, (0 * UNITS, UNITS)), x).any())
    assert bool(lies_inside(orb.L0(3), orb.L0(3, unit="pixel"), X).all())
    assert not bool(lies_inside(orb.L0(3, unit="pixel"), orb.L0(5), X).any())
    assert same_threat(ours, orb.Linf(0.1, (0 * UNITS, UNITS.clone()), scale=UNITS.clone()))
    assert not same_threat(ours, orb.Linf(0.1, (0 * UNITS, UNITS)))
    with pytest.raises(ValueError, match=r"^threats must share their bounds, got"):
        evaluation.evaluate_robustness(MODELS["a"], X, Y, [orb.Linf(0.1), orb.L2(0.1, (torch.zeros(6), 1.0))])
    with pytest.raises(ValueError, match=r"^attacks='autoattack' needs one finite range for all features"):
        evaluation.evaluate_robustness(OTHERS["a"], x, Y, ours, attacks="autoattack")


def test_pixels_of_images_in_attack_evaluation_and_search() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 5))
    generator = torch.Generator().manual_seed(7)
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 4
    x = torch.rand(10, 3, 4, 4, generator=generator)
    with torch.no_grad():
        y = net(x).argmax(1)
    threat = orb.L0(2, unit="pixel")
    found = orb.attack_ensemble(net, x, y, threat, steps=20)
    used = (found.delta != 0).any(1).flatten(1).sum(1)
    assert int(used.max()) == 2 and int((found.delta != 0).flatten(1).sum(1).max()) > 2
    assert (
        found.settings["unit"] == "pixel" and "unit" not in orb.attack_ensemble(net, x, y, orb.L0(2), steps=1).settings
    )
    values = orb.attack_ensemble(net, x, y, orb.L0(2), steps=20)
    assert bool((found.losses < values.losses).all())  # of two pixels six values may change
    report = evaluation.evaluate_robustness(net, x, y, [orb.L0(2), threat], steps=10) if False else None
    named = {"values": orb.L0(2), "pixels": threat}
    report = evaluation.evaluate_robustness(net, x, y, named, steps=10, attacks=STRONG[:2])
    assert report.accuracy["pixels"] <= report.accuracy["values"]
    least = evaluation.minimal_eps(net, x, y, "l0", steps=20, unit="pixel")
    assert torch.equal(least.distortion, (least.delta != 0).any(1).flatten(1).sum(1).float())
    assert bool((least.distortion <= evaluation.minimal_eps(net, x, y, "l0", steps=20).distortion).all())
    scheme = training.Scheme("single", [threat], steps=2)
    deltas, _ = training.attack_batch(net, x, y, scheme)
    assert int((deltas[0] != 0).any(1).flatten(1).sum(1).max()) == 2


def test_a_set_of_ones_own_moves_in_units_and_stays_exact() -> None:
    """Whole numbers of the third feature, whose projection is ours: the steps are in units, the answers whole."""

    class Whole(orb.FeasibleSet):
        def project(self, delta: Tensor) -> Tensor:
            found = super().project(delta)
            found[:, 2] = found[:, 2].trunc()
            return found

        def contains(self, delta: Tensor, tol: float = 1e-6) -> Tensor:
            return super().contains(delta, tol) & (delta[:, 2] == delta[:, 2].round())

    class Table(orb.ThreatModel):
        def around(self, x: Tensor, *, shared: bool = False, clip: Any = "image") -> orb.FeasibleSet:
            plain = super().around(x, shared=shared, clip=clip)
            return Whole(plain.p, plain.eps, plain.lower, plain.upper, scale=plain.scale)

    scale = torch.tensor([1.0, 4.0, 300.0, 0.125, 0.007, 2.0])
    x = (X * UNITS).index_copy(1, torch.tensor([2]), (X[:, 2:3] * 512).round())
    for p in (inf, 2, 1):
        found = orb.attack_ensemble(
            OTHERS, x, Y, Table(p, RADII[p], (-1000.0, 1000.0), scale=scale), steps=24, restarts=2
        )
        assert torch.equal(found.delta[:, 2], found.delta[:, 2].round()) and bool(found.delta[:, 2].any())
        assert bool(
            orb.ThreatModel(p, RADII[p], (-1000.0, 1000.0), scale=scale).around(x).contains(found.delta, 1e-5).all()
        )


def test_the_search_among_answers_moves_in_units_and_other_ways_want_one_range() -> None:
    def asked(model: nn.Module) -> orb.BlackBox:
        return orb.BlackBox(lambda x: model(x).detach(), queries=40)

    plain, ours = (
        orb.attack_ensemble({"asked": asked(models["a"]), "b": models["b"]}, x, Y, threat)
        for models, x, threat in zip((MODELS, OTHERS), (X, X * UNITS), both(inf), strict=True)
    )
    assert torch.equal(ours.delta / UNITS, plain.delta) and bool(plain.delta.any())
    assert plain.queries is not None and ours.queries is not None and torch.equal(ours.queries, plain.queries)
    for bounds in ((-inf, inf), (torch.full((6,), -inf), inf)):
        free = orb.attack_ensemble(asked(OTHERS["a"]), X * UNITS, Y, orb.Linf(0.2, bounds, scale=UNITS))
        assert float((free.delta / UNITS).abs().max()) <= 0.2 * (1 + 1e-6) and bool(free.delta.any())
        with pytest.raises(
            ValueError, match=r"^bounds must be two finite numbers beside a BlackBox unless orb\.Search"
        ):
            orb.attack_ensemble(asked(OTHERS["a"]), X * UNITS, Y, orb.L2(0.2, bounds, scale=UNITS))


def test_a_plan_of_ordinary_threats_says_what_it_always_said() -> None:
    told = Plan.of("ensemble", orb.Linf(0.1), {}).describe()
    assert list(told)[:3] == ["norm", "eps", "bounds"] and told["bounds"] == [0.0, 1.0]
    assert not {"scale", "unit", "mask_digest"} & set(told)
