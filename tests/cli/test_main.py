import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import pytest
import torch
import yaml
from safetensors.torch import save_file

from omnirobust.cli import main
from omnirobust.cli.app import commands
from omnirobust.cli.console import INTERRUPTED
from omnirobust.jobs import AttackRecord

SMALL = "--data digits --norm linf --images 12 --steps 3"


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main([word for argument in arguments for word in argument.split()])
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"omnirobust {version('omnirobust')}\n", "")


def test_the_job_from_the_command_line(digits, tmp_path, capsys):
    command = f"attack ensemble --models a c --eps 0.1 {SMALL} --transfer c@seed1"
    code, out, err = run(capsys, f"{command} --out {tmp_path}/run")
    assert (code, err) == (0, "")
    record = AttackRecord.open(tmp_path / "run")
    assert record.models == ["a", "c"]
    assert record.metrics["transfer"] == ["c@seed1"]
    for name in ("average", "min-max"):
        assert f"{100 * record.metrics['attacks'][name]['asr_all']:.2f}" in out
    assert "Saved and read back" in out
    assert "Not attacked, c@seed1" in out
    assert f"Report:  {tmp_path}/run/report.html" in out
    names = {"config.json", "config.yaml", "versions.json", "metrics.json", "examples.parquet", "history.safetensors"}
    assert {f.name for f in (tmp_path / "run").iterdir()} == names | {"perturbations.safetensors", "report.html"}


def test_options_reach_the_attack(digits, tmp_path, capsys):
    code, _, err = run(
        capsys,
        f"attack ensemble --models a,c --eps 0.1 {SMALL} --preset paper --rule ascent --beta 0.1 --gamma 2 --seed 3",
        f"--loss dlr --direction sign --step-size 0.05 --init zero --keep last --batch-size 6 --out {tmp_path}/run",
    )
    assert (code, err) == (0, "")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["rules"]["ascent"] == "ProjectedAscent(beta=0.1, gamma=2.0)"
    attack = config["attack"]
    assert (attack["preset"], attack["loss"], attack["keep"], attack["start"]) == ("paper", "dlr", "last", "zero")
    assert (attack["step_size"], attack["seed"], attack["batch_size"]) == (0.05, 3, 6)


def test_groups_from_the_command_line(digits, tmp_path, capsys):
    command = (
        f"attack universal --models a --eps 0.2 {SMALL} --images 32 --group-size 3 --group-by class --group-seed 4"
    )
    code, out, err = run(capsys, f"{command} --out {tmp_path}/run")
    assert (code, err) == (0, "")
    record = AttackRecord.open(tmp_path / "run")
    groups = record.config["groups"]
    assert (groups["size"], groups["by"], groups["seed"], groups["clip"]) == (3, "class", 4, "image")
    assert "One perturbation for 3 images at once" in out
    assert f"in {groups['count']} groups of 3 of one class" in " ".join(out.split())
    assert "clip image" in out
    assert f"{groups['left_out']} image" in out
    for metrics in record.metrics["attacks"].values():
        assert f"{100 * metrics['asr_all']:.2f}" in out
        assert f"{100 * metrics['asr_avg']:.2f}" in out
    assert (tmp_path / "run" / "report.html").is_file()


def test_products_from_the_command_line(digits, tmp_path, capsys):
    code, out, err = run(
        capsys,
        f"attack universal --models a c --eps 0.2 {SMALL} --preset paper --clip image --group-size 4 --seed 2",
        f"--transforms ori,flh rot:-30..30 --samples 2 --draws 3 --batch-size 2 --out {tmp_path}/run",
    )
    assert (code, err) == (0, "")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["transforms"] == {"ori": "ori", "flh": "flh", "rot:-30..30": "rot:-30..30"}
    assert (config["samples"], config["draws"], config["groups"]["clip"]) == (2, 3, "image")
    assert (config["attack"]["batch_size"], config["attack"]["preset"], config["attack"]["seed"]) == (2, "paper", 2)
    assert "for 4 images against 2 models under 3 transformations at once: 24 domains" in " ".join(out.split())
    assert "success is judged on 3 fresh draws" in out


