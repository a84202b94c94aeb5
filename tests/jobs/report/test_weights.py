from __future__ import annotations

import base64
import math
import re
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from omnirobust.jobs.report.weights import as_svg, group_picture, marginal_picture

G, E = 3, 4


@pytest.fixture
def groups():
    g = torch.Generator().manual_seed(0)
    images = torch.rand(G, E, 1, 5, 5, generator=g)
    weights = {name: torch.rand(G, E, generator=g).softmax(1) for name in ("l2", "linf")}
    facts = {"dist": 3 * torch.rand(G, E, generator=g)}
    return images, weights, facts


def texts(figure: Figure) -> list[str]:
    return [t.get_text() for ax in figure.axes for t in ax.texts]


def test_every_weight_and_fact_of_every_image_is_written_down(groups):
    images, weights, facts = groups
    figure = group_picture(images, weights, facts, titles=["zero", "one", "two"])
    written = texts(figure)
    for values in (*weights.values(), *facts.values()):
        for value in values.flatten().tolist():
            assert f"{value:.3f}" in written
    for title in ("zero", "one", "two", "l2", "linf", "dist"):
        assert title in written
    assert len(figure.axes[0].images) == G * E


def test_the_largest_of_each_line_is_bold_and_no_other(groups):
    images, weights, facts = groups
    bold = [t.get_text() for t in group_picture(images, weights, facts).axes[0].texts if t.get_weight() == "bold"]
    expected = [f"{float(v):.3f}" for table in (*weights.values(), *facts.values()) for v in table.amax(1)]
    assert sorted(bold) == sorted(expected)


def test_equal_weights_have_no_largest(groups):
    images, _, _ = groups
    drawn = group_picture(images, {"w": torch.full((G, E), 1 / E)}).axes[0].texts
    assert not [t for t in drawn if t.get_weight() == "bold"]


def test_larger_weights_and_facts_are_darker(groups):
    images, weights, facts = groups
    for table in ({"w": weights["l2"]}, facts):
        (values,) = table.values()
        figure = group_picture(images, *(({}, table) if table is facts else (table,)))
        shades = [
            sum(p.get_facecolor()[:3]) for p in figure.axes[0].patches if isinstance(p, Rectangle) and p.get_fill()
        ]
        order = values.flatten().argsort()
        assert len(shades) == G * E
        assert (np.diff(np.array(shades)[order]) <= 1e-9).all()


def test_images_are_shown_as_they_are(groups):
    images, weights, _ = groups
    shown = group_picture(images * 4 - 2, weights, bounds=(-2.0, 2.0)).axes[0].images
    for drawn, image in zip(shown, images.flatten(0, 1), strict=True):
        assert np.allclose(drawn.get_array()[..., 0], image[0].numpy(), atol=1e-6)
    colours = torch.rand(1, 2, 3, 4, 4)
    (first, _) = group_picture(colours, {"w": torch.tensor([[0.4, 0.6]])}).axes[0].images
    assert np.allclose(first.get_array(), colours[0, 0].permute(1, 2, 0).numpy(), atol=1e-6)


def test_nothing_overlaps_and_nothing_leaves_the_page(groups):
    images, weights, facts = groups
    figure = group_picture(images, weights, facts | {"a rather long name of a fact": facts["dist"]}, across=2)
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [t.get_window_extent(renderer) for t in figure.axes[0].texts if t.get_text()]
    page = figure.bbox
    for box in boxes:
        assert box.x0 >= page.x0 and box.x1 <= page.x1 and box.y0 >= page.y0 and box.y1 <= page.y1
    for i, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[i + 1 :])


def test_what_was_not_found_says_so_and_counts_as_hardest(groups):
    images, weights, facts = groups
    facts["dist"][1, 2] = math.inf
    drawn = {t.get_text(): t.get_weight() for t in group_picture(images, weights, facts).axes[0].texts}
    assert drawn["none"] == "bold"


