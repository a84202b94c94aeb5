"""What models return, read as logits (B, C), and what is said where that cannot be done."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor

MADE_FOR_INFERENCE = "its parameters or buffers were made under torch.inference_mode(): build or load it outside"

_HINTS = {
    "Inference tensor": MADE_FOR_INFERENCE,
    "fabric.backward": "Fabric set it up for mixed precision and wants a backward of its own: hand over its .module, "
    "with precision='bf16'",
}
"""What to say instead of messages that tell what happened inside torch or Fabric."""


class RowError(ValueError):
    """A model fails on some rows of a batch.

    Args:
        problem: what is wrong.
        row: the first row that it is wrong on.
        where: what messages call that row.
    """

    def __init__(self, problem: str, row: int, where: str | None = None) -> None:
        super().__init__(f"{problem}, first on {where or f'row {row}'}")
        self.problem, self.row = problem, row


@contextmanager
def rows_named(number: Callable[[int], int]) -> Iterator[None]:
    """Let a RowError inside name a row by its number among all, ``number`` of its number in the batch."""
    try:
        yield
    except RowError as error:
        raise RowError(error.problem, number(error.row)) from error.__cause__


def check_finite(values: Tensor, problem: str) -> None:
    """Raise a RowError with the words ``problem`` if values (n, ...) are NaN or infinite."""
    # an overflow of the sum is looked into, too: the sum costs one pass and no memory
    if not isfinite(float(values.detach().sum())):
        finite = values.detach().isfinite().flatten(1).all(1)
        if not bool(finite.all()):
            raise RowError(problem, int(finite.int().argmin()))


def check_logits(logits: Tensor, label: str) -> None:
    """Raise a RowError unless logits (n, C) are finite, or minus infinity for classes that the model rules out.

    Args:
        logits: of one model.
        label: what messages call it.
    """
    out = logits.detach().isneginf()
    check_finite(logits.masked_fill(out, 0), f"{label} returned NaN or infinite logits on the given inputs")
    lone = (~out).sum(1) < 2
    if bool(lone.any()):
        raise RowError(
            f"{label} must leave two classes or more: its logits are minus infinity for all but one at most",
            int(lone.int().argmax()),
        )


def check_ruled_in(logits: Tensor, labels: Tensor, label: str) -> None:
    """Raise a RowError if the logit of a row's own label is minus infinity: no loss of it can be compared."""
    own = logits.detach().gather(1, labels.unsqueeze(1)).squeeze(1).isneginf()
    if bool(own.any()):
        row = int(own.int().argmax())
        raise RowError(
            f"y must hold classes that {label} does not rule out: class {int(labels[row])} has the logit "
            "minus infinity",
            row,
        )


class Read(NamedTuple):
    """How an output was read.

    Attributes:
        logits: (B, C), C >= 2.
        said: what a reader must know of it; empty if nothing.
        single: whether the model gives one number an input.
    """

    logits: Tensor
    said: str = ""
    single: bool = False


def read_logits(output: Any, rows: int, label: str) -> Read:
    """Read what a model returned for a batch.

    A tensor (B, C) is taken as it is; of an object its ``.logits``, of a mapping its "logits", of a tuple or list its
    first entry; one number z an input, (B,) or (B, 1), stands for the logits (0, z) of two classes,
    but not first in a tuple or list, where it may be a loss or a feature.

    Args:
        output: what the model returned.
        rows: B.
        label: what messages call the model.

    Raises:
        ValueError: if there are no logits.
    """
    found, said = (output, "") if isinstance(output, Tensor) else _picked(output)
    if not isinstance(found, Tensor):
        raise ValueError(
            f"{label} must return logits (B, C), alone, as .logits, under 'logits' or first in a tuple, "
            f"got {type(output).__name__}"
        )
    if found.is_complex():
        raise ValueError(f"{label} must return real logits, got {found.dtype}")
    if tuple(found.shape) in ((rows,), (rows, 1)) and found.is_floating_point():
        if isinstance(output, tuple | list):
            raise ValueError(
                f"{label} must return logits (B, C) first in a {type(output).__name__}, got {tuple(found.shape)}: "
                "one number for each input is taken as the logit of two classes only where it is returned alone"
            )
        z = found.reshape(rows, 1)
        how = f"{label} returns one logit z for each input: it was taken as (0, z), the logits of labels 0 and 1."
        return Read(torch.cat([torch.zeros_like(z), z], 1), f"{said.format(label)} {how}".strip(), single=True)
    if found.ndim != 2 or len(found) != rows or found.shape[1] < 2:
        dense = ": scores of pixels or boxes are for attack_losses, see docs/losses.md" if found.ndim > 2 else ""
        raise ValueError(
            f"{label} must return logits of shape ({rows}, C) with C >= 2, or ({rows},) for two classes, "
            f"got {tuple(found.shape)}{dense}"
        )
    return Read(found, said.format(label))


