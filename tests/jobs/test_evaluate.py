from __future__ import annotations

import json
import shutil

import pytest
import torch

import omnirobust as orb
from omnirobust import zoo
from omnirobust.evaluation import evaluate_robustness
from omnirobust.jobs import EvaluationJob, EvaluationRecord, run_evaluation
from omnirobust.jobs import evaluate as evaluating
from omnirobust.zoo import data

THREATS = {"linf:0.06": orb.Linf(0.06), "l2:0.3": orb.L2(0.3)}


def job(**changes) -> EvaluationJob:
    base = {"data": "digits", "models": ("c", "a"), "threats": THREATS, "steps": 5, "images": 12, "batch_size": 5}
    return EvaluationJob(**(base | changes))


@pytest.fixture
def done(digits, tmp_path) -> EvaluationRecord:
    return run_evaluation(job(start=3), tmp_path / "run")


@pytest.mark.processors
def test_the_record_is_what_the_library_says(done):
    images = data.load("digits", split="test", limit=12, start=3)
    for name in ("c", "a"):
        report = evaluate_robustness(
            zoo.load(f"digits/{name}"), images.x, images.y, THREATS, steps=5, batch_size=5, first_row=3
        )  # fmt: skip
        batches = [
            evaluate_robustness(
                zoo.load(f"digits/{name}"), images.x[at : at + 5], images.y[at : at + 5], THREATS, steps=5,
                first_row=3 + at,
            )
            for at in (0, 5, 10)
        ]  # fmt: skip
        found = done.metrics["models"][name]
        assert found["clean"]["estimate"] == report.clean and found["union"]["estimate"] == report.union
        assert {t: rate["estimate"] for t, rate in found["accuracy"].items()} == report.accuracy
        assert found["average"] == report.average and found["breaks"] == report.breaks
        for k, threat in enumerate(THREATS):
            assert done.examples[f"{name}.correct.{threat}"] == report.correct[:, k].tolist()
            # the same bytes from the same batches; the later attacks of a whole evaluation meet in other ones
            assert torch.equal(
                done.perturbations[f"{name}.{threat}.delta"], torch.cat([batch.delta[threat] for batch in batches])
            )
            torch.testing.assert_close(
                done.perturbations[f"{name}.{threat}.delta"], report.delta[threat], atol=2e-2, rtol=0
            )
    assert torch.equal(done.perturbations["clean"], images.x) and done.examples["label"] == images.y.tolist()


def test_models_are_compared_image_by_image(done):
    (comparison,) = done.metrics["comparisons"]
    stands = {
        name: [all(row) for row in zip(*(done.examples[f"{name}.correct.{t}"] for t in THREATS), strict=True)]
        for name in ("c", "a")
    }
    assert (comparison["of"], comparison["with"]) == ("a", "c")
    assert comparison["only_first"] == sum(a and not c for a, c in zip(stands["a"], stands["c"], strict=True))
    assert comparison["only_second"] == sum(c and not a for a, c in zip(stands["a"], stands["c"], strict=True))


def test_an_interrupted_evaluation_goes_on_and_ends_with_the_same_files(done, digits, tmp_path, monkeypatch):
    calls = []
    whole = evaluating.evaluate_robustness

    def stopping(*args, **options):
        calls.append(options["first_row"])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole(*args, **options)

    monkeypatch.setattr(evaluating, "evaluate_robustness", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_evaluation(job(start=3), tmp_path / "again")
    damaged = tmp_path / "again" / "parts" / "0-00001.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:100])
    again = run_evaluation(job(start=3), tmp_path / "again")
    assert calls == [3, 8, 13, 3, 8, 3, 8, 13]  # the batch that was damaged, then those that were missing
    assert not (tmp_path / "again" / "parts").exists()
    for name in ("metrics.json", "perturbations.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == done.folder.file(name).read_bytes()
    assert again.examples == done.examples


def test_a_finished_run_is_not_made_again(done, monkeypatch):
    monkeypatch.setattr(evaluating, "evaluate_robustness", None)
    assert run_evaluation(job(start=3), done.folder.path).metrics == done.metrics


def test_another_setting_needs_another_folder(done):
    with pytest.raises(ValueError, match="made with steps 5, not 6"):
        run_evaluation(job(start=3, steps=6), done.folder.path)


def test_progress_counts_up_to_its_end(digits, tmp_path):
    seen: dict[str, list[tuple[int, int]]] = {}
    run_evaluation(job(images=6, batch_size=4), tmp_path / "run", lambda n, d, t: seen.setdefault(n, []).append((d, t)))
    assert list(seen) == ["c", "a"]
    for steps in seen.values():
        done = [d for d, _ in steps]
        assert done == sorted(done) and {t for _, t in steps} == {done[-1]}


def test_a_run_of_another_kind_is_told(done, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(done.folder.path, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"job": "train"}))
    with pytest.raises(ValueError, match=r"run must be that of an evaluation, got .*, a run of 'train'"):
        EvaluationRecord.open(other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"images": 0}, "images must be >= 1, got 0"),
        ({"batch_size": -2}, "batch_size must be >= 1, got -2"),
        ({"start": -1}, "start must be >= 0, got -1"),
        ({"threats": {"a": orb.L2(torch.ones(3))}}, "threats must have one radius each, for"),
    ],
)
def test_errors_name_the_setting(changes, message):
    with pytest.raises(ValueError, match=message):
        job(**changes)


def test_no_images_are_told(digits, tmp_path):
    with pytest.raises(ValueError, match="images must hold at least one, got none from 600 of digits, test"):
        run_evaluation(job(start=600), tmp_path / "run")


def test_a_model_that_says_one_class_is_named_once_however_the_images_are_cut(digits, tmp_path):
    stuck = tmp_path / "stuck.py"
    stuck.write_text(
        "import torch\n\n\ndef net():\n    layer = torch.nn.Linear(64, 10)\n"
        "    layer.bias.data[4] = 1e3\n    return torch.nn.Sequential(torch.nn.Flatten(), layer)\n"
    )
    found = run_evaluation(job(models=(f"{stuck}:net",), images=20, batch_size=7), tmp_path / "run").metrics["models"]
    assert [note[:51] for note in found["net"]["notes"]] == ["Before any attack the model says class 4 of every i"]
    images = data.load("digits", split="test", limit=20)
    whole = evaluate_robustness(torch.nn.Sequential(torch.nn.Flatten(), _stuck()), images.x, images.y, THREATS, steps=2)
    assert list(whole.notes) == found["net"]["notes"]


def _stuck():
    layer = torch.nn.Linear(64, 10)
    layer.bias.data[4] = 1e3
    return layer
