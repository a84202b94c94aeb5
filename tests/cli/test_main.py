import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import pytest

from omnirobust.cli import main
from omnirobust.cli.app import app
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
    from typer.main import get_command

    commands = get_command(app).commands["attack"].commands
    options = {name: {option for p in c.params for option in p.opts} for name, c in commands.items()}
    assert options["ensemble"] <= options["transforms"] <= options["universal"]
    assert options["universal"] - options["transforms"] == {"--group-size", "--group-by", "--group-seed", "--clip"}
    assert options["transforms"] - options["ensemble"] == {"--transforms", "--samples", "--draws"}


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


def test_zoo_lists_what_can_be_trained(digits, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    code, out, _ = run(capsys, "zoo list")
    assert code == 0
    assert "omnirobust zoo train cifar10/b" in out
    assert "trained" in out


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
        (f"attack universal --models a {SMALL} --eps 0.1 --samples 3", "samples and draws must be left out without"),
        (f"attack universal --models a --transforms {SMALL} --eps 0.1", "Option '--transforms' requires an argument."),
        (f"attack transforms --models a {SMALL} --eps 0.1", "Missing option '--transforms'"),
        (f"attack transforms --models a {SMALL} --eps 0.1 --transforms turn:3", "got 'turn'"),
        (f"attack transforms --models a {SMALL} --eps 0.1 --transforms flh flh", "named once each, got flh twice"),
        (f"attack transforms --models a {SMALL} --eps 0.1 --transforms flh --draws 0", "draws must be >= 1, got 0"),
        (f"attack transforms --models a {SMALL} --eps 0.1 --transforms x.py:f", "must name an existing file, got x.py"),
        ("report nowhere", "got nowhere, which has no config.json"),
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


def test_ctrl_c_says_how_to_go_on_and_the_run_goes_on(digits, tmp_path, capsys):
    command = "attack ensemble --models a c --data digits --norm linf --eps 0.1 --images 300 --steps 400 --batch-size 2"
    command += f" --out {tmp_path}/run"
    first = tmp_path / "run" / "parts" / "average" / "00000.safetensors"
    with subprocess.Popen(
        [sys.executable, "-c", "from omnirobust.cli import main; main()", *command.split()],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ.copy(),
    ) as process:  # fmt: skip
        while not first.exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1] == f"omnirobust: {INTERRUPTED}"
    assert "Traceback" not in err
    assert first.exists()
    assert not (tmp_path / "run" / "metrics.json").exists()
