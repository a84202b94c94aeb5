"""Values of the transformations that move pixels, against SciPy, Pillow, kornia and TensorFlow's rules by hand."""

from __future__ import annotations

import kornia
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage

from omnirobust.core.draws import DrawKey, uniforms
from omnirobust.domains.transforms import (
    CentralCrop,
    FlipHorizontal,
    FlipVertical,
    ImageTransform,
    Rotate,
    Scale,
    Translate,
)

SHAPES = [(1, 8, 8), (3, 9, 13), (2, 14, 6)]


def batch(*shape: int, n: int = 2) -> torch.Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def by_plane(x: torch.Tensor, function) -> torch.Tensor:
    """Apply a function of NumPy planes to every plane."""
    planes = [torch.from_numpy(np.ascontiguousarray(function(p.numpy()))) for p in x.flatten(0, 1)]
    return torch.stack(planes).view(x.shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_flips_mirror(shape: tuple[int, int, int]) -> None:
    x = batch(*shape)
    assert torch.equal(FlipHorizontal()(x), by_plane(x, np.fliplr))
    assert torch.equal(FlipVertical()(x), by_plane(x, np.flipud))


def test_crop_by_hand() -> None:
    """Half of 4 x 4 keeps the 2 x 2 in the middle; centres at -1/4, 1/4, 3/4, 5/4 pixel of it, ends held."""
    x = torch.arange(16.0, dtype=torch.float64).view(1, 1, 4, 4)
    place = torch.tensor([0.0, 0.25, 0.75, 1.0], dtype=torch.float64)
    expected = 5 + 4 * place[:, None] + place
    assert torch.allclose(CentralCrop(0.5)(x)[0, 0], expected)


def test_crop_keeps_the_pixels_that_tensorflow_keeps() -> None:
    """Window of ``tf.image.central_crop``: int((size - size * ratio) / 2) off either side, seen in single pixels."""
    for size, ratio, start in [(32, 0.8, 3), (32, 0.6, 6), (32, 0.95, 0), (33, 0.5, 8), (10, 0.7, 1), (224, 0.875, 14)]:
        assert start == int((size - size * ratio) / 2)
        inside = torch.zeros(1, 1, size, size)
        inside[:, :, start : size - start, start : size - start] = 1
        assert float(CentralCrop(ratio)(inside).min()) == 1.0
        outside = torch.ones(1, 1, size, size)
        outside[:, :, start : size - start, start : size - start] = 0
        assert float(CentralCrop(ratio)(outside).max()) == 0.0
        corner = torch.zeros(1, 1, size, size)
        corner[:, :, start, size - 1 - start] = 1
        assert float(CentralCrop(ratio)(corner)[0, 0, 0, -1]) == 1.0


@pytest.mark.parametrize("ratio", [0.3, 0.6, 0.8, 0.99, 1.0])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 21, 40)])
def test_crop_resizes_as_pillow_and_torch_do(shape: tuple[int, int, int], ratio: float) -> None:
    x = batch(*shape)
    off = [int((size - size * ratio) / 2) for size in shape[1:]]
    cut = x[:, :, off[0] : shape[1] - off[0], off[1] : shape[2] - off[1]]
    got = CentralCrop(ratio)(x)
    assert torch.allclose(got, F.interpolate(cut, shape[1:], mode="bilinear", align_corners=False))
    size = (shape[2], shape[1])
    for plane, expected in zip(got.flatten(0, 1), cut.flatten(0, 1), strict=True):
        image = Image.fromarray(expected.numpy().astype(np.float32), mode="F").resize(size, Image.Resampling.BILINEAR)
        assert np.allclose(plane.numpy(), np.asarray(image), atol=1e-6)


