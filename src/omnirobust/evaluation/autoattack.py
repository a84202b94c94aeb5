"""AutoAttack, the field's standard evaluation, through the package ``pyautoattack``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn

from omnirobust.core.draws import forked
from omnirobust.core.threat_models import ThreatModel
from omnirobust.domains.classifier import Classifier
from omnirobust.evaluation.suite import Problem, Run

Part: TypeAlias = Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"]

_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
_STANDARD: tuple[Part, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")
_RAND: tuple[Part, ...] = ("apgd-ce", "apgd-dlr")
_CLASSES: dict[Part, int] = {"apgd-dlr": 3, "apgd-t": 4}
"""The classes that a ratio of logits needs."""

_TRIES = 3
"""How often an input of a random model is tried that AutoAttack leaves alone."""

_BANDS = 5
"""Into so many bands AutoAttack's Square divides an image's rows under l1 and l2."""

_MISSING = "attacks='autoattack' needs the package pyautoattack: pip install 'omnirobust[autoattack]'"


@dataclass(frozen=True)
class AutoAttack:
    """AutoAttack's standard version: APGD on cross-entropy, APGD towards targets, FAB towards targets, Square.

    On a random model its version "rand": APGD on cross-entropy and on the ratio of logits, each gradient a mean over 20
    draws. Inputs that it leaves alone, since one pass got them wrong, are given to it again, up to three times in all.

    It knows l1, l2 and linf, one radius for all images, and no masks. Data ranges other than [0, 1] are mapped to it.
    ``steps`` and ``restarts`` of an evaluation do not reach it: it has its own. What it returns is projected onto the
    ball and judged anew, so that an example outside does not count.

    Attributes:
        parts: those to run, in order; if empty the four of the standard version, or the two of "rand". "apgd-t" is
            left out where there are fewer than four classes, "apgd-dlr" where there are fewer than three.

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

    def check_sizes(self, x: Tensor, threat: ThreatModel, random: bool) -> None:
        """Raise a ValueError if Square is among its parts and cannot take images as large as ``x`` (B, C, H, W).

        Args:
            x: images.
            threat: ball of the perturbation.
            random: whether the model is, to which AutoAttack's version for random models is given: it has no Square.
        """
        if threat.name in ("l1", "l2") and "square" in self._parts_on(random):
            _check_squares(x, threat.name)

    def _parts_on(self, random: bool) -> tuple[Part, ...]:
        return tuple(self.parts) or (_RAND if random else _STANDARD)

    def runs(self, problem: Problem) -> Iterator[Run]:
        """Yield its parts, as it runs them: each on the inputs that the others left standing.

        Raises:
            ModuleNotFoundError: if ``pyautoattack`` is not installed.
            ValueError: if there is a mask, a radius for each image, or an input that is no image, or one of a size
                that its Square cannot take.
        """
        check_autoattack(problem.x, problem.threat)
        self.check_sizes(problem.x, problem.threat, problem.random)
        for part in self._parts_on(problem.random):
            if problem.rivals.shape[1] + 1 >= _CLASSES.get(part, 2):
                yield f"autoattack {part}", lambda rows, part=part: _attack(part, problem, rows)


def _attack(part: Part, problem: Problem, rows: Tensor) -> Tensor:
    x, threat = problem.x[rows], problem.threat
    low, high = map(float, threat.bounds)
    unit = ((x - low) / (high - low)).float()
    found = unit.clone()
    for number in range(_TRIES if problem.random else 1):
        same = (found == unit).flatten(1).all(1)
        if bool(same.any()):
            found[same] = _found(part, problem, unit[same], problem.y[rows][same], problem.seed + number)
    # what did not move stays put whatever the mapping rounds
    delta = torch.where(found == unit, 0.0, found.to(x) * (high - low) + low - x)
    return threat.around(x).project(delta)


