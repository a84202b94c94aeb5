"""One classifier as the attacks see it: frozen, checked, in the layout and precision that is fastest.

Everything that can be wrong with somebody's model is found here, and told in one sentence that names the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from omnirobust._choices import Precision as Precision

Model: TypeAlias = Callable[[Tensor], Any]
Models: TypeAlias = Mapping[str, Model] | Sequence[Model] | Model

_CHUNK_PIXELS = 65536
_WHOLE_BATCH = 256


@dataclass(frozen=True)
class Probed:
    """A model of which ``_probe.probed`` has found out how it behaves, so that nothing has to find it out again.

    Attributes:
        model: maps a batch (B, *S) to logits (B, C).
        random: whether two passes over the same inputs differ.
        notes: what a reader of results must know of it.
    """

    model: Model
    random: bool = False
    notes: tuple[str, ...] = ()

    def __call__(self, batch: Tensor) -> Any:
        """Call the model."""
        return self.model(batch)


def named_models(models: Models) -> dict[str, Model]:
    """Give every model a name: the mapping's keys, or model_0, model_1, ... for a sequence.

    Raises:
        ValueError: if there is none, or one is not callable.
    """
    named: dict[str, Any]
    if isinstance(models, Mapping | nn.ModuleDict):
        named = {str(name): model for name, model in models.items()}
        if len(named) < len(models):
            raise ValueError(f"models must have names that differ as text, got {list(models)}")
    elif isinstance(models, Sequence | nn.ModuleList) and not isinstance(models, str):
        named = {f"model_{i}": model for i, model in enumerate(models)}
    else:
        named = {"model_0": models}
    if not named:
        raise ValueError("models must hold at least one model, got none")
    for name, model in named.items():
        if not callable(model):
            raise ValueError(f"models must be callables of a batch, got {type(model).__name__} for {name!r}")
    return named


class Classifier:
    """A named model, called with its parameters frozen and in evaluation mode, and restored after each call.

    Args:
        name: what messages and results call it.
        model: maps a batch (B, *S) to logits (B, C), or to an object with ``.logits``.
        precision: "bf16" runs it under autocast; logits come back in the precision of the input.

    On a CPU, models with two-dimensional convolutions see images in channels_last layout, and batches of more than
    256 in pieces that fit the cache: both change results by rounding only.
    """

    def __init__(self, name: str, model: Model, precision: Precision = "fp32") -> None:
        if precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be 'fp32' or 'bf16', got {precision!r}")
        self.name = name
        self.random = isinstance(model, Probed) and model.random
        self.model = model.model if isinstance(model, Probed) else model
        self.precision: Precision = precision
        modules = list(self.model.modules()) if isinstance(self.model, nn.Module) else []
        self._convolutional = any(isinstance(m, nn.Conv2d) for m in modules)
        self.classes: int | None = None

    def renewed(self, precision: Precision) -> Classifier:
        """Return the same model in another ``precision``, its outputs to be checked anew."""
        new = copy(self)
        new.precision, new.classes = precision, None
        return new

    def arrange(self, batch: Tensor) -> Tensor:
        """Return ``batch`` in the memory layout that this model runs fastest in."""
        return _channels_last(batch) if self._wants_channels_last(batch) else batch

    def _wants_channels_last(self, batch: Tensor) -> bool:
        return self._convolutional and batch.ndim == 4 and batch.device.type == "cpu"

    def pieces(self, images: int, like: Tensor) -> int:
        """Say how many of ``images`` inputs such as ``like`` (n, *S) to send through the model at once, for speed."""
        if not self._wants_channels_last(like) or images <= _WHOLE_BATCH:
            return max(images, 1)
        return max(8, _CHUNK_PIXELS // (like.shape[2] * like.shape[3]))

    def __call__(self, batch: Tensor) -> Tensor:
        """Return the logits of ``batch`` (B, *S), (B, C), checked on the first call.

        Raises:
            ValueError: if the output is not a finite (B, C) tensor of logits, or the devices differ.
        """
        with self.frozen(), ExitStack() as stack:
            if self.precision == "bf16":
                stack.enter_context(torch.autocast(batch.device.type, dtype=torch.bfloat16))
            if self._wants_channels_last(batch):
                stack.enter_context(_ViewsReshape())
            output = self._call(batch.clone())  # a copy: a model may write into its input
        logits = getattr(output, "logits", output)
        if self.classes is None:
            with torch.no_grad():
                self._check(batch, logits)
        return logits if logits.dtype == batch.dtype else logits.to(batch.dtype)

    def _call(self, batch: Tensor) -> Any:
        try:
            return self.model(batch)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the code of a model raises: assertions and look-ups among it
            if self.classes is not None:
                raise
            said = (str(error).strip().splitlines() or [""])[0]
            reason = (
                said if isinstance(error, RuntimeError | ValueError) and said else f"{type(error).__name__}: {said}"
            )
            raise ValueError(
                f"model {self.name!r} cannot take inputs of shape {tuple(batch.shape)}, {batch.dtype}: {reason}"
            ) from error

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Put the model in evaluation mode with frozen parameters; restore each module and parameter after."""
        if not isinstance(self.model, nn.Module):
            yield
            return
        training = [m for m in self.model.modules() if m.training]
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        for module in training:
            module.training = False
        for parameter in trainable:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for module in training:
                module.training = True
            for parameter in trainable:
                parameter.requires_grad_(True)

    def _check(self, batch: Tensor, logits: object) -> None:
        label = f"model {self.name!r}"
        if not isinstance(logits, Tensor):
            raise ValueError(
                f"{label} must return logits (B, C) or an object with .logits, got {type(logits).__name__}"
            )
        if logits.ndim != 2 or logits.shape[0] != batch.shape[0] or logits.shape[1] < 2:
            raise ValueError(
                f"{label} must return logits of shape ({batch.shape[0]}, C) with C >= 2, got {tuple(logits.shape)}"
            )
        if not bool(logits.isfinite().all()):
            raise ValueError(f"{label} returned NaN or infinite logits on the given inputs")
        if batch.shape[0] and _are_probabilities(logits):
            raise ValueError(f"{label} returns probabilities: it must return logits, the scores before the softmax")
        if _look_squashed(logits):
            warnings.warn(
                f"{label} returns values in [0, 1], most of them near the ends, as after a sigmoid: return the scores "
                "before it, since its gradients vanish there and the model looks more robust than it is",
                stacklevel=2,
            )
        self.classes = logits.shape[1]

    def check_device(self, x: Tensor) -> None:
        """Raise a ValueError unless the model's parameters live where ``x`` does."""
        first = next(self.model.parameters(), None) if isinstance(self.model, nn.Module) else None
        if first is not None and first.device != x.device:
            raise ValueError(f"model {self.name!r} is on {first.device} but x is on {x.device}: move one of them")


