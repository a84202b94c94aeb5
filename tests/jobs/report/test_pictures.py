import re
import xml.etree.ElementTree as ET

import pytest
import torch

import omnirobust as orb
from omnirobust.jobs import AttackJob, Grouping, run_attack
from omnirobust.jobs.report.pictures import _values, marginals, weighed_groups

SVG = "{http://www.w3.org/2000/svg}"


def texts(chart) -> list[str]:
    return ["".join(t.itertext()) for t in ET.fromstring(chart.svg).iter(f"{SVG}text")]


def label(chart) -> str:
    return re.search(r'aria-label="([^"]*)"', chart.svg).group(1)  # type: ignore[union-attr]


def test_columns_become_groups_images_and_domains(product):
    weights = _values(product, "min-max", "weight")
    assert weights.shape == (7, 4, 6)
    assert torch.allclose(weights.sum((1, 2)), torch.ones(7, dtype=torch.float64), atol=1e-5)
    assert weights[2, 3, 4] == product.examples["min-max.weight.c/flh"][2 * 4 + 3]


def test_marginals_show_each_model_and_transformation_and_their_pairs(product, transformed, by_class):
    by = product.metrics["attacks"]["min-max"]["mean_weights"]
    drawn = marginals(product)
    assert drawn is not None
    assert {"model", "transformation", "model and transformation", "a", "c", "ori", "flh", "noise:0.1"} <= {
        *texts(drawn)
    }
    for model in product.models:
        for transform in product.transforms:
            weight = sum(by[f"{model}/{transform}/image_{e}"] for e in range(4))
            assert f"{weight:.3f}" in texts(drawn)
            assert f"{model}/{transform} {weight:.2f}" in label(drawn)
    assert "over the groups: min-max" in drawn.caption
    alone = marginals(transformed)
    assert alone is not None and "over the images: min-max" in alone.caption
    assert marginals(by_class) is None


def test_groups_are_shown_with_what_their_images_weigh(product, by_class):
    drawn = weighed_groups(product)
    assert drawn is not None
    shown = texts(drawn)
    assert [text for text in shown if text.startswith("group ")] == [f"group {g}" for g in range(7)]
    weights = _values(product, "min-max", "weight").sum(2)
    for weight in weights.flatten().tolist():
        assert ("0" if weight < 0.0005 else f"{weight:.3f}") in shown
    assert f"weighs {float(weights.amax(1).mean()):.2f} in the mean" in label(drawn)
    assert "resist" in shown
    one = weighed_groups(by_class)
    assert one is not None and "resist" not in texts(one)
    assert len([text for text in texts(one) if text.startswith("group ")]) == 12


@pytest.mark.parametrize(
    ("parts", "options"),
    [
        ({}, {}),
        ({"groups": Grouping(2), "rule_name": "average"}, {"rule": orb.Uniform()}),
        ({"groups": Grouping(11)}, {}),
    ],
)
def test_nothing_is_drawn_where_there_is_nothing_to_see(digits, tmp_path, parts, options):
    record = run_attack(
        AttackJob("digits", ("a",), orb.Linf(0.1), images=24, options={"steps": 1, **options}, **parts),
        tmp_path / "run",
    )
    assert marginals(record) is None
    assert weighed_groups(record) is None
