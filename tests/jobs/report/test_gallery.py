import base64
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omnirobust.jobs import AttackRecord
from omnirobust.jobs.folder import RunFolder
from omnirobust.jobs.report.gallery import choose, examples


def decode(uri: str) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_every_transformation_has_a_line_with_every_model(transformed):
    table = transformed.examples
    for example in examples(transformed, 6):
        row = example.row - 5
        assert example.verdicts == ()
        assert [seen.transform for seen in example.seen] == ["flh", "rot:-30..30", "dim"]
        for seen in example.seen:
            for model, cell in zip(("a", "c"), seen.cells, strict=True):
                assert cell.share == table[f"min-max.success.{model}/{seen.transform}"][row]
                assert cell.fooled == (cell.share == 1)
                assert cell.weight == table[f"min-max.weight.{model}/{seen.transform}"][row]
        weights = [cell.weight for seen in example.seen for cell in seen.cells]
        assert sum(weights) == pytest.approx(1, abs=1e-5)


def test_transformations_of_the_library_are_drawn_and_others_left_out(transformed):
    attacked = transformed.perturbations["min-max.adversarial"]
    for example in examples(transformed, 3):
        flipped, rotated, own = (seen.picture for seen in example.seen)
        pixels = (attacked[example.row - 5, 0].double() * 255).round().numpy().astype(np.uint8)
        assert np.array_equal(decode(flipped), pixels[:, ::-1])
        assert decode(rotated).shape == (8, 8)
        assert own is None


def record(average: list[bool], ours: list[bool], size: int | None = None) -> AttackRecord:
    config = {"groups": {"size": size}} if size else {}
    found = AttackRecord(RunFolder(Path("runs/x"), config), {"attacks": {"average": {}, "min-max": {}}})
    repeats = size or 1
    table = {
        f"{n}.fooled_all": [f for f in won for _ in range(repeats)]
        for n, won in (("average", average), ("min-max", ours))
    }
    found.__dict__["examples"] = table
    return found


WON = ([True] * 10 + [False] * 20, [True] * 5 + [False] * 5 + [True] * 12 + [False] * 8)


@pytest.mark.parametrize("size", [None, 3])
def test_half_are_won_alone_some_resist_and_the_rest_both_win(size):
    chosen = choose(record(*WON, size), 12)
    assert Counter(note for _, note in chosen) == {
        f"min-max fools every {'domain' if size else 'model'}, average does not": 6,
        f"min-max and average both fool every {'domain' if size else 'model'}": 4,
        f"some {'domain' if size else 'model'} resists min-max": 2,
    }
    for number, note in chosen:
        assert note.startswith("min-max fools") == (WON[1][number] and not WON[0][number])
        assert note.startswith("some") == (not WON[1][number])


def test_as_many_as_there_are():
    assert [number for number, _ in choose(record([True, False], [True, False]), 12)] == [0, 1]
