"""Domains: K losses of one perturbation, evaluated together.

``evaluate`` holds one model's graph at a time: memory is that graph plus K delta-sized gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from omnirobust._models import Classifier, Model, Precision, named_models
from omnirobust._types import Evaluation
from omnirobust.losses import Loss
from omnirobust.losses import fooled as is_fooled

_BF16_DOUBT = 2.0**-6
"""How far, in shares of the largest logit, a bf16 decision must be won to count."""


class DomainGrid:
    """The losses of one perturbation under every model: F_k(delta) = f(delta; x, y, M_k), problem (5).

    Args:
        models: a mapping from name to model, a sequence of models, or one; each maps (B, *S) to logits (B, C).
        x: clean inputs, (B, *S), float.
        y: labels, int64: (B,) for all models, or (B, K), each model its own (its own predictions, say).
        loss: per-example loss, low = fooled (see ``omnirobust.losses``).
        transforms: None; room for transformations, which this version does not have.
        shared: False; room for perturbations shared by several images, likewise.
        targeted: whether ``y`` are classes to reach rather than to leave.
        clip: "image", the only way without shared perturbations.
        samples: 1, as many as there are without random transformations.
        precision: "fp32", or "bf16" for autocast in the models.

    Raises:
        ValueError: if a model, ``x`` or ``y`` does not fit the above.

    Cost of ``evaluate``: one forward of each model, and one input gradient each if asked for.
    """

    def __init__(
        self,
        models: Mapping[str, Model] | Sequence[Model] | Model,
        x: Tensor,
        y: Tensor,
        *,
        loss: Loss,
        transforms: None = None,
        shared: Literal[False] = False,
        targeted: bool = False,
        clip: Literal["image"] = "image",
        samples: Literal[1] = 1,
        precision: Precision = "fp32",
    ) -> None:
        for name, value, only in (
            ("transforms", transforms, None),
            ("shared", shared, False),
            ("clip", clip, "image"),
            ("samples", samples, 1),
        ):
            if value != only:
                raise ValueError(f"{name} must be {only!r}: the domains of this version are models only, got {value!r}")
        if not callable(loss):
            raise ValueError(f"loss must be a function of logits and labels, got {type(loss).__name__}")
        self._classifiers = [Classifier(n, m, precision) for n, m in named_models(models).items()]
        labels = _labels_per_model(x, y, len(self._classifiers))
        self._x, self._y = x.detach(), labels
        self._loss, self._targeted = loss, targeted
        for classifier in self._classifiers:
            classifier.check_device(x)

    @property
    def names(self) -> tuple[str, ...]:
        """The models' names, K of them."""
        return tuple(c.name for c in self._classifiers)

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """The one factor of the grid: the models."""
        return {"models": self.names}

    def select(self, rows: Tensor) -> DomainGrid:
        """Keep the problems that ``rows`` (int64 indices) lists, in that order."""
        chosen = object.__new__(DomainGrid)
        chosen.__dict__.update(self.__dict__)
        chosen._x, chosen._y = self._x[rows], self._y[rows]
        return chosen

    def evaluate(self, delta: Tensor, grad: bool = True) -> Evaluation:
        """Evaluate every model at x + delta.

        Args:
            delta: (B, *S).
            grad: whether to take the input gradients too.

        Returns:
            Losses and fooled, (B, K); K gradients, each (B, *S), or None.
        """
        inputs = self._x + delta
        parts = [self._one(c, inputs, self._y[:, k], grad) for k, c in enumerate(self._classifiers)]
        self._check_classes()
        losses, hits, grads = zip(*parts, strict=True)
        return Evaluation(torch.stack(losses, 1), torch.stack(hits, 1), tuple(grads) if grad else None)

    def logits(self, delta: Tensor) -> tuple[Tensor, ...]:
        """Return every model's logits at x + delta, K tensors (B, C), without gradients."""
        inputs = self._x + delta
        with torch.no_grad():
            return tuple(
                torch.cat([c(c.arrange(part)) for part in inputs.split(c.pieces(inputs))]) for c in self._classifiers
            )

    def blocks_gradient(self, k: int, delta: Tensor) -> bool:
        """Say whether no gradient of model ``k``'s logits reaches its input, on any row. One forward and backward."""
        inputs = self._x + delta
        classifier = self._classifiers[k]
        for part in inputs.split(classifier.pieces(inputs)):
            leaf = classifier.arrange(part.detach()).requires_grad_()
            with torch.enable_grad():
                logits = classifier(leaf)
                pattern = torch.linspace(-1, 2, logits.shape[1], dtype=logits.dtype, device=logits.device)
                if bool((_input_gradient(classifier, (logits * pattern).sum(1), leaf) != 0).any()):
                    return False
        return True

    def _one(
        self, classifier: Classifier, inputs: Tensor, labels: Tensor, grad: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        size = classifier.pieces(inputs)
        parts = [
            self._piece(classifier, some, of_them, grad)
            for some, of_them in zip(inputs.split(size), labels.split(size), strict=True)
        ]
        if len(parts) == 1:
            return parts[0]
        losses, hits, grads = zip(*parts, strict=True)
        return torch.cat(losses), torch.cat(hits), torch.cat(grads) if grad else None

    def _piece(
        self, classifier: Classifier, inputs: Tensor, labels: Tensor, grad: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        with classifier.frozen(), torch.set_grad_enabled(grad):
            leaf = classifier.arrange(inputs.detach()).requires_grad_(grad)
            checked = classifier.classes is not None
            logits = classifier(leaf)
            if not checked:
                _check_labels(classifier, self._y)
            loss = self._loss(logits, labels, targeted=self._targeted)
            slope = _input_gradient(classifier, loss, leaf) if grad else None
        return loss.detach(), self._fooled(classifier, logits.detach(), labels), slope

    def _fooled(self, classifier: Classifier, logits: Tensor, labels: Tensor) -> Tensor:
        if (
            classifier.precision == "bf16"
        ):  # what bf16 leaves in doubt does not count: it may not hold in full precision
            doubt = logits.abs().amax(dim=1, keepdim=True) * _BF16_DOUBT
            logits = logits.scatter_add(1, labels.unsqueeze(1), -doubt if self._targeted else doubt)
        return is_fooled(logits, labels, targeted=self._targeted)

    def _check_classes(self) -> None:
        counts = {c.name: c.classes for c in self._classifiers}
        if len(set(counts.values())) > 1:
            raise ValueError(f"models must agree on the number of classes, got {counts}")


class FunctionDomains:
    """Domains from any losses: each callable is one F_k.

    Args:
        functions: name to f(delta, rows) -> (len(rows),), where delta (len(rows), *S) are the perturbations of the
            problems whose original indices are ``rows``; low = good for the minimiser.
        success: maps losses (B, K) to (B, K) bool; None where success has no meaning.

    Cost of ``evaluate``: one call of each function, and one gradient each if asked for.
    """

    def __init__(
        self,
        functions: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
        success: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if not isinstance(functions, Mapping) or not all(callable(f) for f in functions.values()):
            raise ValueError("functions must map names to callables f(delta, rows)")
        if not functions:
            raise ValueError("functions must hold at least one function, got none")
        self._functions = dict(functions)
        self._success = success
        self._rows: Tensor | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The functions' names, K of them."""
        return tuple(self._functions)

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """The one factor of the domains: the functions."""
        return {"functions": self.names}

    def select(self, rows: Tensor) -> FunctionDomains:
        """Keep the problems that ``rows`` (int64 indices) lists, in that order."""
        chosen = FunctionDomains(self._functions, self._success)
        chosen._rows = rows if self._rows is None else self._rows[rows]
        return chosen

    def evaluate(self, delta: Tensor, grad: bool = True) -> Evaluation:
        """Evaluate every function at ``delta`` (B, *S).

        Raises:
            ValueError: if a function does not return one value a row, or its value does not depend on ``delta``.
        """
        rows = torch.arange(len(delta), device=delta.device) if self._rows is None else self._rows
        losses: list[Tensor] = []
        grads: list[Tensor] = []
        for name, function in self._functions.items():
            with torch.set_grad_enabled(grad):
                leaf = delta.detach().requires_grad_(grad)
                loss = function(leaf, rows)
                if tuple(getattr(loss, "shape", ("a number",))) != (len(delta),):
                    got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
                    raise ValueError(f"function {name!r} must return shape ({len(delta)},), got {got}")
                if grad:
                    grads.append(_gradient(loss, leaf, f"function {name!r} must be differentiable in delta"))
                losses.append(loss.detach())
        stacked = torch.stack(losses, 1)
        fooled = None if self._success is None else self._success(stacked)
        return Evaluation(stacked, fooled, tuple(grads) if grad else None)


def _labels_per_model(x: Tensor, y: Tensor, K: int) -> Tensor:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2:
        raise ValueError(f"x must be a float tensor of shape (B, *S), got {_described(x)}")
    if not isinstance(y, Tensor) or y.dtype != torch.int64:
        raise ValueError(f"y must be an int64 tensor of class indices, got {_described(y)}")
    if tuple(y.shape) not in ((len(x),), (len(x), K)):
        raise ValueError(f"y must have shape ({len(x)},) or ({len(x)}, {K}), got {tuple(y.shape)}")
    if y.device != x.device:
        raise ValueError(f"y is on {y.device} but x is on {x.device}: move one of them")
    return (y.unsqueeze(1) if y.ndim == 1 else y).expand(len(x), K)


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _check_labels(classifier: Classifier, labels: Tensor) -> None:
    assert classifier.classes is not None
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= classifier.classes):
        raise ValueError(
            f"y must lie in [0, {classifier.classes}), the classes of model {classifier.name!r}, "
            f"got {int(labels.min())} to {int(labels.max())}"
        )


def _gradient(loss: Tensor, leaf: Tensor, refusal: str) -> Tensor:
    slope = torch.autograd.grad(loss.sum(), leaf, allow_unused=True)[0] if loss.requires_grad else None
    if slope is None:
        raise ValueError(refusal)
    return slope


def _input_gradient(classifier: Classifier, loss: Tensor, leaf: Tensor) -> Tensor:
    slope = _gradient(loss, leaf, f"model {classifier.name!r} does not let gradients reach its input")
    if not bool(slope.sum().isfinite()) and not bool(slope.isfinite().all()):
        raise ValueError(f"model {classifier.name!r} has NaN or infinite input gradients")
    return slope if slope.is_contiguous() else slope.contiguous()
