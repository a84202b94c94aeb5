import errno
import json
import re

import pytest
import torch
from safetensors.torch import load_file

from omnirobust.jobs import folder as runs
from omnirobust.jobs.folder import RunFolder

CONFIG = {"attack": {"norm": "linf", "eps": 0.2}, "models": ["a", "b"]}


def test_a_folder_opens_again_for_the_same_settings(tmp_path):
    made = RunFolder.create(tmp_path / "run", CONFIG)
    again = RunFolder.create(tmp_path / "run", dict(reversed(CONFIG.items())))
    assert made == again == RunFolder.open(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "versions.json").read_text())["torch"].startswith(torch.__version__[:3])


def test_a_folder_of_other_settings_is_refused_in_one_sentence(tmp_path):
    RunFolder.create(tmp_path, CONFIG)
    with pytest.raises(ValueError, match=r"^out must be .* made with attack.eps 0.2, not 0.1$"):
        RunFolder.create(tmp_path, CONFIG | {"attack": {"norm": "linf", "eps": 0.1}})


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="which holds other things"):
        RunFolder.create(tmp_path, CONFIG)
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.tex"]


def test_opening_what_is_no_run_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="run must be the folder of a run"):
        RunFolder.open(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        RunFolder.open(tmp_path)


def test_files_come_back_as_they_were(tmp_path):
    run = RunFolder.create(tmp_path / "run", CONFIG)
    run.write_json("metrics.json", {"asr_all": 0.9})
    run.write_table("examples.parquet", {"row": [0, 1], "fooled": [True, False]})
    tensors = {"delta": torch.randn(2, 3), "empty": torch.zeros(0, 3), "flag": torch.tensor([True])}
    run.write_tensors("perturbations.safetensors", tensors)
    assert run.read_json("metrics.json") == {"asr_all": 0.9}
    assert run.read_table("examples.parquet") == {"row": [0, 1], "fooled": [True, False]}
    back = run.read_tensors("perturbations.safetensors")
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert not list((tmp_path / "run").glob("*.part"))


def test_a_failed_write_leaves_the_old_file(tmp_path):
    run = RunFolder.create(tmp_path / "run", CONFIG)
    run.write_json("metrics.json", {"asr_all": 0.9})
    with pytest.raises(TypeError):
        run.write_json("metrics.json", {"asr_all": object()})
    assert run.read_json("metrics.json") == {"asr_all": 0.9}
    assert not list((tmp_path / "run").glob("*.part"))


def test_what_is_not_there_yet_is_told(tmp_path):
    run = RunFolder.create(tmp_path / "run", CONFIG)
    with pytest.raises(FileNotFoundError, match=r"has no metrics\.json yet"):
        run.read_json("metrics.json")
    with pytest.raises(ValueError, match="missing or damaged"):
        run.read_tensors("perturbations.safetensors")


def test_perturbations_are_plain_safetensors(tmp_path):
    run = RunFolder.create(tmp_path / "run", CONFIG)
    run.write_tensors("perturbations.safetensors", {"delta": torch.ones(2, requires_grad=True).expand(3, 2)})
    assert torch.equal(load_file(run.file("perturbations.safetensors"))["delta"], torch.ones(3, 2))


def test_a_folder_appears_with_its_settings_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "versions", lambda: {"python": object()})  # which JSON cannot hold
    with pytest.raises(TypeError):
        RunFolder.create(tmp_path / "run", CONFIG)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    assert RunFolder.create(tmp_path / "run", CONFIG).config == CONFIG


def test_a_full_disk_names_the_folder_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere.part")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_text", full)
        with pytest.raises(OSError, match=re.escape(f"No space left on device: '{tmp_path / 'run'}'")):
            RunFolder.create(tmp_path / "run", CONFIG)
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_and_the_rest_of_a_killed_start_are_taken(tmp_path):
    (tmp_path / "versions.json").write_text("{}")
    before = tmp_path.stat().st_ino
    assert RunFolder.create(tmp_path, CONFIG).config == CONFIG
    assert tmp_path.stat().st_ino == before


def test_two_that_make_the_same_folder_at_once_both_get_it(tmp_path, monkeypatch):
    ours = RunFolder(tmp_path / "run", CONFIG)
    plain = runs.versions

    def slow() -> dict[str, object]:  # while we write, another process makes the folder
        monkeypatch.setattr(runs, "versions", plain)
        monkeypatch.setattr(runs.os, "getpid", lambda: 12345678)
        RunFolder.create(tmp_path / "run", CONFIG)
        return plain()

    monkeypatch.setattr(runs, "versions", slow)
    assert RunFolder.create(tmp_path / "run", CONFIG) == ours
    assert [f.name for f in tmp_path.iterdir()] == ["run"]


def test_options_are_kept_once(tmp_path):
    run = RunFolder.create(tmp_path / "run", CONFIG)
    run.write_options(None)
    assert not run.file("config.yaml").exists()
    run.write_options("eps: 0.1\n")
    run.write_options("eps: 0.2\n")
    assert run.file("config.yaml").read_text() == "eps: 0.1\n"
