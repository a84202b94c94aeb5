"""One classifier as the attacks see it: frozen, checked, in the layout and precision that is fastest.

Everything that can be wrong with somebody's model is found here, and told in one sentence that names the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from omnirobust.core.choices import Precision as Precision
from omnirobust.domains.frozen import Frozen
from omnirobust.domains.outputs import (
    Read,
    are_probabilities,
    check_finite,
    check_logits,
    look_squashed,
    read_logits,
    reason,
)

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
        held: what stands behind it, if that was looked for.
        dtype: that it needs its inputs in; None for theirs.
        classes: C; None if it has answered nothing yet.
        said: its classes of the rows that it was probed on, at most 32, (n,) int64.
    """

    model: Model
    random: bool = False
    notes: tuple[str, ...] = ()
    held: Frozen | None = field(default=None, repr=False, compare=False)
    dtype: torch.dtype | None = None
    classes: int | None = None
    said: Tensor | None = field(default=None, repr=False, compare=False)

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

    So are all modules that stand behind a callable: see ``_behind``.

    Args:
        name: what messages and results call it.
        model: maps a batch (B, *S) to logits (B, C), or to something that ``read_logits`` finds them in. One that does
            not take the inputs' dtype gets them in that of its parameters.
        precision: "bf16" runs it under autocast.

    On a CPU, models with two-dimensional convolutions see images in channels_last layout, and batches of more than
    256 in pieces that fit the cache: both change results by rounding only.
    """

    def __init__(self, name: str, model: Model, precision: Precision = "fp32") -> None:
        if precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be 'fp32' or 'bf16', got {precision!r}")
        self.name, self._label = name, f"model {name!r}"
        self.random = isinstance(model, Probed) and model.random
        self.model = model.model if isinstance(model, Probed) else model
        if isinstance(self.model, torch.export.ExportedProgram):
            self.model = self.model.module()
        self.held = (model.held if isinstance(model, Probed) else None) or Frozen(self.model)
        self.precision: Precision = precision
        modules = list(self.model.modules()) if isinstance(self.model, nn.Module) else []
        self._convolutional = any(isinstance(m, nn.Conv2d) for m in modules)
        self.classes = model.classes if isinstance(model, Probed) else None
        self._known = isinstance(model, Probed)  # it has passed the checks of its values, on other inputs
        self._dtype = model.dtype if isinstance(model, Probed) else None
        self._read = ""
        self.rules_out = False  # whether it gave some classes the logit minus infinity

    def renewed(self, precision: Precision) -> Classifier:
        """Return the same model in another ``precision``."""
        new = copy(self)
        new.precision = precision
        return new

    def probed(self, random: bool, notes: tuple[str, ...], said: Tensor | None = None) -> Probed:
        """Return the model with what a probe and calls found out about it."""
        return Probed(self.model, random, (*notes, *self.notes), self.held, self._dtype, self.classes, said)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was seen so far that a reader of results must know, one sentence each."""
        told = [self._read] if self._read else []
        if self._dtype is not None:
            told.append(f"{self._label} computes in {self._dtype}: inputs were cast to it.")
        if self.held.baked:
            told.append(
                f"{self._label} was exported or traced in training mode, and no mode undoes that: its dropout and "
                "BatchNorm act as in training; export it after .eval()."
            )
        if self.held.trains:
            told.append(
                f"{self._label} puts its modules into training mode when it is called: BatchNorm and dropout act as in "
                "training, and its answers depend on the batch."
            )
        if self.held.moved:
            told.append(
                f"{self._label} changes {', '.join(self.held.moved)} when it is called, in evaluation mode too, as "
                "BatchNorm does in training: what was there was put back."
            )
        return tuple(told)

    def arrange(self, batch: Tensor) -> Tensor:
        """Return ``batch`` in the memory layout that this model runs fastest in."""
        return _channels_last(batch) if self._convolutional and _is_of_images(batch) else batch

    def pieces(self, images: int, like: Tensor) -> int:
        """Say how many of ``images`` inputs such as ``like`` (n, *S) to send through the model at once, for speed."""
        if images <= _WHOLE_BATCH or not (self._convolutional and _is_of_images(like)):
            return max(images, 1)
        return max(8, _CHUNK_PIXELS // (like.shape[2] * like.shape[3]))

    def __call__(self, batch: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return the logits of ``batch`` (B, *S), (B, C), as the model computes them, but in float32 at least.

        Args:
            batch: the inputs.
            dtype: that of the inputs that ``batch`` stands for, see ``widened``; None for its own.

        Raises:
            ValueError: if the output cannot be read as logits, or the model raises; the sentence names it.
            RowError: if logits are NaN or infinite, or minus infinity for all classes but one.
        """
        with self.held:
            return self.logits(batch, dtype)

    def logits(self, batch: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Do what a call does, for those who have frozen the model already (``held``)."""
        views, dtype = self._convolutional and _is_of_images(batch), dtype or batch.dtype
        try:
            given = self._given(batch, dtype)
            if views or self.precision == "bf16" or not (self.held.settled or self.held.knows(given.shape)):
                output = self._in_context(given, views)
            else:
                output = self.model(given)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the code of a model raises: assertions and look-ups among it
            if self.classes is None and self._adapts(batch, dtype):
                return self.logits(batch, dtype)
            takes = "cannot take" if self.classes is None else "has answered before, and failed on"
            raise ValueError(
                f"{self._label} {takes} inputs of shape {tuple(batch.shape)}, {dtype}: {reason(error)}"
            ) from error
        plain = type(output) is Tensor and output.ndim == 2 and len(output) == len(batch) and output.is_floating_point()
        read = Read(output) if plain and output.shape[1] > 1 else read_logits(output, len(batch), self._label)
        logits = read.logits
        # an overflow of the sum is looked into, too: the sum costs one pass and no memory
        if not bool(logits.detach().sum().isfinite()):
            check_logits(logits, self._label)
            self.rules_out = True
        if self.classes is None:
            with torch.no_grad():
                self._check(batch, read, dtype)
        # differences that half precision would round away decide: what a model says counts as it says it
        return logits.to(torch.promote_types(torch.promote_types(logits.dtype, batch.dtype), torch.float32))

    def _in_context(self, batch: Tensor, views: bool) -> Any:
        """Call the model under autocast, with views that may copy, or where its modules are still to be caught."""
        with ExitStack() as stack:
            stack.enter_context(self.held.catch(batch.shape))
            if self.precision == "bf16":
                stack.enter_context(torch.autocast(batch.device.type, dtype=torch.bfloat16))
            if views:
                stack.enter_context(_ViewsReshape())
            return self.model(batch)

    def _given(self, batch: Tensor, dtype: torch.dtype) -> Tensor:
        """Return what the model is given of inputs of ``dtype``: a copy, for it may write into them."""
        wanted = self._dtype or dtype
        return batch.clone() if batch.dtype == wanted else batch.to(wanted)

    def _adapts(self, batch: Tensor, dtype: torch.dtype) -> bool:
        """Say whether the model takes inputs once they have the dtype of its parameters, and keep to that if so."""
        own = next((p.dtype for p in self.held.parameters if p.is_floating_point()), dtype)
        if self._dtype is not None or own == dtype:
            return False
        self._dtype = own
        try:
            with torch.no_grad():
                self.model(self._given(batch, dtype))
        except Exception:  # what it said of the inputs as they are is the better message
            self._dtype = None
        return self._dtype is not None

    def frozen(self) -> Frozen:
        """Put the model in evaluation mode with frozen parameters; restore modes, parameters and buffers after."""
        return self.held

    def gradient(self, loss: Tensor, leaf: Tensor, *, whose: str = "") -> Tensor:
        """Return the gradient of the sum of ``loss`` in ``leaf`` (B, *S).

        Args:
            loss: made of this model's logits of ``leaf``, and perhaps of what else may be wrong with it.
            leaf: the inputs.
            whose: says whose gradient it may be besides the model's.

        Raises:
            ValueError: if the backward pass raises, or lets no gradient through; the sentence names the model.
            RowError: if it is NaN or infinite.
        """
        try:
            slope = torch.autograd.grad(loss.sum(), leaf, allow_unused=True)[0] if loss.requires_grad else None
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the code of a model raises
            raise self._gives_none(error) from error
        if slope is None:
            raise ValueError(f"{self._label} does not let gradients reach its input")
        if not bool(slope.sum().isfinite()):
            check_finite(slope, f"{self._label} has NaN or infinite input gradients{whose}")
        return slope.contiguous()

    @contextmanager
    def differentiating(self) -> Iterator[None]:
        """Name the model if its backward pass raises inside.

        Raises:
            ValueError: instead of what it raises.
        """
        try:
            yield
        except (ValueError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever the code of a model raises
            raise self._gives_none(error) from error

    def _gives_none(self, error: Exception) -> ValueError:
        return ValueError(f"{self._label} gives no input gradient: {reason(error)}")

    def _check(self, batch: Tensor, read: Read, dtype: torch.dtype) -> None:
        logits = read.logits
        squashed = len(batch) and not self._known
        if squashed and (are_probabilities(logits) or self._gives_one_probability(batch, read, dtype)):
            raise ValueError(
                f"{self._label} returns probabilities: it must return logits, the scores before the softmax or sigmoid"
            )
        if not self._known and look_squashed(logits):
            warnings.warn(
                f"{self._label} returns values in [0, 1], most of them near the ends, as after a sigmoid: return the "
                "scores before it, since its gradients vanish there and the model looks more robust than it is",
                stacklevel=2,
            )
        self.classes, self._read = logits.shape[1], read.said

    def _gives_one_probability(self, batch: Tensor, read: Read, dtype: torch.dtype) -> bool:
        """Say whether a model of one number an input gives one in [0, 1] always, on inputs far outside too."""
        if not read.single or not _in_unit(read.logits) or not bool(read.logits.any()):  # 0 is no sigmoid
            return False
        try:
            answers = [self.model(self._given(batch * s, dtype)) for s in (-30.0, 30.0)]
            far = [read_logits(answer, len(batch), self._label).logits for answer in answers]
        except Exception:  # a model may refuse such inputs
            return True
        return all(_in_unit(each) for each in far)

    def check_device(self, x: Tensor) -> None:
        """Raise a ValueError unless the model's parameters live where ``x`` does."""
        first = next(self.model.parameters(), None) if isinstance(self.model, nn.Module) else None
        if first is not None and first.device != x.device:
            raise ValueError(f"{self._label} is on {first.device} but x is on {x.device}: move one of them")


def widened(batch: Tensor) -> Tensor:
    """Return inputs of half precision in float32, where their gradients neither overflow nor vanish."""
    return batch.float() if batch.dtype.itemsize < 4 else batch


def _in_unit(logits: Tensor) -> bool:
    return bool(((logits >= 0) & (logits <= 1)).all())


def _is_of_images(batch: Tensor) -> bool:
    """Say whether a batch is one whose layout counts: images, on a processor."""
    return batch.ndim == 4 and batch.device.type == "cpu"


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