@pytest.mark.parametrize("degrees", [30.0, -30.0, 7.5, 90.0, 200.0, 360.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_rotation_is_that_of_scipy(shape: tuple[int, int, int], degrees: float) -> None:
    x = batch(*shape)
    expected = by_plane(
        x, lambda p: ndimage.rotate(p, -degrees, reshape=False, order=1, mode="grid-constant", prefilter=False)
    )
    assert torch.allclose(Rotate(degrees)(x), expected, atol=1e-9)


def test_rotation_is_clockwise_to_the_eye() -> None:
    x = torch.zeros(1, 1, 9, 9)
    x[0, 0, 0, 4] = 1  # top, in the middle
    assert Rotate(90.0)(x).round()[0, 0].nonzero().tolist() == [[4, 8]]  # right, in the middle
    image = Image.fromarray(batch(1, 9, 9)[0, 0].numpy().astype(np.float32), mode="F")
    turned = np.asarray(image.transpose(Image.Transpose.ROTATE_270))  # Pillow turns against the clock
    assert np.allclose(Rotate(90.0)(torch.from_numpy(np.array(image))[None, None])[0, 0].numpy(), turned, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("right", "down"), [(2.0, -1.0), (0.5, 0.0), (-1.25, 3.5), (100.0, 0.0)])
def test_translation_is_that_of_scipy(shape: tuple[int, int, int], right: float, down: float) -> None:
    x = batch(*shape)
    expected = by_plane(x, lambda p: ndimage.shift(p, (down, right), order=1, mode="grid-constant", prefilter=False))
    assert torch.allclose(Translate(right, down)(x), expected, atol=1e-9)


def test_a_whole_shift_moves_pixels_unchanged() -> None:
    x = batch(3, 8, 9).float()
    moved = Translate(2.0, -1.0)(x)
    assert torch.equal(moved[:, :, :-1, 2:], x[:, :, 1:, :-2]) and float(moved[:, :, -1].abs().max()) == 0
    assert torch.equal(Translate(1.0)(x), Translate(1.0, 1.0)(x))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("factor", [0.6, 1.0, 1.5])
def test_scaling_is_that_of_scipy(shape: tuple[int, int, int], factor: float) -> None:
    x = batch(*shape)
    middle = (np.array(shape[1:]) - 1) / 2
    expected = by_plane(
        x,
        lambda p: ndimage.affine_transform(
            p, np.eye(2) / factor, middle - middle / factor, order=1, mode="grid-constant", prefilter=False
        ),
    )
    assert torch.allclose(Scale(factor)(x), expected, atol=1e-9)


def drawn_by_kornia(t: ImageTransform, x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Apply what the numbers mean, image by image, with kornia."""
    if isinstance(t, Rotate):
        return kornia.geometry.transform.rotate(x, -(60 * u[:, 0] - 20), align_corners=True)  # anticlockwise there
    if isinstance(t, Scale):
        return kornia.geometry.transform.scale(x, 0.5 + u, align_corners=True)
    return kornia.geometry.transform.translate(x, 8 * u - 4, align_corners=True)


@pytest.mark.parametrize("t", [Rotate((-20.0, 40.0)), Scale((0.5, 1.5)), Translate((-4.0, 4.0))], ids=str)
def test_every_image_has_its_own_amount(t: ImageTransform) -> None:
    x = batch(2, 17, 17, n=6)
    u = uniforms(DrawKey(1), torch.arange(6), t.numbers).double()
    if isinstance(t, Scale):
        u = u.expand(6, 2)
    got = t.apply(x, u[:, : t.numbers])
    assert torch.allclose(got, drawn_by_kornia(t, x, u), atol=1e-6)


@pytest.mark.parametrize(("make", "at"), [(Rotate, 45.0), (Scale, 0.5), (Translate, 3.0)])
def test_fill_enters_from_outside(make, at: float) -> None:
    x = torch.full((1, 2, 8, 8), 0.25)
    out = make(at, fill=0.75)(x)
    assert float(out[0, 0, 0, 0]) == 0.75 and float(out.min()) == pytest.approx(0.25)
    flat = make(at, fill=0.25)(x)
    assert torch.allclose(flat, x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CentralCrop(0.0), r"ratio must be a number or a range \(low, high\) in \[0.001, 1\], got 0.0"),
        (lambda: CentralCrop((0.6, 1.1)), "ratio must be"),
        (lambda: Scale(0.0), "factor must be"),
        (lambda: Scale(1.0, fill=float("nan")), "fill must be a number, got nan"),
        (lambda: Translate(1.0, (2.0, 1.0)), "down must be"),
        (lambda: Rotate(float("inf")), "degrees must be"),
    ],
)
def test_what_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
