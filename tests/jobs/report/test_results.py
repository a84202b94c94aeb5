"""What results write of themselves is what the job of the command line leaves for the same attack."""

import json
import pickle
from copy import deepcopy

import pytest
import torch
from PIL import Image

import omnirobust as orb
from omnirobust import evaluation, zoo
from omnirobust.domains.transforms import named
from omnirobust.jobs import AttackJob, AttackRecord, EvaluationJob, Grouping, run_attack, run_evaluation
from omnirobust.jobs.folder import RunFolder
from omnirobust.jobs.records import EvaluationRecord
from omnirobust.jobs.report import build_report
from omnirobust.jobs.report.compare import compare_runs
from omnirobust.zoo import data

STEPS = {"steps": 6, "batch_size": 20}
RADIUS = orb.Linf(0.15)


@pytest.fixture(scope="module")
def digits(digits_cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMNIROBUST_CACHE", str(digits_cache))
        yield data.load("digits", limit=20), {name: zoo.load(f"digits/{name}") for name in "ac"}


def equal_runs(ours, theirs, differ=()):
    """Assert equal tensors, tables, metrics and settings, but for those that ``differ``; return both settings."""
    a, b = RunFolder.open(ours), RunFolder.open(theirs)
    for name in ("perturbations.safetensors", "history.safetensors"):
        if (b.path / name).exists():
            assert (a.path / name).read_bytes() == (b.path / name).read_bytes()
    assert a.read_table("examples.parquet") == b.read_table("examples.parquet")
    metrics = [json.loads((run.path / "metrics.json").read_text()) for run in (a, b)]
    for found in metrics:
        found.pop("digests")
    assert metrics[0] == metrics[1]
    assert a.config.keys() == b.config.keys()
    for key in set(a.config) - set(differ):
        assert a.config[key] == b.config[key], key
    assert sorted(f.name for f in a.path.iterdir()) == sorted(f.name for f in b.path.iterdir())


def both(attack, models, x, y, threat_model=RADIUS, **options):
    """Return a result under the default rule, and that of the average."""
    return [attack(models, x, y, threat_model, **STEPS, **options, rule=rule) for rule in (None, orb.Uniform())]


@pytest.mark.parametrize("case", ["plain", "targeted", "predicted"])
def test_an_ensemble_is_saved_as_the_job_saves_it(digits, tmp_path, case):
    images, models = digits
    given = {"plain": {}, "targeted": {"target": 3}, "predicted": {"labels": "predicted"}}[case]
    run_attack(AttackJob("digits", ("a", "c"), RADIUS, images=20, **given, options=STEPS), tmp_path / "job")
    build_report(tmp_path / "job")
    y, said = images.y, {}
    if case == "targeted":
        y, said = torch.full_like(y, 3), {"targeted": True, "true_labels": images.y}
    if case == "predicted":
        y = torch.stack([model(images.x).argmax(1) for model in models.values()], 1)
        said = {"true_labels": images.y}
    result, average = both(orb.attack_ensemble, models, images.x, y, **said)
    out = result.save(tmp_path / "ours", average=average, data=images)
    equal_runs(out, tmp_path / "job")
    assert (out / "report.html").read_bytes() == (tmp_path / "job" / "report.html").read_bytes()
    page = result.report(tmp_path / "page.html", average=average, data=images)
    assert page.read_bytes() == (out / "report.html").read_bytes()
    assert AttackRecord.open(out).attacks == ["average", "min-max"]


def test_groups_and_transformations_are_saved_as_the_job_saves_them(digits, tmp_path):
    images, models = digits
    job = AttackJob(
        "digits", ("a", "c"), RADIUS, images=20, groups=Grouping(2, "given"), transforms=("ori", "rot:-20..20"),
        options=STEPS,
    )  # fmt: skip
    run_attack(job, tmp_path / "job")
    build_report(tmp_path / "job")
    views = dict(map(named, job.transforms))
    x, y = images.x.unflatten(0, (-1, 2)), images.y.unflatten(0, (-1, 2))
    result, average = both(orb.attack_universal, models, x, y, transforms=views)
    equal_runs(result.save(tmp_path / "ours", average=average, data=images), tmp_path / "job")
    assert "as they were given" in (tmp_path / "ours" / "report.html").read_text(encoding="utf-8")


def test_a_result_alone_and_nameless_has_a_page(digits, tmp_path):
    images, models = digits
    result = orb.attack_transforms(models["a"], images.x, images.y, {"as is": lambda x: x}, RADIUS, steps=3)
    out = result.save(tmp_path / "ours")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "tensors" in page and "fools the model under the transformation" in page
    assert "Weights" not in page or "min-max" in page
    again = orb.attack_transforms(models["a"], images.x, images.y, {"as is": lambda x: x}, RADIUS, steps=4)
    compared = compare_runs(out, again.save(tmp_path / "other"))
    assert compared[0].lines[0].paired.examples == 20


def test_a_mask_is_told(digits, tmp_path):
    images, models = digits
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, :2, :3] = True
    result = orb.attack_ensemble(models, images.x, images.y, orb.Linf(0.5, mask=mask), steps=2)
    assert "linf eps 0.5 on 6 values under the mask, 2 steps" in result.report(tmp_path / "p.html").read_text("utf-8")


