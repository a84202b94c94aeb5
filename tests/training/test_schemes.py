"""Schemes take what makes sense and refuse the rest by name."""

import pytest

from omnirobust.threat_models import L2, Linf
from omnirobust.training import Scheme
from omnirobust.weights import ProjectedAscent, Uniform

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
        ({"kind": "best"}, "kind must be one of natural, single, average, minmax, worst, universal, got 'best'"),
        ({"kind": "natural", "threats": BOTH}, "threats must be empty for kind natural, got 2"),
        ({"kind": "single", "threats": BOTH}, "threats must be exactly one for kind single, got 2"),
        ({"kind": "single"}, "threats must be exactly one for kind single, got 0"),
        ({"kind": "minmax"}, "threats must be at least one for kind minmax, got none"),
        ({"kind": "average", "threats": ("linf",)}, r"threats must be threat models such as Linf\(0.2\), got 'linf'"),
        ({"kind": "average", "threats": BOTH, "steps": 0}, "steps must be >= 1, got 0"),
        ({"kind": "average", "threats": BOTH, "rule": Uniform()}, "rule must be None unless kind is minmax"),
        ({"kind": "minmax", "threats": BOTH, "dpar": -0.1}, "dpar must be >= 0, got -0.1"),
        ({"kind": "minmax", "threats": BOTH, "dpar": float("nan")}, "dpar must be >= 0, got nan"),
        ({"kind": "minmax", "threats": BOTH, "persist": "all"}, "persist must be one of none, example, got 'all'"),
        (
            {"kind": "minmax", "threats": BOTH, "adversarial_ratio": 1.5},
            r"adversarial_ratio must be in \[0, 1\], got 1.5",
        ),
    ],
)
def test_senseless_schemes(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scheme(**settings)  # type: ignore[arg-type]