def test_marginal_bars_are_the_summed_weights(groups):
    weights = torch.rand(20, 6, generator=torch.Generator().manual_seed(1)).softmax(1)
    axes = {"models": ("a", "b"), "transforms": ("ori", "rot", "crop")}
    models, transforms, pairs = marginal_picture(axes, weights).axes
    grid = weights.view(20, 2, 3)
    assert [p.get_width() for p in models.patches] == pytest.approx(grid.sum(2).mean(0).tolist())
    assert [p.get_width() for p in transforms.patches] == pytest.approx(grid.sum(1).mean(0).tolist())
    assert [t.get_text() for t in transforms.get_yticklabels()] == ["ori", "rot", "crop"]
    assert np.allclose(pairs.images[0].get_array(), grid.mean(0).numpy())
    assert pairs.get_title() == "models and transforms"


def test_one_factor_has_bars_alone_and_three_have_all_pairs():
    weights = torch.full((2, 12), 1 / 12)
    assert len(marginal_picture({"models": tuple("abcdefghijkl")}, weights).axes) == 1
    three = {"models": ("a", "b"), "transforms": ("p", "q"), "examples": ("image_0", "image_1", "image_2")}
    titles = [ax.get_title() for ax in marginal_picture(three, weights).axes]
    assert titles == [
        "models", "transforms", "examples", "models and transforms", "models and examples", "transforms and examples",
    ]  # fmt: skip


def test_of_many_members_the_largest_are_shown_in_their_order():
    weights = torch.arange(30.0).softmax(0)[None].repeat(3, 1)
    (ax,) = marginal_picture({"examples": tuple(f"image_{i}" for i in range(30))}, weights).axes
    assert [t.get_text() for t in ax.get_yticklabels()] == [f"image_{i}" for i in range(18, 30)]
    assert ax.get_title() == "examples: the 12 largest of 30"


def test_the_svg_is_well_formed_names_itself_and_is_the_same_each_time(groups):
    images, weights, facts = groups
    svg = as_svg(group_picture(images, weights, facts), "weights of <three> groups")
    assert svg == as_svg(group_picture(images, weights, facts), "weights of <three> groups")
    root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert root.get("aria-label") == "weights of <three> groups"
    assert "<style" not in svg and "<metadata" not in svg
    pictures = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)", svg)
    assert len(pictures) == G * E
    assert Image.open(BytesIO(base64.b64decode(pictures[0]))).size[0] >= 5
    ids = re.findall(r'\bid="([^"]+)"', svg)
    other = re.findall(r'\bid="([^"]+)"', as_svg(marginal_picture({"m": ("a", "b")}, torch.ones(1, 2) / 2), "others"))
    assert len(ids) == len(set(ids)) and not set(ids) & set(other)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i, w, f: group_picture(i[0], w, f), r"images must have shape \(G, E, C, H, W\), C = 1 or 3, got"),
        (lambda i, w, f: group_picture(i.expand(G, E, 2, 5, 5), w), "C = 1 or 3"),
        (lambda i, w, f: group_picture(i, {"l2": w["l2"][:, :2]}), r"'l2' must have shape \(3, 4\), got \(3, 2\)"),
        (lambda i, w, f: group_picture(i, w, {"dist": f["dist"].flatten()}), r"'dist' must have shape \(3, 4\)"),
        (lambda i, w, f: group_picture(i, w, titles=["zero"]), "titles must be 3, got 1"),
        (lambda i, w, f: group_picture(i, w, across=0), "across must be >= 1, got 0"),
        (lambda i, w, f: marginal_picture({"models": ("a", "b")}, torch.ones(3, 3)), "K = 2 models, got"),
        (lambda i, w, f: marginal_picture({}, torch.ones(3, 3)), "K = no factors"),
        (lambda i, w, f: marginal_picture({"models": ("a", "b")}, torch.ones(0, 2)), "B >= 1"),
    ],
)
def test_errors_name_the_argument(call, message, groups):
    with pytest.raises(ValueError, match=message):
        call(*groups)
