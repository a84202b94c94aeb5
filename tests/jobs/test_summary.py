from collections import Counter
from dataclasses import replace

import pytest
import torch

import omnirobust as orb
from omnirobust import zoo
from omnirobust.domains.transforms import FlipHorizontal
from omnirobust.jobs import AttackJob, Grouping, run_attack
from omnirobust.jobs.summary import image_domains

PRODUCT = AttackJob(
    "digits",
    ("a", "c"),
    orb.Linf(0.25),
    images=23,
    start=2,
    groups=Grouping(4, seed=1),
    transforms=("ori", "flh", "noise:0.1"),
    transfer=("c@seed1",),
    options={"steps": 4, "samples": 2, "draws": 3},
)
UNIVERSAL = AttackJob("digits", ("a",), orb.Linf(0.25), images=60, groups=Grouping(3, "class"), options={"steps": 4})
TRANSFORMS = AttackJob("digits", ("a", "c"), orb.Linf(0.25), images=12, transforms=("ori", "flh"), options={"steps": 4})


@pytest.fixture(scope="module")
def product(digits_cache, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMNIROBUST_CACHE", str(digits_cache))
        yield run_attack(PRODUCT, tmp_path_factory.mktemp("runs") / "product")


def grid(record, attack, what):
    """Return the table's columns as (groups, models, transformations, images of the group)."""
    names = [f"{model}/{transform}" for model in record.models for transform in record.transforms]
    columns = torch.tensor([record.examples[f"{attack}.{what}.{name}"] for name in names], dtype=torch.float64)
    return columns.view(2, 3, 5, 4).permute(2, 0, 1, 3)


def test_counts_and_names_of_a_product(product):
    metrics = product.metrics
    assert (metrics["images"], metrics["perturbations"], metrics["left_out"], metrics["draws"]) == (20, 5, 3, 3)
    assert product.axes == {
        "models": ["a", "c"], "transforms": ["ori", "flh", "noise:0.1"],
        "examples": ["image_0", "image_1", "image_2", "image_3"],
    }  # fmt: skip
    assert len(metrics["domains"]) == 24
    assert metrics["domains"][7] == "a/flh/image_3"
    assert product.config["groups"] == {
        "size": 4, "by": "random", "seed": 1, "count": 5, "left_out": 3, "clip": "image",
    }  # fmt: skip
    assert (product.task, product.rate) == ("universal", "ASR_gp")
    assert (product.config["samples"], product.config["draws"]) == (2, 3)


def test_rates_of_a_product_are_those_of_its_table(product):
    for attack, metrics in product.metrics["attacks"].items():
        fooled, success = grid(product, attack, "fooled"), grid(product, attack, "success")
        assert metrics["asr_all"] == pytest.approx(float(fooled.flatten(1).all(1).double().mean()))
        assert metrics["asr_avg"] == pytest.approx(float(success.mean()))
        assert metrics["mean_fooled"] == pytest.approx(float(fooled.flatten(1).sum(1).double().mean()))
        assert [*metrics["accuracy"].values()] == pytest.approx((1 - success).mean(0).flatten().tolist())
        assert bool((fooled == (success == 1)).all())
        assert metrics["most_fooled"] == int(fooled.flatten(1).sum(1).max())
        everything = product.examples[f"{attack}.fooled_all"]
        assert everything == fooled.flatten(1).all(1).repeat_interleave(4).tolist()


def test_marginals_of_a_product_are_sums_and_means_of_its_table(product):
    for attack, metrics in product.metrics["attacks"].items():
        weights, success = grid(product, attack, "weight"), grid(product, attack, "success")
        for axis, number in (("models", 1), ("transforms", 2), ("examples", 3)):
            others = [d for d in (1, 2, 3) if d != number]
            by = metrics["by"][axis]
            assert list(by) == product.axes[axis]
            assert [m["weight"] for m in by.values()] == pytest.approx(weights.sum(others).mean(0).tolist())
            assert [m["accuracy"] for m in by.values()] == pytest.approx((1 - success).mean([0, *others]).tolist())
            assert sum(m["weight"] for m in by.values()) == pytest.approx(1, abs=1e-5)
            for member in by.values():
                low, high = member["weight_interval"]
                assert low - 1e-6 <= member["weight"] <= high + 1e-6
                assert (high - low < 1e-5) == (attack == "average")


def test_classes_of_a_product_are_those_of_its_rows(product):
    labels, counts = product.examples["label"], Counter(product.examples["label"])
    for attack, metrics in product.metrics["attacks"].items():
        success = grid(product, attack, "success").mean((1, 2)).flatten().tolist()
        weights = grid(product, attack, "weight").sum((1, 2)).flatten().tolist()
        assert {name: m["images"] for name, m in metrics["by_class"].items()} == {str(c): n for c, n in counts.items()}
        for label, n in counts.items():
            of_class = metrics["by_class"][str(label)]
            mine = [row for row in range(20) if labels[row] == label]
            assert of_class["accuracy"] == pytest.approx(1 - sum(success[row] for row in mine) / n)
            assert of_class["weight"] == pytest.approx(sum(weights[row] for row in mine) / n)


def test_predictions_are_of_the_attacked_images_without_transformations(product):
    table, saved = product.examples, product.perturbations
    assert table["group"] == [row // 4 for row in range(20)]
    assert table["label"] == saved["labels"].flatten().tolist()
    for attack in product.attacks:
        attacked = saved[f"{attack}.adversarial"]
        assert attacked.shape == (5, 4, 1, 8, 8)
        assert torch.equal(attacked, (saved["clean"] + saved[f"{attack}.delta"].unsqueeze(1)).clamp(0, 1))
        for name in ("a", "c", "c@seed1"):
            predicted = zoo.load(f"digits/{name}")(attacked.flatten(0, 1)).argmax(1).tolist()
            assert table[f"{attack}.predicted.{name}"] == predicted
        right = [p == label for p, label in zip(table[f"{attack}.predicted.c@seed1"], table["label"], strict=True)]
        score = product.metrics["attacks"][attack]["transfer_accuracy"]["c@seed1"]
        assert score == pytest.approx(sum(right) / 20)


def test_comparison_is_group_by_group(product):
    ours, theirs = (product.examples[f"{name}.fooled_all"][::4] for name in ("min-max", "average"))
    compared = product.metrics["comparison"]
    assert compared["examples"] == 5
    assert compared["difference"] == pytest.approx(sum(ours) / 5 - sum(theirs) / 5)
    rates = [product.metrics["attacks"][name]["asr_avg"] for name in ("min-max", "average")]
    assert compared["asr_avg"]["difference"] == pytest.approx(rates[0] - rates[1])
    assert compared["asr_avg"]["low"] <= compared["asr_avg"]["difference"] <= compared["asr_avg"]["high"]


def test_groups_by_class_hold_one_class(digits, tmp_path):
    record = run_attack(UNIVERSAL, tmp_path / "run")
    labels = record.perturbations["labels"]
    assert bool((labels == labels[:, :1]).all())
    assert record.metrics["left_out"] == 60 - labels.numel()
    # Without transformations, and with one model, a domain is an image: the model's name stands for it in the table.
    fooled = torch.tensor(record.examples["min-max.fooled.a"]).view(labels.shape)
    assert record.metrics["attacks"]["min-max"]["asr_all"] == pytest.approx(float(fooled.all(1).double().mean()))
    predicted = zoo.load("digits/a")(record.perturbations["min-max.adversarial"].flatten(0, 1)).argmax(1)
    assert torch.equal(fooled.flatten(), predicted != labels.flatten())
    assert "min-max.success.a" not in record.examples


def test_clean_accuracies_are_under_each_transformation(digits, tmp_path):
    metrics = run_attack(TRANSFORMS, tmp_path / "run").metrics
    images = orb.data.load("digits", limit=12)
    flip = FlipHorizontal()
    right = {
        seen: [float((zoo.load(f"digits/{m}")(x).argmax(1) == images.y).double().mean()) for m in ("a", "c")]
        for seen, x in (("ori", images.x), ("flh", flip(images.x)))
    }
    assert metrics["clean_by"]["transforms"] == pytest.approx({seen: sum(r) / 2 for seen, r in right.items()})
    assert metrics["clean_by"]["models"]["a"] == pytest.approx((right["ori"][0] + right["flh"][0]) / 2)
    assert metrics["clean_accuracy"]["c"] == pytest.approx(right["ori"][1])
    assert metrics["left_out"] == 0
    assert "group" not in run_attack(TRANSFORMS, tmp_path / "run").examples


def test_checks_are_told_one_by_one(digits, tmp_path):
    told = []
    run_attack(
        replace(TRANSFORMS, options={**TRANSFORMS.options, "steps": 1}),
        tmp_path / "run",
        lambda *what: told.append(what),
    )
    assert [what for what in told if what[0] == "check"] == [("check", 1, 3), ("check", 2, 3), ("check", 3, 3)]


@pytest.mark.parametrize(
    ("models", "transforms", "names"),
    [
        (["a", "c"], [], ["a", "c"]),
        (["a"], [], ["a"]),
        (["a"], ["ori", "flh"], ["ori", "flh"]),
        (["a", "c"], ["ori", "flh"], ["a/ori", "a/flh", "c/ori", "c/flh"]),
    ],
)
def test_domains_of_an_image_are_named_by_what_is_in_use(models, transforms, names):
    assert image_domains(models, transforms) == names


@pytest.mark.parametrize("keep", ["best", "last"])
def test_curves_end_where_the_rates_do(digits, tmp_path, keep):
    """Also where the last iterate is worse than the best, and in a targeted attack, of which not all counts."""
    for target in (None, 3):
        job = AttackJob(
            "digits", ("a", "c"), orb.Linf(0.2), images=20, target=target, options={"steps": 6, "keep": keep}
        )
        record = run_attack(job, tmp_path / f"{target}")
        for name, metrics in record.metrics["attacks"].items():
            assert float(record.history[f"{name}.best_all_fooled"][-1]) == pytest.approx(metrics["asr_all"])
            ends = record.history[f"{name}.best_fooled"][-1].tolist()
            rates = metrics["target_success"] if target else {m: 1 - a for m, a in metrics["accuracy"].items()}
            assert ends == pytest.approx(list(rates.values()), abs=1e-6)
