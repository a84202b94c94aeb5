"""Bent images against SciPy's interpolation between nodes and between pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.interpolate import RegularGridInterpolator

from omnirobust.core.draws import DrawKey, normals_from, uniforms
from omnirobust.domains.transforms import Warp


@pytest.mark.parametrize(("shape", "nodes"), [((1, 8, 8), 4), ((3, 9, 13), 2), ((2, 14, 6), 5)])
def test_every_pixel_comes_from_where_the_nodes_say(shape, nodes):
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    u = uniforms(DrawKey(4), torch.arange(2), 2)
    out, n = Warp(1.3, nodes).apply(x, u), normals_from(u, 2 * nodes * nodes).double().view(2, 2, nodes, nodes)
    height, width = shape[1:]
    pixels = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1).astype(float)
    knots = (np.linspace(0, height - 1, nodes), np.linspace(0, width - 1, nodes))
    for image in range(2):
        right, down = (RegularGridInterpolator(knots, 1.3 * n[image, k].numpy())(pixels) for k in (0, 1))
        places = [pixels[..., 0] - down, pixels[..., 1] - right]
        for channel in range(shape[0]):
            want = ndimage.map_coordinates(x[image, channel].numpy(), places, order=1, mode="nearest")
            assert np.allclose(out[image, channel].numpy(), want, atol=1e-6)


def test_images_are_bent_apart_and_anew():
    x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).expand(3, 1, 8, 8)
    one = Warp(1.0).apply(x, uniforms(DrawKey(4), torch.arange(3), 2))
    two = Warp(1.0).apply(x, uniforms(DrawKey(4, step=1), torch.arange(3), 2))
    assert not torch.equal(one[0], one[1]) and not torch.equal(one, two)
    assert torch.allclose(Warp(0.0).apply(x, torch.rand(3, 2)), x, atol=1e-5)


def test_what_is_refused():
    with pytest.raises(ValueError, match="pixels must"):
        Warp(-1.0)
    with pytest.raises(ValueError, match="nodes must be >= 2, got 1"):
        Warp(1.0, 1)
