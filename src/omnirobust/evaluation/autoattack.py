"""AutoAttack, the field's standard evaluation, through the package ``pyautoattack``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn

from omnirobust._draws import forked
from omnirobust._models import Classifier
from omnirobust.evaluation.strong import Problem, Run
from omnirobust.threat_models import ThreatModel

Part: TypeAlias = Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"]

_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
_STANDARD: tuple[Part, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")
_MISSING = "attacks='autoattack' needs the package pyautoattack: pip install 'omnirobust[autoattack]'"


@dataclass(frozen=True)
class AutoAttack:
    """AutoAttack's standard version: APGD on cross-entropy, APGD towards targets, FAB towards targets, Square.

    It knows l1, l2 and linf, one radius for all images, and no masks. Data ranges other than [0, 1] are mapped to it.
    ``steps`` and ``restarts`` of an evaluation do not reach it: it has its own. What it returns is projected onto the
    ball and judged anew, so that an example outside does not count.

    Attributes:
        parts: those to run, in order; if empty the four of the standard version. "apgd-t" is left out where there
            are fewer than four classes.

    Reference: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", 2020; "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers", 2021.
    """

    parts: tuple[Part, ...] = ()
    hands_back: ClassVar[bool] = True
    """It returns the input itself where it does not succeed: a delta of zero tells nothing of the gradients."""

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in get_args(Part):
                raise ValueError(f"parts must be among {', '.join(get_args(Part))}, got {part!r}")

    @property
    def name(self) -> str:
        """What the report calls it."""
        return "autoattack" if not self.parts else f"autoattack ({', '.join(self.parts)})"

    def fits(self, threat: ThreatModel, classes: int) -> bool:
        """Say whether AutoAttack knows the norm, and the threat is a ball of it."""
        return threat.name in _NORMS and type(threat) is ThreatModel

    def runs(self, problem: Problem) -> Iterator[Run]:
        """Yield its parts, as it runs them: each on the inputs that the others left standing.

        Raises:
            ModuleNotFoundError: if ``pyautoattack`` is not installed.
            ValueError: if there is a mask, a radius for each image, or an input that is no image.
        """
        check_autoattack(problem.x, problem.threat)
        for part in self.parts or _STANDARD:
            if part != "apgd-t" or problem.rivals.shape[1] >= 3:  # its ratio of logits needs four classes
                yield f"autoattack {part}", lambda rows, part=part: _attack(part, problem, rows)


def _attack(part: Part, problem: Problem, rows: Tensor) -> Tensor:
    from pyautoattack import AutoAttack as Peer

    x, threat = problem.x[rows], problem.threat
    low, high = threat.bounds
    unit, model = ((x - low) / (high - low)).float(), _InUnitRange(problem, low, high)
    norm = cast("Literal['Linf', 'L1', 'L2']", _NORMS[threat.name])
    with _left_alone(x), model.classifier.frozen():
        peer = Peer(model, norm=norm, eps=float(threat.eps) / (high - low), seed=problem.seed, device=x.device)
        peer.attacks_to_run = [part]
        for aimed in (peer.apgd_targeted, peer.fab):
            aimed.n_target_classes = min(aimed.n_target_classes, problem.rivals.shape[1])
        found, _ = peer.run_standard_evaluation(unit, problem.y[rows], batch_size=max(len(x), 1))
    # what did not move stays put whatever the mapping rounds
    delta = torch.where(found == unit, 0.0, found.to(x) * (high - low) + low - x)
    return threat.around(x).project(delta)


def check_autoattack(x: Tensor, threat: ThreatModel) -> None:
    """Raise one sentence if AutoAttack cannot be run.

    Raises:
        ModuleNotFoundError: if ``pyautoattack`` is not installed.
        ValueError: if there is a mask, a radius for each image, or an input that is no image.
    """
    try:
        import pyautoattack  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(_MISSING, name="pyautoattack") from error
    if threat.mask is not None:
        raise ValueError("attacks='autoattack' knows no masks: leave the mask out, or use attacks='default'")
    if isinstance(threat.eps, Tensor) and threat.eps.ndim:
        raise ValueError("attacks='autoattack' needs one eps for all inputs: give a number, or use attacks='default'")
    if x.ndim != 4:
        raise ValueError(f"attacks='autoattack' needs images (B, C, H, W), got x of shape {tuple(x.shape)}")


class _InUnitRange(nn.Module):
    """The model as AutoAttack wants it: images in [0, 1], float32, logits."""

    def __init__(self, problem: Problem, low: float, high: float) -> None:
        super().__init__()
        self.classifier = Classifier("model", problem.model)
        self._low, self._width, self._dtype = low, high - low, problem.x.dtype

    def forward(self, x: Tensor) -> Tensor:
        images = x if (self._low, self._width) == (0.0, 1.0) else x * self._width + self._low
        return self.classifier(self.classifier.arrange(images.to(self._dtype))).float()


@contextmanager
def _left_alone(x: Tensor) -> Iterator[None]:
    """Undo what AutoAttack does to its surroundings: it seeds globally, logs, and drops the tracer."""
    tracer, log = sys.gettrace(), logging.getLogger("auto-attack")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with forked(x), torch.no_grad():
            yield
    finally:
        log.setLevel(level)
        sys.settrace(tracer)
