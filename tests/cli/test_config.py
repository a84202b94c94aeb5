from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

import omnirobust.jobs as jobs
from omnirobust._files import from_home
from omnirobust.cli import main
from omnirobust.cli.app import LISTS, commands
from omnirobust.cli.arguments import expand_lists
from omnirobust.cli.given import Given
from omnirobust.cli.yaml_files import read_config
from omnirobust.core.directions import Sign
from omnirobust.core.weights import ExponentiatedGradient
from omnirobust.jobs import AttackJob, EvaluationJob

FILE = """\
data: digits
models: [a, c]
norm: linf
eps: 1e-1
images: 8
steps: 2
stop-when-fooled: true
"""


class Reached(ValueError):
    """The command got as far as its job."""

    def __init__(self, job: AttackJob | EvaluationJob, options: str) -> None:
        super().__init__("reached")
        self.job, self.options = job, options


@pytest.fixture(autouse=True)
def no_runs(monkeypatch):
    def stop(job, out, progress, options, team):
        raise Reached(job, options)

    monkeypatch.setattr(jobs, "run_attack", stop)
    monkeypatch.setattr(jobs, "run_evaluation", stop)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(FILE)
    return path


def reached(*words: str) -> Reached:
    """Run the command line, and return what reached its job."""
    with pytest.raises(Reached) as found:
        commands()(expand_lists(words, LISTS), standalone_mode=False)
    return found.value


