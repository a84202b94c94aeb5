from pathlib import Path

import pytest

import omnirobust as orb
from omnirobust.jobs import AttackJob, AttackRecord, run_attack
from omnirobust.jobs.folder import RunFolder
from omnirobust.jobs.report.cautions import guessing, one_class, saturated
from omnirobust.jobs.report.numbers import radius
from omnirobust.jobs.report.text import notes


def record(*rates: float, norm: str = "linf", eps: float = 0.3, bounds: tuple[float, float] = (0.0, 1.0)):
    attacks = {name: {"asr_all": rate} for name, rate in zip(("average", "min-max"), rates, strict=False)}
    config = {"attack": {"norm": norm, "eps": eps, "bounds": list(bounds)}}
    return AttackRecord(RunFolder(Path("runs/x"), config), {"attacks": attacks})


@pytest.mark.parametrize(
    ("rates", "settings", "rate", "tried"),
    [
        ((1.0, 1.0), {}, "100.00 % under every rule", " Try half of it, --eps 0.15."),
        ((0.0, 0.0), {}, "0.00 % under every rule", " Try twice as much, --eps 0.6."),
        ((1.0,), {"eps": 8 / 255}, "100.00 % under average", " Try half of it, --eps 4/255."),
        ((0.0, 0.0), {"norm": "l0", "eps": 3.0}, "0.00 % under every rule", " Try twice as much, --eps 6."),
        ((1.0, 1.0), {"norm": "l0", "eps": 1.0}, "100.00 % under every rule", ""),
        ((0.0, 0.0), {"eps": 0.0}, "0.00 % under every rule", ""),
        ((0.0, 0.0), {"eps": 0.7}, "0.00 % under every rule", ""),
        ((0.0, 0.0), {"eps": 0.7, "bounds": (-1.0, 1.0)}, "0.00 % under every rule", " Try twice as much, --eps 1.4."),
    ],
)
def test_a_saturated_result_says_so_and_names_a_radius(rates, settings, rate, tried):
    assert saturated(record(*rates, **settings)) == [f"ASR_all is {rate}: this radius tells nothing apart.{tried}"]


@pytest.mark.parametrize("rates", [(0.0, 0.1), (0.99, 1.0), (0.5, 0.5), (0.0, 1.0)])
def test_other_results_are_not_called_saturated(rates):
    assert saturated(record(*rates)) == []


@pytest.mark.parametrize(
    ("eps", "text"),
    [
        (0.1, "0.1"), (4 / 255, "4/255"), (8 / 255, "8/255"), (10 / 255, "10/255"), (0.5 / 255, "0.5/255"),
        (20.0, "20"), (2.5, "2.5"), (0.0, "0"), (1e-6, "1e-06"), (1.0, "1"), (0.1 + 0.2, "0.3"),
    ],
)  # fmt: skip
def test_radii_are_written_as_people_type_them(eps, text):
    assert radius(eps) == text


def test_guessing_needs_images_enough_to_tell():
    assert guessing({"e": 0.0}, 9, ["no", "yes"]) == []
    assert guessing({"e": 0.9}, 10, ["no", "yes"]) == []
    assert guessing({"e": 0.8}, 10, ["no", "yes"])[0].startswith("Before any attack right no more often than guessing")


def test_a_model_that_says_one_class_for_everything_is_named():
    (said,) = one_class({"e": "cat"})
    assert said.startswith("Model e says cat of every image before any attack")


def test_an_attack_names_the_model_that_says_one_class(digits, tmp_path):
    stuck = tmp_path / "stuck.py"
    stuck.write_text(
        "import torch\n\n\ndef net():\n    layer = torch.nn.Linear(64, 10)\n"
        "    layer.bias.data[4] = 1e3\n    return torch.nn.Sequential(torch.nn.Flatten(), layer)\n"
    )
    job = AttackJob("digits", ("a", f"{stuck}:net"), orb.Linf(0.1), images=20, options={"steps": 2})
    found = run_attack(job, tmp_path / "run")
    assert found.metrics["one_class"] == {"net": "4"}
    assert any(note.startswith("Model net says 4 of every image") for note in notes(found))