def _found(part: Part, problem: Problem, unit: Tensor, y: Tensor, seed: int) -> Tensor:
    """Run one part of AutoAttack on images in [0, 1] and return what it does."""
    from pyautoattack import AutoAttack as Peer

    low, high = map(float, problem.threat.bounds)
    model = _InUnitRange(problem, low, high)
    norm = cast("Literal['Linf', 'L1', 'L2']", _NORMS[problem.threat.name])
    with _left_alone(unit, problem.tell), model.classifier.frozen():
        peer = Peer(
            model, norm=norm, eps=float(problem.threat.eps) / (high - low), seed=seed, device=unit.device,
            version="rand" if problem.random else "standard",
        )  # fmt: skip
        peer.attacks_to_run = [part]
        for aimed in (peer.apgd_targeted, peer.fab):
            aimed.n_target_classes = min(aimed.n_target_classes, problem.rivals.shape[1])
        return peer.run_standard_evaluation(unit, y, batch_size=max(len(unit), 1))[0]


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
    if not threat.ordinary:
        raise ValueError(
            "attacks='autoattack' needs one finite range for all features, without scale: use attacks='default'"
        )
    if threat.mask is not None:
        raise ValueError("attacks='autoattack' knows no masks: leave the mask out, or use attacks='default'")
    if isinstance(threat.eps, Tensor) and threat.eps.ndim:
        raise ValueError("attacks='autoattack' needs one eps for all inputs: give a number, or use attacks='default'")
    if x.ndim != 4:
        raise ValueError(f"attacks='autoattack' needs images (B, C, H, W), got x of shape {tuple(x.shape)}")


def _check_squares(x: Tensor, norm: str) -> None:
    """Raise one sentence for images (B, C, H, W) that Square's first step does not fill with squares inside of them."""
    rows, columns = x.shape[2:]
    if rows < _BANDS:
        raise ValueError(
            f"attacks='autoattack' needs images of {_BANDS} rows or more under {norm}, got x of shape "
            f"{tuple(x.shape)}: use attacks='default'"
        )
    side, first = rows // _BANDS, rows % _BANDS // 2  # of a square, and where the first lies on both axes
    if side > 1 and any(first + length // side * side > length for length in (rows, columns)):
        raise ValueError(
            f"attacks='autoattack' cannot take images of {rows} x {columns} under {norm}, where its Square lays "
            f"squares of {side} x {side} beyond them: use attacks='default', or AutoAttack(parts) without \"square\""
        )


class _InUnitRange(nn.Module):
    """The model as AutoAttack wants it: images in [0, 1], float32, logits."""

    def __init__(self, problem: Problem, low: float, high: float) -> None:
        super().__init__()
        self.classifier = Classifier("model", problem.probed or problem.model)
        self._low, self._width, self._dtype = low, high - low, problem.x.dtype

    def forward(self, x: Tensor) -> Tensor:
        images = x if (self._low, self._width) == (0.0, 1.0) else x * self._width + self._low
        return self.classifier(self.classifier.arrange(images.to(self._dtype))).float()


class _Teller(logging.Handler):
    """Passes warnings on, without the name of a page that only AutoAttack's repository has."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one on."""
        self._tell(f"AutoAttack warns: {record.getMessage().removesuffix(' See flags_doc.md for details.')}")


@contextmanager
def _left_alone(x: Tensor, tell: Callable[[str], None]) -> Iterator[None]:
    """Undo what AutoAttack does to its surroundings: it seeds, logs and drops the tracer. Tell its warnings."""
    tracer, log, teller = sys.gettrace(), logging.getLogger("auto-attack"), _Teller(tell)
    level, spread = log.level, log.propagate
    log.setLevel(logging.WARNING)
    log.propagate = False
    log.addHandler(teller)
    try:
        with forked(x), torch.no_grad():
            yield
    finally:
        log.removeHandler(teller)
        log.propagate = spread
        log.setLevel(level)
        sys.settrace(tracer)
