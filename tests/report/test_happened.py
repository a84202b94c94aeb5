from pathlib import Path

from omnirobust.jobs import AttackRecord
from omnirobust.report.happened import happened
from omnirobust.runs import RunFolder


def record(models: list[str], kept: dict[str, list[float]], **facts) -> AttackRecord:
    """Make a record of attacks by name, each with its ASR_all and then the accuracy that it leaves each model."""
    by = lambda rates: {"models": {m: {"accuracy": r, "weight": 0.5, "weight_interval": [0, 1]} for m, r in zip(models, rates, strict=True)}}  # noqa: E731, E501  # fmt: skip
    metrics = {
        "models": models, "perturbations": 100, "images": 100, "axes": {"models": models}, "target": None,
        "clean_by": {"models": dict.fromkeys(models, 1.0)},
        "attacks": {name: {"asr_all": rate, "by": by(left)} for name, (rate, *left) in kept.items()},
    }  # fmt: skip
    config = {"attack": {"norm": "linf", "eps": 0.1}, **facts.pop("config", {})}
    return AttackRecord(RunFolder(Path("runs/x"), config), metrics | facts)


def test_the_sentence_counts_images_and_names_the_hardest():
    found = record(list("ABCD"), {"average": [0.54, 0.1, 0.1, 0.1, 0.4], "min-max": [0.65, 0.1, 0.2, 0.2, 0.3]})
    assert happened(found) == (
        "One perturbation fools all four models on 65 of 100 images; averaging reaches 54; D is the hardest."
    )


def test_one_model_two_models_and_the_average_alone():
    assert happened(record(["A"], {"average": [0.5, 0.5]})) == (
        "One perturbation by the average fools the model on 50 of 100 images."
    )
    assert happened(record(["A", "B"], {"average": [0.1, 0.2, 0.1], "worst": [0.2, 0.2, 0.3]})) == (
        "One perturbation fools both models on 20 of 100 images; averaging reaches 10; B is the hardest."
    )


def test_transformations_and_groups_are_said():
    found = record(
        ["A", "B"], {"average": [0.25, 0.2, 0.1]}, perturbations=20, config={
            "transforms": {"ori": {}, "flh": {}, "rot": {}}, "groups": {"size": 5, "count": 20}
        },
    )  # fmt: skip
    found.metrics["clean_by"]["classes"], found.metrics["attacks"]["average"]["by_class"] = (
        {"x": 1.0},
        {"x": {"accuracy": 0.5, "weight": 1.0}},
    )
    assert happened(found).startswith(
        "One perturbation by the average fools both models under all three transformations for all five images of a "
        "group on 5 of 20 groups"
    )


def test_a_targeted_sentence_names_the_class_and_counts_what_was_not_in_it():
    found = record(["A", "B"], {"average": [0.5, 0.1, 0.1], "min-max": [0.6, 0.1, 0.1]})
    found.metrics["target"] = {"class": 3, "name": "cat", "counted": 90}
    for rates in found.metrics["attacks"].values():
        for member, reached in zip(rates["by"]["models"].values(), (0.7, 0.9), strict=True):
            member["target_success"] = reached
    assert happened(found) == (
        "One perturbation brings both models to class 3 (cat) on 54 of 90 images that were not in it before; "
        "averaging reaches 45; A is the hardest."
    )
