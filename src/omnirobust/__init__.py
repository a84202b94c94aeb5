"""omnirobust: min-max robustness over many domains at once.

One problem, min over the perturbation (or the model) of the max over domain weights in the simplex; one algorithm.
"""

from importlib import import_module
from types import ModuleType

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

_LAZY = frozenset({"adapters", "data", "evaluation", "experiments", "report", "runs", "training", "universal", "zoo"})


def __getattr__(name: str) -> ModuleType:
    """Import a subpackage when it is first named, so that ``import omnirobust`` stays quick."""
    if name in _LAZY:
        return import_module(f"omnirobust.{name}")
    raise AttributeError(f"module 'omnirobust' has no attribute {name!r}")
