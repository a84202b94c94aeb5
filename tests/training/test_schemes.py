"""Schemes take what makes sense and refuse the rest by name."""

import pytest
import torch

from omnirobust.core.threat_models import L2, Linf
from omnirobust.core.weights import ProjectedAscent, Uniform, WorstCase
from omnirobust.training import DEFAULT_RULE, Scheme

BOTH = (Linf(0.2), L2(2.0))


def test_sensible_schemes() -> None:
    assert Scheme("natural").threats == ()
    assert Scheme("single", BOTH[:1], steps=1).threats == BOTH[:1]
    assert Scheme("minmax", [*BOTH], rule=ProjectedAscent(0.1, 1.0), dpar=0.1).threats == BOTH  # type: ignore[arg-type]
    for kind in ("average", "worst"):
        assert Scheme(kind, BOTH, adversarial_ratio=1.0).kind == kind  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"kind": "best"},
            "kind must be one of natural, single, average, minmax, worst, universal, msd, alternate, ramp, got 'best'",
        ),
        ({"kind": "natural", "threats": BOTH}, "threats must be empty for kind natural, got 2"),
        ({"kind": "single", "threats": BOTH}, "threats must be exactly one for kind single, got 2"),
        ({"kind": "single"}, "threats must be exactly one for kind single, got 0"),
        ({"kind": "minmax"}, "threats must be at least one for kind minmax, got none"),
        ({"kind": "average", "threats": ("linf",)}, r"threats must be threat models such as Linf\(0.2\), got 'linf'"),
        ({"kind": "average", "threats": BOTH, "steps": 0}, "steps must be >= 1, got 0"),
        ({"kind": "average", "threats": BOTH, "steps": 2.5}, "steps must be a whole number, got 2.5"),
        ({"kind": "single", "threats": BOTH[0]}, "threats must be a sequence of threat models, got ThreatModel"),
        ({"kind": "average", "threats": BOTH, "rule": Uniform()}, "rule must be None unless kind is minmax"),
        ({"kind": "minmax", "threats": BOTH, "dpar": -0.1}, "dpar must be >= 0, got -0.1"),
        ({"kind": "minmax", "threats": BOTH, "dpar_warmup": -1}, "dpar_warmup must be a whole number >= 0, got -1"),
        ({"kind": "minmax", "threats": BOTH, "dpar": float("nan")}, "dpar must be >= 0, got nan"),
        ({"kind": "minmax", "threats": BOTH, "persist": "every"}, "persist must be one of none, example, all, got"),
        (
            {"kind": "universal", "threats": BOTH[:1], "persist": "all"},
            "persist must be .none. unless kind is one of sing",
        ),
        (
            {"kind": "average", "threats": BOTH, "persist": "example"},
            "persist must be 'none' or 'all' unless kind is minmax",
        ),
        ({"kind": "average", "threats": BOTH, "preset": "ours"}, "preset must be one of paper, got 'ours'"),
        ({"kind": "average", "threats": BOTH, "start": "one"}, "start must be one of random, zero, got 'one'"),
        ({"kind": "universal", "threats": BOTH}, "threats must be exactly one for kind universal, got 2"),
        ({"kind": "single", "threats": BOTH[:1], "dpar": 0.1}, "dpar must be 0 unless two or more attacks can differ"),
        ({"kind": "minmax", "threats": BOTH, "dpar": 0.1, "start": "zero"}, "start must be 'random' with dpar"),
        (
            {"kind": "average", "threats": BOTH, "step_sizes": (0.1,)},
            r"step_sizes must be 2 numbers > 0, .* got \(0.1,\)",
        ),
        ({"kind": "average", "threats": BOTH, "step_sizes": (0.1, 0.0)}, "step_sizes must be 2 numbers > 0"),
        ({"kind": "universal", "threats": (Linf(torch.tensor([0.1, 0.2])),)}, "threats must have one radius for all"),
        (
            {"kind": "average", "threats": (Linf(torch.tensor([0.1, 0.2])), L2(torch.ones(3)))},
            "threats must have radii for as many examples, got 2 and 3",
        ),
        (
            {"kind": "minmax", "threats": BOTH, "adversarial_ratio": 1.5},
            r"adversarial_ratio must be in \[0, 1\], got 1.5",
        ),
    ],
)
def test_senseless_schemes(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scheme(**settings)  # type: ignore[arg-type]


def test_names_tell_threat_models_apart() -> None:
    mask = torch.tensor([True, False])
    assert Scheme("average", (*BOTH, L2(2.5), Linf(8 / 255))).names == ("linf:0.2", "l2:2", "l2:2.5", "linf:0.0313725")
    assert Scheme("average", (Linf(0.1), L2(0.1), Linf(0.1, mask=mask))).names == ("linf:0.1#1", "l2:0.1", "linf:0.1#2")


def test_rules_of_the_kinds() -> None:
    rule = ProjectedAscent(0.1, 1.0)
    assert Scheme("minmax", BOTH, rule=rule).weight_rule is rule
    assert Scheme("minmax", BOTH).weight_rule is DEFAULT_RULE
    assert isinstance(Scheme("average", BOTH).weight_rule, Uniform)
    assert isinstance(Scheme("worst", BOTH).weight_rule, WorstCase)


def test_schemes_that_leave_the_attacked_examples_out_do_not_attack() -> None:
    assert not Scheme("natural").attacks
    assert not Scheme("average", BOTH, adversarial_ratio=0.0).attacks
    assert Scheme("average", BOTH, adversarial_ratio=0.1).attacks


def test_fingerprints_differ_wherever_training_does() -> None:
    schemes = [
        Scheme("average", BOTH), Scheme("minmax", BOTH), Scheme("average", BOTH[::-1]), Scheme("average", BOTH, 19),
        Scheme("average", (Linf(0.2, (-1.0, 1.0)), BOTH[1])), Scheme("average", BOTH, step_sizes=(0.1, 0.1)),
        Scheme("minmax", BOTH, rule=ProjectedAscent(0.1, 1.0)), Scheme("average", BOTH, preset="paper"),
        Scheme("average", BOTH, dpar=0.1), Scheme("average", BOTH, dpar=0.1, dpar_warmup=2),
    ]  # fmt: skip
    assert len({scheme.fingerprint() for scheme in schemes}) == len(schemes)
    assert Scheme("average", [*BOTH]).fingerprint() == schemes[0].fingerprint()  # type: ignore[arg-type]


def test_the_regulariser_rises_linearly_over_its_warm_up() -> None:
    scheme = Scheme("average", BOTH, dpar=0.1, dpar_warmup=4)
    assert [scheme.at(epoch).dpar for epoch in range(6)] == pytest.approx([0, 0.025, 0.05, 0.075, 0.1, 0.1])
    assert Scheme("average", BOTH, dpar=0.1).at(0).dpar == 0.1
