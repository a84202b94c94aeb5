"""Projections against oracles that share nothing with them.

Exact rational arithmetic over the breakpoints, long bisection, KKT conditions, cvxpy, brute force, closed forms.
"""

from __future__ import annotations

import itertools
from fractions import Fraction
from math import inf, nan, sqrt

import cvxpy as cp
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from omnirobust.core import _lp_roots as _lp_rows
from omnirobust.core.projections import (
    lp_box_unchecked,
    project_lp_box,
    project_simplex,
    row_norm,
    simplex_unchecked,
    toward_zero,
)

torch.set_num_threads(1)
CONVEX = (1, 2, inf)
ALL = (0, *CONVEX)


def bisect_oracle(a: Tensor, p: float, eps: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Halve the interval of the multiplier 200 times in float64; ``low`` is always feasible."""
    a, lower, upper, eps = a.double(), lower.double(), upper.double(), eps.double()[:, None]
    if p == inf:
        return torch.clamp(torch.clamp(a, lower, upper), -eps, eps)

    def point(multiplier: Tensor) -> Tensor:
        if p == 1:
            return torch.clamp(a.sign() * (a.abs() - multiplier).clamp_min(0), lower, upper)
        return torch.clamp(a * multiplier, lower, upper)

    end = torch.full_like(eps, 0.0 if p == 1 else 1.0)
    low, high = (a.abs().amax(1, keepdim=True), end) if p == 1 else (torch.zeros_like(eps), end)
    free = point(end).norm(p, dim=1, keepdim=True) <= eps
    for _ in range(200):
        middle = (low + high) / 2
        fits = point(middle).norm(p, dim=1, keepdim=True) <= eps
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return torch.where(free, point(end), point(low))


def exact_oracle(a: list[float], p: int, eps: float, lower: list[float], upper: list[float]) -> list[float]:
    """Solve one row of l1 or l2 in rational arithmetic, by trying every interval between breakpoints."""
    m = [abs(Fraction(v)) for v in a]
    b = [Fraction(u) if v > 0 else -Fraction(low) for v, low, u in zip(a, lower, upper, strict=True)]
    sign, radius = [1 if v > 0 else -1 for v in a], Fraction(eps)
    y = [min(v, w) for v, w in zip(m, b, strict=True)]
    if (sum(y) if p == 1 else sum(v * v for v in y)) > radius**p:
        y = _exact_l1(m, b, radius) if p == 1 else _exact_l2(m, b, radius)
    return [s * float(v) for s, v in zip(sign, y, strict=True)]


def _exact_l1(m: list[Fraction], b: list[Fraction], radius: Fraction) -> list[Fraction]:
    def at(lam: Fraction) -> list[Fraction]:
        return [min(max(v - lam, Fraction(0)), w) for v, w in zip(m, b, strict=True)]

    points = sorted({Fraction(0), *m, *(v - w for v, w in zip(m, b, strict=True) if v > w)})
    left = max(lam for lam in points if sum(at(lam)) > radius)
    right = min(lam for lam in points if sum(at(lam)) <= radius)
    high, low = sum(at(left)), sum(at(right))
    return at(left + (right - left) * (high - radius) / (high - low))


def _exact_l2(m: list[Fraction], b: list[Fraction], radius: Fraction) -> list[Fraction]:
    ratios = sorted({Fraction(0), Fraction(1), *((w / v) ** 2 for v, w in zip(m, b, strict=True) if v > 0)})

    def g(t: Fraction) -> Fraction:
        return sum((min(t * v * v, w * w) for v, w in zip(m, b, strict=True)), Fraction(0))

    left, right = max(t for t in ratios if g(t) <= radius**2), min(t for t in ratios if g(t) > radius**2)
    t = left + (right - left) * (radius**2 - g(left)) / (g(right) - g(left))
    root = _fraction_root(t)
    return [min(root * v, w) for v, w in zip(m, b, strict=True)]


def _fraction_root(t: Fraction) -> Fraction:
    """Square root to some 80 digits, by Newton's method on a scaled start."""
    if t == 0:
        return t
    shift = (t.numerator.bit_length() - t.denominator.bit_length()) // 2
    root = Fraction(2) ** shift * Fraction(sqrt(float(t / Fraction(4) ** shift)))
    for _ in range(3):
        root = (root + t / root) / 2
    return root


def problem(seed: int, B: int = 50, n: int = 37, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw points, radii and image-like boxes: a third of the pixels is at an end of the range."""
    gen = torch.Generator().manual_seed(seed)
    a = torch.randn(B, n, generator=gen, dtype=torch.float64) * scale
    x = torch.rand(B, n, generator=gen, dtype=torch.float64).mul(1.6).sub(0.3).clamp(0, 1)
    eps = torch.rand(B, generator=gen, dtype=torch.float64) ** 2 * 6
    return a, eps, -x, 1 - x


def assert_feasible(delta: Tensor, p: float, eps: Tensor, lower: Tensor, upper: Tensor) -> None:
    assert bool(((delta >= lower) & (delta <= upper)).all())
    allowed = eps.double().floor() if p == 0 else eps.double() * (1 + 1e-6)
    assert bool((row_norm(delta.double(), p) <= allowed).all())


@pytest.mark.parametrize("p", CONVEX)
@pytest.mark.parametrize("scale", [0.3, 1.0, 300.0])
def test_equals_long_bisection_in_both_precisions(p: float, scale: float) -> None:
    a, eps, lower, upper = problem(int(scale), scale=scale)
    got = project_lp_box(a, p, eps, lower, upper)
    torch.testing.assert_close(got, bisect_oracle(a, p, eps, lower, upper), rtol=0, atol=1e-10)
    narrow = [value.float() for value in (a, eps, lower, upper)]
    single = project_lp_box(narrow[0], p, *narrow[1:])
    expected = bisect_oracle(narrow[0], p, *narrow[1:])
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-5)
    assert_feasible(single, p, *narrow[1:])


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize(("B", "n", "radius"), [(300, 784, 0.02), (3, 60_000, 0.01), (40, 3072, 0.2)])
def test_image_sized_float32_equals_float64_bisection(p: int, B: int, n: int, radius: float) -> None:
    a, _, lower, upper = (value.float() for value in problem(n, B, n))
    eps = torch.linspace(0, 2, B) * radius * (n if p == 1 else n**0.5)
    got = project_lp_box(a, p, eps, lower, upper)
    torch.testing.assert_close(got.double(), bisect_oracle(a, p, eps, lower, upper), rtol=0, atol=1e-5)
    assert_feasible(got, p, eps, lower, upper)


HOSTILE: dict[str, tuple[list[float], float, list[float], list[float]]] = {
    "ties": ([1.0] * 6, 1.0, [-1.0] * 6, [1.0] * 6),
    "ties of both signs, some at the box": ([2, -2, 2, -2, 2, 2], 1.5, [-0.25] * 6, [0.25, 1, 0, 1, 1, 0.5]),
    "zeros": ([0, 0, 3, 0, -0.0, 1], 2.0, [-1] * 6, [1] * 6),
    "all zero": ([0] * 4, 1.0, [-1] * 4, [1] * 4),
    "huge": ([1e30, -1e30, 5e29, 1.0, 2e29, 0], 1.0, [-1] * 6, [1] * 6),
    "huge ties": ([1e30] * 5, 1.0, [-1] * 5, [1] * 5),
    "huge and open": ([1e30, -2e30, 1e25], 1e3, [-inf] * 3, [inf] * 3),
    "largest float": ([3e38, -3e38, 3e38], 2.0, [-1] * 3, [1] * 3),
    "huge radius": ([1e30, 2e30, -3e30], 1e29, [-1e35] * 3, [1e35] * 3),
    "tiny": ([1e-30, -2e-30, 3e-30], 1e-30, [-1] * 3, [1] * 3),
    "denormal": ([1e-40, -2e-40, 3e-40], 2e-40, [-1] * 3, [1] * 3),
    "tiny radius": ([0.3, -0.2, 5], 1e-25, [-1] * 3, [1] * 3),
    "closed box": ([1, 2, 3], 1.0, [0] * 3, [0] * 3),
    "closed where largest": ([100, 1, -1], 1.0, [-1, -1, -1], [0, 1, 1]),
    "closed on the side of a": ([1, -1, 0.5], 0.4, [-1, 0, -1], [0, 1, 1]),
    "one pixel": ([5], 0.3, [-1], [1]),
    "radius of the whole box": ([9, -9, 9], 1.5, [-0.5] * 3, [0.5] * 3),
    "just under the whole box": ([9, -9, 9, 1.25], 2.2499, [-0.5] * 4, [0.5, 0.5, 0.5, 1.0]),
    "mixed scales": ([1e8, 1, 1e-8, -1e4], 1.0, [-0.25] * 4, [0.125, 1, 1, 1]),
    "sharp threshold": ([1.5, *[1.0 + i * 2**-22 for i in range(40)]], 1.0, [-2] * 41, [2] * 41),
    "nearly saturated": ([7.0] * 30 + [1.0], 30**0.5 * 0.1 + 1e-4, [-0.1] * 31, [0.1] * 30 + [1.0]),
    "no radius": ([1, 2], 0.0, [-1] * 2, [1] * 2),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_rows_equal_rational_arithmetic(name: str, p: int, dtype: torch.dtype) -> None:
    values, eps, low, high = HOSTILE[name]
    a, lower, upper = (torch.tensor([v], dtype=torch.float64).to(dtype) for v in (values, low, high))
    radius = torch.tensor([eps], dtype=torch.float64).to(dtype)
    box = [[max(-1e40, v) for v in lower[0].tolist()], [min(1e40, v) for v in upper[0].tolist()]]
    expected = torch.tensor([exact_oracle(a[0].tolist(), p, radius.item(), *box)], dtype=torch.float64)
    got = project_lp_box(a, p, radius, lower, upper)
    size = max(1.0, float(expected.abs().max()))
    tolerance = (1e-5 if dtype == torch.float32 else 1e-10) * size
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=tolerance)
    assert_feasible(got, p, radius, lower, upper)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("excess", [-7e-7, -3e-7, 1e-7, 6e-7, 2e-6])
def test_float32_is_exact_where_the_ball_just_touches_the_box(p: int, excess: float) -> None:
    # All but one coordinate sit on the box, so that the one left must take up the whole difference.
    a = torch.full((1, 784), 5.0)
    a[0, -1] = 0.5
    norm = 783.5 if p == 1 else 783.25**0.5
    eps = torch.tensor([norm * (1 + excess)])
    expected = bisect_oracle(a, p, eps, torch.full_like(a, -1), torch.ones_like(a))
    got = project_lp_box(a, p, eps, -1.0, 1.0)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-5)
    assert torch.equal(project_lp_box(got, p, eps, -1.0, 1.0), got)


@pytest.mark.parametrize("p", ALL)
def test_hostile_rows_do_not_disturb_their_neighbours(p: float) -> None:
    a, _, lower, upper = (value.float() for value in problem(3, B=6, n=6))
    eps = torch.tensor([0.0, 1e-30, 1.0, 1e30, inf, 2.0])
    a[0], a[2], a[4, 0] = 1e30, 0, 1e-40
    together = project_lp_box(a, p, eps, lower, upper)
    alone = torch.cat([project_lp_box(a[i : i + 1], p, float(eps[i]), lower[i], upper[i]) for i in range(6)])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-7)
    assert_feasible(together, p, eps, lower, upper)
    assert torch.equal(together[3:5], a[3:5].clamp(lower[3:5], upper[3:5]))
    assert not together[0].any()


@pytest.mark.parametrize("p", [1, 2])
def test_kkt_conditions(p: int) -> None:
    a, eps, lower, upper = problem(11)
    d = project_lp_box(a, p, eps, lower, upper)
    pull = a - d  # must be multiplier * subgradient of the norm + normal of the box
    tight = row_norm(d, p) >= eps * (1 - 1e-12)
    free = (d > lower) & (d < upper) & (d != 0)
    share = torch.where(free, pull * d.sign() if p == 1 else pull / torch.where(free, d, 1), nan)
    multiplier = torch.where(tight & free.any(1), torch.nanmedian(share, 1).values, 0.0)
    assert bool((multiplier >= -1e-12).all())
    assert int((multiplier > 1e-3).sum()) > 20
    expected = multiplier[:, None] * (torch.sign(d) if p == 1 else d)
    rest = pull - expected
    assert float((rest * free).abs().max()) < 1e-9
    assert bool((rest[(d == upper) & (d > 0)] >= -1e-9).all())
    assert bool((rest[(d == lower) & (d < 0)] <= 1e-9).all())
    at_zero = (d == 0) & (lower < 0) & (upper > 0)
    assert bool((pull.abs() <= (multiplier[:, None] if p == 1 else 0) + 1e-9)[at_zero].all())


@pytest.mark.parametrize("p", [1, 2, inf])
def test_agrees_with_a_convex_solver(p: float) -> None:
    a, eps, lower, upper = problem(5, B=3, n=12)
    for i in range(3):
        d = cp.Variable(12)
        box = [d >= lower[i].numpy(), d <= upper[i].numpy()]
        ball = {
            1: cp.norm1(d) <= float(eps[i]),
            2: cp.sum_squares(d) <= float(eps[i]) ** 2,
            inf: cp.abs(d) <= float(eps[i]),
        }
        cp.Problem(cp.Minimize(cp.sum_squares(d - a[i].numpy())), [*box, ball[p]]).solve(solver=cp.CLARABEL)
        got = project_lp_box(a[i : i + 1], p, float(eps[i]), lower[i], upper[i])[0]
        torch.testing.assert_close(got, torch.as_tensor(d.value), rtol=0, atol=1e-4)


@pytest.mark.parametrize("count", range(9))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_l0_equals_brute_force(count: int, dtype: torch.dtype) -> None:
    a, _, lower, upper = (value.to(dtype) for value in problem(count, B=6, n=7))
    got = project_lp_box(a, 0, count + 0.7, lower, upper)
    best = torch.full((6,), inf, dtype=torch.float64)
    for kept in itertools.combinations(range(7), min(count, 7)):
        keep = torch.zeros(7, dtype=torch.bool)
        keep[list(kept)] = True
        candidate = torch.where(keep, a.clamp(lower, upper), 0)
        best = torch.minimum(best, (candidate.double() - a.double()).norm(dim=1))
    torch.testing.assert_close((got.double() - a.double()).norm(dim=1), best, rtol=0, atol=1e-12)
    assert int((got != 0).sum(1).max()) <= count


def test_l0_breaks_ties_by_the_lowest_index_with_equal_and_with_different_counts() -> None:
    a, wide = torch.ones(3, 5), torch.full((3, 5), 4.0)
    a[1, 4] = 3
    expected = torch.tensor([[1.0, 1, 0, 0, 0], [1, 0, 0, 0, 3], [1, 1, 0, 0, 0]])
    assert torch.equal(project_lp_box(a, 0, 2, -wide, wide), expected)
    expected[2] = torch.tensor([1.0, 1, 1, 1, 0])
    assert torch.equal(project_lp_box(a, 0, torch.tensor([2.0, 2.9, 4.0]), -wide, wide), expected)


def test_l0_prefers_the_gain_that_the_box_leaves() -> None:
    # Clipped to 0.1, the larger value gains 0.1 * (2 * 3 - 0.1) = 0.59; the smaller one gains 0.81.
    got = project_lp_box(torch.tensor([[3.0, 0.9]]), 0, 1, -1.0, torch.tensor([0.1, 1.0]))
    assert torch.equal(got, torch.tensor([[0.0, 0.9]]))
    huge = project_lp_box(torch.tensor([[1e30, 2e30, 3e38]]), 0, 1, -inf, torch.tensor([inf, inf, 0.0]))
    assert torch.equal(huge, torch.tensor([[0.0, 2e30, 0.0]]))
    tiny = project_lp_box(torch.tensor([[1e-200, 2e-200]], dtype=torch.float64), 0, 1, -inf, inf)
    assert tiny.tolist() == [[0.0, 2e-200]]


finite = st.floats(-4, 4, width=32)
rows = st.lists(st.tuples(finite, finite, st.floats(0, 2, width=32), st.floats(0, 2, width=32)), min_size=1, max_size=9)


def _unpack(data: list[tuple[float, float, float, float]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a, other, low, high = torch.tensor(data, dtype=torch.float64).T.unsqueeze(1)
    return a, other, -low, high


@pytest.mark.parametrize("p", ALL)
@settings(max_examples=60, deadline=None)
@given(data=rows, eps=st.floats(0, 6, width=32))
def test_idempotent_feasible_and_deaf_to_order(p: float, data: list, eps: float) -> None:
    a, _, lower, upper = _unpack(data)
    once = project_lp_box(a, p, eps, lower, upper)
    assert_feasible(once, p, torch.tensor([eps]), lower, upper)
    torch.testing.assert_close(project_lp_box(once, p, eps, lower, upper), once, rtol=0, atol=1e-12)
    single = project_lp_box(a.float(), p, eps, lower.float(), upper.float())
    assert torch.equal(project_lp_box(single, p, eps, lower.float(), upper.float()), single)
    if p != 0:  # among equal gains l0 keeps the lowest index, which depends on the order
        back = project_lp_box(a.flip(1), p, eps, lower.flip(1), upper.flip(1)).flip(1)
        torch.testing.assert_close(back, once, rtol=0, atol=1e-10)


@pytest.mark.parametrize("p", CONVEX)
@settings(max_examples=60, deadline=None)
@given(data=rows, eps=st.floats(0, 6, width=32), scale=st.sampled_from([2.0**-20, 3.0, 2.0**30]))
def test_non_expansive_and_homogeneous(p: float, data: list, eps: float, scale: float) -> None:
    a, b, lower, upper = _unpack(data)
    one, two = (project_lp_box(v, p, eps, lower, upper) for v in (a, b))
    assert float((one - two).norm()) <= float((a - b).norm()) + 1e-9
    scaled = project_lp_box(a * scale, p, eps * scale, lower * scale, upper * scale)
    torch.testing.assert_close(scaled / scale, one, rtol=0, atol=1e-9)


@pytest.mark.parametrize("p", [1, 2])
@settings(max_examples=80, deadline=None)
@given(data=rows, eps=st.floats(0, 6, width=32))
def test_drawn_rows_equal_rational_arithmetic(p: int, data: list, eps: float) -> None:
    a, _, lower, upper = _unpack(data)
    expected = exact_oracle(a[0].tolist(), p, eps, lower[0].tolist(), upper[0].tolist())
    got = project_lp_box(a, p, eps, lower, upper)[0]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("p", ALL)
def test_low_precision_is_feasible_and_nearly_exact(p: float, dtype: torch.dtype) -> None:
    a, eps, lower, upper = (value.to(dtype) for value in problem(8))
    got = project_lp_box(a, p, eps, lower, upper)
    wide = project_lp_box(a.float(), p, eps.float(), lower.float(), upper.float())
    assert got.dtype == dtype
    assert_feasible(got.float(), p, eps.float(), lower.float(), upper.float())
    torch.testing.assert_close(got.float(), wide, rtol=2 * torch.finfo(dtype).eps, atol=1e-7)
    assert bool((got.float().abs() <= wide.abs()).all())


def test_toward_zero_never_grows() -> None:
    values = torch.tensor([0.3, -0.3, 1.0, -1.0, 0.0, 1e-9, -1e-9, 65519.0])
    for dtype in (torch.bfloat16, torch.float16):
        narrow = toward_zero(values, dtype).float()
        assert bool((narrow.abs() <= values.abs()).all())
        assert bool(((narrow - values).abs() <= torch.finfo(dtype).eps * values.abs() + 6e-8).all())


@pytest.mark.parametrize("p", ALL)
def test_shapes_numbers_and_layouts(p: float) -> None:
    a = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    kept = a.clone()
    got = project_lp_box(a, p, 3, -0.5, 0.75)
    full = project_lp_box(a, p, torch.full((4,), 3.0), torch.full_like(a, -0.5), torch.full_like(a, 0.75))
    assert torch.equal(got, full)
    assert torch.equal(a, kept)
    channels_last = project_lp_box(a.contiguous(memory_format=torch.channels_last), p, 3, -0.5, 0.75)
    assert torch.equal(channels_last, got)
    for shape in [(0, 3, 4), (2, 0), (1, 1), (3,)]:
        assert project_lp_box(torch.ones(shape), p, 0.5, -1.0, 1.0).shape == shape
    assert project_lp_box(torch.ones(2, 3, requires_grad=True), p, 1, -1.0, 1.0).requires_grad is False


A = torch.zeros(2, 3)
ERRORS: list[tuple[str, tuple, str]] = [
    ("negative eps", (A, 2, -0.1, -1.0, 1.0), r"eps must be >= 0, got -0\.1"),
    ("one negative eps", (A, 2, torch.tensor([1.0, -2.0]), -1.0, 1.0), r"eps must be >= 0, got -2\.0"),
    ("NaN eps", (A, 2, nan, -1.0, 1.0), "eps must be >= 0, got nan"),
    ("shape of eps", (A, 2, torch.ones(3), -1.0, 1.0), r"eps must be a number or have shape \(2,\), got \(3,\)"),
    ("another p", (A, 3, 1.0, -1.0, 1.0), "p must be one of 0, 1, 2, inf, got 3"),
    ("NaN p", (A, nan, 1.0, -1.0, 1.0), "p must be one of"),
    ("NaN a", (torch.tensor([[nan, 1.0]]), 1, 1.0, -1.0, 1.0), "a must be finite, got nan"),
    ("infinite a", (torch.tensor([[inf, 1.0]]), 1, 1.0, -1.0, 1.0), "a must be finite, got inf"),
    ("integer a", (torch.ones(2, 3, dtype=torch.int64), 1, 1.0, -1, 1), "a must be a floating point tensor, got"),
    ("a list", ([1.0], 1, 1.0, -1, 1), "a must be a floating point tensor, got list"),
    ("a scalar", (torch.tensor(1.0), 1, 1.0, -1, 1), r"a must have shape \(B, \*S\)"),
    ("positive lower", (A, 1, 1.0, 0.1, 1.0), r"lower must be <= 0, got 0\.1"),
    ("negative upper", (A, 1, 1.0, -1.0, torch.tensor([1.0, -0.5, 1.0])), r"upper must be >= 0, got -0\.5"),
    ("NaN lower", (A, 1, 1.0, nan, 1.0), "lower must be <= 0, got nan"),
    ("NaN upper", (A, 1, 1.0, -1.0, torch.full((2, 3), nan)), "upper must be >= 0, got nan"),
    ("shape of lower", (A, 1, 1.0, -torch.ones(2), 1.0), r"lower must broadcast to \(2, 3\), got \(2,\)"),
    ("larger upper", (A, 1, 1.0, -1.0, torch.ones(4, 2, 3)), r"upper must broadcast to \(2, 3\), got \(4, 2, 3\)"),
]


@pytest.mark.parametrize(("arguments", "message"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS])
def test_bad_arguments_are_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        project_lp_box(*arguments)


@pytest.mark.parametrize("K", [1, 2, 3, 7, 16, 17, 40])
def test_simplex_equals_long_bisection(K: int) -> None:
    gen = torch.Generator().manual_seed(K)
    v = torch.randn(200, K, generator=gen, dtype=torch.float64) * 10 ** torch.linspace(-3, 3, 200)[:, None].double()
    low, high = v.amin(1, keepdim=True) - 1, v.amax(1, keepdim=True)
    for _ in range(200):
        middle = (low + high) / 2
        over = (v - middle).clamp_min(0).sum(1, keepdim=True) > 1
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    torch.testing.assert_close(project_simplex(v), (v - high).clamp_min(0), rtol=0, atol=1e-10)
    single = project_simplex(v.float())
    torch.testing.assert_close(single.sum(1), torch.ones(200), rtol=0, atol=2e-6)


def test_simplex_by_hand_ties_and_extremes() -> None:
    cases = [
        ([0.2, 0.4], [0.4, 0.6]),
        ([5.0, 0.0], [1.0, 0.0]),
        ([7.0] * 4, [0.25] * 4),
        ([1e30, 1e30], [0.5, 0.5]),
        ([3e38, -3e38], [1.0, 0.0]),
        ([-1e30, -1e30, 0.0], [0.0, 0.0, 1.0]),
        ([0.25, 0.75], [0.25, 0.75]),
        ([3.0], [1.0]),
    ]
    for values, expected in cases:
        torch.testing.assert_close(project_simplex(torch.tensor(values)), torch.tensor(expected))


@settings(max_examples=60, deadline=None)
@given(v=st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=20), shift=st.floats(-3, 3, width=32))
def test_simplex_properties(v: list[float], shift: float) -> None:
    point = torch.tensor(v, dtype=torch.float64)
    w = project_simplex(point)
    assert bool((w >= 0).all())
    assert abs(float(w.sum()) - 1) < 1e-12
    torch.testing.assert_close(project_simplex(w), w, rtol=0, atol=1e-12)
    torch.testing.assert_close(project_simplex(point + shift), w, rtol=0, atol=1e-12)
    # The obtuse angle condition at the vertices characterises the projection.
    assert float((point - w).max() - (point - w) @ w) <= 1e-9 * (1 + float(point.abs().max()))


@pytest.mark.parametrize("shape", [(200, 1), (1, 5), (4, 3), (2, 20), (5,)])
def test_simplex_leaves_its_argument_alone(shape: tuple[int, ...]) -> None:
    v = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    kept = v.clone()
    project_simplex(v)
    assert torch.equal(v, kept)


def test_simplex_shapes_low_precision_and_errors() -> None:
    v = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(project_simplex(v)[1, 2], project_simplex(v[1, 2]))
    assert project_simplex(torch.empty(0, 4)).shape == (0, 4)
    assert project_simplex(v.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(simplex_unchecked(v.half()).float(), project_simplex(v), rtol=0, atol=1e-3)
    for bad, message in [
        (torch.empty(3, 0), r"v must have shape \(\.\.\., K\) with K >= 1"),
        (torch.tensor(1.0), "v must have shape"),
        (torch.ones(3, dtype=torch.int64), "v must be a floating point tensor"),
        (torch.tensor([1.0, nan]), "v must be finite, got nan"),
    ]:
        with pytest.raises(ValueError, match=message):
            project_simplex(bad)


def test_unchecked_is_the_same_function() -> None:
    a, eps, lower, upper = problem(2)
    for p in ALL:
        assert torch.equal(lp_box_unchecked(a, p, eps, lower, upper), project_lp_box(a, p, eps, lower, upper))


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("free", [0.2, 0.35, 0.6, 0.85])
def test_float32_is_exact_where_almost_all_of_the_norm_sits_on_the_box(p: int, free: float) -> None:
    # The sums are some hundreds: their rounding must not reach the one coordinate that is free.
    a = torch.full((20, 784), 50.0)
    cap = torch.rand(20, 784, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.1
    a[:, -1], cap[:, -1] = 1.0, 1.0
    eps = (((cap[:, :-1].double() ** p).sum(1) + free**p) ** (1 / p)).float()
    got = project_lp_box(a, p, eps, -cap, cap)
    torch.testing.assert_close(got.double(), bisect_oracle(a, p, eps, -cap, cap), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p", [1, 2])
def test_ordinary_rows_need_no_exact_search(p: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    exactly = _lp_rows._solve_exactly

    def counting(a: Tensor, *rest) -> Tensor:
        sent.append(len(a))
        return exactly(a, *rest)

    monkeypatch.setattr(_lp_rows, "_solve_exactly", counting)
    for scale in (0.3, 3.0):
        a, _, lower, upper = (value.to(dtype) for value in problem(4, 200, 784, scale))
        lp_box_unchecked(a, p, 0.04 * (784 if p == 1 else 28), lower, upper)
    assert sum(sent) <= 2  # of 400
    lp_box_unchecked(a, p, 1e-30 if dtype == torch.float32 else 1e-130, lower, upper)
    assert sum(sent) >= 200
