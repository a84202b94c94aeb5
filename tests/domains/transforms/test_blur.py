"""Blur against SciPy; JPEG against Pillow's, and its gradient against a transcription in NumPy."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import fft, ndimage

from omnirobust.core.draws import DrawKey, uniforms
from omnirobust.domains.transforms import Blur, Jpeg

LUMINANCE = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
    18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
CHROMINANCE = """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
    99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"""


@pytest.mark.parametrize("sigma", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("shape", [(1, 9, 9), (3, 7, 12)])
def test_blur_is_a_normalised_gaussian(shape: tuple[int, int, int], sigma: float) -> None:
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def smooth(values: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(values, (0, 0, sigma, sigma), mode="constant", truncate=50.0)

    expected = smooth(x.numpy()) / smooth(np.ones(x.shape))
    assert np.allclose(Blur(sigma)(x).numpy(), expected, atol=1e-7)


def test_blur_keeps_grey_grey_and_widths_may_be_drawn() -> None:
    t = Blur((0.0, 2.0))
    u = uniforms(DrawKey(0), torch.arange(5), 1)
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for row, out, number in zip(x, t.apply(x, u), u[:, 0].tolist(), strict=True):
        assert torch.allclose(out, Blur(2 * number)(row[None])[0], atol=1e-5)
    assert torch.allclose(t.apply(torch.full_like(x, 0.3), u), torch.full_like(x, 0.3))


def smooth_images(n: int, channels: int, size: int, seed: int = 0) -> torch.Tensor:
    """Images of whole 8-bit levels with some structure, in [0, 1]."""
    g = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.interpolate(
        torch.rand(n, channels, size // 3, size // 3, generator=g), size, mode="bicubic"
    )
    return (x.clamp(0, 1) * 255).round() / 255


def by_pillow(x: torch.Tensor, quality: int) -> torch.Tensor:
    levels = (x * 255).round().byte().movedim(0, -1).squeeze(-1).numpy()
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality, subsampling=0)
    decoded = torch.from_numpy(np.array(Image.open(file))).float() / 255
    return decoded.movedim(-1, 0) if decoded.ndim == 3 else decoded[None]


@pytest.mark.parametrize("quality", [5, 30, 49, 50, 75, 90, 100])
def test_grey_jpeg_is_that_of_pillow(quality: int) -> None:
    """But for its rounding to 8 bits, in nearly every block: coefficients next to a tie may round the other way."""
    x = smooth_images(6, 1, 32)
    expected = torch.stack([by_pillow(image, quality) for image in x])
    levels_off = (Jpeg(float(quality))(x) - expected).abs() * 255
    of_block = levels_off.view(6, 4, 8, 4, 8).amax((2, 4)).flatten()
    assert float((of_block < 0.6).float().mean()) > (0.6 if quality < 100 else 0.0)
    assert float(of_block.median()) < (0.6 if quality < 100 else 1.1)


@pytest.mark.parametrize("quality", [30, 50, 75, 90])
def test_coloured_jpeg_is_close_to_that_of_pillow(quality: int) -> None:
    """Pillow also rounds luminance and chrominance to 8 bits, so that more coefficients fall the other way."""
    x = smooth_images(6, 3, 32)
    expected = torch.stack([by_pillow(image, quality) for image in x])
    lost = (expected - x).square().mean().sqrt()
    assert float((Jpeg(float(quality))(x) - expected).square().mean().sqrt()) < 0.5 * float(lost)


def test_jpeg_takes_sides_that_are_no_multiple_of_eight() -> None:
    x = smooth_images(1, 1, 30)[:, :, :21]
    got, expected = Jpeg(90.0)(x), by_pillow(x[0], 90)
    assert float((got[0] - expected).abs().median()) * 255 < 0.6


def steps(text: str, quality: float) -> np.ndarray:
    table = np.array(text.split(), dtype=float).reshape(8, 8)
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip(np.floor((table * percent + 50) / 100), 1, 255)


def jpeg_by_hand(x: np.ndarray, quality: float, smooth: bool) -> np.ndarray:
    """One image (C, 8, 8) in [0, 1] through JPEG, with hard rounding or with Shin and Song's."""
    planes = x * 255
    if len(x) == 3:
        r, g, b = planes
        luma = 0.299 * r + 0.587 * g + 0.114 * b
        planes = np.stack([luma, 128 + 0.564 * (b - luma), 128 + 0.713 * (r - luma)])
    out = []
    for number, plane in enumerate(planes):
        q = steps(CHROMINANCE if number else LUMINANCE, quality)
        c = fft.dctn(plane - 128, norm="ortho") / q
        c = np.round(c) + (c - np.round(c)) ** 3 if smooth else np.round(c)
        out.append(fft.idctn(c * q, norm="ortho") + 128)
    if len(x) == 3:
        luma, blue, red = out
        r, b = luma + 1.402 * (red - 128), luma + 1.772 * (blue - 128)
        out = [r, (luma - 0.299 * r - 0.114 * b) / 0.587, b]
    return np.clip(np.stack(out), 0, 255) / 255


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [20.0, 80.0])
def test_jpeg_rounds_hard_and_has_the_gradient_of_the_smooth_rounding(channels: int, quality: float) -> None:
    g = torch.Generator().manual_seed(3)
    x = (torch.rand(1, channels, 8, 8, generator=g, dtype=torch.float64) * 0.5 + 0.25).requires_grad_()
    direction = torch.randn(channels, 8, 8, generator=g, dtype=torch.float64).numpy()
    out = Jpeg(quality)(x)
    plain = x.detach()[0].numpy()
    assert np.allclose(out.detach()[0].numpy(), jpeg_by_hand(plain, quality, smooth=False), atol=1e-3)
    out.backward(torch.from_numpy(direction)[None])
    assert x.grad is not None
    numeric = np.zeros(plain.shape)
    for at in np.ndindex(plain.shape):
        bump = np.zeros(plain.shape)
        bump[at] = 1e-6
        ends = [(jpeg_by_hand(plain + s * bump, quality, smooth=True) * direction).sum() for s in (1, -1)]
        numeric[at] = (ends[0] - ends[1]) / 2e-6
    assert np.allclose(x.grad[0].numpy(), numeric, atol=0.02 * np.abs(numeric).max())


def test_jpeg_on_another_range_and_with_drawn_quality() -> None:
    x = smooth_images(4, 3, 16)
    wide = Jpeg(60.0, bounds=(-1.0, 1.0))(2 * x - 1)
    assert torch.allclose(wide, 2 * Jpeg(60.0)(x) - 1, atol=1e-4)
    t = Jpeg((10.0, 95.0))
    u = uniforms(DrawKey(0), torch.arange(4), 1)
    for row, out, number in zip(x, t.apply(x, u), u[:, 0].tolist(), strict=True):
        assert torch.allclose(out, Jpeg(float(round(10 + 85 * number)))(row[None])[0], atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Blur(-1.0), "sigma must be a number or a range"),
        (lambda: Jpeg(0.0), r"quality must be a number or a range \(low, high\) in \[1, 100\], got 0.0"),
        (lambda: Jpeg(50.0, bounds=(0.0, 0.0)), "bounds must be a pair"),
    ],
)
def test_what_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
