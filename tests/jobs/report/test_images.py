import base64
from io import BytesIO

import numpy as np
import torch
from PIL import Image

from omnirobust.jobs.report.images import picture, signed_picture


def decode(uri: str) -> np.ndarray:
    kind, _, content = uri.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(BytesIO(base64.b64decode(content))))


def test_pictures_hold_the_pixels():
    levels = torch.randint(0, 256, (1, 6, 5))
    assert np.array_equal(decode(picture(levels / 255.0)), levels[0].numpy())
    colour = torch.randint(0, 256, (3, 6, 5))
    assert np.array_equal(decode(picture(colour / 255.0)), colour.permute(1, 2, 0).numpy())
    assert decode(picture(torch.tensor([[[-1.0, 0.0, 1.0]]]), (-1.0, 1.0))).tolist() == [[0, 128, 255]]


def test_signs_are_red_and_grey_and_nothing_is_white():
    delta = torch.tensor([[[0.2, -0.2, 0.0, 0.1]]])
    (plus, minus, none, half) = decode(signed_picture(delta))[0].astype(int)
    assert plus[0] > plus[2] + 100
    assert minus.max() < 100 and minus.max() - minus.min() < 20
    assert none.tolist() == [255, 255, 255]
    assert np.abs(half - (255 + plus) / 2).max() <= 1
    assert (decode(signed_picture(torch.zeros(1, 2, 2))) == 255).all()


def test_channels_are_summed_up_by_the_largest_change():
    delta = torch.zeros(3, 1, 2)
    delta[1, 0, 0], delta[2, 0, 1] = -0.5, 0.5
    colours = decode(signed_picture(delta))[0].astype(int)
    assert colours[0].max() < 100
    assert colours[1][0] > colours[1][2]