def test_transformations_from_the_command_line(digits, tmp_path, capsys):
    (tmp_path / "own.py").write_text("def invert(x):\n    return 1 - x\n")
    command = f"attack transforms --models a --eps 0.2 {SMALL} --transforms flh --transforms {tmp_path}/own.py:invert"
    code, out, err = run(capsys, f"{command} --out {tmp_path}/run")
    assert (code, err) == (0, "")
    record = AttackRecord.open(tmp_path / "run")
    assert record.axes == {"transforms": ["flh", "invert"]}
    assert record.config["attack"]["batch_size"] == 50
    for name in ("flh", "invert"):
        row = next(line.split() for line in out.splitlines() if line.strip().startswith(name))
        by = [record.metrics["attacks"][a]["by"]["transforms"][name] for a in ("average", "min-max")]
        assert row[2:] == [*(f"{100 * b['accuracy']:.2f}" for b in by), f"{by[1]['weight']:.3f}"]


def test_attacks_share_their_options():
    attacks = commands().commands["attack"].commands
    options = {name: {option for p in c.params for option in p.opts} for name, c in attacks.items()}
    assert options["ensemble"] <= options["transforms"] <= options["universal"]
    assert options["universal"] - options["transforms"] == {"--group-size", "--group-by", "--group-seed", "--clip"}
    assert options["transforms"] - options["ensemble"] == {"--transforms"}


