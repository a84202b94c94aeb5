"""Cells that train a model, and cells that judge one by threats: a killed training goes on, a finished one is kept."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from omnirobust.core.arguments import check_count
from omnirobust.core.threat_models import ThreatModel
from omnirobust.domains.classifier import Precision
from omnirobust.evaluation import evaluate_robustness
from omnirobust.evaluation.threats import Threats, named_threats
from omnirobust.study.protocol import AnyCell, Span, WorkHook, Workplace
from omnirobust.study.store import Measured, fingerprint, joined, plain
from omnirobust.training import Scheme, fit
from omnirobust.zoo.architectures import architecture_letter, seeded_build
from omnirobust.zoo.chunks import Chunk
from omnirobust.zoo.own_code import digests
from omnirobust.zoo.states import fill_state, state_of
from omnirobust.zoo.trained import build_source, named_code

CHUNK = 250
"""Test images judged together and kept in one file."""


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        model: in eval mode, on the cache's device.
        history: one row an epoch, as ``FitResult.history``.
        weights: the weights that each training image had last, (N, K); (0, 0) where there are none.
        seconds: of training.
    """

    model: nn.Module
    history: tuple[Mapping[str, float], ...]
    weights: Tensor
    seconds: float


class TrainingCell(AnyCell[Trained]):
    """A training, whatever its settings are called.

    The optimizer is the paper's: Adam at a constant 0.001, batches of 128.
    """

    lasting = True

    @property
    @abstractmethod
    def plan(self) -> Training:
        """What is trained, and how."""

    def spans(self, images: int) -> list[Span]:
        """Return the one part that there is, however many test images."""
        return [Span(0, 1, "trained")]

    def work(self, span: Span) -> int:
        """Return how many epochs it takes."""
        return self.plan.epochs

    def fits(self, chunk: Chunk, span: Span) -> bool:
        """Say whether what was read is a training."""
        return "weights/" in chunk.tensors and "history" in chunk.facts

    def measure(self, span: Span, cache: Workplace, on_work: WorkHook) -> Chunk:
        """Train; one that was begun goes on.

        Raises:
            ValueError: if the data has fewer images than are asked for.
            TrainingDivergedError: if a loss is not finite.
        """
        plan, images = self.plan, cache.images(self.plan.data, "train")
        if (plan.images or 0) + plan.holdout > len(images):
            asked = f"images {plan.images}, holdout {plan.holdout}"
            raise ValueError(f"images and holdout must be at most {len(images)} together, got {asked}")
        shape, classes = list(images.shape), len(images.classes)
        kept = len(images) - plan.holdout if plan.images is None else plan.images
        result = fit(
            self._initial(shape, classes).to(cache.device),
            (images.x[:kept], images.y[:kept]),
            plan.scheme,
            epochs=plan.epochs,
            validation=(images.x[-plan.holdout :], images.y[-plan.holdout :]) if plan.holdout else None,
            out=cache.scratch(self),  # its checkpoints, from which a killed training goes on
            seed=plan.seed,
            precision=plan.precision,
            progress=lambda *_: on_work(1),
        )
        history = [dict(row) for row in result.history]
        weights = torch.zeros(0, 0) if result.weights is None else result.weights.half()
        state = state_of(result.model)
        facts = {"history": history, "shape": shape, "classes": classes, "state": state.extra}
        return Chunk(state.tensors | {"weights/": weights}, facts)

    def result(self, parts: Sequence[Chunk], cache: Workplace) -> Trained:
        """Return the trained model."""
        (part,) = parts
        tensors, facts = dict(part.tensors), part.facts
        weights = tensors.pop("weights/")
        model = self._initial(facts["shape"], facts["classes"])
        fill_state(model, tensors, facts.get("state", {}))
        rows = tuple(facts["history"])
        took = sum(row["seconds"] for row in rows)
        return Trained(model.eval().to(cache.device), rows, weights.float(), took)

    def _initial(self, shape: Sequence[int], classes: int) -> nn.Module:
        plan, facts = self.plan, {"shape": shape, "classes": classes}
        own = {"code": plan.network} if ":" in plan.network else {"architecture": architecture_letter(plan.network)}
        return seeded_build(plan.seed, partial(build_source, own | facts))


