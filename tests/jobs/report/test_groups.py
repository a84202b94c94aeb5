import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from omnirobust.jobs.report.groups import shown_groups


def decode(uri: str) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_groups_show_what_the_table_says(product):
    table, saved = product.examples, product.perturbations
    shown = shown_groups(product, 5)
    assert len({g.number for g in shown}) == 5
    for group in shown:
        assert sum(i.weight for i in group.images) == pytest.approx(1, abs=1e-5)
        assert max(i.share for i in group.images) == 1
        assert group.largest == pytest.approx(float(saved["min-max.delta"][group.number].abs().max()))
        assert ("resists" in group.note) == (not all(i.fooled for i in group.images))
        for e, image in enumerate(group.images):
            row = 4 * group.number + e
            assert image.row == table["image"][row]
            assert image.label == str(table["label"][row])
            flags = [table[f"min-max.fooled.{m}/{t}"][row] for m in product.models for t in product.transforms]
            assert (image.beaten, image.domains) == (sum(flags), 6)
            assert image.said == ""
            pixels = saved["min-max.adversarial"][group.number, e, 0]
            assert np.array_equal(decode(image.adversarial), (pixels.double() * 255).round().numpy())


def test_the_only_model_s_classes_are_said(by_class):
    table = by_class.examples
    for group in shown_groups(by_class, 6):
        assert len({image.label for image in group.images}) == 1
        for e, image in enumerate(group.images):
            row = 3 * group.number + e
            before, after = table["clean.predicted.a"][row], table["min-max.predicted.a"][row]
            assert image.said == f"{before} → {after}"
            assert image.fooled == (after != table["label"][row])