def _picked(output: Any) -> tuple[Any, str]:
    if hasattr(output, "logits"):
        return output.logits, ""
    if isinstance(output, Mapping):
        return output.get("logits"), "{} returns a mapping, of which 'logits' was read."
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor) and output[0].is_floating_point():
        kind = "tuple" if isinstance(output, tuple) else "list"
        return output[0], "{} returns a " + kind + ", of which the first entry was read as the logits."
    return None, ""


def reason(error: Exception) -> str:
    """Say in a few words what an error of a model's code is about."""
    said = (str(error).strip().splitlines() or [""])[0]
    for text, hint in _HINTS.items():
        if text in str(error):
            return hint
    return said if isinstance(error, RuntimeError | ValueError) and said else f"{type(error).__name__}: {said}"


def are_probabilities(logits: Tensor) -> bool:
    """Say whether rows are all non-negative and sum to 1."""
    sums = logits.sum(dim=1)
    return bool((logits >= 0).all() & ((sums - 1).abs() < 1e-3).all())


def look_squashed(logits: Tensor) -> bool:
    """Say whether logits look like a sigmoid's outputs: all in [0, 1], a third within 1e-3 of an end, some near 1.

    Bounded scores, cosines say, are legitimate and seldom saturate: this warns rather than refuses.
    """
    if len(logits) < 8 or not _in_unit(logits):
        return False
    ends = (logits < 1e-3) | (logits > 1 - 1e-3)
    return float(ends.float().mean()) > 1 / 3 and float(logits.amax()) > 0.9


def check_scores(read: Read, label: str, far: Callable[[], list[Tensor]]) -> None:
    """Refuse probabilities, and warn of what looks like a sigmoid's outputs.

    Args:
        read: a model's first answer.
        label: what messages call the model.
        far: what it says of inputs far outside of any range; may raise.

    Raises:
        ValueError: if these are probabilities.
    """
    logits = read.logits
    if len(logits) and (are_probabilities(logits) or _is_one_probability(read, far)):
        raise ValueError(
            f"{label} returns probabilities: it must return logits, the scores before the softmax or sigmoid"
        )
    if look_squashed(logits):
        warnings.warn(
            f"{label} returns values in [0, 1], most of them near the ends, as after a sigmoid: return the scores "
            "before it, since its gradients vanish there and the model looks more robust than it is",
            stacklevel=3,
        )


def _is_one_probability(read: Read, far: Callable[[], list[Tensor]]) -> bool:
    """Say whether a model of one number an input gives one in [0, 1] always, on inputs far outside too."""
    if not read.single or not _in_unit(read.logits) or not bool(read.logits.any()):  # 0 is no sigmoid
        return False
    try:
        answers = far()
    except Exception:  # a model may refuse such inputs
        return True
    return all(_in_unit(each) for each in answers)


def _in_unit(logits: Tensor) -> bool:
    return bool(((logits >= 0) & (logits <= 1)).all())


_BF16_DOUBT = 2.0**-6
"""How far, in shares of the larger of the two logits that decide, a bf16 decision must be won to count."""


def beyond_doubt(logits: Tensor, labels: Tensor, targeted: bool) -> Tensor:
    """Let what bf16 leaves in doubt speak against the attack: it may not hold in full precision.

    Args:
        logits: (n, C), computed in bf16.
        labels: (n,) int64, the classes to leave, or to reach where ``targeted``.
    """
    label = labels.unsqueeze(1)
    rival = logits.scatter(1, label, -torch.inf).amax(dim=1, keepdim=True)
    doubt = torch.maximum(logits.gather(1, label).abs(), rival.abs()) * _BF16_DOUBT
    return logits.scatter_add(1, label, -doubt if targeted else doubt)
