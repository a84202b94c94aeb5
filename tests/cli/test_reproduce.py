"""``omnirobust reproduce`` on a small stand-in for MNIST, and the models that come with the package."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from omnirobust.cli import launch, main


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """Put random images where MNIST is looked for, decoded already."""
    generator = torch.Generator().manual_seed(0)
    for split in ("train", "test"):
        file = tmp_path / "data" / "mnist" / f"{split}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        images = torch.randint(0, 256, (100, 1, 28, 28), generator=generator, dtype=torch.uint8)
        facts = {"classes": json.dumps(list("0123456789")), "jpeg": "false"}
        save_file({"images": images, "labels": torch.arange(100) % 10}, file, metadata=facts)
    monkeypatch.setenv("OMNIROBUST_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("OMNIROBUST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("omnirobust.study.rows.draw", lambda outcome, folder: ())  # pictures take seconds


def run(capsys, *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["reproduce", *words])
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


def cells(folder):
    return {f.relative_to(folder): f for f in sorted((folder / "cells").rglob("rows-*.safetensors"))}


def test_only_names_experiments(mnist, tmp_path, capsys):
    words = ["--all", "--only", "table-a1,table-a9", "--no-measure", "--budget", "smoke", "--device", "cpu"]
    code, out, err = run(capsys, *words, "--out", f"{tmp_path}/o")
    assert (code, err) == (0, "")
    assert {f.name for f in (tmp_path / "o").glob("*.json")} == {"table-a9.json", "table-a1.json"}
    assert f"Results: {tmp_path}/o/reproduction.md" in out


def dying(folder: Path) -> None:
    """Let this process die before it moves a cell into place where three are there already."""
    plain = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if path.name.startswith("rows-") and len(cells(folder)) >= 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(path, target)

    Path.replace = replace


def forked(rank: int, *words: str, dies: bool = False) -> int:
    """Run the command as one of two processes, as the launcher starts them; return its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        if dies:
            dying(Path(words[-1]))
        os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
        main(["reproduce", *words])
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    finally:
        os._exit(code)


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.slow
def test_two_processes_measure_what_one_does_and_nothing_twice(mnist, tmp_path, capsys):
    words = ["table-a9", "--budget", "smoke", "--images", "10", "--out"]
    pids = [forked(rank, *words, f"{tmp_path}/two", dies=True) for rank in (0, 1)]
    assert [exit_code(pid) for pid in pids] == [-signal.SIGKILL] * 2
    kept = {name: file.stat().st_mtime_ns for name, file in cells(tmp_path / "two").items()}
    assert len(kept) >= 3
    assert not (tmp_path / "two" / "reproduction.md").exists()

    assert [exit_code(pid) for pid in [forked(rank, *words, f"{tmp_path}/two") for rank in (0, 1)]] == [0, 0]
    assert run(capsys, *words, f"{tmp_path}/one")[0] == 0
    one, both = cells(tmp_path / "one"), cells(tmp_path / "two")
    assert one.keys() == both.keys()
    assert all(both[name].stat().st_mtime_ns == when for name, when in kept.items())
    for name, file in one.items():
        first, second = load_file(file), load_file(both[name])
        assert all(torch.equal(value, second[key]) for key, value in first.items())
    pages = [(tmp_path / name / "table-a9.json").read_text() for name in ("one", "two")]
    assert len({re.sub(r'"seconds": [\d.]+', "", page) for page in pages}) == 1


