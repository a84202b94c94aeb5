"""The command line trains by either recipe, and replaces a model only if told to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omnirobust import zoo
from omnirobust.cli import main
from omnirobust.zoo.recipes import PAPER, RECIPES


def run(capsys, text: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(text.split())
    seen = capsys.readouterr()
    return int(stopped.value.code or 0), seen.out, seen.err


def test_either_recipe(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("OMNIROBUST_CACHE", str(tmp_path))
    monkeypatch.setitem(PAPER, "digits/a", replace(RECIPES["digits/a"], optimizer="sgd", lr=0.01))
    assert run(capsys, "zoo train digits/a --epochs 1")[0] == 0
    assert zoo.card("digits/a").recipe["name"] == "fast"
    code, _, told = run(capsys, "zoo train digits/a --epochs 1 --recipe paper")
    assert (code, zoo.card("digits/a").recipe["name"]) == (2, "fast")
    assert "resume=False" in told
    assert run(capsys, "zoo train digits/a --epochs 1 --recipe paper --anew")[0] == 0
    assert zoo.card("digits/a").recipe["name"] == "paper"


def test_a_recipe_that_is_not_there(capsys) -> None:
    code, _, told = run(capsys, "zoo train mnist/a --recipe fast")
    assert code == 2
    assert "recipe must be paper for mnist/a, got 'fast'" in " ".join(told.split())
