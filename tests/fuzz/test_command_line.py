"""Whatever is given, the command line answers with one sentence or with a run that is whole."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from omnirobust.cli import main
from omnirobust.cli.app import commands
from omnirobust.jobs.folder import RunFolder

FUZZ = settings(
    max_examples=80, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
COMMANDS = (("attack", "ensemble"), ("attack", "universal"), ("attack", "transforms"), ("evaluate",))
GOOD: dict[str, list[Any]] = {
    "data": ["digits"], "models": ["a", ["a", "c"], "c@seed1"], "norm": ["linf", "l2", "l1", "l0"],
    "eps": [0, 0.1, "1e-1", 2], "steps": [0, 1, 2], "images": [1, 3], "start": [0, 5], "rule": ["worst", "average"],
    "loss": ["dlr"], "direction": ["sign", "raw"], "init": ["zero"], "keep": ["last"], "labels": ["predicted"],
    "transfer": ["c@seed1"], "seed": [0, 7], "batch_size": [1, 2], "precision": ["bf16"], "stop_when_fooled": [True],
    "group_size": [1, 2], "group_by": ["class"], "clip": ["intersection"], "transforms": ["flh", ["ori", "rot:-9..9"]],
    "draws": [1], "threat": ["linf:0.1", ["l2:1", "l0:2"]], "preset": ["paper"], "restarts": [2], "target": [0],
}  # fmt: skip
ODD: list[Any] = [
    -1, 0, 10**9, 2**63, 2**64, -(2**63), 10**30, 0.0, -0.5, 1e308, float("nan"), float("inf"), "nan", "", " ", "-",
    "--", "--eps", "a" * 300, "..", "/", "/dev/null", "a:b", "a.py:b", "digits/a", "a@", "@seed", "a@seed-1", "hub:",
    "hub:a/b/c", "linf:", "linf:1/0", "l2:nan", "l2:1e999", "rot:", "rot:1..", "rot:9..-9", "bri:x", "+", "flh:p=2",
    "\x00", "\n", "é漢\U0001f600", "[red]", "{}", "%s", "{0}",
    True, False, None, [], [None], [[1]], {}, {"a": 1}, "true", "null", "~", "!!python/name:os.system", "&a [*a]",
]  # fmt: skip
KEYS = [
    *GOOD,
    "beta",
    "gamma",
    "eta",
    "step_size",
    "step-size",
    "split",
    "model",
    "epz",
    "command",
    "config",
    "settings",
    "set",
    "help",
    "",
    "-",
]


def answered(words: list[str]) -> tuple[int, str]:
    """Run the command line, and return its exit code and what it says is wrong."""
    err = io.StringIO()
    with (
        contextlib.redirect_stderr(err),
        contextlib.redirect_stdout(io.StringIO()),
        pytest.raises(SystemExit) as stopped,
    ):
        main(words)
    return int(stopped.value.code or 0), err.getvalue()


def check(words: list[str]) -> int:
    """Assert that the command ends well or in one sentence."""
    code, err = answered(words)
    assert code in (0, 2), (words, code)
    assert "Traceback" not in err
    if code and err.strip():  # nothing is said where a group of commands has shown its help
        lines = err.splitlines()
        assert lines[-1].startswith("omnirobust: ") and len(lines[-1]) > len("omnirobust: "), (words, err)
        assert sum(line.startswith("omnirobust: ") for line in lines) == 1, err
    return code


def whole(out: Path) -> bool:
    """Assert that the run folder is whole, or is not there; say whether it is."""
    assert not list(out.parent.glob(".*.part"))
    assert not list(out.rglob("*.part"))
    if not out.exists():
        return False
    assert RunFolder.open(out).config["job"]
    json.loads((out / "versions.json").read_text())
    return (out / "metrics.json").exists()


@pytest.fixture
def stopped(monkeypatch):
    """End every job where it would begin to compute."""

    def stop(*_: Any, **__: Any) -> None:
        raise ValueError("stopped")

    for name in ("jobs.run_attack", "jobs.run_evaluation", "study.runner.reproduce", "cli.launch._launch"):
        monkeypatch.setattr(f"omnirobust.{name}", stop)


values = st.one_of(
    st.sampled_from(ODD), st.integers(), st.floats(), st.text(max_size=8), st.lists(st.text(max_size=4), max_size=3)
)
keys = st.one_of(st.sampled_from(KEYS), st.text(max_size=8))


@FUZZ
@given(command=st.sampled_from(COMMANDS), content=st.dictionaries(keys, values, max_size=8))
def test_any_mapping_in_a_file(stopped, tmp_path, command, content):
    file = tmp_path / "c.yaml"
    required = {"data": "digits", "models": "a"} | (
        {"threat": "l2:1"} if command == ("evaluate",) else {"norm": "l2", "eps": 1}
    )
    file.write_text(yaml.safe_dump(required | content, allow_unicode=True), encoding="utf-8")
    assert check([*command, "--config", str(file), "--out", str(tmp_path / "run")]) == 2
    assert not (tmp_path / "run").exists()


signs = st.sampled_from([*":-[{|>?%'\"", "&a", "*a", "eps", "\n", " ", "!!", "<<"])


@FUZZ
@given(
    command=st.sampled_from(COMMANDS),
    content=st.one_of(
        st.binary(max_size=60),
        st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.lists(signs, max_size=30).map(lambda parts: "".join(parts).encode()),
    ),
)
@example(command=("evaluate",), content=b"a: &a [*a]")
@example(command=("evaluate",), content=b"<<: 3\ndata: digits")
@example(command=("evaluate",), content=b"? [a]\n: b")
def test_any_bytes_in_a_file(stopped, tmp_path, command, content):
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    assert check([*command, "--config", str(file)]) == 2


OPTIONS = [
    *("--" + key.replace("_", "-") for key in GOOD),
    *("--out", "--help", "--version", "--config", "--set", "--set=", "--all", "--budget", "--processes"),
]
PLAIN = ["digits", "a", "linf", "0.1", "ensemble", "universal", "list", "eps=1", "linf:0.1"]
words = st.one_of(
    st.sampled_from(OPTIONS), st.sampled_from([str(v) for v in ODD]), st.text(max_size=6), st.sampled_from(PLAIN)
)
firsts = [[], ["attack"], *map(list, COMMANDS), ["report"], ["zoo"], ["zoo", "list"], ["reproduce"], ["evaluat"]]


@FUZZ
@given(first=st.sampled_from(firsts), rest=st.lists(words, max_size=10))
def test_any_words(stopped, tmp_path, monkeypatch, first, rest):
    monkeypatch.chdir(tmp_path)
    check([*first, *rest])
    assert not list(tmp_path.iterdir())


pairs = st.dictionaries(st.sampled_from(list(GOOD)), st.integers(0, 10), max_size=4)
numbers = ["beta", "gamma", "eta", "step_size", *GOOD]
wrong = [-1, 0, 1e-9, 1e30, float("nan"), "x", "", "a@seed9", "l2:0", 2**63]
LONG = {"steps", "images", "draws", "restarts", "samples"}
"""What would take for ever, or all memory, if it were as large as it says."""


@pytest.mark.slow
@settings(FUZZ, max_examples=10)
@given(
    command=st.sampled_from(COMMANDS),
    chosen=pairs,
    odd=st.dictionaries(st.sampled_from(numbers), st.sampled_from(wrong), max_size=1),
)
def test_a_run_is_whole_or_not_there(digits, tmp_path_factory, command, chosen, odd):
    options: dict[str, Any] = {"data": "digits", "models": ["a", "c"], "images": 3, "steps": 1}
    options |= {"threat": "linf:0.1"} if command == ("evaluate",) else {"norm": "linf", "eps": 0.1}
    options |= {"transforms": "flh"} if "transforms" in command else {}
    known = {p.name for p in _parameters(command)}
    options |= {key: GOOD[key][n % len(GOOD[key])] for key, n in chosen.items() if key in known}
    options |= {
        key: value
        for key, value in odd.items()
        if key in known and not (key in ("steps", "images", "draws", "restarts") and value in (2**63, 1e30))
    }
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "c.yaml").write_text(yaml.safe_dump(options))
    code = check([*command, "--config", str(folder / "c.yaml"), "--out", str(folder / "run")])
    assert whole(folder / "run") == (code == 0), options
    if code == 0:  # the file that was kept makes the very same run again
        again = [*command, "--config", str(folder / "run" / "config.yaml"), "--out", str(folder / "again")]
        assert check(again) == 0
        for name in ("config.json", "config.yaml", "metrics.json", "perturbations.safetensors"):
            assert (folder / "again" / name).read_bytes() == (folder / "run" / name).read_bytes()


def _parameters(command: tuple[str, ...]) -> list[Any]:
    found = commands()
    for word in command:
        found = found.commands[word]
    return found.params
