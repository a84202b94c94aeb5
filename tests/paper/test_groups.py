"""Table 2, 3, A5, A6, A9 and A10 have the settings that the paper and its released code give."""

import pytest

from omnirobust.core.weights import ProjectedAscent, Uniform
from omnirobust.paper import experiments

# Appendix C.2; the radius of E is printed as 0.35.
EPS = {
    "MNIST A": 0.2,
    "MNIST B": 0.2,
    "MNIST C": 0.3,
    "MNIST D": 0.25,
    "CIFAR-10 B": 0.02,
    "CIFAR-10 D": 0.05,
    "CIFAR-10 E": 0.035,
    "CIFAR-10 H": 0.02,
}


def rows(name, variant):
    return {row.key: row.cell for row in experiments()[name].rows if row.variant == variant}


@pytest.mark.parametrize("place", EPS)
def test_table_2(place):
    found = rows("table-2", "paper")
    for size in (2, 4, 5, 10):
        cell = found[place, "minmax", str(size)]
        assert (cell.eps, cell.steps, cell.norm, cell.labels) == (EPS[place], 20, "linf", "released")
        assert cell.attack.rule == ProjectedAscent(1 / 50, 4)
        assert (cell.attack.step_size, cell.attack.start, cell.attack.keep) == (pytest.approx(1 / 6), "zero", "last")
        assert (cell.task.size, cell.task.by, cell.task.clip) == (size, "random", "intersection")
        assert found[place, "avg", str(size)].attack.rule == Uniform()
        data, letter = place.rsplit(" ", 1)
        assert cell.models == (f"{data.lower().replace('-', '')}/{letter.lower()}",)


def test_readings_of_table_2_differ_in_groups_and_box_only():
    tasks = {v: rows("table-2", v)["MNIST C", "minmax", "5"].task for v in experiments()["table-2"].variants}
    assert {v: (t.by, t.clip) for v, t in tasks.items()} == {
        "paper": ("random", "intersection"),
        "paper-by-class": ("class", "intersection"),
        "paper-clip": ("random", "image"),
        "default": ("random", "image"),
        "default-by-class": ("class", "image"),
    }


@pytest.mark.parametrize(
    ("name", "columns", "random"),
    [
        ("table-3", "ori flh flv bri gam crop", False),
        ("table-a5", "ori flh flv bri crop", True),
        ("table-a6", "ori flh flv bri gam crop rot", False),
    ],
)
def test_tables_of_transformations(name, columns, random):
    for letter in "ABCD":
        cell = rows(name, "paper")[letter, "minmax"]
        assert (cell.models, cell.eps, cell.steps) == ((f"cifar10/{letter.lower()}",), 0.03, 20)
        assert (cell.attack.step_size, cell.attack.rule) == (0.5, ProjectedAscent(1 / 100, 10))
        assert cell.columns == tuple(columns.split())
        assert any(t.numbers for _, t in cell.task.transforms) is random
        assert rows(name, "paper")[letter, "avg"].attack.rule == Uniform()


def test_tables_of_weights_share_no_image_and_measure_what_is_alone_on_the_same():
    a9, a10 = (rows(name, "paper") for name in ("table-a9", "table-a10"))
    for found, digits in ((a9, (0, 1, 2, 3, 4)), (a10, (5, 6, 7, 8, 9))):
        assert set(found) == {
            *((norm, "minmax") for norm in ("l0", "l1", "l2", "linf")), ("dist", "alone"), ("eps_min", "alone")
        }  # fmt: skip
        groups = found["linf", "minmax"].task
        assert (groups.size, groups.by, groups.classes) == (5, "class", digits)
        assert found["dist", "alone"].task.groups == found["eps_min", "alone"].task.groups == groups
        assert (found["dist", "alone"].norm, found["eps_min", "alone"].norm) == ("l2", "linf")
        assert found["l0", "minmax"].eps == 30
