"""omnirobust: min-max robustness over many domains at once.

One problem, min over the perturbation (or the model) of the max over domain weights in the simplex; one algorithm.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omnirobust.attacks.of_losses import attack_losses as attack_losses
    from omnirobust.attacks.queries import BlackBox as BlackBox
    from omnirobust.attacks.recipes import attack_ensemble as attack_ensemble
    from omnirobust.attacks.recipes import attack_product as attack_product
    from omnirobust.attacks.recipes import attack_transforms as attack_transforms
    from omnirobust.attacks.recipes import attack_universal as attack_universal
    from omnirobust.attacks.results import AttackResult as AttackResult
    from omnirobust.core.adaptive import Adaptive as Adaptive
    from omnirobust.core.adaptive import Detour as Detour
    from omnirobust.core.ambiguity import ChiSquare as ChiSquare
    from omnirobust.core.ambiguity import CVaR as CVaR
    from omnirobust.core.ambiguity import MinNorm as MinNorm
    from omnirobust.core.ambiguity import Tilted as Tilted
    from omnirobust.core.decisions import Rays as Rays
    from omnirobust.core.directions import Direction as Direction
    from omnirobust.core.directions import Normalised as Normalised
    from omnirobust.core.directions import RawGradient as RawGradient
    from omnirobust.core.directions import Sign as Sign
    from omnirobust.core.directions import Stepper as Stepper
    from omnirobust.core.history import History as History
    from omnirobust.core.hops import Hops as Hops
    from omnirobust.core.momentum import Momentum as Momentum
    from omnirobust.core.projections import project_lp_box as project_lp_box
    from omnirobust.core.projections import project_simplex as project_simplex
    from omnirobust.core.search import Search as Search
    from omnirobust.core.solver import Solution as Solution
    from omnirobust.core.solver import solve as solve
    from omnirobust.core.stationarity import stationarity as stationarity
    from omnirobust.core.threat_models import L0 as L0
    from omnirobust.core.threat_models import L1 as L1
    from omnirobust.core.threat_models import L2 as L2
    from omnirobust.core.threat_models import FeasibleSet as FeasibleSet
    from omnirobust.core.threat_models import Linf as Linf
    from omnirobust.core.threat_models import ThreatModel as ThreatModel
    from omnirobust.core.types import Domains as Domains
    from omnirobust.core.types import Evaluation as Evaluation
    from omnirobust.core.types import WeightRule as WeightRule
    from omnirobust.core.weights import ExponentiatedGradient as ExponentiatedGradient
    from omnirobust.core.weights import Fixed as Fixed
    from omnirobust.core.weights import ProjectedAscent as ProjectedAscent
    from omnirobust.core.weights import Uniform as Uniform
    from omnirobust.core.weights import WorstCase as WorstCase
    from omnirobust.domains import losses as losses
    from omnirobust.domains import transforms as transforms
    from omnirobust.domains.grid import DomainGrid as DomainGrid
    from omnirobust.domains.grid import FunctionDomains as FunctionDomains
    from omnirobust.domains.losses import Loss as Loss

__version__ = "0.1.0"

_HOMES = {
    "Adaptive": "core.adaptive",
    "BlackBox": "attacks.queries",
    "attack_ensemble": "attacks.recipes",
    "attack_losses": "attacks.of_losses",
    "attack_product": "attacks.recipes",
    "attack_transforms": "attacks.recipes",
    "attack_universal": "attacks.recipes",
    "AttackResult": "attacks.results",
    "ChiSquare": "core.ambiguity",
    "CVaR": "core.ambiguity",
    "Detour": "core.adaptive",
    "Direction": "core.directions",
    "DomainGrid": "domains.grid",
    "Domains": "core.types",
    "Evaluation": "core.types",
    "ExponentiatedGradient": "core.weights",
    "FeasibleSet": "core.threat_models",
    "Fixed": "core.weights",
    "FunctionDomains": "domains.grid",
    "History": "core.history",
    "Hops": "core.hops",
    "L0": "core.threat_models",
    "L1": "core.threat_models",
    "L2": "core.threat_models",
    "Linf": "core.threat_models",
    "Loss": "domains.losses",
    "MinNorm": "core.ambiguity",
    "Momentum": "core.momentum",
    "Normalised": "core.directions",
    "project_lp_box": "core.projections",
    "project_simplex": "core.projections",
    "ProjectedAscent": "core.weights",
    "RawGradient": "core.directions",
    "Rays": "core.decisions",
    "Sign": "core.directions",
    "Search": "core.search",
    "Solution": "core.solver",
    "solve": "core.solver",
    "stationarity": "core.stationarity",
    "Stepper": "core.directions",
    "ThreatModel": "core.threat_models",
    "Tilted": "core.ambiguity",
    "Uniform": "core.weights",
    "WeightRule": "core.types",
    "WorstCase": "core.weights",
}
"""Public names, and the modules that they come from."""

_MODULES = {
    "adapters": "attacks.adapters",
    "adaptive": "core.adaptive",
    "data": "zoo.data",
    "detour": "core.adaptive",
    "directions": "core.directions",
    "evaluation": "evaluation",
    "experiments": "experiments",
    "groups": "domains.groups",
    "history": "core.history",
    "losses": "domains.losses",
    "options": "attacks.options",
    "projections": "core.projections",
    "report": "jobs.report",
    "results": "attacks.results",
    "runs": "jobs.folder",
    "settings": "attacks.presets",
    "solver": "core.solver",
    "stores": "attacks.store",
    "threat_models": "core.threat_models",
    "training": "training",
    "transforms": "domains.transforms",
    "universal": "attacks.universal",
    "views": "domains.transforms.seeded",
    "weights": "core.weights",
    "zoo": "zoo",
}
"""Modules to be named as attributes, and where they lie."""


def __getattr__(name: str) -> Any:
    """Import what is named when it is first named: torch alone takes longer than the command line's help may."""
    if name in _HOMES:
        found = getattr(import_module(f"omnirobust.{_HOMES[name]}"), name)
    elif name in _MODULES:
        found = import_module(f"omnirobust.{_MODULES[name]}")
    elif not name.startswith("__") and find_spec(f"omnirobust.{name}") is not None:
        found = import_module(f"omnirobust.{name}")
    else:
        raise AttributeError(f"module 'omnirobust' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """List what may be named, imported or not."""
    return sorted({*globals(), *_HOMES, *_MODULES} - {"Any", "TYPE_CHECKING", "find_spec", "import_module"})
