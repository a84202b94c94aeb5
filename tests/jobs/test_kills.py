"""Commands that are killed at every write, and given again, end with the files of an undisturbed run alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from omnirobust import zoo

KILLER = Path(__file__).with_name("killer.py")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["attack", "evaluate", "train", "reproduce"])
def test_every_file_outlives_a_kill_at_every_write(tmp_path, name):
    cache = tmp_path / "cache"
    for letter in "ac":
        zoo.train(f"digits/{letter}", epochs=1, cache=cache)
    done = subprocess.run(
        [sys.executable, str(KILLER), str(tmp_path), "3", name], capture_output=True, text=True, check=False,
        env={**os.environ, "OMNIROBUST_CACHE": str(cache), "OMP_NUM_THREADS": "1"}, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found[name]["different"] == []
    assert found[name]["writes"] >= 8
