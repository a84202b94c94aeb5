"""Starts lie in their sets and follow the row; steps have the sizes that the scheme says."""

import math

import pytest
import torch

from omnirobust.core.draws import DrawKey
from omnirobust.core.threat_models import L0, L1, L2, Linf, ThreatModel
from omnirobust.core.types import Evaluation
from omnirobust.training import Scheme
from omnirobust.training.inner_steps import drawn_seeds, row_seeds, starts, steppers

MASK = torch.zeros(1, 6, 6, dtype=torch.bool)
MASK[:, :3] = True
THREATS = (Linf(0.2), L2(1.0), L1(3.0), L0(5), Linf(0.1, mask=MASK), L2(0.0), L1(1e-3), Linf(0.3, (-1.0, 2.0)))


def images(count: int = 50, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_random_starts_are_feasible_and_spread(dtype: torch.dtype) -> None:
    x = images(dtype=dtype)
    feasible = [threat.around(x) for threat in THREATS]
    seeds = row_seeds(DrawKey(0), torch.arange(50), len(THREATS))
    made = starts(Scheme("average", THREATS), feasible, seeds)
    for threat, around, delta in zip(THREATS, feasible, made, strict=True):
        assert delta.dtype == dtype
        assert delta.shape == x.shape
        assert around.contains(delta).all()
        if float(threat.eps) > 0.01 and dtype != torch.bfloat16:
            sizes = around.norm(delta) / around.radius()
            assert sizes.max() > 0.85
            assert len(torch.unique(delta.flatten(1), dim=0)) == 50
    assert all((made[4] * ~MASK).abs().sum(dim=(1, 2, 3)) == 0)


def test_the_radius_of_ball_starts_is_uniform() -> None:
    x = torch.full((4000, 1, 4, 4), 0.5)
    scheme = Scheme("average", (L2(0.3), L1(0.3)))
    made = starts(scheme, [t.around(x) for t in scheme.threats], row_seeds(DrawKey(5), torch.arange(4000), 2))
    for p, delta in zip((2, 1), made, strict=True):
        share = torch.linalg.vector_norm(delta.flatten(1), ord=p, dim=1) / 0.3
        quantiles = torch.quantile(share, torch.tensor([0.1, 0.5, 0.9]))
        torch.testing.assert_close(quantiles, torch.tensor([0.1, 0.5, 0.9]), rtol=0, atol=0.03)
        assert delta.mean().abs() < 3e-4


def test_linf_starts_are_uniform_in_the_cube() -> None:
    x = torch.full((500, 1, 6, 6), 0.5)
    scheme = Scheme("average", (Linf(0.2), L0(36)))
    made = starts(scheme, [t.around(x) for t in scheme.threats], row_seeds(DrawKey(5), torch.arange(500), 2))
    for delta, width in zip(made, (0.2, 0.5), strict=True):
        inner = delta.abs() < width * 0.999
        quantiles = torch.quantile(delta[inner], torch.tensor([0.25, 0.5, 0.75]))
        torch.testing.assert_close(quantiles, width * torch.tensor([-0.5, 0, 0.5]), rtol=0, atol=0.02 * width)


def test_starts_are_keyed_by_row_epoch_and_threat() -> None:
    def seeds(rows: list[int], seed: int = 1, epoch: int = 2) -> list[torch.Tensor]:
        return row_seeds(DrawKey(seed, epoch), torch.tensor(rows), 2)

    a, b = seeds([5, 9, 700])
    assert not torch.equal(a, b)
    assert torch.equal(seeds([700])[1], b[2:])
    for other in ((1, 3), (0, 2)):
        assert not torch.equal(seeds([5, 9, 700], *other)[0], a)
    drawn = drawn_seeds(torch.Generator().manual_seed(0), 3, 2, torch.device("cpu"))
    assert [s.shape for s in drawn] == [(3, 2)] * 2


def test_zero_starts_are_zero() -> None:
    x = images()
    made = starts(Scheme("average", THREATS, start="zero"), [t.around(x) for t in THREATS], [])
    assert all(torch.equal(delta, torch.zeros_like(x)) for delta in made)


def travel(scheme: Scheme, p: float) -> float:
    """Return how far a constant gradient of one coordinate takes an attack that nothing stops."""
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    wide = ThreatModel(p, 1e9, (-1e9, 1e9)).around(x)
    (stepper,) = steppers(scheme, [wide])
    delta, up = x, Evaluation(torch.zeros(1, 1), None, (-torch.full_like(x, 3.0),))
    for t in range(1, scheme.steps + 1):
        delta = stepper.step(t, delta, torch.tensor([[0.5]]).double(), up, wide)
    return delta.item()


@pytest.mark.parametrize("threat", [Linf(0.2), L2(2.0)])
@pytest.mark.parametrize(("steps", "radii"), [(1, 1.25), (4, 1.25 * 2.5), (5, 3.0), (20, 2.625), (100, 2.525)])
def test_default_steps_fall_linearly_and_come_to_some_radii(threat: ThreatModel, steps: int, radii: float) -> None:
    scheme = Scheme("single", (threat,), steps)
    assert travel(scheme, threat.p) == pytest.approx(radii * float(threat.eps), rel=1e-9)


def test_given_and_printed_step_sizes() -> None:
    # the paper: alpha w_k times the raw gradient, here 0.5 and 3
    for threat, alpha in ((Linf(0.2), 1 / 6), (L2(2.0), 1 / 10), (L1(5.0), 1 / 4)):
        scheme = Scheme("single", (threat,), 4, preset="paper")
        assert travel(scheme, threat.p) == pytest.approx(4 * alpha * 0.5 * 3, rel=1e-9)
    assert travel(Scheme("single", (Linf(0.2),), 4, preset="paper", step_sizes=(2.0,)), math.inf) == pytest.approx(12)
    assert travel(Scheme("single", (L2(0.2),), 4, step_sizes=(2.0,)), 2) == pytest.approx(2 * 2.5)
