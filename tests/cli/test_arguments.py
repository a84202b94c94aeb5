from typing import get_args

import pytest
import typer

import omnirobust as orb
from omnirobust.cli import arguments as args
from omnirobust.cli.arguments import DirectionName, LossName, expand_lists
from omnirobust.core.choices import Norm

LISTS = ("--models", "--transfer")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--models a b --eps 0.1", "--models a --models b --eps 0.1"),
        ("--models a,b --eps 0.1", "--models a --models b --eps 0.1"),
        ("--models=a,b c --eps 0.1", "--models a --models b --models c --eps 0.1"),
        ("--models a --models b", "--models a --models b"),
        ("--models a b --transfer c d", "--models a --models b --transfer c --transfer d"),
        ("--models a, b", "--models a --models b"),
        ("attack ensemble --eps -1 --data x", "attack ensemble --eps -1 --data x"),
    ],
)
def test_lists_are_written_in_any_way(given, expected):
    assert expand_lists(given.split(), LISTS) == expected.split()


@pytest.mark.parametrize("given", ["--models --eps 0.1", "--eps 0.1 --models", "--models a --transfer --eps 1"])
def test_a_list_without_values_is_told(given):
    with pytest.raises(ValueError, match=r"Option '--(models|transfer)' requires an argument\."):
        expand_lists(given.split(), LISTS)


def test_names_become_the_objects_of_the_library():
    assert [args.PLAIN.threat_model(n, 2.0).name for n in get_args(Norm)] == ["linf", "l2", "l1", "l0"]
    assert args.weight_rule("minmax", None, None, None) is None
    assert args.weight_rule("average", None, None, None) == orb.Uniform()
    assert args.weight_rule("worst", None, None, None) == orb.WorstCase()
    assert args.weight_rule("ascent", 0.02, 3.0, None) == orb.ProjectedAscent(0.02, 3.0)
    assert args.weight_rule("exponentiated", None, None, 2.0) == orb.ExponentiatedGradient(2.0)
    assert args.attack_loss(None) is None
    assert args.attack_loss("smooth-margin") is orb.losses.smooth_margin
    assert all(callable(args.attack_loss(name)) for name in get_args(LossName))
    assert args.direction(None) is None
    assert args.direction("raw") == orb.RawGradient()
    assert len({type(args.direction(name)) for name in get_args(DirectionName)}) == 5


@pytest.mark.parametrize(
    ("rule", "values", "message"),
    [
        ("ascent", (0.1, None, None), "beta and gamma must be given"),
        ("exponentiated", (None, 1.0, None), "eta must be given"),
        ("worst", (0.1, None, None), "beta must be left out with rule worst, got 0.1"),
        ("minmax", (None, 3.0, None), "gamma must be left out with rule minmax, got 3.0"),
    ],
)
def test_parameters_must_fit_the_rule(rule, values, message):
    with pytest.raises(ValueError, match=message):
        args.weight_rule(rule, *values)


@pytest.mark.parametrize(("text", "value"), [("0.1", 0.1), ("8/255", 8 / 255), ("3", 3.0), ("-0.1", -0.1)])
def test_a_radius_is_a_number_or_a_fraction(text, value):
    assert args.radius(text) == value


@pytest.mark.parametrize("text", ["", "8/", "8/0", "1/2/3", "eight"])
def test_what_is_no_radius_is_refused(text):
    with pytest.raises(ValueError, match="eps must be a number or a fraction such as 8/255"):
        args.radius(text)


@pytest.mark.parametrize(
    ("name", "label"),
    [("minmax", "min-max"), ("worst", "worst"), ("rules.py:Mine", "Mine"), ("package.rules:Mine", "Mine")],
)
def test_rules_are_named_by_the_library_or_by_code(name, label):
    assert args.rule_name(name) == name
    assert args.rule_label(name) == label


def test_a_rule_that_is_neither_is_told():
    with pytest.raises(typer.BadParameter, match=r"'mine' is not one of 'minmax', .*'exponentiated', FILE.py:NAME"):
        args.rule_name("mine")
    with pytest.raises(ValueError, match=r"beta must be left out with rule rules.py:Mine, got 0.1"):
        args.weight_rule("rules.py:Mine", 0.1, None, None)