def sentence(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("omnirobust: ")


def test_a_file_gives_the_options(file):
    job = reached("attack", "ensemble", "--config", str(file)).job
    assert (job.data, job.models, job.threat_model.name, job.threat_model.eps) == ("digits", ("a", "c"), "linf", 0.1)
    assert (job.images, job.start) == (8, 0)
    assert (job.options["steps"], job.options["stop_when_fooled"]) == (2, True)


def test_the_command_line_wins_over_set_and_set_over_the_file(file):
    words = ["attack", "ensemble", "--set", "steps=5", "--config", str(file), "--set=images=3", "--images", "4"]
    job = reached(*words, "--models", "b").job
    assert (job.options["steps"], job.images, job.models, job.threat_model.eps) == (5, 4, ("b",), 0.1)


def test_set_alone_will_do():
    words = [f"--set={pair}" for pair in (
        "data=digits", "models=a,c", "norm=l2", "eps=1", "direction=sign", "rule=exponentiated", "eta=0.5", "preset=",
        "stop-when-fooled=false", "transfer=[b, 'd']", "step_size=null",
    )]  # fmt: skip
    job = reached("attack", "ensemble", *words).job
    assert (job.models, job.transfer) == (("a", "c"), ("b", "d"))
    assert (job.options["preset"], job.options["step_size"]) == (None, None)
    assert job.options["rule"] == ExponentiatedGradient(0.5) and job.options["direction"] == Sign("linear")


def test_evaluations_take_them_as_well_under_every_name_of_an_option(tmp_path):
    (tmp_path / "c.yaml").write_text("data: digits\nmodel: a\nthreat: [linf:0.1, l2:2]\nsteps: 3\n")
    job = reached("evaluate", "--config", str(tmp_path / "c.yaml")).job
    assert (job.models, list(job.threats), job.steps) == (("a",), ["linf:0.1", "l2:2"], 3)
    job = reached("evaluate", "--config", str(tmp_path / "c.yaml"), "--set", "models=c,b").job
    assert job.models == ("c", "b")


def test_the_kept_file_makes_the_same_job(tmp_path):
    words = (
        "attack universal --data digits --models a c --norm l2 --eps 0.3 --group-size 3 --clip intersection --seed 0 "
    )
    words += "--steps 0 --transforms ori rot:-30..30 --draws 2 --rule ascent --beta 1e-5 --gamma 3 --precision bf16"
    first = reached(*words.split(), "--out", str(tmp_path / "run"), "--data", "folder with, odd: name")
    (tmp_path / "c.yaml").write_text(first.options)
    assert "out" not in yaml.safe_load(first.options) and first.job.options["steps"] == 0
    again = reached("attack", "universal", "--config", str(tmp_path / "c.yaml"))
    assert again.job == first.job and again.options == first.options


BASE = {"data": "digits", "models": "a", "norm": "linf", "eps": "0.1"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("epz: 0.1", "The key 'epz' of FILE is no option of attack ensemble: the nearest is eps"),
        ("batchsize: 5", "The key 'batchsize' of FILE is no option of attack ensemble: the nearest is batch_size"),
        ("config: other.yaml", "The key 'config' of FILE is no option of attack ensemble: the nearest is "),
        ("eps: 0.1\neps: 0.2", "config must be YAML, got FILE, line 5: eps stands there twice"),
        ("eps: [0.1", "config must be YAML, got FILE, line 4: expected ',' or ']'"),
        ("eps: [0.1, 0.2]", "eps must be text or a number, got a list, in FILE"),
        ("steps: {a: 1}", "steps must be text or a number, got a mapping, in FILE"),
        ("eps: yes", "eps must be text or a number, got True: write text such as yes or no in quotes"),
        ("models: [a, off]", "models must be text or a number, got False: write text such as yes or no in quotes"),
        ("stop_when_fooled: maybe", "stop_when_fooled must be true or false, got 'maybe'"),
        ("data: 2020-01-01", "data must be text or a number, got datetime.date(2020, 1, 1)"),
        ("data: 2020-99-99", "config must be YAML in UTF-8, got FILE: month must be in 1..12"),
        ("eps: !!python/object/apply:os.getcwd []", "config must be YAML, got FILE, line 4: could not determine"),
        ("command: attack universal", "config must be for attack ensemble, got FILE, which is for attack universal"),
        ("steps: 2.5", "The value 2.5 of 'steps' of FILE does not fit: "),
        ("norm: l3", "The value 'l3' of 'norm' of FILE does not fit: 'l3' is not one of "),
        ("eps: x", "The value 'x' of 'eps' of FILE does not fit: eps must be a number or a fraction such as 8/255"),
        ("eps: -1", "eps must be >= 0, got -1.0, in FILE"),
        ("batch-size: 0", "batch_size must be a whole number >= 1 or None, got 0, in FILE"),
        ("eps: " + "[" * 3000, "config must be YAML in UTF-8, got FILE: "),
        ("eps: " + "9" * 5000, "config must be YAML in UTF-8, got FILE: "),
        ("models: []", "The value a list of 'models' of FILE does not fit: models must have a value"),
        ("batch-size: 3\nbatch_size: 4", "config must name each option once, got batch-size and batch_size in FILE"),
        ("data: &a [x]\nmodels: &b [*a, *a]", "config must be YAML, got FILE, line 5: the alias *a within an anchor"),
        ("models: &a [*a]", "config must be YAML, got FILE, line 4: the alias *a within an anchor"),
        (
            "data: &a {k: x}\nmodels: &b {<<: *a}",
            "config must be YAML, got FILE, line 5: the alias *a within an anchor",
        ),
        ("eps: \x00", "config must be YAML in UTF-8, got FILE: "),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence(file, capsys, content, told):
    rest = [f"{key}: {value}\n" for key, value in BASE.items() if not content.startswith(f"{key}:")]
    file.write_text("".join(rest) + content)
    assert sentence(capsys, "attack", "ensemble", "--config", str(file)).startswith(told.replace("FILE", str(file)))


@pytest.mark.parametrize("content", ["- eps", "3: 4", "eps"])
def test_a_file_that_is_no_mapping_is_told(file, capsys, content):
    file.write_text(content)
    told = sentence(capsys, "attack", "ensemble", "--config", str(file))
    assert told == f"config must map option names to values, such as 'eps: 0.1', got {file}"


def test_a_value_of_the_command_line_is_not_laid_on_the_file(file, capsys):
    file.write_text("".join(f"{key}: {value}\n" for key, value in BASE.items()))
    told = sentence(capsys, "attack", "ensemble", "--config", str(file), "--eps=-1")
    assert told == "eps must be >= 0, got -1.0"


def test_files_that_are_none_are_told(tmp_path, capsys):
    assert "No such file" in sentence(capsys, "attack", "ensemble", "--config", str(tmp_path / "none.yaml"))
    assert "Is a directory" in sentence(capsys, "evaluate", "--config", str(tmp_path))
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    assert "config must be YAML" in sentence(capsys, "evaluate", "--config", str(tmp_path / "c.yaml"))
    assert sentence(capsys, "evaluate", "--set", "steps") == "set must be KEY=VALUE such as eps=0.1, got 'steps'"
    assert "the nearest is threat" in sentence(capsys, "evaluate", "--set", "treat=l2:1")
    nested = sentence(capsys, "evaluate", "--set", "models=&a [x, &b [*a]]")
    assert nested == "set must be plain YAML, got the alias *a within an anchor"


def test_an_empty_file_gives_nothing(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("# nothing\n")
    assert read_config(tmp_path / "c.yaml") == {}
    assert "Missing option '--data'" in sentence(capsys, "attack", "ensemble", "--config", str(tmp_path / "c.yaml"))


texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), min_size=1, max_size=12)
texts = texts.filter(lambda t: not from_home(t).is_dir())  # what is there is made absolute: test_paths.py


@settings(max_examples=60, deadline=None)
@given(st.lists(texts.filter(lambda t: not t.startswith("-") and "," not in t and t.strip()), min_size=1, max_size=3),
       texts.filter(lambda t: t.strip() != ""), st.floats(1e-12, 1e12), st.integers(0, 10**6))  # fmt: skip
@example(["~no-such-user", "~0/x"], "~no-such-user", 1.0, 0)
@example(["\u20030", "0\u3000"], "\xa00", 1.0, 0)
def test_every_value_survives_the_way_through_a_file_and_a_command_line(tmp_path_factory, models, data, eps, seed):
    command = ("attack", "ensemble")
    original = {"data": data, "models": models, "norm": "l1", "eps": eps, "seed": seed, "stop_when_fooled": True}
    made = Given(command, original)
    file = tmp_path_factory.mktemp("c") / "c.yaml"
    file.write_text(made.text(), encoding="utf-8")
    for words in ([*command, "--config", str(file)], made.words()):
        options = yaml.safe_load(reached(*words).options)
        assert {key: options[key] for key in original} == original
        assert options["command"] == "attack ensemble"


def test_unicode_ends_of_lines_survive_and_other_letters_stay_legible(tmp_path):
    original = {"data": "ziffern-ä", "models": ["a\x85", "b\u2028c"], "norm": "l1", "eps": 0.5}
    made = Given(("attack", "ensemble"), original)
    (tmp_path / "c.yaml").write_text(made.text(), encoding="utf-8")
    for words in (["attack", "ensemble", "--config", str(tmp_path / "c.yaml")], made.words()):
        options = yaml.safe_load(reached(*words).options)
        assert {key: options[key] for key in original} == original
    assert "ä" in Given(("attack", "ensemble"), {"data": "ziffern-ä"}).text()


def test_the_kept_file_is_plain(file):
    text = reached("attack", "ensemble", "--config", str(file)).options
    assert text.startswith("# omnirobust attack ensemble --config THIS_FILE\ncommand: attack ensemble\ndata: digits\n")
    assert json.dumps(yaml.safe_load(text))


def test_the_page_on_configs_says_what_happens(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "configs.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    Path("attack.yaml").write_text(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0])
    plain, changed = re.findall(r"```bash\nomnirobust (.*?)\nomnirobust (.*?)\n```", page)[0]
    assert reached(*plain.split()).job.options["steps"] == 20
    job = reached(*changed.split()).job
    steps = job.options["steps"]
    assert (steps, job.models, job.threat_model.eps, job.images) == (50, ("a", "b", "c"), 0.2, 50)
    command, told = re.findall(r"\$ omnirobust (.*)\nomnirobust: (.*)\n", page)[0]
    assert sentence(capsys, *command.split()) == told
