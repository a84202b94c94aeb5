"""Threat models: the sets they make, checked against their definition point by point."""

from __future__ import annotations

from math import inf, nan

import pytest
import torch
from torch import Tensor

from omnirobust.core.projections import project_lp_box
from omnirobust.core.threat_models import L0, L1, L2, FeasibleSet, Linf, ThreatModel

MAKERS = [(Linf, inf, "linf"), (L2, 2, "l2"), (L1, 1, "l1"), (L0, 0, "l0")]
RADII = {inf: 0.2, 2: 1.5, 1: 4.0, 0: 6.0}
ORDERS = list(RADII)


def images(*shape: int, seed: int = 0) -> Tensor:
    gen = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=gen).mul(1.6).sub(0.3).clamp(0, 1)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def measure(delta: Tensor, p: float) -> list[float]:
    """Compute the norm of each row in plain Python."""
    rows = [[abs(v) for v in row] for row in delta.flatten(1).tolist()]
    if p == 0:
        return [float(sum(v > 0 for v in row)) for row in rows]
    return [max(row) if p == inf else sum(v**p for v in row) ** (1 / p) for row in rows]


@pytest.mark.parametrize(("make", "p", "name"), MAKERS)
def test_constructors_name_their_norm(make: type, p: float, name: str) -> None:
    mask = torch.ones(3, dtype=torch.bool)
    threat = make(0.5, (-1.0, 1.0), mask)
    assert (threat.p, threat.name, threat.eps, threat.bounds) == (p, name, 0.5, (-1.0, 1.0))
    assert threat.mask is mask
    assert make(0.5) == ThreatModel(p, 0.5)


@pytest.mark.parametrize("p", ORDERS)
def test_projection_stays_in_ball_and_range_and_equals_the_public_function(p: float) -> None:
    x, a = images(5, 1, 6, 6), noise(5, 1, 6, 6)
    feasible = ThreatModel(p, RADII[p]).around(x)
    delta = feasible.project(a)
    torch.testing.assert_close(delta, project_lp_box(a, p, RADII[p], -x, 1 - x), rtol=0, atol=1e-7)
    assert float((x + delta).min()) >= -1e-7
    assert float((x + delta).max()) <= 1 + 1e-7
    assert max(measure(delta, p)) <= RADII[p] * (1 + 1e-6)
    assert feasible.contains(delta).all()
    assert not feasible.contains(a).any()
    torch.testing.assert_close(feasible.norm(delta), torch.tensor(measure(delta, p)))
    assert feasible.shape == (5, 1, 6, 6)


@pytest.mark.parametrize("p", ORDERS)
def test_radius_per_row_survives_selection(p: float) -> None:
    x, a, eps = images(4, 9), noise(4, 9), torch.tensor([0.0, 0.1, 3.0, 50.0])
    feasible = ThreatModel(p, eps).around(x)
    delta = feasible.project(a)
    assert bool((feasible.norm(delta) <= eps * (1 + 1e-6)).all())
    assert torch.equal(feasible.radius(), eps)
    for rows in (torch.tensor([3, 1]), torch.tensor([False, True, False, True])):
        part = feasible.select(rows)
        assert torch.equal(part.radius(), eps[rows])
        torch.testing.assert_close(part.project(a[rows]), delta[rows], rtol=0, atol=1e-7)
    single = ThreatModel(p, 0.1).around(x).select(torch.tensor([2]))
    assert single.radius().tolist() == pytest.approx([0.1])


@pytest.mark.parametrize("p", ORDERS)
def test_mask_confines_the_change(p: float) -> None:
    x, mask = images(3, 2, 4, 4), torch.zeros(4, 4, dtype=torch.bool)
    mask[1:3, 2:] = True
    delta = ThreatModel(p, RADII[p], mask=mask).around(x).project(noise(3, 2, 4, 4))
    assert not delta[..., ~mask].any()
    assert bool((delta[..., mask] != 0).any())
    free = ThreatModel(p, RADII[p], mask=torch.tensor(True)).around(x).project(noise(3, 2, 4, 4))
    assert torch.equal(free, ThreatModel(p, RADII[p]).around(x).project(noise(3, 2, 4, 4)))


