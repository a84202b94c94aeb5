"""Values of the transformations that leave pixels in place, against other libraries and closed forms."""

from __future__ import annotations

import kornia
import numpy as np
import pytest
import torch
from scipy import stats

from omnirobust.core.draws import DrawKey, uniforms
from omnirobust.domains.transforms import Brightness, Gamma, Identity, Noise


def batch(n: int = 4) -> torch.Tensor:
    return torch.rand(n, 3, 6, 7, generator=torch.Generator().manual_seed(1))


def test_identity_returns_what_it_is_given() -> None:
    x = batch()
    assert Identity()(x) is x


def test_brightness_adds_and_clips_only_where_bounds_say() -> None:
    x = batch()
    assert torch.allclose(Brightness(0.3)(x), kornia.enhance.adjust_brightness(x, 0.3, clip_output=False))
    assert torch.allclose(Brightness(0.3, bounds=(0.0, 1.0))(x), kornia.enhance.adjust_brightness(x, 0.3))
    assert float(Brightness(-0.3)(x).min()) < 0
    assert float(Brightness(-0.3, bounds=(-0.1, 2.0))(x).min()) == pytest.approx(-0.1)


@pytest.mark.parametrize("gamma", [0.4, 1.0, 1.3, 3.0])
def test_gamma_is_the_power(gamma: float) -> None:
    x = batch()
    assert torch.allclose(Gamma(gamma)(x), kornia.enhance.adjust_gamma(x, gamma), atol=1e-4)
    assert torch.allclose(Gamma(gamma)(x)[x > 1e-4], x[x > 1e-4] ** gamma, atol=1e-6)
    stretched = Gamma(gamma, bounds=(-1.0, 1.0))(2 * x - 1)
    assert torch.allclose(stretched, 2 * Gamma(gamma)(x) - 1, atol=1e-5)


@pytest.mark.parametrize("gamma", [0.2, 0.9, 1.0, 1.3])
def test_gamma_has_finite_gradients_in_the_dark(gamma: float) -> None:
    x = torch.tensor([-0.5, -1e-9, 0.0, 1e-30, 1e-5, 1e-4, 1e-3, 1.0, 1.5]).view(1, 1, 1, -1).requires_grad_()
    out = Gamma(gamma)(x)
    out.sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())
    values, slopes = out.flatten().tolist(), x.grad.flatten().tolist()
    assert values[:3] == pytest.approx([0.0] * 3, abs=1e-7) and values == sorted(values) and values[-2] == 1.0
    assert slopes[0] == 0 and all(s > 0 for s in slopes[2:])  # black pixels can still be brightened
    around = Gamma(gamma)(torch.tensor([1e-4, np.nextafter(1e-4, 1, dtype=np.float32)]).view(1, 1, 1, 2)).flatten()
    assert float(around[1] - around[0]) < 1e-6  # the straight line meets the curve


def test_noise_is_normal_and_every_pixel_and_row_has_its_own() -> None:
    t = Noise(0.2)
    u = uniforms(DrawKey(0), torch.arange(300), t.numbers)
    noise = t.apply(torch.zeros(300, 3, 5, 5), u) / 0.2
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 0.01
    pixels = noise.flatten(1).numpy()
    off_diagonal = np.corrcoef(pixels.T) - np.eye(75)
    assert (
        np.abs(off_diagonal).max() < 0.3 and np.abs(np.corrcoef(pixels[:-1].ravel(), pixels[1:].ravel())[0, 1]) < 0.02
    )
    x = batch(300)[:, :, :5, :5]
    assert torch.allclose(t.apply(x, u), x + 0.2 * noise)
    assert float(Noise(0.5, bounds=(0.0, 1.0)).apply(x, u).max()) == 1.0


def test_strength_of_noise_may_be_drawn() -> None:
    t = Noise((0.0, 0.4))
    u = uniforms(DrawKey(1), torch.arange(40), t.numbers)
    measured = t.apply(torch.zeros(40, 1, 50, 50), u).flatten(1).std(1)
    assert torch.allclose(measured, 0.4 * u[:, 2], atol=0.02)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gamma(0.0), r"gamma must be a number or a range \(low, high\) in \[0.001, 1000\], got 0.0"),
        (lambda: Gamma(1.3, bounds=(1.0, 0.0)), "bounds must be"),
        (lambda: Noise(-0.1), r"std must be a number or a range \(low, high\) >= 0, got -0.1"),
        (lambda: Noise(0.1, bounds=(0.0, 0.0)), "bounds must be a pair"),
    ],
)
def test_what_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
