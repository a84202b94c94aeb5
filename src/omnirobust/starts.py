"""Starting points, keyed so that a row's noise depends on nothing but (seed, restart, global row)."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from omnirobust._choices import Start as Start

NORMAL_STD = 0.1
"""Standard deviation of the normal start, in units of the data: that of the paper's released code."""


def row_generator(seed: int, restart: int, row: int) -> torch.Generator:
    """Return a CPU generator seeded by a hash of the three numbers."""
    digest = hashlib.blake2b(f"{seed}/{restart}/{row}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def normal_start(like: Tensor, seed: int, restart: int, first_row: int, std: float = NORMAL_STD) -> Tensor:
    """Draw normal noise shaped like ``like`` (B, *S), row i keyed by (seed, restart, first_row + i).

    Drawn in float32 on the CPU whatever the device and dtype of ``like``, so that all see the same noise.
    """
    noise = [
        torch.randn(like.shape[1:], generator=row_generator(seed, restart, first_row + i)) for i in range(len(like))
    ]
    stacked = torch.stack(noise) if noise else torch.empty(like.shape)
    return (stacked * std).to(like)
