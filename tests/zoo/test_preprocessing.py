"""The module in front of a model does what image libraries do, and gradients flow through it."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn

from omnirobust.zoo import Preprocessed, Preprocessing
from omnirobust.zoo.preprocessing import preprocessing_of_hf, preprocessing_of_timm

TIMM = {
    "input_size": (3, 28, 28), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "crop_pct": 0.875,
    "crop_mode": "center", "interpolation": "bicubic",
}  # fmt: skip
HF = {
    "do_resize": True, "size": {"shortest_edge": 30}, "resample": 2, "do_center_crop": True,
    "crop_size": {"height": 28, "width": 28}, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
    "image_mean": (0.5, 0.4, 0.3), "image_std": (0.2, 0.3, 0.4),
}  # fmt: skip


class Identity(nn.Module):
    def forward(self, x):
        return x


RESAMPLES = [("nearest", Image.NEAREST), ("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC)]


def resized(pixels, size, mode, cut=None):
    """Return what the module makes of pixels (H, W, 3), in levels of 255."""
    x = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None] / 255
    module = Preprocessed(Identity(), Preprocessing((0.0,) * 3, (1.0,) * 3, cut, size, mode))
    return module(x)[0].numpy().transpose(1, 2, 0) * 255


@pytest.mark.parametrize(("mode", "resample"), RESAMPLES)
@pytest.mark.parametrize("sides", [(20, 20), (50, 50), (40, 60), (61, 33)])
def test_resizing_and_cutting_are_those_of_an_image_library(mode, resample, sides) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*sides, 3), dtype=np.uint8)
    short = min(sides)
    goal = [32 if side == short else int(32 * side / short) for side in sides]
    picture = Image.fromarray(pixels).resize((goal[1], goal[0]), resample)
    top, left = round((goal[0] - 28) / 2), round((goal[1] - 28) / 2)
    wanted = np.asarray(picture)[top : top + 28, left : left + 28]
    assert np.abs(resized(pixels, 32, mode, (28, 28)) - wanted).max() <= 1.13  # see below


@pytest.mark.parametrize(("mode", "resample"), RESAMPLES)
@pytest.mark.parametrize("goal", [(224, 224), (37, 400), (600, 900), (427, 300)])
def test_photographs_are_resized_as_by_the_library_that_models_are_trained_with(mode, resample, goal) -> None:
    for photograph in load_sample_images().images:  # 427 x 640, of sharp edges: clamped once, 9 levels go wrong
        wanted = np.asarray(Image.fromarray(photograph).resize(goal[::-1], resample)).astype(int)
        found = resized(photograph, goal, mode)
        # Pillow rounds twice: half a level, and half a level times the taps' sum of absolute values, 1.25 for bicubic.
        assert np.abs(found - wanted).max() <= {"nearest": 1e-4, "bilinear": 1.001, "bicubic": 1.126}[mode]
        assert np.abs(found.round() - wanted).max() <= 1


def test_white_and_black_images_have_gradients_and_overshoot_has_none() -> None:
    module = Preprocessed(Identity(), Preprocessing((0.0,), (1.0,), None, (7, 9), "bicubic"))
    for level in (0.0, 1.0):
        x = torch.full((1, 1, 20, 20), level, requires_grad=True)
        (gradient,) = torch.autograd.grad(module(x).sum(), x)
        assert gradient.sum().item() == pytest.approx(63, rel=1e-4)  # each pixel is a mean of its sources
    edge = torch.zeros(1, 1, 4, 8)
    edge[..., 4:] = 1
    edge.requires_grad_()
    found = Preprocessed(Identity(), Preprocessing((0.0,), (1.0,), None, (4, 16), "bicubic"))(edge)
    over = (found >= 1 + 5e-6).nonzero()[0]
    assert torch.autograd.grad(found[tuple(over)], edge)[0].abs().max() == 0


def test_images_of_the_right_size_are_normalised_only_and_grey_ones_repeated() -> None:
    module = Preprocessed(Identity(), preprocessing_of_timm(TIMM))
    x = torch.rand(2, 1, 28, 28)
    for channel, (mean, std) in enumerate(zip(TIMM["mean"], TIMM["std"], strict=True)):
        assert torch.allclose(module(x)[:, channel], (x[:, 0] - mean) / std, atol=1e-6)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_gradients_are_those_of_finite_differences(mode) -> None:
    wanted = Preprocessing((0.4,), (0.3,), (5, 5), (6, 6), mode)
    module = Preprocessed(nn.Sequential(nn.Flatten(), nn.Tanh()), wanted)
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(module, (x,))


def test_timm_s_configuration_is_read() -> None:
    assert preprocessing_of_timm(TIMM) == Preprocessing((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), (28, 28), 32, "bicubic")
    squashed = preprocessing_of_timm(TIMM | {"crop_mode": "squash", "crop_pct": 1.0, "interpolation": "bilinear"})
    assert (squashed.resize, squashed.interpolation) == ((28, 28), "bilinear")
    with pytest.raises(ValueError, match="crop_mode must be center or squash, got 'border'"):
        preprocessing_of_timm(TIMM | {"crop_mode": "border"})


@pytest.mark.parametrize(
    ("changes", "size", "resize"),
    [
        ({}, (28, 28), 30),
        ({"do_center_crop": False}, None, 30),
        ({"do_center_crop": False, "size": {"height": 24, "width": 20}}, (24, 20), (24, 20)),
        ({"do_resize": False}, (28, 28), None),
        ({"do_center_crop": None, "image_processor_type": "ConvNextImageProcessor", "crop_pct": 0.75}, (30, 30), 40),
        ({"do_center_crop": None, "image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
         (384, 384), (384, 384)),
    ],
)  # fmt: skip
def test_sizes_of_hf_processors_are_read(changes, size, resize) -> None:
    found = preprocessing_of_hf(HF | changes)
    assert (found.size, found.resize, found.interpolation) == (size, resize, "bilinear")


@pytest.mark.parametrize(("number", "name"), [(0, "nearest"), (2, "bilinear"), (3, "bicubic"), (None, "bilinear")])
def test_the_resampling_of_hf_processors_is_read(number, name) -> None:
    assert preprocessing_of_hf(HF | {"resample": number}).interpolation == name


@pytest.mark.parametrize(
    ("changes", "of_pixels"),
    [
        ({}, lambda p: (p / 255 - 0.5) / 0.2),
        ({"do_normalize": False}, lambda p: p / 255),
        ({"do_rescale": False}, lambda p: (p - 0.5) / 0.2),
        ({"rescale_factor": 1 / 127.5, "rescale_offset": True}, lambda p: (p / 127.5 - 1 - 0.5) / 0.2),
        ({"include_top": True}, lambda p: (p / 255 - 0.5) / 0.2 / 0.2),
    ],
)
def test_what_hf_processors_make_of_pixels_is_made_of_images_in_0_1(changes, of_pixels) -> None:
    module = Preprocessed(Identity(), preprocessing_of_hf(HF | changes))
    pixels = torch.arange(256.0)[:, None, None, None].expand(-1, 3, 28, 28)
    assert torch.allclose(module(pixels / 255)[:, 0], of_pixels(pixels[:, 0]), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (((0.5,), (0.5, 0.5)), "std must have one value for each of mean, 1, got 2"),
        (((0.5,), (0.0,)), "std must be > 0, got 0.0"),
        (((0.5,), (0.5,), (0, 4)), "size and resize must be >= 1 pixel, got 0"),
        (((0.5,), (0.5,), None, 4, "lanczos"), "interpolation must be nearest, bilinear or bicubic, got 'lanczos'"),
    ],
)
def test_bad_settings(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing(*settings)


def test_images_of_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"x must be images \(B, 3 or 1, height, width\), got \(2, 4, 8, 8\)"):
        Preprocessed(Identity(), preprocessing_of_timm(TIMM))(torch.rand(2, 4, 8, 8))
