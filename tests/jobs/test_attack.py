import json
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import omnirobust as orb
from omnirobust import zoo
from omnirobust.domains.groups import make_groups
from omnirobust.domains.transforms import Identity, Rotate
from omnirobust.jobs import AttackJob, AttackRecord, EvaluationJob, Grouping, open_records, run_attack, run_evaluation
from omnirobust.jobs.folder import RunFolder
from omnirobust.zoo import data

from .. import forks

JOB = AttackJob("digits", ("a", "c"), orb.Linf(0.1), images=30, options={"steps": 5, "batch_size": 10})
GROUPS = AttackJob(
    "digits",
    ("a", "c"),
    orb.Linf(0.2),
    images=32,
    groups=Grouping(3, "class", seed=1),
    transforms=("ori", "rot:-20..20"),
    options={"steps": 5, "batch_size": 3, "samples": 2, "draws": 4},
)


def test_the_attack_is_that_of_the_library(digits, tmp_path):
    record = run_attack(JOB, tmp_path / "run")
    images = data.load("digits", limit=30)
    models = {name: zoo.load(f"digits/{name}") for name in ("a", "c")}
    for name, rule in (("average", orb.Uniform()), ("min-max", None)):
        expected = orb.attack_ensemble(models, images.x, images.y, orb.Linf(0.1), steps=5, rule=rule, batch_size=10)
        metrics = record.metrics["attacks"][name]
        assert torch.equal(record.perturbations[f"{name}.delta"], expected.delta)
        assert torch.equal(record.perturbations[f"{name}.adversarial"], expected.adversarial)
        assert torch.equal(record.history[f"{name}.all_fooled"], expected.history.all_fooled)
        assert metrics["asr_all"] == pytest.approx(expected.asr_all)
        assert metrics["asr_avg"] == pytest.approx(expected.asr_avg)
        assert [*metrics["accuracy"].values()] == pytest.approx(expected.accuracy.tolist())
        assert [*metrics["mean_weights"].values()] == pytest.approx(expected.weights.mean(0).tolist())
        assert metrics["gradient_evaluations"] == 2 * (5 + 1)
        assert record.examples[f"{name}.fooled.c"] == expected.fooled[:, 1].tolist()
        logits = models["a"](expected.adversarial)
        assert record.examples[f"{name}.predicted.a"] == logits.argmax(1).tolist()


@pytest.mark.parametrize("name", ["average", "min-max"])
def test_the_attack_on_a_product_is_that_of_the_library(digits, tmp_path, name):
    record = run_attack(GROUPS, tmp_path / "run")
    images = data.load("digits", limit=32)
    groups = make_groups(images.y, 3, "class", 1)
    expected = orb.attack_product(
        {m: zoo.load(f"digits/{m}") for m in ("a", "c")}, images.x[groups], images.y[groups], orb.Linf(0.2),
        transforms={"ori": Identity(), "rot:-20..20": Rotate((-20.0, 20.0))}, shared=True, samples=2, draws=4,
        rule=orb.Uniform() if name == "average" else None, steps=5, batch_size=3,
    )  # fmt: skip
    metrics = record.metrics["attacks"][name]
    assert torch.equal(record.perturbations[f"{name}.delta"], expected.delta)
    assert torch.equal(record.perturbations[f"{name}.adversarial"], expected.adversarial)
    assert metrics["asr_all"] == pytest.approx(expected.asr_gp)
    assert metrics["asr_avg"] == pytest.approx(expected.asr_avg)
    assert metrics["mean_fooled"] == pytest.approx(float(expected.fooled.sum(1).double().mean()))
    assert [*metrics["mean_weights"].values()] == pytest.approx(expected.weights.mean(0).tolist(), abs=1e-6)
    assert record.metrics["domains"] == list(expected.names)
    assert metrics["gradient_evaluations"] == expected.gradient_evaluations == 2 * 3 * ((1 + 2) * 5 + 2)


@pytest.mark.parametrize("preset", [None, "paper"])
def test_the_clip_setting_reaches_the_attack_and_the_record(digits, tmp_path, preset):
    job = AttackJob(
        "digits", ("a",), orb.Linf(0.3), images=20, groups=Grouping(4), options={"steps": 3, "preset": preset}
    )
    record = run_attack(job, tmp_path / "run")
    clip = record.config["groups"]["clip"]
    assert clip == ("image" if preset is None else "intersection")
    saved = record.perturbations
    moved = saved["clean"] + saved["average.delta"].unsqueeze(1)
    assert bool(((moved >= 0) & (moved <= 1)).all()) == (clip == "intersection")


def test_metrics_agree_with_the_table_of_examples(digits, tmp_path):
    record = run_attack(JOB, tmp_path / "run")
    ours, average = (record.examples[f"{name}.fooled_all"] for name in ("min-max", "average"))
    compared = record.metrics["comparison"]
    assert compared["difference"] == pytest.approx(sum(ours) / 30 - sum(average) / 30)
    assert compared["only_first"] == sum(a and not b for a, b in zip(ours, average, strict=True))
    assert compared["lift"] == pytest.approx(sum(ours) / sum(average) - 1)
    right = [a == b for a, b in zip(record.examples["clean.predicted.a"], record.examples["label"], strict=True)]
    assert record.metrics["clean_accuracy"]["a"] == pytest.approx(sum(right) / 30)


