"""Help answers at once, and says the name of every option in full however narrow the terminal is."""

import re
import subprocess
import sys

import pytest

from omnirobust.cli import main
from omnirobust.cli.app import commands

COMMANDS = (
    (), ("attack",), ("attack", "ensemble"), ("attack", "universal"), ("attack", "transforms"), ("train",),
    ("evaluate",), ("demo",), ("report",), ("reproduce",), ("zoo",), ("zoo", "list"), ("zoo", "train"),
)  # fmt: skip

ASK = """
import resource, sys
from omnirobust.cli import main
for words in {commands}:
    try:
        main([*words, "--help"])
    except SystemExit as left:
        assert left.code == 0
slow = [name for name in ("torch", "numpy", "matplotlib", "rich", "jinja2") if name in sys.modules]
assert not slow, slow
"""


def test_no_help_imports_what_takes_time() -> None:
    """All of them in one process, which imports no more than the one that needs most."""
    subprocess.run([sys.executable, "-c", ASK.format(commands=COMMANDS)], check=True, stdout=subprocess.DEVNULL)


def test_every_command_is_asked() -> None:
    def paths(command, words=()):
        yield words
        for name, below in getattr(command, "commands", {}).items():
            yield from paths(below, (*words, name))

    assert set(paths(commands())) == set(COMMANDS)


@pytest.mark.parametrize("width", [40, 60, 80])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_option_names_are_never_cut(words, width, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERMINAL_WIDTH", str(width))
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    told = capsys.readouterr().out
    assert "\u2026" not in told
    for name in _options(words):
        assert re.search(rf"(?m)^\s*(-\w, )?.*{re.escape(name)}\b", told)


def _options(words: tuple[str, ...]) -> list[str]:
    command = commands()
    for word in words:
        command = command.commands[word]  # pyright: ignore[reportAttributeAccessIssue]
    return [name for p in command.params for name in p.opts if name.startswith("--")]