@pytest.mark.slow
def test_cells_survive_a_full_disk_damage_and_a_cache_that_is_gone(mnist, tmp_path, capsys):
    words = ["table-a9", "--budget", "smoke", "--images", "10", "--out", f"{tmp_path}/run"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1]))
    try:
        code, _, err = run(capsys, *words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 2
    assert err.startswith(f"omnirobust: {tmp_path}/run/cells/")
    assert err.endswith(": File too large.\n")
    assert not list(tmp_path.rglob("*.part"))
    assert run(capsys, *words)[0] == 0
    first, *others = cells(tmp_path / "run").values()
    expected = {name: value.clone() for name, value in load_file(first).items()}
    kept = {file: file.stat().st_mtime_ns for file in others}
    first.write_bytes(first.read_bytes()[:700])
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    assert run(capsys, *words)[0] == 0
    assert all(torch.equal(value, load_file(first)[name]) for name, value in expected.items())
    assert {file: file.stat().st_mtime_ns for file in others} == kept


def test_several_processes_are_given_the_same_words(mnist, tmp_path, capsys, monkeypatch):
    started: list[list[str]] = []
    monkeypatch.setattr(launch, "_launch", lambda words, processes, logs: started.append([*words, str(processes)]))
    given = ["table-a1", "--budget", "smoke", "--images", "5", "--device", "cpu", "--training-budget", "smoke"]
    code, out, _ = run(capsys, *given, "--out", f"{tmp_path}/o", "--processes", "3", "--docs", f"{tmp_path}/docs")
    assert code == 0
    (words,) = started
    assert words[:4] == ["-m", "omnirobust", "reproduce", "table-a1"]
    assert set(words[4:-1]) == {
        "--budget=smoke", "--images=5", "--device=cpu", "--training-budget=smoke", f"--out={tmp_path}/o",
    }  # fmt: skip
    assert words[-1] == "3"
    assert (tmp_path / "docs" / "reproduction.md").is_file()  # written once, by the process that started the others
    assert out.count("Results:") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "table-99"], "names must be among"),
        (["heat"], ", or FILE.py:NAME of your own, got 'heat'"),
        (["table-1a", "--device", "gpu"], "device must be auto, cpu, cuda, cuda:N or mps, got 'gpu'"),
        (["table-1a", "--device", "cuda:99"], "device must be one that is there, got cuda:99"),
        (["table-1a", "--images", "0"], "images must be >= 1, got 0"),
        (["table-1a", "--processes", "0"], "processes must be >= 1"),
        (["table-1a", "--budget", "large"], "budget must be one of smoke, quick, paper, got 'large'"),
    ],
)
def test_bad_input_is_one_sentence(mnist, tmp_path, capsys, words, message):
    code, out, err = run(capsys, *words, "--out", f"{tmp_path}/o")
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "o").exists()


OWN = """
from dataclasses import replace
from omnirobust.experiments import Cell, Claim, Experiment, Row
from omnirobust.attacks.presets import PAPER

cell = Cell(("mnist/c",), "linf", 0.1, PAPER["linf"], steps=1)
claims = (
    Claim("met", "It holds.", lambda r: r.asr_all("linf", "avg") >= 0, lambda r: "so"),
    Claim("unmet", "It does not.", lambda r: r.asr_all("linf", "avg") < 0, lambda r: "so"),
)
study = Experiment("study", "Two claims", (Row(("linf", "avg"), "mine", cell),), claims=claims)
bare = replace(study, name="bare", title="No claims", claims=())
"""


def test_the_end_of_a_run_says_what_came_out(mnist, tmp_path, capsys):
    file = tmp_path / "own_study_for_test.py"
    file.write_text(OWN)
    names = [f"{file}:study", f"{file}:bare", "table-a1"]
    words = ["--device", "cpu", "--out", f"{tmp_path}/o"]
    assert run(capsys, *names, *words, "--images", "50")[1].splitlines() == [
        "study (Two claims): 2 undecided of 2 claims; 1 of 1 rows measured",
        "bare (No claims): no claims; 1 of 1 rows measured",
        "table-a1 (The networks): 4 true, 1 false of 5 claims; 8 of 8 rows measured",
        f"Results: {tmp_path}/o/reproduction.md",
        f"Report:  {tmp_path}/o/report.html",
    ]
    out = run(capsys, names[0], *words, "--images", "100")[1]
    assert out.startswith("study (Two claims): 1 true, 1 false of 2 claims; 1 of 1 rows measured\n")


def test_the_end_of_a_run_tells_what_is_not_there_yet(mnist, tmp_path, capsys):
    words = ["table-a9", "table-1a", "table-4a", "--budget", "smoke", "--device", "cpu", "--out", f"{tmp_path}/o"]
    lines = run(capsys, *words, "--no-measure")[1].splitlines()
    assert re.fullmatch(r"table-1a \(.+\): (\d+) not measured of \1 claims; 0 of \d+ rows measured", lines[1])
    assert re.fullmatch(r"table-a9 \(.+\): (\d+) not measured of \1 claims; 0 of \d+ rows measured", lines[0])
    assert re.fullmatch(r"table-4a \(.+\): .+ of \d+ claims.*; 0 of \d+ trainings measured", lines[2])
    assert len(lines) == 5
