"""The search in squares: what it proposes, and that it keeps what lowers the losses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import omnirobust as orb
from omnirobust.core.draws import DrawKey
from omnirobust.core.search import chosen, first_sides


def test_a_square_of_the_size_asked_for_lies_in_every_image() -> None:
    squares = chosen(DrawKey(3, step=5), torch.arange(50), (2, 10, 12), 0.3)
    side = round((0.3 * 120) ** 0.5)
    for square in squares:
        rows, columns = square[0].any(1), square[0].any(0)
        assert int(rows.sum()) == int(columns.sum()) == side
        assert int(square.sum()) == 2 * side * side


def test_a_search_finds_the_corner_of_a_linear_loss() -> None:
    slope = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))

    def loss(delta: Tensor, rows: Tensor) -> Tensor:
        return (delta * slope[rows]).flatten(1).sum(1)

    threat = orb.Linf(0.1)
    found = orb.solve(
        orb.FunctionDomains({"f": loss}), threat.around(torch.full_like(slope, 0.5)), orb.Uniform(), steps=400,
        direction=orb.Search(share=0.05), keep="best",
    )  # fmt: skip
    assert torch.allclose(found.delta, -0.1 * slope.sign())


def test_other_norms_are_refused() -> None:
    with pytest.raises(ValueError, match="Search is for linf, got a set of norm l2"):
        orb.Search().start(orb.L2(1.0).around(torch.rand(1, 4)), None, 3)


def test_photographs_begin_with_stripes_and_all_else_with_the_middle() -> None:
    key, rows = DrawKey(1), torch.arange(3)
    x = torch.rand(3, 3, 4, 16, generator=torch.Generator().manual_seed(0))
    sides = first_sides(key, rows, orb.Linf(0.1).around(x)).sign()
    assert torch.equal(sides, sides[:, :, :1].expand_as(sides))
    assert len({tuple(row.tolist()) for row in sides[:, :, 0].flatten(0, 1)}) == 9
    for grey in (x[:, :1], x.flatten(1)):
        towards = first_sides(key, rows, orb.Linf(0.1).around(grey)).sign()
        assert torch.equal(towards, (0.5 - grey).sign())