@dataclass(frozen=True)
class Training(TrainingCell):
    """One training.

    Attributes:
        network: a letter of the zoo's architectures, "a" to "h", or "FILE.py:NAME" of a network of one's own.
        scheme: what the model is trained against.
        epochs: passes over the images, >= 1.
        data: name of the data, whose training split is taken from the first image on.
        images: how many of them; None for all.
        seed: of initial weights, order and random starts, >= 0.
        holdout: images at the end of the training split on which robust accuracy is measured after every epoch; 0 for
            none.
        precision: of attack and training.
    """

    network: str
    scheme: Scheme
    epochs: int
    data: str = "mnist"
    images: int | None = None
    seed: int = 0
    holdout: int = 0
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("seed", 0), ("holdout", 0)):
            check_count(name, getattr(self, name), least, whole=False)
        if self.images is not None and self.images < 1:
            raise ValueError(f"images must be >= 1 or None, got {self.images}")
        if not isinstance(self.scheme, Scheme):
            raise ValueError(f"scheme must be a Scheme such as Scheme('minmax', (Linf(0.1),)), got {self.scheme!r}")
        if ":" not in self.network:
            architecture_letter(self.network)

    @property
    def plan(self) -> Training:
        """The same."""
        return self

    def describe(self, cache: Workplace) -> dict[str, Any]:
        """Return all settings, the scheme in full, and a digest of a network of one's own."""
        names = ("network", "epochs", "data", "images", "seed", "holdout", "precision")
        own = {"rule": plain(self.scheme.rule)} if self.scheme.rule is not None else {}
        code = digests([named_code(self.network)])
        return {n: getattr(self, n) for n in names} | {"scheme": self.scheme.fingerprint(), "code": code} | own


@dataclass(frozen=True)
class Robustness(AnyCell[Measured]):
    """A trained model, judged by threats: each image counts as fooled by a threat if some attack of it succeeds.

    Attributes:
        training: of the model.
        threats: threat models, or name to threat model, K of them; kept as pairs.
        steps: of every attack of ``evaluate_robustness``, >= 1.
        seed: keys the starts of the attacks.
    """

    training: TrainingCell
    threats: Threats | tuple[tuple[str, ThreatModel], ...]
    steps: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        given: Any = self.threats
        pairs = isinstance(given, tuple) and all(isinstance(pair, tuple) for pair in given)
        named = named_threats(dict(given) if pairs else given)
        object.__setattr__(self, "threats", tuple(named.items()))
        check_count("steps", self.steps, whole=False)

    @property
    def columns(self) -> tuple[str, ...]:
        """What accuracy is counted for: clean images, and those under each threat."""
        return ("clean", *self._threats)

    @property
    def data(self) -> str:
        """The name of the data, whose test split is taken from the first image on."""
        return self.training.plan.data

    @property
    def needs(self) -> tuple[TrainingCell]:
        """The training."""
        return (self.training,)

    def limited(self, steps: int | None) -> Robustness:
        """Return this with at most so many steps; trainings stay as they are."""
        return self if steps is None or self.steps <= steps else replace(self, steps=steps)

    def resolved(self, cache: Workplace, images: int) -> Robustness | None:
        """Return this once the model is trained."""
        return None if cache.recall(self.training, images) is None else self

    def describe(self, cache: Workplace) -> dict[str, Any]:
        """Return all settings, and a hash of the trained weights."""
        threats = {name: repr(threat) for name, threat in self._threats.items()}
        settings = {"threats": threats, "steps": self.steps, "seed": self.seed, "data": self.data}
        return {
            "judged": settings,
            "training": self.training.describe(cache),
            "model": fingerprint(self._model(cache)),
        }

    def spans(self, images: int) -> list[Span]:
        """Return chunks of images."""
        return [Span(begin, min(begin + CHUNK, images)) for begin in range(0, images, CHUNK)]

    def measure(self, span: Span, cache: Workplace, on_work: WorkHook) -> Chunk:
        """Evaluate the model on some test images."""
        model, test = self._model(cache), cache.images(self.data, "test")
        if span.end > len(test):
            raise ValueError(f"images must be at most {len(test)}, the test images of {test.name}, got {span.end}")
        x, y = (t[span.begin : span.end].to(cache.device) for t in (test.x, test.y))
        report = evaluate_robustness(model, x, y, self._threats, steps=self.steps, seed=self.seed, first_row=span.begin)
        right = torch.cat([report.clean_correct.unsqueeze(1), report.correct], 1)
        return Chunk({"fooled": ~right.cpu(), "labels": y.cpu()}, {})

    def result(self, parts: Sequence[Chunk], cache: Workplace) -> Measured:
        """Join chunks."""
        found = joined([part.tensors for part in parts])
        return Measured.alone(found["fooled"], found["labels"].unsqueeze(1).expand_as(found["fooled"]))

    @property
    def _threats(self) -> dict[str, ThreatModel]:
        return dict(cast("tuple[tuple[str, ThreatModel], ...]", self.threats))

    def _model(self, cache: Workplace) -> nn.Module:
        found = cache.recall(self.training, 0)
        assert found is not None
        return found.model
