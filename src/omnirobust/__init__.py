"""omnirobust: min-max robustness over many domains at once.

One problem, min over the perturbation (or the model) of the max over domain weights in the simplex; one algorithm.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omnirobust import losses as losses
    from omnirobust import transforms as transforms
    from omnirobust._types import Evaluation as Evaluation
    from omnirobust.adaptive import Adaptive as Adaptive
    from omnirobust.attacks import attack_ensemble as attack_ensemble
    from omnirobust.attacks import attack_product as attack_product
    from omnirobust.attacks import attack_transforms as attack_transforms
    from omnirobust.attacks import attack_universal as attack_universal
    from omnirobust.detour import Detour as Detour
    from omnirobust.directions import Normalised as Normalised
    from omnirobust.directions import RawGradient as RawGradient
    from omnirobust.directions import Sign as Sign
    from omnirobust.domains import DomainGrid as DomainGrid
    from omnirobust.domains import FunctionDomains as FunctionDomains
    from omnirobust.history import History as History
    from omnirobust.projections import project_lp_box as project_lp_box
    from omnirobust.projections import project_simplex as project_simplex
    from omnirobust.results import AttackResult as AttackResult
    from omnirobust.solver import Solution as Solution
    from omnirobust.solver import solve as solve
    from omnirobust.solver import stationarity as stationarity
    from omnirobust.threat_models import L0 as L0
    from omnirobust.threat_models import L1 as L1
    from omnirobust.threat_models import L2 as L2
    from omnirobust.threat_models import FeasibleSet as FeasibleSet
    from omnirobust.threat_models import Linf as Linf
    from omnirobust.threat_models import ThreatModel as ThreatModel
    from omnirobust.weights import ExponentiatedGradient as ExponentiatedGradient
    from omnirobust.weights import Fixed as Fixed
    from omnirobust.weights import ProjectedAscent as ProjectedAscent
    from omnirobust.weights import Uniform as Uniform
    from omnirobust.weights import WorstCase as WorstCase

__version__ = "0.1.0"

_HOMES = {
    "Adaptive": "adaptive",
    "attack_ensemble": "attacks",
    "attack_product": "attacks",
    "attack_transforms": "attacks",
    "attack_universal": "attacks",
    "AttackResult": "results",
    "Detour": "detour",
    "DomainGrid": "domains",
    "Evaluation": "_types",
    "ExponentiatedGradient": "weights",
    "FeasibleSet": "threat_models",
    "Fixed": "weights",
    "FunctionDomains": "domains",
    "History": "history",
    "L0": "threat_models",
    "L1": "threat_models",
    "L2": "threat_models",
    "Linf": "threat_models",
    "Normalised": "directions",
    "project_lp_box": "projections",
    "project_simplex": "projections",
    "ProjectedAscent": "weights",
    "RawGradient": "directions",
    "Sign": "directions",
    "Solution": "solver",
    "solve": "solver",
    "stationarity": "solver",
    "ThreatModel": "threat_models",
    "Uniform": "weights",
    "WorstCase": "weights",
}
"""Public names, and the modules that they come from."""

_MODULES = (
    "adapters", "data", "evaluation", "experiments", "losses", "report", "runs", "training", "transforms", "universal",
    "zoo",
)  # fmt: skip
"""Modules to be named as attributes."""


def __getattr__(name: str) -> Any:
    """Import what is named when it is first named: torch alone takes longer than the command line's help may."""
    if name in _HOMES:
        found = getattr(import_module(f"omnirobust.{_HOMES[name]}"), name)
    elif name in _MODULES or (not name.startswith("__") and find_spec(f"omnirobust.{name}") is not None):
        found = import_module(f"omnirobust.{name}")
    else:
        raise AttributeError(f"module 'omnirobust' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """List what may be named, imported or not."""
    return sorted({*globals(), *_HOMES, *_MODULES} - {"Any", "TYPE_CHECKING", "find_spec", "import_module"})
