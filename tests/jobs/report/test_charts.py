import re
from dataclasses import replace

import pytest
import torch
from markupsafe import Markup

from omnirobust.jobs.report.charts import Chart, _others_away, _ranked, charts


def words(chart) -> str:
    return re.search(r'aria-label="([^"]*)"', chart.svg).group(1)  # type: ignore[union-attr]


def test_a_product_has_a_plot_for_each_factor(product):
    drawn = charts(product)
    assert [chart.caption.split(". ")[0] for chart in drawn] == [
        "Success of the best iterate so far: average, by model, on the draws of each step",
        "Success of the best iterate so far: min-max, by model, on the draws of each step",
        "Success of the best iterate so far: average, by transformation, on the draws of each step",
        "Success of the best iterate so far: min-max, by transformation, on the draws of each step",
        "Weights of models over the groups: min-max",
        "Weights of transformations over the groups: min-max",
        "Weights of a group's images, images ranked by it over the groups: min-max",
    ]
    assert all("Boxes: quartiles" in chart.caption for chart in drawn[4:])
    medians = product.history["min-max.rows.weights"][-1].view(-1, 2, 3, 4).sum((1, 3)).median(0).values
    assert words(drawn[5]).endswith(", ".join(f"{n} {w:.2f}" for n, w in zip(product.transforms, medians, strict=True)))


def test_places_in_a_group_have_one_line_where_there_is_nothing_else(by_class):
    drawn = charts(by_class)
    assert [chart.caption.split(":")[0] for chart in drawn] == [
        "Success of the best iterate so far", "Success of the best iterate so far",
        "Weights of a group's images, images ranked by it over the groups",
    ]  # fmt: skip
    assert "an image" in drawn[0].svg
    assert "image_0" not in drawn[0].svg


def test_an_ensemble_s_captions_are_as_ever(digits, tmp_path):
    import omnirobust as orb
    from omnirobust.jobs import AttackJob, run_attack

    drawn = charts(
        run_attack(AttackJob("digits", ("a", "c"), orb.Linf(0.1), images=8, options={"steps": 2}), tmp_path / "run")
    )
    assert [chart.caption.split(". ")[0] for chart in drawn] == [
        "Success of the best iterate so far: average", "Success of the best iterate so far: min-max",
        "Weights over the images: min-max",
    ]  # fmt: skip


def test_a_run_that_kept_each_iterate_s_success_alone_is_drawn_and_says_so(product):
    """As the first versions wrote them."""
    old = replace(product)
    old.__dict__["history"] = {k: v for k, v in product.history.items() if not k.endswith(".best_fooled")}
    captions = [chart.caption.split(":")[0] for chart in charts(old)]
    assert captions[:4] == ["Success of each iterate"] * 4 and len(captions) == len(charts(product))


@pytest.mark.parametrize(("axis", "dims"), [("models", (1, 2, 0)), ("transforms", (2, 1, 0)), ("examples", (3, 0, 0))])
def test_the_members_of_a_factor_come_before_all_else(product, axis, dims):
    values = torch.rand(5, 24, dtype=torch.float64)
    grid = values.view(5, 2, 3, 4)
    others = [d for d in (1, 2, 3) if d != dims[0]]
    assert torch.allclose(_others_away(product, values, axis).mean(-1), grid.mean(others))


@pytest.mark.parametrize("E", [1, 3, 8, 20])
def test_ranks_run_from_the_heaviest_to_the_lightest(E):
    weights = torch.rand(4, 6, E)
    ranked, names = _ranked(weights)
    assert ranked.shape == (4, 6, min(E, 8))
    assert torch.equal(ranked[..., 0], weights.amax(-1))
    assert torch.equal(ranked[..., -1], weights.amin(-1))
    assert names[0] == "heaviest"
    assert len(set(names)) == len(names)
    if E == 20:
        assert names[-1] == "20th"


def test_a_plot_may_grow_to_half_as_many_pixels_again_as_it_has_points():
    assert Chart(Markup('<svg viewBox="0 0 400.6 100"></svg>'), "").width == 601