def _are_probabilities(logits: Tensor) -> bool:
    sums = logits.sum(dim=1)
    return bool((logits >= 0).all() & ((sums - 1).abs() < 1e-3).all())


def _look_squashed(logits: Tensor) -> bool:
    """Say whether logits look like a sigmoid's outputs: all in [0, 1], a third within 1e-3 of an end, some near 1.

    Bounded scores, cosines say, are legitimate and seldom saturate: this warns rather than refuses.
    """
    if len(logits) < 8 or not bool(((logits >= 0) & (logits <= 1)).all()):
        return False
    ends = (logits < 1e-3) | (logits > 1 - 1e-3)
    return float(ends.float().mean()) > 1 / 3 and float(logits.amax()) > 0.9


def _channels_last(batch: Tensor) -> Tensor:
    if batch.shape[1] == 1:  # both layouts hold the same numbers in the same order: only the strides differ
        height, width = batch.shape[2:]
        return batch.contiguous().as_strided(batch.shape, (height * width, 1, width, 1))
    return batch.contiguous(memory_format=torch.channels_last)


class _ViewsReshape(TorchFunctionMode):
    """Let ``.view`` copy where the layout forbids a view, so that models written for contiguous tensors run."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        by_dtype = "dtype" in kwargs or (len(args) > 1 and isinstance(args[1], torch.dtype))
        if func is torch.Tensor.view and not by_dtype:
            return torch.Tensor.reshape(*args, **kwargs)
        if func is torch.Tensor.view_as:
            return torch.Tensor.reshape_as(*args, **kwargs)
        return func(*args, **kwargs)
