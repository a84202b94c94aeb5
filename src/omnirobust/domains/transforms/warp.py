"""A transformation that bends images: every pixel moves a little, and its neighbours along with it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from omnirobust.core.arguments import check_count
from omnirobust.core.draws import normals_from
from omnirobust.domains.transforms.base import Amount, Columns, ImageTransform, check_amount
from omnirobust.domains.transforms.geometry import along_axes


@dataclass(frozen=True)
class Warp(ImageTransform):
    """Shift the nodes of a grid over the image at random, and all pixels between them along. Always random.

    Each node is shifted by ``pixels`` n to the right and as much downwards, n ~ N(0, 1) apart; pixels move by linear
    interpolation between nodes, the outermost of which lie on the outermost pixels. Beyond the edges the outermost
    pixels go on.

    Args:
        pixels: standard deviation of a node's shift, >= 0.
        nodes: how many a side, >= 2.
    """

    short: ClassVar[str] = "warp"
    amounts: ClassVar[tuple[str, ...]] = ("pixels",)
    seeds: ClassVar[int] = 2

    pixels: Amount = 1.0
    nodes: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_amount("pixels", self.pixels, 0.0, inf)
        check_count("nodes", self.nodes, 2, whole=False)

    def _change(self, x: Tensor, columns: Columns) -> Tensor:
        pixels, n = columns.amount(self.pixels).view(-1, 1, 1, 1), int(self.nodes)
        shifts = normals_from(columns.take(2), 2 * n * n).view(-1, 2, n, n).to(x)
        rows, cols = (_between(size, n, x) for size in x.shape[2:])
        right, down = along_axes(shifts * pixels, rows, cols).unbind(1)
        height, width = x.shape[2:]
        row, col = (torch.arange(size, dtype=x.dtype, device=x.device) for size in x.shape[2:])
        # pixels take their value from where they are moved from; grid_sample measures from the centre, in halves
        across, along = (2 * (col - right) + 1) / width - 1, (2 * (row.unsqueeze(1) - down) + 1) / height - 1
        return F.grid_sample(x, torch.stack([across, along], 3), padding_mode="border", align_corners=False)


def _between(size: int, nodes: int, like: Tensor) -> Tensor:
    """Return the weights (1, size, nodes) of linear interpolation between evenly spread nodes."""
    places = torch.linspace(0, nodes - 1, size, dtype=like.dtype, device=like.device).unsqueeze(1)
    return (1 - (places - torch.arange(nodes, dtype=like.dtype, device=like.device)).abs()).clamp_min(0).unsqueeze(0)
