"""What the pages on universal perturbations and patches show runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import omnirobust as orb

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("page", ["universal.md", "patches.md"])
def test_the_code_of_the_page_runs(page: str, models, x, y) -> None:
    space = {"orb": orb, "models": models, "x": x, "y": y}
    (piece,) = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(piece, page, "exec"), space)
    if page == "universal.md":
        assert space["found"].apply(x).shape == x.shape
        fooled = models["a"](space["found"].apply(x)).argmax(1) != y
        assert space["score"].asr == pytest.approx(float(fooled.double().mean()))
        assert [len(members) for members in space["product"].axes.values()] == [3, 2, len(y.unique())]
    else:
        assert space["patch"].shape == (1, 3, 3)
        assert bool(((space["patch"] >= 0) & (space["patch"] <= 1)).all())
        assert bool((space["found"].delta[:, :3] == 0).all())
        assert torch.equal(space["on_grey"][:, :, 3:, 3:], torch.full((9, 1, 3, 3), 0.5, dtype=x.dtype))
