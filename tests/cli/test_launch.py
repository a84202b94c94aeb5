"""Real processes, started by torch's launcher."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from socket import socket

import pytest

from omnirobust.cli import launch, main
from omnirobust.cli.given import Given
from omnirobust.jobs import AttackRecord

COMMAND = ["attack", "ensemble", "--data", "digits", "--models", "a", "c", "--norm", "l2", "--eps", "0.3"]
SMALL = [*COMMAND, "--images", "12", "--steps", "2", "--batch-size", "3"]


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "omnirobust", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def files(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.iterdir() if f.is_file()}


@pytest.mark.slow
def test_two_processes_write_the_files_of_one(digits, tmp_path):
    process = start(*SMALL, "--processes", "2", "--out", str(tmp_path / "two"))
    with pytest.raises(SystemExit) as stopped:
        main([*SMALL, "--out", str(tmp_path / "one")])
    assert stopped.value.code == 0
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    assert out.count("Saved and read back, average") == 1  # the other process is silent
    assert out.endswith(f"Report:  {tmp_path}/two/report.html\n")
    assert files(tmp_path / "two") == files(tmp_path / "one")


DIES = """
import os
from pathlib import Path
import torch

class Dies(torch.nn.Sequential):
    def forward(self, x):
        parts = Path(__file__).with_name("run").glob("parts/*/*.safetensors")
        if os.environ.get("RANK") == "1" and len(list(parts)) >= 2:
            os.kill(os.getpid(), 9)
        return super().forward(x)

torch.manual_seed(0)
net = Dies(torch.nn.Flatten(), torch.nn.Linear(64, 10))
"""


@pytest.mark.slow
def test_a_killed_process_is_told_and_the_run_goes_on(digits, tmp_path):
    (tmp_path / "own.py").write_text(DIES)
    words = [f"{tmp_path}/own.py:net" if word == "a" else word for word in COMMAND]
    command = [*words, "--images", "30", "--steps", "50", "--batch-size", "2", "--out", str(tmp_path / "run")]
    process = start(*command, "--processes", "2")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2 and "Traceback" not in err
    assert "was killed by signal 9. Give the same command again to go on." in err
    assert not (tmp_path / "run" / "metrics.json").exists()
    left = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").glob("parts/*/*.safetensors")}
    assert len(left) >= 2 and not list((tmp_path / "run").rglob("*.part"))
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 0
    assert AttackRecord.open(tmp_path / "run").metrics["images"] == 30


@pytest.mark.slow
def test_what_another_process_finds_wrong_is_told_as_well(digits, tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(
        "import os\nimport torch\nprint('loading')\n"
        "if os.environ.get('RANK') == '1':\n    raise KeyError('broken on one machine')\n"
        "net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
    )
    words = [f"{tmp_path}/own.py:net" if word == "a" else word for word in COMMAND]
    process = start(*words, "--processes", "2", "--out", str(tmp_path / "run"))
    _, err = process.communicate(timeout=300)
    assert process.returncode in (2, 3) and "Traceback" not in err
    assert "broken on one machine" in err


@pytest.mark.slow
def test_the_last_words_of_a_process_that_was_killed_are_told(digits, tmp_path):
    (tmp_path / "own.py").write_text(
        "import os, sys\n"
        "if os.environ.get('RANK') == '1':\n    print('what it was', file=sys.stderr, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    words = [f"{tmp_path}/own.py:net" if word == "a" else word for word in COMMAND]
    process = start(*words, "--processes", "2", "--out", str(tmp_path / "run"))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2 and "Traceback" not in err
    assert "Process 1 was killed by signal 9. Give the same command again to go on. Its last words: what it was" in err


@pytest.mark.slow
def test_every_process_has_parted_from_the_others_before_it_ends(tmp_path):
    """Connections that are left to the end of a process may abort it there."""
    (tmp_path / "work.py").write_text(
        "import atexit, os, sys\nfrom pathlib import Path\nimport torch\nfrom omnirobust.jobs import shards\n"
        "here = Path(sys.argv[1]) / os.environ['RANK']\n"
        "atexit.register(lambda: here.write_text(f'{met} {torch.distributed.is_initialized()}'))\n"
        "team = shards.workers()\nteam.wait()\nmet = torch.distributed.get_world_size()\n"
    )
    with socket() as free:
        free.bind(("localhost", 0))
        told = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    command = [sys.executable, str(tmp_path / "work.py"), str(tmp_path)]
    ranks = [os.environ | told | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]  # as torchrun tells them
    assert [process.wait() for process in [subprocess.Popen(command, env=rank) for rank in ranks]] == [0, 0]
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["2 False"] * 2


def test_one_process_is_not_launched_and_less_is_refused(monkeypatch):
    given = Given(("attack", "ensemble"), {})
    assert not launch.launched(given, 1, None)
    with pytest.raises(ValueError, match=r"processes must be >= 1, and <= \d+ on this machine, got 0"):
        launch.launched(given, 0, None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="processes must be left out under torchrun"):
        launch.launched(given, 2, None)