def test_called_again_a_finished_run_is_only_read(digits, tmp_path):
    run_attack(JOB, tmp_path / "run")
    stamps = {f: f.stat().st_mtime_ns for f in (tmp_path / "run").iterdir()}
    told = []
    again = run_attack(JOB, tmp_path / "run", lambda *what: told.append(what))
    assert {f: f.stat().st_mtime_ns for f in (tmp_path / "run").iterdir()} == stamps
    assert told == []
    assert again.metrics == AttackRecord.open(tmp_path / "run").metrics
    assert open_records(tmp_path / "run") == [again]


def test_other_weights_are_another_run(digits, tmp_path):
    run_attack(JOB, tmp_path / "run")
    with pytest.raises(ValueError, match=r"made with models\.c@seed1\.weights nothing"):
        run_attack(
            AttackJob("digits", ("a", "c@seed1"), orb.Linf(0.1), images=30, options={"steps": 5}), tmp_path / "run"
        )
    with pytest.raises(ValueError, match=r"made with attack\.eps 0\.1, not 0\.2"):
        run_attack(AttackJob("digits", ("a", "c"), orb.Linf(0.2), images=30, options={"steps": 5}), tmp_path / "run")


def test_transfer_scores_models_that_were_not_attacked(digits, tmp_path):
    job = AttackJob("digits", ("a", "c"), orb.Linf(0.1), images=30, transfer=("c@seed1",), options={"steps": 3})
    record = run_attack(job, tmp_path / "run")
    other, labels = zoo.load("digits/c@seed1"), record.perturbations["labels"]
    for name in record.attacks:
        predicted = other(record.perturbations[f"{name}.adversarial"]).argmax(1)
        score = record.metrics["attacks"][name]["transfer_accuracy"]["c@seed1"]
        assert score == pytest.approx(float((predicted == labels).float().mean()))
    assert record.metrics["models"] == ["a", "c"]


def test_predicted_labels_are_each_model_s_own(digits, tmp_path):
    job = AttackJob("digits", ("a", "c"), orb.Linf(0.0), images=60, labels="predicted", options={"steps": 0})
    record = run_attack(job, tmp_path / "run")
    # Without any perturbation no model leaves its own prediction, while some miss the true label.
    assert record.metrics["attacks"]["min-max"]["agreement"] == {"a": 1.0, "c": 1.0}
    assert record.metrics["attacks"]["min-max"]["accuracy"] == record.metrics["clean_accuracy"]
    assert record.metrics["clean_accuracy"]["a"] < 1


def test_a_targeted_attack_counts_the_target(digits, tmp_path):
    job = AttackJob("digits", ("a", "c"), orb.Linf(0.3), images=20, target=3, options={"steps": 10})
    record = run_attack(job, tmp_path / "run")
    table = record.examples
    hits = [a == c == 3 for a, c in zip(table["min-max.predicted.a"], table["min-max.predicted.c"], strict=True)]
    assert table["min-max.fooled_all"] == hits
    assert any(hits)


def test_an_average_is_compared_with_nothing(digits, tmp_path):
    job = AttackJob(
        "digits", ("a",), orb.Linf(0.1), images=10, rule_name="average", options={"steps": 2, "rule": orb.Uniform()}
    )
    record = run_attack(job, tmp_path / "run")
    assert record.attacks == ["average"]
    assert record.metrics["comparison"] is None


def test_rows_do_not_depend_on_where_the_job_starts(digits, tmp_path):
    # The paper's start is noise, keyed by the row's place in the data set.
    job = AttackJob(
        "digits", ("a", "c"), orb.Linf(0.1), images=10, options={"steps": 4, "preset": "paper", "batch_size": 5}
    )
    whole = run_attack(job, tmp_path / "whole")
    end = run_attack(replace(job, images=5, start=5), tmp_path / "end")
    assert torch.equal(whole.perturbations["min-max.delta"][5:], end.perturbations["min-max.delta"])


def die(what: str, done: int, total: int) -> None:
    if what == "min-max" and done >= total // 2:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("job", ["JOB", "GROUPS"])
