import json

import pytest
import torch
from safetensors.torch import load_file

from omnirobust.runs import RunFolder

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
