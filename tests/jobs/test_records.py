import json
from dataclasses import replace

import pytest

import omnirobust as orb
from omnirobust.jobs import AttackJob, AttackRecord, Grouping, open_records, run_attack
from omnirobust.jobs.folder import RunFolder

JOB = AttackJob("digits", ("a",), orb.Linf(0.1), images=12, options={"steps": 1})


@pytest.mark.parametrize(
    ("parts", "task", "rate", "axes"),
    [
        ({}, "ensemble", "ASR_all", {"models": ["a"]}),
        ({"groups": Grouping(2)}, "universal", "ASR_gp", {"examples": ["image_0", "image_1"]}),
        ({"transforms": ("flh", "bri:0.1")}, "transforms", "ASR_gp", {"transforms": ["flh", "bri:0.1"]}),
    ],
)
def test_a_record_knows_its_task(digits, tmp_path, parts, task, rate, axes):
    record = run_attack(replace(JOB, **parts), tmp_path / "run")
    again = AttackRecord.open(tmp_path / "run")
    assert again == record
    assert (again.task, again.rate, again.axes) == (task, rate, axes)
    assert again.config["job"] == f"attack {task}"
    assert again.transforms == list(parts.get("transforms", ()))
    assert (again.groups is None) == ("groups" not in parts)
    assert open_records(tmp_path / "run") == [record]


def test_runs_of_an_earlier_version_are_told(digits, tmp_path):
    run_attack(JOB, tmp_path / "run")
    file = tmp_path / "run" / "metrics.json"
    metrics = json.loads(file.read_text())
    del metrics["axes"]
    file.write_text(json.dumps(metrics))
    with pytest.raises(
        ValueError, match=r"run must be one of this version, got .*: delete it and give its command again"
    ):
        AttackRecord.open(tmp_path / "run")


def test_other_kinds_of_runs_are_told(tmp_path):
    RunFolder.create(tmp_path / "run", {"job": "train"})
    with pytest.raises(ValueError, match=r"run must be that of an attack, got .*, a run of 'train'"):
        AttackRecord.open(tmp_path / "run")
