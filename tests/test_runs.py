import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import omnirobust as orb
from omnirobust.runs import RunFolder, fingerprint, read_result, write_result

CONFIG = {"norm": "linf", "eps": 0.2, "models": ["a", "b"]}


def attack(store=None, history="full"):
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(12, 1, 4, 4, generator=generator)
    y = torch.randint(0, 3, (12,), generator=generator)
    models = {}
    for name in ("one", "two"):
        linear = nn.Linear(16, 3)
        with torch.no_grad():
            linear.weight.copy_(torch.randn(3, 16, generator=generator))
            linear.bias.zero_()
        models[name] = nn.Sequential(nn.Flatten(), linear)
    return orb.attack_ensemble(models, x, y, orb.Linf(0.2), steps=6, batch_size=4, store=store, history=history)


def assert_same(a, b):
    for name in ("adversarial", "delta", "weights", "losses", "fooled", "zero_gradient"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for name in ("losses", "weights", "fooled", "all_fooled", "best_all_fooled"):
        assert torch.equal(getattr(a.history, name), getattr(b.history, name)), name
    assert (a.names, a.steps, a.gradient_evaluations) == (b.names, b.steps, b.gradient_evaluations)
    assert json.dumps(a.settings) == json.dumps(b.settings)


def test_a_folder_opens_again_for_the_same_settings(tmp_path):
    made = RunFolder.create(tmp_path / "run", CONFIG)
    again = RunFolder.create(tmp_path / "run", dict(reversed(CONFIG.items())))
    assert made == again == RunFolder.open(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "versions.json").read_text())["torch"].startswith(torch.__version__[:3])


def test_a_folder_of_other_settings_is_refused_in_one_sentence(tmp_path):
    RunFolder.create(tmp_path, CONFIG)
    with pytest.raises(ValueError, match=r"^out must be .* made with eps 0.2, not 0.1$"):
        RunFolder.create(tmp_path, CONFIG | {"eps": 0.1})


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


@pytest.mark.parametrize("history", ["means", "full"])
def test_a_result_comes_back_as_it_was(tmp_path, history):
    result = attack(history=history)
    write_result(tmp_path / "r.safetensors", result)
    back = read_result(tmp_path / "r.safetensors")
    assert_same(result, back)
    if history == "means":
        assert back.history.rows is None
    else:
        for name in ("losses", "weights", "fooled", "best"):
            assert torch.equal(getattr(back.history.rows, name), getattr(result.history.rows, name))


def flip_a_bit(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[-5] ^= 1
    file.write_bytes(raw)


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def another_file(file: Path) -> None:
    save_file({"delta": torch.zeros(2)}, file)


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, empty, another_file])
def test_a_damaged_batch_is_computed_again(tmp_path, damage):
    store = RunFolder.create(tmp_path / "run", CONFIG).store("minmax")
    whole = attack(store)
    damage(store.folder / "00001.safetensors")
    assert store.get(0) is not None
    assert store.get(1) is None
    with pytest.raises(ValueError, match="is damaged"):
        read_result(store.folder / "00001.safetensors")
    assert_same(attack(store), whole)
    assert store.get(1) is not None


def test_finished_batches_are_not_computed_again(tmp_path):
    run = RunFolder.create(tmp_path / "run", CONFIG)
    store = run.store("minmax")
    attack(store)
    stamps = {file: file.stat().st_mtime_ns for file in store.folder.iterdir()}
    assert len(stamps) == 3
    attack(store)
    assert {file: file.stat().st_mtime_ns for file in store.folder.iterdir()} == stamps
    run.clear_stores()
    assert not store.folder.exists()
    assert store.get(0) is None


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from test_runs import CONFIG, attack
from omnirobust.runs import ResultStore, RunFolder
import time

class Slow(ResultStore):
    def put(self, index, result):
        super().put(index, result)
        print("batch", index, flush=True)
        time.sleep(30)

attack(Slow(RunFolder.create({out!r}, CONFIG).store("minmax").folder))
"""


def test_a_killed_attack_resumes_to_the_very_same_result(tmp_path):
    out = tmp_path / "run"
    script = KILLED.format(tests=str(Path(__file__).parent), out=str(out))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "batch 0\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=20) == -signal.SIGKILL
    store = RunFolder.create(out, CONFIG).store("minmax")
    assert [store.get(i) is not None for i in range(3)] == [True, False, False]
    kept = (store.folder / "00000.safetensors").stat().st_mtime_ns
    assert_same(attack(store), attack())
    assert (store.folder / "00000.safetensors").stat().st_mtime_ns == kept


def test_fingerprint_tells_weights_apart():
    weights = {"a": torch.arange(4.0), "b": torch.zeros(2)}
    assert fingerprint(weights) == fingerprint(dict(reversed(weights.items())))
    others = [
        weights | {"a": torch.arange(4.0) + torch.tensor([0, 0, 0, 1e-6])},
        weights | {"a": torch.arange(4.0).reshape(2, 2)},
        weights | {"b": torch.zeros(2, dtype=torch.float64)},
        {"a": weights["a"], "c": weights["b"]},
    ]
    assert len({fingerprint(w) for w in [weights, *others]}) == 5


def test_perturbations_are_plain_safetensors(tmp_path):
    run = RunFolder.create(tmp_path / "run", CONFIG)
    run.write_tensors("perturbations.safetensors", {"delta": torch.ones(2, requires_grad=True).expand(3, 2)})
    assert torch.equal(load_file(run.file("perturbations.safetensors"))["delta"], torch.ones(3, 2))
