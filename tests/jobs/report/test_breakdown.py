import pytest

from omnirobust.jobs.report.breakdown import Breakdown, Member, breakdowns, pairs


def test_a_product_breaks_down_by_model_transformation_and_class(product):
    tables = {table.kind: table for table in breakdowns(product)}
    assert list(tables) == ["model", "transformation", "class"]
    assert [m.name for m in tables["transformation"].members] == ["ori", "flh", "noise:0.1"]
    attacks = product.metrics["attacks"]
    for kind, axis in (("model", "models"), ("transformation", "transforms")):
        for member in tables[kind].members:
            by = [attacks[name]["by"][axis][member.name] for name in ("average", "min-max")]
            assert member.accuracies == (by[0]["accuracy"], by[1]["accuracy"])
            assert member.weight == by[1]["weight"]
            assert member.interval == tuple(by[1]["weight_interval"])
            assert member.clean == product.metrics["clean_by"][axis][member.name]
    assert {m.name for m in tables["class"].members} == {str(label) for label in product.examples["label"]}
    assert all(m.weight is not None for m in tables["class"].members)


def test_in_groups_of_one_class_the_weight_of_a_class_says_nothing(by_class):
    (table,) = breakdowns(by_class)
    assert table.kind == "class"
    assert all(m.weight is None for m in table.members)
    assert table.heaviest is None


def test_single_images_break_down_by_what_is_attacked(transformed):
    assert [table.kind for table in breakdowns(transformed)] == ["model", "transformation"]


def test_pairs_are_of_every_transformation_under_every_model(product, by_class):
    found = pairs(product)
    assert found is not None
    last = product.metrics["attacks"]["min-max"]
    for r, transform in enumerate(found.transforms):
        for m, model in enumerate(found.models):
            names = [f"{model}/{transform}/image_{e}" for e in range(4)]
            assert found.rates[r][m] == pytest.approx(sum(last["accuracy"][n] for n in names) / 4)
    assert pairs(by_class) is None


def test_the_hardest_keeps_most_accuracy_and_ties_go_to_the_heavier():
    table = Breakdown(
        "model", (Member("a", 1, (0.9, 0.2), 0.1), Member("b", 1, (0, 0.2), 0.3), Member("c", 1, (1, 0), 0.6))
    )
    assert table.hardest is not None and table.hardest.name == "b"
    assert table.heaviest is not None and table.heaviest.name == "c"
    alike = Breakdown("class", (Member("0", 1, (0.5, 0.0), None), Member("1", 1, (0.0, 0.0), None)))
    assert alike.hardest is None
