"""One classifier as the attacks see it: frozen, checked, in the layout and precision that is fastest.

Everything that can be wrong with somebody's model is found here, and told in one sentence that names the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from omnirobust.core.choices import Precision as Precision
from omnirobust.domains.frozen import Frozen
from omnirobust.domains.layout import ViewsReshape, channels_last, is_of_images, pieces, prefers_channels_last
from omnirobust.domains.models import Model as Model
from omnirobust.domains.models import Models as Models
from omnirobust.domains.models import Probed as Probed
from omnirobust.domains.one_channel import OneChannel, has_one_channel
from omnirobust.domains.outputs import Read, check_finite, check_logits, check_scores, read_logits, reason


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

    On a CPU, models with two-dimensional convolutions see images in the layout that is faster, mostly channels_last,
    and batches of more than 256 in pieces that fit the cache: both change results by rounding only.

    Attributes:
        convolutional: whether it has two-dimensional convolutions.
        channels_last: whether images on a CPU are laid out so.
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
        self.convolutional = any(isinstance(m, nn.Conv2d) for m in modules)
        self.channels_last = prefers_channels_last(modules)
        self._one_channel = not self.channels_last and has_one_channel(modules)
        self.classes = model.classes if isinstance(model, Probed) else None
        self._known = isinstance(model, Probed)  # it has passed the checks of its values, on other inputs
        self._dtype = model.dtype if isinstance(model, Probed) else None
        self._read = ""
        self._only_reads = isinstance(model, Probed) and model.only_reads
        self.rules_out = False  # whether it gave some classes the logit minus infinity

    def renewed(self, precision: Precision) -> Classifier:
        """Return the same model in another ``precision``."""
        new = copy(self)
        new.precision = precision
        return new

    def probed(self, random: bool, notes: tuple[str, ...], said: Tensor | None = None) -> Probed:
        """Return the model with what a probe and calls found out about it."""
        told = (*notes, *self.notes)
        return Probed(self.model, random, told, self.held, self._dtype, self.classes, said, self._only_reads)

    @property
    def casts(self) -> bool:
        """Whether the model is given its inputs in another dtype than they have."""
        return self._dtype is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """What was seen so far that a reader of results must know, one sentence each."""
        told = [f"{self._label} {end}." for end in getattr(self.model, "source_notes", ())]
        told += [self._read] if self._read else []
        if self._dtype is not None:
            told.append(f"{self._label} computes in {self._dtype}: inputs were cast to it.")
        return (*told, *self.held.notes(self._label))

    def arrange(self, batch: Tensor) -> Tensor:
        """Return ``batch`` in the memory layout that this model runs fastest in."""
        return channels_last(batch) if self.channels_last and is_of_images(batch) else batch

    def pieces(self, images: int, like: Tensor) -> int:
        """Say how many of ``images`` inputs such as ``like`` (n, *S) to send through the model at once, for speed."""
        return pieces(images, like) if self.convolutional else max(images, 1)

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

    def logits(
        self, batch: Tensor, dtype: torch.dtype | None = None, *, spare: bool = False, twice: bool = False
    ) -> Tensor:
        """Do what a call does, for those who have frozen the model already (``held``).

        Args:
            batch: the inputs.
            dtype: see a call.
            spare: whether nobody needs ``batch`` afterwards: a model that only reads its inputs is given itself.
            twice: whether second derivatives will be asked for.
        """
        views, dtype = self.channels_last and is_of_images(batch), dtype or batch.dtype
        lean = False
        try:
            given = batch if spare and self._only_reads and batch.dtype == dtype else self._given(batch, dtype)
            lean = self._one_channel and not twice and given.requires_grad and self._leans(given)
            if lean or views or self.precision == "bf16" or not (self.held.settled or self.held.knows(given.shape)):
                output = self._in_context(given, views, OneChannel() if lean else None)
            else:
                output = self.model(given)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the code of a model raises: assertions and look-ups among it
            if lean:  # unless it is its own gradients inside that it asked for
                self._one_channel = False
                return self.logits(batch, dtype, twice=twice)
            if self.classes is None and self._adapts(batch, dtype):
                return self.logits(batch, dtype, twice=twice)
            if self._only_reads and spare:  # unless it writes after all, where it is not seen: into a leaf, say
                self._only_reads = False
                return self.logits(batch, dtype, twice=twice)
            takes = "cannot take" if self.classes is None else "has answered before, and failed on"
            raise ValueError(
                f"{self._label} {takes} inputs of shape {tuple(batch.shape)}, {dtype}: {reason(error)}"
            ) from error
        plain = type(output) is Tensor and output.ndim == 2 and len(output) == len(batch) and output.is_floating_point()
        read = Read(output) if plain and output.shape[1] > 1 else read_logits(output, len(batch), self._label)
        logits = read.logits
        # an overflow of the sum is looked into, too: the sum costs one pass and no memory
        if not isfinite(float(logits.detach().sum())):
            check_logits(logits, self._label)
            self.rules_out = True
        if self.classes is None:
            with torch.no_grad():
                if not self._known:
                    check_scores(read, self._label, lambda: self._far(batch, dtype))
            self.classes, self._read = logits.shape[1], read.said
            self._only_reads = not given.is_inference() and given._version == 0 and self._dtype is None
        # differences that half precision would round away decide: what a model says counts as it says it
        return logits.to(torch.promote_types(torch.promote_types(logits.dtype, batch.dtype), torch.float32))

    def _leans(self, batch: Tensor) -> bool:
        """Say whether gradients may be taken by ``OneChannel``: nobody else stands between the model and torch."""
        return self.precision == "fp32" and is_of_images(batch) and not torch._C._len_torch_function_stack()

    def _in_context(self, batch: Tensor, views: bool, mode: OneChannel | None) -> Any:
        """Call the model under autocast, with views that may copy, or where its modules are still to be caught."""
        with ExitStack() as stack:
            stack.enter_context(self.held.catch(batch.shape))
            if self.precision == "bf16":
                stack.enter_context(torch.autocast(batch.device.type, dtype=torch.bfloat16))
            if views:
                stack.enter_context(ViewsReshape())
            if mode is None:
                return self.model(batch)
            stack.enter_context(mode)
            found = self.model(batch)
        if mode.spoiled:
            raise RuntimeError("it has looked at gradients that were not there")
        return found

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
        """Return the gradient of the sum of ``loss`` in ``leaf`` (B, *S), see ``gradients``."""
        return self.gradients(loss, (leaf,), whose=whose)[0]

    def gradients(self, loss: Tensor, leaves: Sequence[Tensor], *, whose: str = "") -> list[Tensor]:
        """Return the gradients of the sum of ``loss`` in each of ``leaves``, (B, *S).

        Args:
            loss: made of this model's logits of all leaves, and perhaps of what else may be wrong with it.
            leaves: the inputs.
            whose: says whose gradient it may be besides the model's.

        Raises:
            ValueError: if the backward pass raises, or lets no gradient through; the sentence names the model.
            RowError: if one is NaN or infinite.
        """
        try:
            found = torch.autograd.grad(loss.sum(), leaves, allow_unused=True) if loss.requires_grad else ()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the code of a model raises
            raise self._gives_none(error) from error
        if all(slope is None for slope in found):
            raise ValueError(f"{self._label} does not let gradients reach its input")
        slopes = [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)]
        if not isfinite(sum(float(slope.sum()) for slope in slopes)):
            check_finite(torch.cat(slopes), f"{self._label} has NaN or infinite input gradients{whose}")
        return [slope.contiguous() for slope in slopes]

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

    def _far(self, batch: Tensor, dtype: torch.dtype) -> list[Tensor]:
        """Return what the model says of inputs far outside of any range."""
        answers = [self.model(self._given(batch * s, dtype)) for s in (-30.0, 30.0)]
        return [read_logits(answer, len(batch), self._label).logits for answer in answers]

    def check_device(self, x: Tensor) -> None:
        """Raise a ValueError unless the model's parameters live where ``x`` does."""
        first = next(self.model.parameters(), None) if isinstance(self.model, nn.Module) else None
        if first is not None and first.device != x.device:
            raise ValueError(f"{self._label} is on {first.device} but x is on {x.device}: move one of them")


def widened(batch: Tensor) -> Tensor:
    """Return inputs of half precision in float32, where their gradients neither overflow nor vanish."""
    return batch.float() if batch.dtype.itemsize < 4 else batch
