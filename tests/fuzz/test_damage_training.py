"""Trainings on disks that fill up, and from files that are damaged or gone: one sentence, and nothing is lost."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from omnirobust import zoo
from omnirobust.cli import main

TRAIN = "train --data digits --model a --threat linf:0.1 --steps 1 --images 64 --validation 16 --test-images 4"
EPOCHS = f"{TRAIN} --test-steps 1 --epochs 3 --keep last --device cpu"


@contextmanager
def room(size: int) -> Iterator[None]:
    """Let no file grow beyond ``size`` bytes, as a disk that is full does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def run(capsys, line: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stopped:
        main(line.split())
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return int(stopped.value.code or 0), err


def sentence(capsys, line: str) -> str:
    code, err = run(capsys, line)
    assert code == 2
    (told,) = err.splitlines()
    return told.removeprefix("omnirobust: ")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Hold a training that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.raises(SystemExit) as stopped:
        main(f"{EPOCHS} --out {folder}/run".split())
    assert stopped.value.code == 0
    return folder / "run"


def same_network(one: Path, two: Path) -> bool:
    first, second = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("size", [2_000, 10_000, 100_000, 250_000])
def test_a_training_survives_a_full_disk(whole, tmp_path, capsys, size):
    with room(size):
        told = sentence(capsys, f"{EPOCHS} --out {tmp_path}/run")
    assert told.startswith(f"{tmp_path}/run")
    assert told.endswith(": File too large.")
    assert not list(tmp_path.rglob("*.part"))
    assert run(capsys, f"{EPOCHS} --out {tmp_path}/run") == (0, "")
    assert same_network(tmp_path / "run", whole)


def test_a_damaged_checkpoint_is_named_and_can_be_deleted(whole, tmp_path, capsys):
    assert run(capsys, f"{EPOCHS} --out {tmp_path}/run")[0] == 0
    (tmp_path / "run" / "metrics.json").unlink()
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    for bad in (b"", b"junk", checkpoint.read_bytes()[:1000]):
        checkpoint.write_bytes(bad)
        assert "checkpoint.pt is damaged: delete it" in sentence(capsys, f"{EPOCHS} --out {tmp_path}/run")
    checkpoint.unlink()
    assert run(capsys, f"{EPOCHS} --out {tmp_path}/run") == (0, "")
    assert same_network(tmp_path / "run", whole)


@pytest.mark.slow
def test_the_zoo_survives_a_full_disk_a_damaged_checkpoint_and_a_cache_that_is_gone(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OMNIROBUST_CACHE", str(tmp_path))
    line = "zoo train digits/b --device cpu --epochs"
    assert run(capsys, f"{line} 1")[0] == 0
    with room(10_000):
        assert sentence(capsys, f"{line} 2").endswith("checkpoint.pt: File too large.")
    assert zoo.card("digits/b").epochs == 1
    assert run(capsys, f"{line} 2")[0] == 0
    resumed = zoo.load("digits/b").state_dict()
    checkpoint = tmp_path / "zoo" / "digits" / "b" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    assert "checkpoint.pt is damaged: delete it" in sentence(capsys, f"{line} 2")
    shutil.rmtree(tmp_path / "zoo")
    attack = f"attack ensemble --data digits --models b --norm l2 --eps 1 --images 2 --steps 1 --out {tmp_path}/run"
    assert sentence(capsys, attack) == "There are no weights of digits/b yet: omnirobust zoo train digits/b."[:-1]
    assert run(capsys, f"{line} 2")[0] == 0
    assert all(torch.equal(value, resumed[name]) for name, value in zoo.load("digits/b").state_dict().items())
