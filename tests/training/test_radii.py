"""A radius for each training example: against examples attacked one by one, each with its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import omnirobust as orb
from omnirobust.core.threat_models import L0, L1, L2, Linf, ThreatModel
from omnirobust.jobs.train_job import TrainingJob
from omnirobust.training import Scheme, attack_batch, fit
from omnirobust.training.accuracy import robust_accuracy_of
from omnirobust.training.attackers import PrivateAttacker
from omnirobust.training.batches import Batch, batches
from omnirobust.training.workers import Alone
from omnirobust.zoo.recipes import Recipe

N = 12
EPS = torch.linspace(0.0, 0.22, N, dtype=torch.float64)
OF_NORM = {"linf": Linf(EPS), "l2": L2(3 * EPS), "l1": L1(9 * EPS), "l0": L0(torch.arange(N) % 4)}


def problem() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.rand(N, 6, generator=g, dtype=torch.float64), torch.arange(N) % 3


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def at(threat: ThreatModel, row: int) -> ThreatModel:
    """The threat model of one example, with a number for its radius."""
    eps = threat.eps
    assert isinstance(eps, Tensor)
    return ThreatModel(threat.p, float(eps[row]), scale=threat.scale)


SCHEMES = [
    *(("single", (threat,), None) for threat in OF_NORM.values()),
    ("average", (OF_NORM["linf"], OF_NORM["l2"]), None),
    ("minmax", (OF_NORM["linf"], OF_NORM["l2"]), None),
    ("worst", (OF_NORM["l2"], OF_NORM["l1"]), None),
    ("minmax", (OF_NORM["linf"], OF_NORM["l2"]), "paper"),
    ("single", (ThreatModel(float("inf"), EPS, scale=torch.linspace(0.5, 2, 6).double()),), None),
]


@pytest.mark.parametrize(("kind", "threats", "preset"), SCHEMES, ids=lambda part: part if isinstance(part, str) else "")
def test_a_mini_batch_is_attacked_as_each_example_alone_with_its_own_radius(kind, threats, preset) -> None:
    x, y = problem()
    rows = torch.tensor([7, 0, 11, 3, 4])
    deltas, weights = attack_batch(
        network(), x[rows], y[rows], Scheme(kind, threats, steps=7, preset=preset), rows=rows, seed=5
    )
    for place, row in enumerate(rows.tolist()):
        scheme = Scheme(kind, tuple(at(threat, row) for threat in threats), steps=7, preset=preset)
        one = slice(row, row + 1)
        alone, shares = attack_batch(network(), x[one], y[one], scheme, rows=torch.tensor([row]), seed=5)
        for ours, theirs in zip(deltas, alone, strict=True):
            assert torch.allclose(ours[place], theirs[0], atol=1e-9), row
        assert torch.allclose(weights[place], shares[0], atol=1e-9)


def test_radii_go_by_the_number_of_the_example_whatever_the_order() -> None:
    x, y = problem()
    attacker = PrivateAttacker(network(), Scheme("single", (OF_NORM["linf"],), steps=10), 0, "fp32", Alone())
    wide = ThreatModel(float("inf"), EPS, bounds=(-9.0, 9.0))
    attacker.scheme = Scheme("single", (wide,), steps=10)
    for epoch, order in enumerate(([5, 2, 9, 0], [9, 11, 5, 1])):
        rows = torch.tensor(order)
        points = attacker.attack(Batch.whole(x[rows], y[rows], rows, known=True), epoch).points[0]
        reached = (points - x[rows]).abs().amax(1)
        assert torch.allclose(reached, EPS[rows], atol=1e-9)  # plain sign steps end at the border


def trained(threats: tuple[ThreatModel, ...], epochs: int = 3, data: object = None, **how) -> orb.training.FitResult:
    scheme = Scheme(how.pop("kind", "minmax"), threats, steps=4, persist=how.pop("persist", None))
    return fit(network(), data or problem(), scheme, epochs=epochs, batch_size=5, **how)  # pyright: ignore


def weights_of(result: orb.training.FitResult) -> Tensor:
    return torch.cat([p.detach().flatten() for p in result.model.parameters()])


@pytest.mark.parametrize("persist", ["none", "example", "all"])
def test_one_radius_for_all_said_for_each_trains_alike(persist: str) -> None:
    same = torch.full((N,), 0.1, dtype=torch.float64)
    each = trained((Linf(same), L2(5 * same)), persist=persist)
    once = trained((Linf(0.1), L2(0.5)), persist=persist)
    assert torch.allclose(weights_of(each), weights_of(once), atol=1e-9)
    assert each.weights is not None and once.weights is not None and torch.allclose(each.weights, once.weights)


def test_radii_of_zero_are_no_attack() -> None:
    none = torch.zeros(N, dtype=torch.float64)
    natural = fit(network(), problem(), Scheme(), epochs=3, batch_size=5)
    assert torch.allclose(weights_of(trained((Linf(none),), kind="single")), weights_of(natural), atol=1e-6)


class Numbered:
    """A loader of two mini-batches, with the numbers of their examples or without."""

    def __init__(self, numbers: list[int] | None) -> None:
        self.numbers = numbers

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        x, y = problem()
        for part in torch.arange(N).split(6):
            known = () if self.numbers is None else (torch.tensor(self.numbers)[part],)
            yield x[part], y[part], *known


def test_a_loader_must_number_its_examples_and_no_more_than_have_a_radius() -> None:
    fine = trained((OF_NORM["linf"],), kind="single", data=Numbered(list(range(N))))
    turned = trained((Linf(EPS.flip(0)),), kind="single", data=Numbered(list(reversed(range(N)))))
    assert fine.epochs == turned.epochs == 3
    with pytest.raises(ValueError, match=r"data must yield \(x, y, rows\).*where each has a radius of its own"):
        trained((OF_NORM["linf"],), kind="single", data=Numbered(None))
    with pytest.raises(ValueError, match="eps must have a radius for every example, got 12 and an example 12"):
        trained((OF_NORM["linf"],), kind="single", data=Numbered(list(range(1, N + 1))))


def test_other_numbers_than_of_radii_are_refused_before_anything_is_trained() -> None:
    with pytest.raises(ValueError, match="eps must have a radius for each of 12 examples, got 11"):
        trained((Linf(EPS[:-1]),), kind="single")
    x, y = problem()
    with pytest.raises(ValueError, match="eps must have a radius for every example, got 12 and an example -1"):
        attack_batch(network(), x[:1], y[:1], Scheme("single", (Linf(EPS),)), rows=torch.tensor([-1]))


def test_validation_is_judged_at_the_mean_and_that_is_said() -> None:
    g = torch.Generator().manual_seed(3)
    other = torch.rand(30, 6, generator=g, dtype=torch.float64), torch.arange(30) % 3
    found = trained((OF_NORM["linf"], L2(0.3)), validation=other)
    mean = Scheme("average", (Linf(float(EPS.mean())), L2(0.3)), steps=4)
    judged = robust_accuracy_of(found.model, batches("validation", other, "test", 512, None), mean, 0, "fp32")
    assert found.history[-1]["robust"] == judged
    told = "Validation was attacked at the mean of the radii of the training examples: linf:0.11 for linf:0..0.22."
    assert told in found.notes
    assert not any("mean of the radii" in note for note in trained((OF_NORM["linf"],), kind="single").notes)


def test_a_stopped_training_goes_on_with_the_same_radii_alone(tmp_path: Path) -> None:
    threats = (OF_NORM["linf"], OF_NORM["l2"])
    whole = trained(threats, epochs=4, persist="all")
    trained(threats, epochs=2, persist="all", out=tmp_path)
    again = trained(threats, epochs=4, persist="all", out=tmp_path)
    assert torch.equal(weights_of(whole), weights_of(again))
    others = (Linf(EPS.flip(0)), OF_NORM["l2"])
    with pytest.raises(ValueError, match="checkpoint"):
        trained(others, epochs=5, persist="all", out=tmp_path)


def test_a_job_takes_one_radius_for_all() -> None:
    with pytest.raises(ValueError, match="scheme of a job must have one radius for all examples"):
        TrainingJob("digits", Scheme("single", (Linf(EPS),)), Recipe(1), model="a")