def test_curves_of_a_saved_result_do_not_hang_on_the_history_asked_for(digits, tmp_path):
    images, models = digits
    short = orb.attack_ensemble(models, images.x, images.y, RADIUS, steps=4)
    full = orb.attack_ensemble(models, images.x, images.y, RADIUS, steps=4, history="full")
    assert short.history.rows is None and full.history.rows is not None
    assert short.report(tmp_path / "a.html").read_bytes() == full.report(tmp_path / "b.html").read_bytes()
    assert "Success of the best iterate so far" in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_an_evaluation_is_saved_as_the_job_saves_it(digits, tmp_path):
    images, models = digits
    job = EvaluationJob("digits", ("a",), {"linf:0.1": orb.Linf(0.1)}, steps=5, images=20, batch_size=20)
    run_evaluation(job, tmp_path / "job")
    build_report(tmp_path / "job")
    report = evaluation.evaluate_robustness(
        models["a"], images.x, images.y, {"linf:0.1": orb.Linf(0.1)}, steps=5, batch_size=20
    )
    out = report.save(tmp_path / "ours", name="a", data=images)
    equal_runs(out, tmp_path / "job")
    assert (out / "report.html").read_bytes() == (tmp_path / "job" / "report.html").read_bytes()
    given = evaluation.evaluate_robustness(
        lambda x: models["a"](x), images.x, images.y, orb.Linf(0.1), steps=2, universal={"shift": images.x[0] * 0.1},
        attacks=evaluation.STRONG[:1],
    )  # fmt: skip
    assert "shift" in given.report(tmp_path / "page.html").read_text(encoding="utf-8")
    assert EvaluationRecord.open(given.save(tmp_path / "given")).threats == ["linf:0.1", "shift"]


def test_saving_again_writes_anew_and_another_attack_is_refused(digits, tmp_path):
    images, models = digits
    first, second = (orb.attack_ensemble(models, images.x, images.y, RADIUS, steps=steps) for steps in (2, 3))
    first.save(tmp_path / "run")
    kept = (tmp_path / "run" / "metrics.json").read_bytes()
    first.save(tmp_path / "run")
    assert (tmp_path / "run" / "metrics.json").read_bytes() == kept
    with pytest.raises(ValueError, match=r"out must be a new folder or that of a run with the same settings.*steps 2"):
        second.save(tmp_path / "run")
    with pytest.raises(ValueError, match=r"average must be the result under rule=Uniform\(\)"):
        first.save(tmp_path / "new", average=second)
    averages = [
        orb.attack_ensemble(models, images.x[:n], images.y[:n], RADIUS, steps=s, rule=orb.Uniform())
        for n, s in ((20, 3), (10, 2))
    ]
    with pytest.raises(ValueError, match="average must be of the same attack, got one with steps 3, not 2"):
        first.save(tmp_path / "new", average=averages[0])
    with pytest.raises(ValueError, match="average must be of the same attack, got one on other models, inputs"):
        first.save(tmp_path / "new", average=averages[1])
    assert not (tmp_path / "new").exists()


def test_what_a_page_cannot_say_is_refused(digits, tmp_path):
    images, models = digits
    x, y, out = images.x[:4], images.y[:4], tmp_path / "run"

    def refused(match, *given, **options):
        result = orb.attack_ensemble(models, *given, steps=1, **options)
        with pytest.raises(ValueError, match=match):
            result.save(out)

    refused(
        "y must be one class to reach, .* got [2-4] different ones: a page has one target",
        x,
        (y + 1) % 10,
        RADIUS,
        targeted=True,
    )
    refused("y must be one label an input, or each", x, torch.stack([y, (y + 1) % 10], 1), RADIUS)
    refused("eps must be one number", x, y, orb.Linf(torch.full((4,), 0.1)))
    result = orb.attack_ensemble(models, x, y, RADIUS, steps=1)
    for copied in (deepcopy(result), pickle.loads(pickle.dumps(result))):
        with pytest.raises(ValueError, match="result must be what an attack returned, not a copy of it"):
            copied.save(out)
    with pytest.raises(ValueError, match=r"file must be the path of a page, such as page\.html, got the folder"):
        result.report(tmp_path)
    with pytest.raises(ValueError, match="data must be the set that the inputs"):
        result.save(out, data=data.load("digits", limit=2))
    with pytest.raises(ValueError, match=r"average must be the result of an attack under .*, or None, got dict"):
        result.report(tmp_path / "q.html", average=models)
    report = evaluation.evaluate_robustness(models["a"], x, y, RADIUS, steps=1, attacks=evaluation.STRONG[:1])
    for each in (result, report):
        with pytest.raises(ValueError, match=r"data must be the set .*, as data.load gives it, or None, got int"):
            each.report(tmp_path / "q.html", data=3)
    assert not (tmp_path / "q.html").exists()
    assert not out.exists()


def test_results_can_be_pickled_whatever_the_models_are(digits):
    images, models = digits
    result = orb.attack_ensemble([lambda x: models["a"](x)], images.x[:2], images.y[:2], RADIUS, steps=1)
    assert torch.equal(pickle.loads(pickle.dumps(result)).delta, result.delta)


def test_a_slice_of_a_whole_sorted_set_keeps_the_rows_it_is_of(digits, tmp_path):
    given, models = digits
    for label in range(10):
        for number, image in enumerate(given.x[given.y == label]):
            file = tmp_path / "set" / "test" / str(label) / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image[0] * 255).byte().numpy()).save(file)
    whole = data.load(str(tmp_path / "set"))
    assert whole.choice and whole.rows is not None
    first = whole.part(slice(0, 4))
    result = orb.attack_ensemble(models, first.x, first.y, RADIUS, steps=1)
    rows = RunFolder.open(result.save(tmp_path / "run", data=whole)).read_table("examples.parquet")["row_in_set"]
    assert torch.equal(data.load(str(tmp_path / "set"), in_order=True).x[rows], first.x) and len(rows) == 4
    other = orb.attack_ensemble(models, whole.x[4:8], whole.y[4:8], RADIUS, steps=1)
    assert "row_in_set" not in RunFolder.open(other.save(tmp_path / "b", data=whole)).read_table("examples.parquet")
