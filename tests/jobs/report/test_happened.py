from pathlib import Path

import pytest

from omnirobust.jobs import AttackRecord, EvaluationRecord, TrainingRecord
from omnirobust.jobs.folder import RunFolder
from omnirobust.jobs.report.environment import words
from omnirobust.jobs.report.happened import happened, judged, trained


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


def evaluation(threats: list[str], models: dict[str, list[float]], images: int = 10) -> EvaluationRecord:
    """Make a record of models by name, each with its clean accuracy, those under the threats, and the union."""
    found = {
        name: {
            "clean": {"estimate": clean}, "union": {"estimate": union},
            "accuracy": {t: {"estimate": rate} for t, rate in zip(threats, rates, strict=True)},
        }
        for name, (clean, *rates, union) in models.items()
    }  # fmt: skip
    config = {"threats": {threat: {} for threat in threats}}
    return EvaluationRecord(RunFolder(Path("run"), config), {"models": found, "images": images})


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (
            evaluation(["linf:0.1", "l2:1"], {"a": [0.9, 0.3, 0.5, 0.2]}),
            "a withstands both threats on 2 of 10 images; before any attack it is right on 9; linf:0.1 takes most.",
        ),
        (
            evaluation(["linf:0.1"], {"a": [0.9, 0.3, 0.3], "b": [1.0, 0.5, 0.5]}),
            "Of two models b withstands linf:0.1 most often, on 5 of 10 images, a least often, on 3; before any attack "
            "they are right on 9 to 10.",
        ),
        (
            evaluation(["x", "y", "z"], {"a": [0.9, 0, 0, 0, 0], "b": [0.9, 0, 0, 0, 0]}),
            "Each of two models withstands all three threats on 0 of 10 images; before any attack they are right on 9.",
        ),
        (  # a random model: means over draws
            evaluation(["x"], {"a": [0.95, 0.333, 0.333]}),
            "a withstands x on 3.33 of 10 images; before any attack it is right on 9.50.",
        ),
    ],
)
def test_the_sentence_of_an_evaluation(record, told):
    assert judged(record) == told


def test_the_sentence_of_a_training_without_a_judgement(tmp_path):
    row = {"epoch": 1, "loss": 1.0, "validation": 0.75, "robust": 0.5}
    metrics = {"history": [row], "kept": 1, "validation_images": 8}
    folder = RunFolder(tmp_path, {})
    assert trained(TrainingRecord(folder, metrics)) == (
        "The trained model is right on 75.00 % of 8 validation images, and on 50.00 % under its training's own "
        "attacks; no test image judged it."
    )
    assert trained(TrainingRecord(folder, metrics | {"clean": {"right": 3, "images": 4}})) == (
        "The trained model is right on 3 of 4 test images; no attack judged it."
    )
    assert trained(TrainingRecord(folder, metrics | {"history": [{"epoch": 1, "loss": 1.0}]})).startswith("No test or")


def test_a_command_breaks_between_words_alone_and_is_copied_as_it_is():
    shown = words("omnirobust x --data '<b> c'")
    assert str(shown).count("<span>") == 5 and "<b>" not in shown
    assert shown.striptags() == "omnirobust x --data '<b> c'"
