import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from omnirobust.jobs.report.gallery import examples


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
