"""Where there is no terminal, a line a minute says how far a command has come."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from omnirobust.cli import console, main


@pytest.mark.parametrize(("shown", "told"), [(True, "table: 30 of 100\ntable: 61 of 100\n"), (False, "")])
def test_without_a_terminal_a_line_a_minute(capsys, monkeypatch, shown, told):
    seconds = [0.0]
    monkeypatch.setattr(console, "monotonic", lambda: seconds[0])
    with console.progress_bars(shown=shown) as advance:
        for done in range(31):  # two seconds each
            seconds[0] = 2.0 * done
            advance("table", done, 100)
        for done in range(31, 70):
            seconds[0] = 2.0 * done - 2
            advance("table", done, 100)
    assert capsys.readouterr().err == told


TRAINING = (
    "train --data digits --model mlp --threat linf:0.1 --steps 1 --epochs 2 --images 40 --test-images 2 --test-steps 1 "
    "--out run"
)


@pytest.mark.parametrize("command", ["zoo list", pytest.param(TRAINING, marks=pytest.mark.slow)])
def test_a_closed_pipe_leaves_a_whole_run(tmp_path, command):
    """As with ``| head -1``: one line is read, or none."""
    words = [sys.executable, "-m", "omnirobust", *command.split()]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        if command.startswith("train"):
            assert process.stdout.readline()
        process.stdout.close()
        told = process.stderr.read()
    assert (process.returncode, told) == (0, "")
    if command.startswith("train"):
        assert {"metrics.json", "report.html"} <= {f.name for f in (tmp_path / "run").iterdir()}


def test_an_interruption_that_a_library_turns_into_another_error_is_one(monkeypatch, capsys):
    def load(*_, **__):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            raise AttributeError("half a module") from None

    monkeypatch.setattr("omnirobust.cli.app.commands", lambda: load)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as stopped:
            main(["zoo", "list"])
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert (stopped.value.code, capsys.readouterr().err) == (130, f"omnirobust: {console.INTERRUPTED}\n")
