"""What is refused is refused before anything is computed, and leaves --out free for the corrected command."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from omnirobust import zoo
from omnirobust.cli import main
from omnirobust.jobs import AttackRecord

NETS = """
import torch
from torch import nn
def net(classes=10, size=64):
    return nn.Sequential(nn.Flatten(), nn.Linear(size, classes))
good = net
def few():
    return net(3)
def wide():
    return net(10, 784)
def nan():
    made = net()
    made[1].bias.data.fill_(float("nan"))
    return made
def probabilities():
    return nn.Sequential(net(), nn.Softmax(1))
class Blind(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()
    def forward(self, x):
        return self.net(x.detach())
def fails():
    raise KeyError("no")
def text():
    return "no model"
def rule(*_):
    raise ValueError("no rule")
"""
COMMANDS = {
    "attack": "attack ensemble --data digits --norm linf --eps 0.1 --images 4 --steps 1 --models nets.py:good",
    "universal": "attack universal --data digits --norm linf --eps 0.1 --images 10 --steps 1 --models nets.py:good",
    "transforms": "attack transforms --data digits --norm linf --eps 0.1 --images 2 --steps 1 --models nets.py:good "
    "--transforms flh",
    "evaluate": "evaluate --data digits --threat linf:0.1 --images 4 --steps 1 --models nets.py:good",
    "train": "train --data digits --model nets.py:good --threat linf:0.05 --steps 1 --epochs 1 --images 20 "
    "--validation 4 --test-images 2 --test-steps 1",
}
WRONG = {
    "attack universal transforms evaluate": [
        ("--data nowhere", "name"),
        ("--data pics --split test", "split"),
        ("--images 0", "images"),
        ("--start -1", "start"),
        ("--start 100000", ""),
        ("--label nope", ""),
        ("--batch-size 0", "batch_size"),
        ("--device cuda:99", "device"),
        ("--processes 0", "processes"),
        ("--steps -1", "steps"),
        ("--restarts 0", "restarts"),
        ("--samples 0", "samples"),
        ("--models nowhere", "models must be"),
        ("--models nets.py:nope", "models must name"),
        ("--models nets.py:fails", "models must name code that runs"),
        ("--models nets.py:text", "models must be torch"),
        ("--models nets.py:good", "models must be named once each"),
        ("--models theirs.pt", "models must be safetensors"),
        ("--models nets.py:wide", "model 'nets.py:wide' cannot"),
        ("--models nets.py:nan", "model 'nets.py:nan' returned"),
        ("--models nets.py:probabilities", "model 'nets.py:probabilities' returns prob"),
        ("--models nets.py:few", "models must have a class for every label"),
        ("--models weights.safetensors:mlp", "models must hold weights of mlp"),
        ("--config nowhere.yaml", ""),
        ("--set step=3", "The key 'step'"),
        ("--precision fp8", ""),
    ],
    "attack universal transforms": [
        ("--eps -1", "eps"),
        ("--eps nan", "eps"),
        ("--target 10", "target"),
        ("--target 1 --labels predicted", "labels"),
        ("--transfer nets.py:good", "transfer must name models that are not"),
        ("--transfer nowhere", "transfer must be"),
        ("--transfer nets.py:nope", "transfer must name"),
        ("--transfer nets.py:wide", "transfer must name models of such"),
        ("--transfer nets.py:few", "transfer must have a class for every label"),
        ("--transfer nets.py:nan", "transfer must name models of such"),
        ("--transfer theirs.pt", "transfer must be saf"),
        ("--transfer stranger", "transfer must name the code"),
        ("--rule nets.py:rule", ""),
        ("--rule nope", ""),
        ("--beta 1", "beta"),
        ("--rule ascent", "beta"),
        ("--init zeros", ""),
        ("--models nets.py:few --target 5", "models"),
        ("--memory 0", "memory"),
    ],
    "attack evaluate train": [("--threat l7:1", "")],
    "universal": [("--group-size 0", "group"), ("--group-size 50", "images must fill"), ("--clip no", "")],
    "transforms": [("--transforms nope", ""), ("--transforms nets.py:nope", "transforms must name")],
    "evaluate": [("--threat linf:-1", "threat"), ("--attack nope", ""), ("--draws 0", "draws")],
    "train": [
        ("--data nowhere", "name"),
        ("--data pics", "images must be at most 5"),
        ("--model nets.py:few", "data must hold labels"),
        ("--model nets.py:wide", "model must take inputs"),
        ("--model nets.py:nan", "model must return finite"),
        ("--model nets.py:Blind", "model must let gradients"),
        ("--model nope", ""),
        ("--model nets.py:fails", "model"),
        ("--from nowhere", "from must be"),
        ("--from weights.safetensors", "from must"),
        ("--from theirs.pt", "from must be"),
        ("--threat linf:0", ""),
        ("--threat linf:1", "threat must have a radius below"),
        ("--scheme universal --threat l2:1", "threats"),
        ("--scheme natural --dpar 1", ""),
        ("--scheme average --persist example", "persist"),
        ("--dpar -1", "dpar"),
        ("--epochs 0", "epochs"),
        ("--batch-size 0", "batch_size"),
        ("--lr 0", "lr"),
        ("--lr nan", "lr"),
        ("--images 100000", "images"),
        ("--validation 100000", "validation"),
        ("--validation 0 --patience 2", "validation"),
        ("--devices 0", "processes"),
        ("--device cuda:99", "device"),
        ("--keep none", ""),
        ("--test-images -1", "test_images"),
        ("--steps 0", "steps"),
        ("--memory 0", "memory"),
        ("--adversarial-ratio 2", "adversarial_ratio"),
        ("--optimizer nope", ""),
    ],
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch, digits_cache) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMNIROBUST_CACHE", str(digits_cache))
    Path("nets.py").write_text(NETS)
    Path("theirs.pt").write_text("x")
    torch.manual_seed(0)
    save_file(zoo.build("c", (1, 8, 8), 10).state_dict(), "weights.safetensors")
    Path("stranger").mkdir()
    save_file({"1.weight": torch.ones(10, 64), "1.bias": torch.ones(10)}, "stranger/model.safetensors")
    Path("stranger/card.json").write_text('{"network": {"code": "nets.py:good", "shape": [1, 8, 8], "classes": 10}}')
    for place in ("a/0", "a/1", "b/0", "b/1", "b/2", "b/3", "b/4", "a/4", "a/5"):
        file = Path("pics/train", f"{place}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 9), 7).save(file)
    return tmp_path


def run(capsys, *words: str) -> tuple[int, list[str]]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--out", "out"])
    return int(stopped.value.code or 0), capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_refused_command_leaves_its_folder_to_the_corrected_one(here, capsys, command):
    table = [case for names, cases in WRONG.items() if command in names.split() for case in cases]
    assert len(table) > 20
    bad = []
    for wrong, said in table:
        code, errors = run(capsys, *COMMANDS[command].split(), *wrong.split())
        told = len(errors) == 1 and errors[0].startswith(f"omnirobust: {said}")
        if code != 2 or not told or Path("out").exists():
            bad.append((wrong, code, errors, Path("out").exists()))
            shutil.rmtree("out", ignore_errors=True)
    assert not bad, bad
    assert not [f for f in Path().iterdir() if f.name.startswith(".out") or f.name == "runs"]
    assert run(capsys, *COMMANDS[command].split())[0] == 0
    whole = sorted((f.name, f.stat().st_mtime_ns) for f in Path("out").iterdir() if f.name != "report.html")
    for wrong, _ in table:  # nor does it change what is there
        assert run(capsys, *COMMANDS[command].split(), *wrong.split())[0] == 2
    different = "--seed" if command in ("train", "evaluate") else "--start"
    code, errors = run(capsys, *COMMANDS[command].split(), different, "1")
    assert (code, "with the same settings" in errors[0]) == (2, True)
    assert whole == sorted((f.name, f.stat().st_mtime_ns) for f in Path("out").iterdir() if f.name != "report.html")


def test_a_training_without_a_test_split_is_refused_before_it_trains(here, capsys):
    words = ["train", "--data", "pics", "--model", "mlp", "--threat", "linf:0.1", "--epochs", "1", "--validation", "2"]
    code, errors = run(capsys, *words)
    assert code == 2
    assert errors[0].startswith(
        "omnirobust: test_images must be 0 where there is no test split to judge on, got 200: split"
    )
    assert not Path("out").exists()
    assert run(capsys, *words, "--test-images", "0", "--steps", "1")[0] == 0


@pytest.mark.parametrize("wrong", ["table-9z", "table-a2 --images 0", "table-a2 --budget nope", "nets.py:good",
                                   "table-a2 --training-budget nope", "table-a2 --device cuda:99", "--all table-a2",
                                   "table-a2 --images 1000000000", "table-a2 --processes 0",
                                   "nets.py:nope"])  # fmt: skip
def test_reproductions_that_are_refused_leave_nothing(here, capsys, wrong):
    code, errors = run(capsys, "reproduce", *wrong.split())
    assert code == 2
    assert len(errors) == 1
    assert not Path("out").exists()


@pytest.mark.parametrize("command", ["attack", "universal", "transforms"])
def test_predicted_labels_need_no_classes_of_the_data(here, capsys, command):
    """Models of other classes than the data's, fewer and more, whose number is told by their weights."""
    torch.manual_seed(1)
    save_file(zoo.build("c", (1, 8, 8), 3).state_dict(), "three.safetensors")
    save_file(zoo.build("c", (1, 8, 8), 12).state_dict(), "twelve.safetensors")
    words = COMMANDS[command].replace("nets.py:good", "MODEL").split()
    for model, other in (("nets.py:few", "nets.py:good"), ("three.safetensors:c", "twelve.safetensors:c"),
                         ("twelve.safetensors:c", "nets.py:few")):  # fmt: skip
        out = f"{model.replace(':', '-')}"
        chosen = [model if word == "MODEL" else word for word in words]
        with pytest.raises(SystemExit) as stopped:
            main([*chosen, "--labels", "predicted", "--transfer", other, "--out", out])
        assert (stopped.value.code, capsys.readouterr().err) == (0, "")
        record = AttackRecord.open(Path(out))
        assert record.config["labels"] == "predicted"
    code, errors = run(capsys, *[word.replace("MODEL", "twelve.safetensors:mlp") for word in words])
    assert code == 2
    assert errors[0].startswith("omnirobust: models must hold weights of mlp")
