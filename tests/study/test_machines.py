"""A note for every kind of machine, and none for the same one twice."""

import os

import torch

from omnirobust.study import store as machines


def test_machines_are_noted_once(tmp_path, monkeypatch):
    assert machines.machines(tmp_path) == ()
    machines.note_machine(tmp_path)
    machines.note_machine(tmp_path)
    (first,) = machines.machines(tmp_path)
    assert f"{os.cpu_count()} processor cores" in first
    assert f"torch {torch.__version__}" in first
    monkeypatch.setattr(os, "cpu_count", lambda: 9999)
    machines.note_machine(tmp_path)
    assert len(machines.machines(tmp_path)) == 2


def test_a_damaged_note_is_left_out(tmp_path):
    machines.note_machine(tmp_path)
    (tmp_path / "machines" / "other.json").write_text("{")
    (tmp_path / "machines" / "empty.json").write_text("[]")
    assert len(machines.machines(tmp_path)) == 1
