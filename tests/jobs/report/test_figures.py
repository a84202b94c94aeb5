import re
import xml.etree.ElementTree as ET

import pytest
import torch

from omnirobust.jobs.report.figures import COLOURS, chosen_iterates, success_per_iteration, weights_per_iteration

SVG = "{http://www.w3.org/2000/svg}"


def test_success_draws_a_line_for_each_model_and_one_for_all():
    fooled = torch.rand(11, 3)
    svg = success_per_iteration(fooled, fooled.amin(1), ["a", "b", "c<d>"], label="success & more")
    root = ET.fromstring(svg)
    assert (root.get("role"), root.get("aria-label")) == ("img", "success & more")
    assert root.get("viewBox") is not None
    assert root.get("width") is None
    texts = {"".join(t.itertext()) for t in root.iter(f"{SVG}text")}
    assert {"a", "b", "c<d>", "all at once", "iteration"} <= texts
    styles = " ".join(path.get("style", "") for path in root.iter(f"{SVG}path"))
    assert all(colour in styles for colour in COLOURS[:3])


def test_lines_are_where_the_values_are():
    fooled = torch.tensor([[0.0], [0.5], [1.0]])
    root = ET.fromstring(success_per_iteration(fooled, fooled[:, 0], ["a"], label="x"))
    lines = [p for p in root.iter(f"{SVG}path") if COLOURS[0] in p.get("style", "") and p.get("d", "").count("L") == 2]
    points = [tuple(map(float, pair)) for pair in re.findall(r"([\d.]+) ([\d.]+)", lines[0].get("d", ""))]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1)
    assert y0 - y1 == pytest.approx(y1 - y2)
    assert y2 < y0  # upwards on the page


def test_weights_draw_a_box_for_each_model_and_chosen_iterate():
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(51, 40, 2, generator=generator)
    svg = weights_per_iteration(weights, ["a", "b"], label="weights")
    for k in range(2):
        boxes = re.findall(rf'style="fill: {COLOURS[k]};[^"]*fill-opacity: 0\.4[^"]*stroke: {COLOURS[k]}', svg)
        assert len(boxes) == len(chosen_iterates(50)) + 1  # and one in the legend


@pytest.mark.parametrize("steps", [0, 1, 5, 50, 1000])
def test_chosen_iterates_run_from_the_first_to_the_last(steps):
    chosen = chosen_iterates(steps)
    assert (chosen[0], chosen[-1]) == (0, steps)
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= 9


def test_a_figure_is_the_same_in_every_build_and_shares_no_id_with_another():
    values = torch.rand(5, 2)
    one = success_per_iteration(values, values.amin(1), ["a", "b"], label="one")
    assert one == success_per_iteration(values, values.amin(1), ["a", "b"], label="one")
    two = success_per_iteration(values, values.amin(1), ["a", "b"], label="two")

    def clips(svg: str) -> set[str]:
        return set(re.findall(r'<clipPath id="([^"]+)"', svg))

    assert clips(one)
    assert not clips(one) & clips(two)


@pytest.mark.parametrize(
    "names",
    [
        [f"vit_base_patch16_224.augreg{n}_in21k_ft_in1k" for n in range(4)],
        ["x" * 100 + "y" * 100, "_private"],
        [f"model {n}" for n in range(30)],
    ],
)
@pytest.mark.parametrize("kind", ["success", "weights"])
@pytest.mark.filterwarnings("error")
def test_long_and_many_names_leave_room_for_the_plot(names, kind):
    """matplotlib gives the plot up, with a warning, where the legend is wider or higher than the figure."""
    values = torch.rand(6, 5, len(names))
    if kind == "success":
        svg = success_per_iteration(values[:, 0], values[:, 0].amin(1), names, label="x")
    else:
        svg = weights_per_iteration(values, names, label="x")
    root = ET.fromstring(svg)
    texts = ["".join(t.itertext()).strip() for t in root.iter(f"{SVG}text")]
    for name in names:
        assert any(text == name or (text[:20] == name[:20] and text[-20:] == name[-20:]) for text in texts)
    frame = re.search(r'clipPath id="[^"]*">\s*<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)" height="([\d.]+)"', svg)
    box = [float(number) for number in str(root.get("viewBox")).split()]
    assert frame is not None
    assert float(frame[2]) > 0.7 * box[2] and float(frame[3]) > 140  # points: the axes keep their size


def test_few_short_names_stand_in_one_row():
    values = torch.rand(6, 4)
    root = ET.fromstring(success_per_iteration(values, values.amin(1), ["a", "b", "c", "d"], label="x"))
    rows = {t.get("y") or t.get("transform", "").split()[-1] for t in root.iter(f"{SVG}text")
            if "".join(t.itertext()) in ("a", "b", "c", "d", "all at once")}  # fmt: skip
    assert len(rows) == 1
