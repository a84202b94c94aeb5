"""Code of a stranger's folder is run only where the user names it."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_model
from torch import nn

import omnirobust
from omnirobust import zoo
from omnirobust.cli import main
from omnirobust.jobs.names import load_models
from omnirobust.study.cell_cache import finished_model

NET = """
from pathlib import Path
from torch import nn
Path("RAN").touch()
def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
def turn(x):
    Path("RAN").touch()
    return x.flip(-1)
"""
DIGITS = ["--data", "digits", "--images", "2", "--steps", "1"]
ATTACK = ["attack", "ensemble", *DIGITS, "--norm", "linf", "--eps", "0.1"]
EVALUATE = ["evaluate", *DIGITS, "--threat", "linf:0.1"]
TRAIN = ["train", "--data", "digits", "--threat", "linf:0.05", "--steps", "1", "--epochs", "1", "--images", "20",
         "--validation", "0", "--test-images", "2", "--test-steps", "1"]  # fmt: skip
CODES = ["theirs/net.py:build", "net.py:build", "HERE/theirs/net.py:build", "theirs.net:build", "os:getcwd"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch, digits_cache) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMNIROBUST_CACHE", str(digits_cache))
    Path("theirs").mkdir()
    Path("theirs/net.py").write_text(NET)
    save_model(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "theirs/model.safetensors")
    return tmp_path


def card(code: object) -> None:
    Path("theirs/card.json").write_text(json.dumps({"network": {"code": code, "shape": [1, 8, 8], "classes": 10}}))


def run(capsys, *words: str) -> tuple[int, str, str]:
    """Return exit code, and what was written on both streams."""
    capsys.readouterr()
    code = 0
    try:
        main(words)
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def ran() -> bool:
    """Say whether the code was run since the last time."""
    there = Path("RAN").exists()
    Path("RAN").unlink(missing_ok=True)
    return there


@pytest.mark.parametrize("name", ["theirs", "theirs/model.safetensors"])
def test_a_card_runs_no_code_wherever_a_model_is_named(here, capsys, name):
    card("theirs/net.py:build")
    Path("c.yaml").write_text(f"models: [{name}]\n")
    told = (
        f"{name}, whose card asks for 'theirs/net.py:build': if you trust that code, write {name}:theirs/net.py:build"
    )
    for words in (
        [*ATTACK, "--models", name],
        [*ATTACK, "--models", "c", "--transfer", name],
        [*EVALUATE, "--model", "c", name],
        [*EVALUATE, "--config", "c.yaml"],
        [*TRAIN, "--from", name],
    ):
        exits, out, err = run(capsys, *words, "--out", "o")
        (line,) = err.splitlines()
        assert exits == 2 and not out and not Path("o").exists()
        assert line.split(" must name the code to run, got ")[1].removesuffix(", in c.yaml") == told
    for words in (["report", "theirs"], ["report", "theirs", "theirs"], ["reproduce", "theirs"], ["zoo", "list"]):
        run(capsys, *words)
    with pytest.raises(ValueError, match="name must be one of"):
        finished_model(name)
    assert not ran()


@pytest.mark.parametrize("code", CODES)
def test_no_kind_of_code_on_a_card_is_run(here, code):
    code = code.replace("HERE", str(here))
    card(code)
    with pytest.raises(ValueError, match="source must name the code to run") as told:
        zoo.load_model("theirs")
    assert str(told.value).endswith(f" write theirs:{code}") and not ran()


@pytest.mark.parametrize(
    "code", ["net.py:build; touch RAN", "$(touch RAN)", "a\nb:c", "\x1b[2J", ["os:abort"], None, {}]
)
def test_the_words_of_a_card_are_quoted(here, code):
    card(code)
    with pytest.raises(ValueError, match="must name the code to run") as told:
        zoo.load_model("theirs")
    line = str(told.value)
    assert line.isprintable()
    assert line.rpartition("write ")[2] in (f"'theirs:{code}'", "theirs:FILE.py:NAME")


@pytest.mark.parametrize("named", ["theirs:theirs/net.py:build", "theirs:net.py:build", "HERE/theirs:theirs.net:build"])
def test_code_that_is_named_is_run(here, capsys, named):
    named = named.replace("HERE", str(here))
    card("os:abort")
    wanted = load_models((named,), "digits")
    assert list(wanted) == ["theirs"] and (ran() or "theirs.net" in named)
    assert run(capsys, *ATTACK, "--models", "c", "--transfer", named, "--out", "a")[0] == 0
    if named.endswith("net.py:build"):
        assert list(json.loads(Path("a/config.json").read_text())["own_code"]) == ["net.py"]


def test_a_training_s_own_code_needs_no_second_naming(here, capsys):
    Path("theirs").rename("mine")
    assert run(capsys, *TRAIN, "--model", "mine/net.py:build", "--out", "first")[0] == 0 and ran()
    assert run(capsys, *TRAIN, "--model", "mine/net.py:build", "--out", "first")[0] == 0  # finds it finished
    ran()
    metrics = json.loads(Path("first/evaluation/metrics.json").read_text())
    assert list(metrics["models"]) == ["first"]
    code = json.loads(Path("first/card.json").read_text())["network"]["code"]
    _, _, err = run(capsys, *TRAIN, "--from", "first", "--out", "second")
    assert f"write first:{code}" in err and not ran() and not Path("second").exists()
    for start in ([f"first:{code}"], ["first", "--model", "mine/net.py:build"]):
        exits, _, err = run(capsys, *TRAIN, "--from", *start, "--out", f"on{len(start)}")
        assert (exits, err) == (0, "")
        metrics = json.loads(Path(f"on{len(start)}/evaluation/metrics.json").read_text())
        assert list(metrics["models"]) == [f"on{len(start)}", "first"]
    assert ran()
    assert run(capsys, "report", "first")[0] == 0 and not ran()


def test_weights_and_an_architecture_are_trained_on(here, capsys):
    save_model(zoo.build("lenet", (1, 8, 8), 10), "mine.safetensors")
    exits, _, err = run(capsys, *TRAIN, "--model", "lenet", "--from", "mine.safetensors", "--out", "o")
    assert (exits, err) == (0, "")
    assert list(json.loads(Path("o/evaluation/metrics.json").read_text())["models"]) == ["o", "mine"]


def test_a_file_of_options_says_which_code_it_runs_before_it_does(here, capsys):
    card("os:abort")
    Path("c.yaml").write_text("models: ['theirs:theirs/net.py:build', c]\ntransforms: [flh, 'theirs/net.py:turn']\n")
    words = ["attack", "transforms", *ATTACK[2:], "--config", "c.yaml"]
    exits, out, _ = run(capsys, *words, "--out", "o")
    assert exits == 0 and ran()
    assert out.startswith("Note: c.yaml names code, which is run now: 'theirs/net.py:build', 'theirs/net.py:turn'.\n")
    Path("theirs/net.py").write_text("raise ValueError('no')")
    exits, out, _ = run(capsys, *words, "--out", "p")
    assert exits == 2 and out.startswith("Note: c.yaml names code, which is run now: ")
    assert "names code" not in run(capsys, *words, "--models", "c", "--transforms", "flh", "--out", "q")[1]


def test_reports_of_a_stranger_s_run_run_none_of_its_code(here, capsys):
    card("theirs/net.py:build")
    own = ["attack", "transforms", *ATTACK[2:], "--models", "theirs:theirs/net.py:build", "--transforms", "flh"]
    for folder in ("first", "second"):
        assert run(capsys, *own, "theirs/net.py:turn", "--out", folder)[0] == 0
    assert ran()
    assert run(capsys, "report", "first")[0] == run(capsys, "report", "first", "second")[0] == 0
    assert not ran()


CALLS = {
    "load_own": {"jobs/names.py", "jobs/transforms.py", "study/own.py", "zoo/trained.py"},  # names that the user gave
    "load_own_model": {"zoo/sources.py", "zoo/trained.py"},
    "import_module": {"__init__.py", "attacks/written.py", "zoo/__init__.py", "zoo/own_code.py", "zoo/pretrained.py",
                      "zoo/onnx/file.py", "zoo/onnx/network.py"},
    "exec_module": {"zoo/own_code.py"},
    "load_state_dict": {"zoo/states.py", "jobs/train_setting.py", "training/fit.py", "training/rivals/ramp.py",
                        "training/loop.py", "training/normalised.py", "training/state.py"},
}  # fmt: skip
"""Where texts become calls, or state is given to modules: whoever adds a place sees here that no file may choose it."""


def test_texts_become_calls_in_known_places_only():
    found: dict[str, set[str]] = {}
    root = Path(omnirobust.__file__).parent
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            place = str(file.relative_to(root))
            assert name not in ("exec", "__import__", "Unpickler") or isinstance(node.func, ast.Attribute), place
            assert name != "eval" or (isinstance(node.func, ast.Attribute) and not node.args), place
            text = ast.unparse(node)
            assert not text.startswith(("pickle.", "torch.load(")) or "weights_only=True" in text, place
            assert not text.startswith("yaml.load(") or "Loader=PlainLoader" in text or "Loader=_NoRepeats" in text
            assert "trust_remote_code" not in text or "trust_remote_code=False" in text, place
            if name in CALLS:
                found.setdefault(name, set()).add(place)
    assert found == CALLS


def test_a_name_makes_no_code_of_a_card_run(here, capsys):
    card("theirs/net.py:build")
    for words in (
        [*ATTACK, "--models", "x=theirs"],
        [*EVALUATE, "--models", "x=theirs"],
        [*TRAIN, "--from", "x=theirs"],
    ):
        exits, _, err = run(capsys, *words, "--out", "o")
        assert exits == 2 and "must name the code to run, got theirs" in err and not Path("o").exists()
    assert not ran()
    assert run(capsys, *EVALUATE, "--models", "x=theirs:net.py:build", "--out", "o")[0] == 0 and ran()
    config = json.loads(Path("o/config.json").read_text())
    assert list(config["models"]) == ["x"] and list(config["own_code"]) == ["net.py"]


def test_an_evaluation_of_code_that_was_edited_is_another(here, capsys):
    words = [*EVALUATE, "--models", "theirs:net.py:build", "--out", "o"]
    assert run(capsys, *words)[0] == 0
    Path("theirs/net.py").write_text(NET + "# another\n")
    exits, _, err = run(capsys, *words)
    assert exits == 2 and "made with own_code.net.py" in err


def test_what_a_stranger_writes_beside_weights_is_read_as_values_or_refused(here):
    from safetensors.torch import save_file

    weights = {"1.weight": torch.ones(10, 64), "1.bias": torch.ones(10)}
    for extra in ('{"extra": 5}', '{"extra": {"1.bias": {"exec": "x"}}}', '{"extra": {"a": {"list": 1, "tuple": 2}}}',
                  '{"extra": {"a": {"tensor": "no"}}}', "5", "[" * 100000,
                  '{"extra": {"a": {"list": 3}}}'):  # fmt: skip
        save_file(weights, "theirs/model.safetensors", metadata={"facts": extra})
        with pytest.raises(ValueError, match="must hold weights of"):
            zoo.load_model("theirs:net.py:build")