def test_results_lie_under_runs_by_default_and_are_found_again(digits, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = run(capsys, f"attack ensemble --models a --eps 0.1 {SMALL}")
    assert run(capsys, f"attack ensemble --models a --eps 0.1 {SMALL}") == first
    assert [f.name[:17] for f in (tmp_path / "runs").iterdir()] == ["digits-linf-0.1-" + first[1].split("0.1-")[1][0]]


def test_the_report_is_written_again(digits, tmp_path, capsys):
    run(capsys, f"attack ensemble --models a c --eps 0.1 {SMALL} --out {tmp_path}/run")
    page = (tmp_path / "run" / "report.html").read_bytes()
    (tmp_path / "run" / "report.html").unlink()
    assert run(capsys, f"report {tmp_path}/run")[0] == 0
    assert (tmp_path / "run" / "report.html").read_bytes() == page


def test_a_config_finds_its_files_from_any_folder(tmp_path, capsys, monkeypatch):
    """A run goes on, and can be made again, from its config.yaml in another working directory."""
    (tmp_path / "own.py").write_text(
        "import torch\nfrom torch import nn\ntorch.manual_seed(0)\n"
        "net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\ndef same(x):\n    return x\n"
    )
    images = tmp_path / "images" / "test.safetensors"
    images.parent.mkdir()
    facts = {"classes": '["a", "b"]', "jpeg": "false"}
    pixels = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
    save_file({"images": pixels, "labels": torch.tensor([0, 1, 0, 1])}, images, metadata=facts)
    monkeypatch.chdir(tmp_path)
    words = "attack transforms --data ./images --models own.py:net --transforms own.py:same flh --norm linf --eps 0.1"
    assert run(capsys, f"{words} --steps 1 --images 4 --out first")[0] == 0
    written = yaml.safe_load((tmp_path / "first" / "config.yaml").read_text())
    assert written["data"] == str(tmp_path / "images")
    assert written["models"] == [f"{tmp_path}/own.py:net"]
    assert written["transforms"] == [f"{tmp_path}/own.py:same", "flh"]
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    (tmp_path / "first" / "metrics.json").unlink()
    for name in ("first", "second"):
        code, _, err = run(capsys, f"attack transforms --config ../first/config.yaml --out ../{name}")
        assert (code, err) == (0, "")
    first, second = ((tmp_path / name / "config.json").read_text() for name in ("first", "second"))
    assert first == second


def test_zoo_lists_what_can_be_trained(digits, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    code, out, _ = run(capsys, "zoo list")
    assert code == 0
    states = {row[1]: row[-2] for line in out.splitlines() if len(row := [c.strip() for c in line.split("│")]) > 3}
    assert states["digits/a"] == "trained here"
    assert states["mnist/a"] == "comes with the package"
    assert states["cifar10/g"] == "not trained"
    assert out.endswith("omnirobust zoo train NAME\n")


def test_zoo_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OMNIROBUST_CACHE", str(tmp_path))
    code, out, _ = run(capsys, "zoo train digits/a --epochs 1 --seed 2")
    assert code == 0
    assert out.startswith("digits/a@seed2: 1 epochs, test accuracy ")
    assert (tmp_path / "zoo" / "digits" / "a@seed2" / "weights.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (f"attack ensemble --models a c {SMALL} --eps -1", "eps must be >= 0, got -1.0"),
        (f"attack ensemble --models a c {SMALL} --eps big", "Invalid value for '--eps'"),
        (f"attack ensemble --models a q {SMALL} --eps 0.1", "got 'digits/q'"),
        (f"attack ensemble --models b {SMALL} --eps 0.1", "omnirobust zoo train digits/b"),
        ("attack ensemble --models a --norm linf --eps 0.1 --data nothing", "got 'nothing'"),
        (f"attack ensemble --models a {SMALL} --eps 0.1 --norm l9", "'l9' is not one of"),
        (f"attack ensemble --models a {SMALL} --eps 0.1 --rule ascent", "beta and gamma must be given"),
        (f"attack ensemble --models a {SMALL} --eps 0.1 --images 0", "images must be >= 1, got 0"),
        (f"attack ensemble --models a {SMALL}", "Missing option '--eps'"),
        (f"attack ensemble --models x.py:f {SMALL} --eps 0.1", "must name an existing file, got x.py"),
        (f"attack universal --models a {SMALL} --eps 0.1 --group-size 0", "group size must be >= 1, got 0"),
        (
            f"attack universal --models a {SMALL} --eps 0.1 --group-size 13",
            "at least one group of 13 each, got 12 images",
        ),
        (f"attack universal --models a {SMALL} --eps 0.1 --clip both", "'both' is not one of"),
        (f"attack universal --models a --transforms {SMALL} --eps 0.1", "Option '--transforms' requires an argument."),
        (f"attack transforms --models a {SMALL} --eps 0.1", "Missing option '--transforms'"),
        (f"attack transforms --models a {SMALL} --eps 0.1 --transforms turn:3", "got 'turn'"),
        (f"attack transforms --models a {SMALL} --eps 0.1 --transforms flh flh", "named once each, got flh twice"),
        (
            f"attack transforms --models a {SMALL} --eps 0.1 --transforms flh --draws 0",
            "draws must be a whole number >= 1 or None, got 0",
        ),
        (f"attack transforms --models a {SMALL} --eps 0.1 --transforms x.py:f", "must name an existing file, got x.py"),
        ("report nowhere", "got nowhere, which does not exist"),
        ("zoo train digits/z", "got 'digits/z'"),
        ("reproduce table-99", "got 'table-99'"),
        ("reproduce", "name the experiments to reproduce, or give --all"),
        ("reproduce table-1a --all", "name the experiments to reproduce, or give --all"),
        ("conquer", "No such command 'conquer'"),
    ],
)
def test_bad_input_is_one_sentence_on_stderr_and_exit_code_2(digits, capsys, arguments, message):
    code, out, err = run(capsys, arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_a_folder_of_another_run_is_refused(digits, tmp_path, capsys):
    run(capsys, f"attack ensemble --models a {SMALL} --eps 0.1 --out {tmp_path}/run")
    code, _, err = run(capsys, f"attack ensemble --models a {SMALL} --eps 0.2 --out {tmp_path}/run")
    assert code == 2
    assert "made with attack.eps 0.1, not 0.2" in err


def test_an_unwritable_place_is_told(digits, capsys):
    code, _, err = run(capsys, f"attack ensemble --models a {SMALL} --eps 0.1 --out /proc/run")
    assert code == 2
    assert err.startswith("omnirobust: /proc/run")


# Where the tests themselves run in the background, they and their children ignore what Ctrl-C sends.
INTERRUPTIBLE = """
import signal
from omnirobust.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""


def test_ctrl_c_says_how_to_go_on_and_the_run_goes_on(digits, tmp_path, capsys):
    command = "attack ensemble --models a c --data digits --norm linf --eps 0.1 --images 300 --steps 400 --batch-size 2"
    command += f" --out {tmp_path}/run"
    first = tmp_path / "run" / "parts" / "average" / "00000.safetensors"
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *command.split()],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ.copy(),
    ) as process:  # fmt: skip
        while not first.exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1] == f"omnirobust: {INTERRUPTED}"
    assert "Traceback" not in err
    assert first.exists()
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("words", "note"),
    [
        ("--eps 0.1 --steps 0", "Note: with 0 steps it is the starting point that is judged, not an attack."),
        ("--eps 0.1 --steps 1 --start 495", "Note: 5 images were taken, all that there are; 12 were asked for."),
        ("--norm l0 --eps 2.5 --steps 1", "Note: l0 with eps 2.5 changes at most 2 pixel values."),
        ("--norm l0 --eps 3 --steps 1", None),
    ],
)
def test_what_may_not_be_meant_is_noted(digits, tmp_path, capsys, words, note):
    code, out, err = run(capsys, f"attack ensemble --models a {SMALL} {words} --out {tmp_path}/run")
    assert (code, err) == (0, "")
    assert [line for line in out.splitlines() if line.startswith("Note")] == ([note] if note else [])


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("--data nmist --models a", "mnist"),
        ("--data digits --models mnits/a", "mnist/a"),
        ("--data zzz --models a", None),
    ],
)
def test_a_slip_of_the_pen_gets_a_hint(digits, tmp_path, capsys, words, hint):
    code, _, err = run(capsys, f"attack ensemble {words} --norm linf --eps 0.1 --out {tmp_path}/run")
    assert code == 2
    assert err.rstrip().endswith(f"; did you mean {hint}?") if hint else "did you mean" not in err


def test_a_model_that_does_not_fit_is_named_as_given_before_anything_is_written(digits, tmp_path, capsys, monkeypatch):
    (tmp_path / "own.py").write_text("from torch import nn\nnet = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\n")
    monkeypatch.chdir(tmp_path)
    for line in (
        f"attack ensemble --models own.py:net {SMALL} --eps 0.1",
        "evaluate --data digits --model own.py:net --threat l2:1",
    ):
        code, _, err = run(capsys, f"{line} --out run")
        assert code == 2
        assert err.startswith("omnirobust: model 'own.py:net' cannot take inputs of shape ")
        assert not (tmp_path / "run").exists()


def test_many_models_are_shown_with_all_their_numbers_on_a_narrow_terminal(tmp_path, capsys, monkeypatch):
    net = "nn.Sequential(nn.Flatten(), nn.Linear(64, 10))"
    names = [f"model_of_mine_{n}" for n in range(7)]
    (tmp_path / "own.py").write_text("from torch import nn\n" + "".join(f"{name} = {net}\n" for name in names))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    models = " ".join(f"own.py:{name}" for name in names)
    code, out, _ = run(capsys, f"attack ensemble --models {models} {SMALL} --eps 0.1 --out run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert code == 0 and "\u2026" not in out
    for name in names:
        shown = [f"{100 * metrics['attacks'][attack]['accuracy'][name]:.2f}" for attack in ("average", "min-max")]
        row = next(line.split() for line in out.splitlines() if line.split()[:1] == [name])
        assert row[2:4] == shown
    assert max(map(len, out.split("Accuracy in %")[0].splitlines())) <= 80