def test_a_killed_job_resumes_to_the_very_same_files(digits, tmp_path, job):
    settings = globals()[job]
    whole = run_attack(settings, tmp_path / "whole")
    assert forks.ended(lambda: run_attack(settings, tmp_path / "killed", die)) == forks.KILLED
    assert not (tmp_path / "killed" / "metrics.json").exists()
    assert list((tmp_path / "killed" / "parts" / "average").iterdir())
    told = []
    resumed = run_attack(settings, tmp_path / "killed", lambda what, done, total: told.append((what, done)))
    assert resumed.metrics == whole.metrics
    assert resumed.examples == whole.examples
    for name in ("perturbations.safetensors", "history.safetensors"):
        ours, theirs = (load_file(tmp_path / run / name) for run in ("whole", "killed"))
        assert all(torch.equal(ours[key], theirs[key]) for key in {*ours, *theirs})
    assert not (tmp_path / "killed" / "parts").exists()
    assert told[0] == ("average", settings.options["steps"] + 1)  # a whole batch at once: it was not computed again


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": 0}, "images must be >= 1, got 0"),
        ({"options": {"steps": -1}}, "steps must be a whole number >= 0, got -1"),
        ({"options": {"batch_size": 0}}, "batch_size must be a whole number >= 1 or None, got 0"),
        ({"start": 5000}, "start must be an index of the test split of digits, got 5000"),
        ({"models": ("a", "a")}, "models must be named once each, got a twice"),
        ({"models": ()}, "models must name at least one model"),
        ({"models": ("z",)}, "got 'digits/z'"),
        (
            {"models": ("a", "a@seed7")},
            "no weights of digits/a@seed7 yet: omnirobust zoo train digits/a --seed 7",
        ),
        ({"transfer": ("a",)}, "transfer must name models that are not attacked, got a"),
        ({"target": 10}, r"target must be in \[0, 10\), got 10"),
        ({"target": 1, "labels": "predicted"}, "labels must be true with a target"),
        ({"threat_model": orb.Linf(torch.tensor([0.1, 0.2]))}, "eps must be one number"),
        ({"options": {"preset": "papier"}}, "preset must be 'paper', 'transfer' or None"),
    ],
)
def test_bad_settings_are_one_sentence(digits, tmp_path, change, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run_attack(replace(JOB, **change), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_config_is_plain_and_tells_what_was_run(digits, tmp_path):
    config = run_attack(JOB, tmp_path / "run").config
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == config
    assert config["attack"]["eps"] == 0.1
    assert config["rules"]["average"] == "Uniform()"
    assert config["data"]["images"] == 30


@pytest.mark.parametrize("run", [run_attack, run_evaluation])
@pytest.mark.parametrize("there", [False, True])
def test_what_does_not_fit_leaves_no_folder_behind(digits, tmp_path, run, there):
    """After mending one's own code the same command, with its --out, must go through."""
    own, folder = tmp_path / "own.py", tmp_path / "run"
    if there:
        folder.mkdir()
    net = "from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, {}))\n"
    own.write_text(net.format(5))
    attack = replace(JOB, models=(f"{own}:net",), options={**JOB.options, "steps": 1})
    threats = {"linf:0.1": orb.Linf(0.1)}
    job = attack if run is run_attack else EvaluationJob("digits", attack.models, threats, steps=1, images=10)
    with pytest.raises(ValueError, match=r"models must have a class for every label, 0 to 9, got .*, which has 5"):
        run(job, folder, options="data: digits\n")
    assert folder.exists() is there and not list(folder.glob("*"))
    own.write_text(net.format(10))
    run(job, folder)
    assert (folder / "metrics.json").is_file()


def test_an_error_takes_no_results_and_no_settings_of_another_run_away(digits, tmp_path):
    run_attack(JOB, tmp_path / "run")
    before = {f.name for f in (tmp_path / "run").iterdir()}
    with pytest.raises(ValueError, match="same settings"):
        run_attack(replace(JOB, options={**JOB.options, "steps": 3}), tmp_path / "run")
    assert {f.name for f in (tmp_path / "run").iterdir()} == before
    begun = RunFolder.create(tmp_path / "begun", {"job": "another"})
    with pytest.raises(ValueError, match="same settings"):
        run_attack(JOB, begun.path)
    assert begun.file("config.json").is_file()


@pytest.mark.parametrize("name", ["history.safetensors", "perturbations.safetensors", "examples.parquet"])
def test_damaged_results_are_made_again_by_doing_what_is_said(digits, tmp_path, name):
    folder = tmp_path / "run"
    run_attack(replace(JOB, images=10, options={**JOB.options, "steps": 2}), folder)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    record = run_attack(
        replace(JOB, images=10, options={**JOB.options, "steps": 2}), folder
    )  # the run has ended: it is not made again
    with pytest.raises(ValueError, match=r"damaged: delete (\S+) and run the job again") as told:
        _ = (record.history, record.perturbations, record.examples)
    found = re.search(r"delete (\S+) and", str(told.value))
    assert found is not None
    Path(found[1]).unlink()
    run_attack(replace(JOB, images=10, options={**JOB.options, "steps": 2}), folder)
    assert (folder / name).read_bytes() == whole


def test_a_damaged_configuration_is_mended_by_doing_what_is_said(digits, tmp_path):
    folder = tmp_path / "run"
    run_attack(replace(JOB, images=10, options={**JOB.options, "steps": 2}), folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged: delete its folder and run the job again"):
        run_attack(replace(JOB, images=10, options={**JOB.options, "steps": 2}), folder)
    shutil.rmtree(folder)
    run_attack(replace(JOB, images=10, options={**JOB.options, "steps": 2}), folder)