def test_contains_looks_at_ball_and_box_separately() -> None:
    feasible = L1(1.0).around(torch.tensor([[0.5, 0.0]]).expand(5, 2))
    cases = torch.tensor([[0.5, 0.5], [0.4, 0.61], [-0.5, 0.2], [0.1, -0.01], [0.0, 0.0]])
    assert feasible.contains(cases).tolist() == [True, False, True, False, True]
    assert feasible.contains(cases, tol=0.02).tolist() == [True] * 5
    count = L0(1.9).around(torch.full((2, 3), 0.5))
    assert count.contains(torch.tensor([[0.1, 0, 0], [0.1, 0.1, 0]]), tol=1.0).tolist() == [True, False]


@pytest.mark.parametrize("p", ORDERS)
def test_shared_intersection_keeps_every_image_in_range(p: float) -> None:
    x = torch.rand(3, 4, 1, 5, 5, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
    delta = ThreatModel(p, 40).around(x, shared=True, clip="intersection").project(4 * noise(3, 1, 5, 5))
    moved = x + delta[:, None]
    assert float(moved.min()) >= -1e-6
    assert float(moved.max()) <= 1 + 1e-6
    # As large as the range allows: some image of each group touches its end wherever delta is at the box.
    touches = ((moved < 1e-6) | (moved > 1 - 1e-6)).any(1)
    if p != 1:
        assert bool((touches.flatten(1).sum(1) > 5).all())


def test_shared_image_clip_is_limited_by_the_width_of_the_range() -> None:
    feasible = Linf(10.0, bounds=(-1.0, 2.0)).around(torch.zeros(2, 4, 3), shared=True)
    assert feasible.shape == (2, 3)
    assert torch.equal(feasible.project(torch.full((2, 3), 9.0)), torch.full((2, 3), 3.0))
    assert torch.equal(feasible.project(torch.full((2, 3), -9.0)), torch.full((2, 3), -3.0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("p", ORDERS)
def test_other_precisions_stay_feasible(p: float, dtype: torch.dtype) -> None:
    x, a = images(4, 20).to(dtype), noise(4, 20).to(dtype)
    eps = 6.0 if p == 0 else 0.3  # 0.3 is rounded up by bfloat16
    delta = ThreatModel(p, eps).around(x).project(a)
    assert delta.dtype == dtype
    assert max(measure(delta.double(), p)) <= eps * (1 + 1e-6)


def test_inputs_a_rounding_outside_the_range_are_taken() -> None:
    x = torch.tensor([[-5e-7, 1 + 5e-7, 0.5]])
    feasible = Linf(0.1).around(x)
    assert feasible.lower[0, 0] == 0
    assert feasible.upper[0, 1] == 0


def test_empty_batch() -> None:
    feasible = L2(1.0).around(torch.empty(0, 3, 4))
    assert feasible.project(torch.empty(0, 3, 4)).shape == (0, 3, 4)
    assert feasible.contains(torch.empty(0, 3, 4)).shape == (0,)


THREAT_ERRORS = [
    ({"p": 3, "eps": 1.0}, "p must be one of 0, 1, 2, inf, got 3"),
    ({"p": 2, "eps": -0.1}, r"eps must be >= 0, got -0\.1"),
    ({"p": 2, "eps": nan}, "eps must be >= 0, got nan"),
    ({"p": 2, "eps": torch.tensor([0.1, -1.0])}, r"eps must be >= 0, got -1\.0"),
    ({"p": 2, "eps": torch.ones(2, 2)}, r"eps must be a number or have shape \(B,\), got \(2, 2\)"),
    ({"p": 2, "eps": 1.0, "bounds": (1.0, 0.0)}, "bounds must be .* got"),
    ({"p": 2, "eps": 1.0, "bounds": (0.0, nan)}, "bounds must be"),
    ({"p": 2, "eps": 1.0, "mask": torch.ones(3)}, "mask must be a bool tensor, got torch.float32"),
]


@pytest.mark.parametrize(("settings", "message"), THREAT_ERRORS)
def test_bad_threat_models_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ThreatModel(**settings)


INPUT_ERRORS = [
    (torch.tensor([[-2.1, 2.6]]), {}, r"x must lie in bounds \[0\.0, 1\.0\], got values from -2\.1 to 2\.6; normalis"),
    (torch.tensor([[nan, 0.5]]), {}, "x must be finite"),
    (torch.zeros(2, 3, dtype=torch.uint8), {}, "x must be floating point, got torch.uint8"),
    (torch.tensor(0.5), {}, r"x must have shape \(B, \*S\), got \(\)"),
    (torch.zeros(3), {"shared": True}, r"x must have shape \(B, E, \*S\), got \(3,\)"),
    (torch.zeros(3, 0, 2), {"shared": True}, "x must hold at least one input a group"),
    (torch.zeros(3, 1, 2), {"shared": True, "clip": "none"}, "clip must be 'image' or 'intersection', got"),
]


@pytest.mark.parametrize(("x", "options", "message"), INPUT_ERRORS)
def test_bad_inputs_are_refused(x: Tensor, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        L2(1.0).around(x, **options)


def test_radius_mask_and_box_must_fit_the_inputs() -> None:
    with pytest.raises(ValueError, match=r"eps must be a number or have shape \(3,\), got \(2,\)"):
        L2(torch.ones(2)).around(torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"mask must broadcast to \(4,\), got \(3,\)"):
        L2(1.0, mask=torch.ones(3, dtype=torch.bool)).around(torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"mask must broadcast to \(3, 4\), got \(2, 4\)"):
        L2(1.0, mask=torch.ones(2, 4, dtype=torch.bool)).around(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="lower and upper must share a shape"):
        FeasibleSet(2, 1.0, torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="lower must be <= 0"):
        FeasibleSet(2, 1.0, torch.ones(2, 3), torch.ones(2, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": "0.1"}, r"eps must be a number or a tensor, got '0\.1' \(str\)"),
        ({"eps": None}, "eps must be a number or a tensor, got None"),
        ({"eps": [0.1, 0.2]}, "eps must be a number or a tensor, got .* \\(list\\)"),
        ({"eps": torch.ones(2).numpy()}, "eps must be a number or a tensor, got .* \\(ndarray\\)"),
        ({"eps": 1.0, "bounds": None}, r"bounds must be \(lo, hi\), got None"),
        ({"eps": 1.0, "bounds": ("0", "1")}, "bounds must be two numbers"),
        ({"eps": 1.0, "mask": [True]}, "mask must be a bool tensor or None, got list"),
    ],
)
def test_wrong_types_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        ThreatModel(2, **arguments)


@pytest.mark.parametrize("p", [0, 1, 2, inf])
def test_huge_radii_leave_the_data_range_and_infinite_ones_are_refused(p: float) -> None:
    x, far = torch.tensor([[0.25, 0.5]]), torch.tensor([[9.0, -9.0]])
    for eps in (1e30, 1e300, torch.tensor([1e30])):
        assert torch.equal(ThreatModel(p, eps).around(x).project(far), torch.tensor([[0.75, -0.5]]))
    with pytest.raises(ValueError, match="eps must be finite, got inf"):
        ThreatModel(p, inf)
    with pytest.raises(TypeError, match="x must be a tensor, got ndarray"):
        ThreatModel(p, 1.0).around(x.numpy())  # pyright: ignore[reportArgumentType]


def test_a_set_of_ones_own_stays_what_it_is():
    class Even(FeasibleSet):
        def project(self, delta: Tensor) -> Tensor:
            return super().project(delta).mean(1, keepdim=True).expand_as(delta)

    ball = L2(1.0).around(images(4, 6))
    even = Even(ball.p, torch.tensor([1.0, 2.0, 3.0, 4.0]), ball.lower, ball.upper)
    for few in (even.select(torch.tensor([3, 1])), even.select(torch.tensor([False, True, False, True])).scaled(2)):
        assert isinstance(few, Even)
        assert few.project(noise(2, 6)).std(1).max() < 1e-6
    assert even.select(torch.tensor([3, 1])).radius().tolist() == [4.0, 2.0]
    assert even.select(torch.tensor([3, 1])).scaled(2).radius().tolist() == [8.0, 4.0]
    wide = Linf(0.1).around(images(4, 6)).scaled(3)  # what is folded into its bounds is folded anew
    assert torch.equal(wide.project(noise(4, 6)), Linf(0.3).around(images(4, 6)).project(noise(4, 6)))
