"""What holds of every transformation: gradients, shapes, dtypes, batch-mates, draws, and what is refused."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from omnirobust.core.draws import DrawKey, uniforms
from omnirobust.domains.transforms import (
    NAMES,
    Brightness,
    Chain,
    FlipHorizontal,
    ImageTransform,
    Rotate,
    Translate,
    named,
)

TEXTS = [
    *NAMES, "flh:p=0.8", "bri:-0.2..0.2", "bri:0.4:bounds=0..1", "gam:0.5..2", "crop:0.6..1", "rot:-30..30",
    "rot:-7:fill=0.5", "shift:-2..2", "shift:1.5:down=-0.5", "scale:0.7..1.4", "scale:1.3:fill=1", "noise:0..0.2",
    "blur:0.3..2", "warp:0.5..2:nodes=3", "jpeg:30..90", "rot:-20..20:p=0.5+bri:0..0.3+shift:-1..1",
]  # fmt: skip


def batch(n: int, *shape: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, *shape, generator=g, dtype=torch.float64) * 0.8 + 0.1


def drawn(t: ImageTransform, n: int, first: int = 0, step: int = 0) -> torch.Tensor:
    return uniforms(DrawKey(4, step=step), torch.arange(first, first + n), t.numbers)


@pytest.mark.parametrize("text", [t for t in TEXTS if "jpeg" not in t])  # its gradient is that of another function
def test_gradients_are_those_of_the_values(text: str) -> None:
    t = named(text)[1]
    x, u = batch(2, 2, 5, 4).requires_grad_(), drawn(t, 2)
    assert torch.autograd.gradcheck(lambda x: t.apply(x, u), (x,), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("shape", [(1, 7, 12), (3, 12, 7), (4, 8, 8)])
def test_images_of_any_shape_keep_it(text: str, shape: tuple[int, int, int]) -> None:
    t = named(text)[1]
    out = t.apply(batch(3, *shape), drawn(t, 3))
    assert out.shape == (3, *shape) and bool(out.isfinite().all())
    empty = torch.zeros(0, *shape)
    assert t.apply(empty, drawn(t, 0)).shape == empty.shape


@pytest.mark.parametrize("text", TEXTS)
def test_batch_mates_do_not_matter(text: str) -> None:
    t = named(text)[1]
    x = batch(6, 3, 8, 9).float()
    u = drawn(t, 6)
    whole = t.apply(x, u)
    for rows in ([0], [4, 1], [5, 4, 3, 2]):
        assert torch.allclose(t.apply(x[rows], u[rows]), whole[rows], atol=1e-6)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_the_exact_result_rounded(text: str, dtype: torch.dtype) -> None:
    t = named(text)[1]
    x, u = batch(3, 3, 8, 9).to(dtype), drawn(t, 3)
    out = t.apply(x, u)
    assert out.dtype == dtype
    exact = t.apply(x.double(), u)
    near = (out.double() - exact).abs() <= torch.finfo(dtype).eps * exact.abs() + 2e-5
    # rounding to a quality step may fall the other way
    assert float(near.double().mean()) > (0.9 if "jpeg" in text else 0.999)


@pytest.mark.parametrize(
    "text",
    ["ori", "rot:0", "crop:1", "scale:1", "shift:0", "bri:0", "gam:1", "noise:0", "blur:0", "flh:p=0", "crop:0.97..1"],
)
def test_nothing_to_do_changes_nothing(text: str) -> None:
    t = named(text)[1]
    x = batch(4, 3, 9, 14).float()
    assert torch.equal(t.apply(x, drawn(t, 4)), x)


def test_p_is_how_often_an_image_is_changed() -> None:
    t = FlipHorizontal(p=0.8)
    x = batch(1, 1, 2, 2).expand(5000, 1, 2, 2)
    out = t.apply(x, drawn(t, 5000))
    flipped = (out == x.flip(3)).flatten(1).all(1)
    assert bool((flipped | (out == x).flatten(1).all(1)).all())
    assert stats.binomtest(int(flipped.sum()), 5000, 0.8).pvalue > 0.01


def test_ranges_are_drawn_uniformly_and_apart() -> None:
    t = Chain((Brightness((-0.5, 0.1)), Brightness((0.0, 10.0), p=0.5)))
    u = drawn(t, 3000)
    assert u.shape[1] == t.numbers == 3
    shift = t.apply(torch.zeros(3000, 1, 1, 1), u).flatten()
    left_alone = shift <= 0.1
    expected = -0.5 + 0.6 * u[:, 0] + torch.where(u[:, 2] < 0.5, 10 * u[:, 1], 0)
    assert torch.allclose(shift, expected, atol=1e-5)
    assert stats.kstest(((shift[u[:, 2] >= 0.5] + 0.5) / 0.6).numpy(), "uniform").pvalue > 0.01
    assert stats.binomtest(int(left_alone.sum()), 3000, 0.5 + 0.5 * 0.035).pvalue > 0.001


def test_calling_draws_from_the_generator_given() -> None:
    t, x = Rotate((-90.0, 90.0)), batch(3, 1, 6, 6)
    a, b = (t(x, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(a, b) and not torch.equal(a, t(x, torch.Generator().manual_seed(5)))
    torch.manual_seed(1)
    c = t(x)
    torch.manual_seed(1)
    assert torch.equal(c, t(x))


def test_every_step_of_a_chain_has_draws_of_its_own() -> None:
    t = named("shift:-2..2+shift:-2..2:p=0.5+flh")[1]
    assert t.numbers == 2 + 3
    x, u = batch(4, 1, 7, 7), drawn(t, 4)
    one, two = Translate((-2.0, 2.0)), Translate((-2.0, 2.0), p=0.5)
    assert torch.equal(t.apply(x, u), two.apply(one.apply(x, u[:, :2]), u[:, 2:]).flip(3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FlipHorizontal(p=1.2), r"p must be a number in \[0, 1\], got 1.2"),
        (lambda: FlipHorizontal(p=(0.0, 1.0)), r"p must be a number in \[0, 1\]"),  # type: ignore[arg-type]
        (lambda: Rotate("30"), "degrees must be a number or a range"),  # type: ignore[arg-type]
        (lambda: Rotate((5.0, -5.0)), r"degrees must be a number or a range \(low, high\), got \(5.0, -5.0\)"),
        (lambda: Rotate(float("nan")), "degrees must be"),
        (lambda: Rotate((1.0, 2.0, 3.0)), "degrees must be"),  # type: ignore[arg-type]
        (lambda: Rotate(True), "degrees must be"),
        (lambda: Brightness(0.1, bounds=(1.0, 0.0)), "bounds must be"),
        (lambda: Brightness(0.1, bounds=(1.0, 1.0)), "bounds must be a pair"),
        (lambda: Chain(()), "steps must be a tuple of at least one"),
        (lambda: Chain((abs,)), "steps must be a tuple of at least one"),  # type: ignore[arg-type]
        (lambda: Rotate()(torch.zeros(2, 3, 4)), r"x must be float images of shape \(n, C, H, W\)"),
        (lambda: Rotate()(torch.zeros(2, 3, 4, 4).long()), "x must be float images"),
        (lambda: Rotate().apply(torch.zeros(2, 3, 4, 4), torch.zeros(2, 1)), r"u must have shape \(2, 0\), got"),
    ],
)  # fmt: skip
def test_what_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
