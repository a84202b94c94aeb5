"""How a model that only answers is asked: what it says is read, what fails is tried again, what it said is kept."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from omnirobust.core.types import described
from omnirobust.domains.blackbox.kept import Kept, identity
from omnirobust.domains.outputs import reason

Output: TypeAlias = Literal["logits", "probabilities", "labels"]

_WAIT, _LONGEST = 0.25, 60.0
"""Seconds before the first repetition, doubled for each further one, and the most that an error may ask for."""

_LEAST = 1e-12
"""Probabilities below it count as it: their logarithm must be finite."""


_MOST = 10**6
"""Labels from it on are none."""


class NoAnswerError(ValueError):
    """A model that only answers did not, as often as it was asked, or what it answered cannot be read."""


class Oracle:
    """A function that answers, with repetitions and a store.

    Args:
        f: maps (n, *S) to (n, C), or to (n,) labels.
        output: what it returns.
        store: where answers are kept; None for nowhere.
        retries: how often a batch on which it fails is sent again.
        tag: names the model in its store; None for its weights, where there are any.
    """

    def __init__(
        self, f: Callable[[Tensor], Any], output: Output, store: str | Path | None, retries: int, tag: str | None = None
    ) -> None:
        self._f, self._output, self._retries = f, output, retries
        self._kept = None if store is None else Kept(Path(store), output, identity(f, tag))

    def answers(self, inputs: Tensor, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Return what the model says of inputs (n, *S), by their keys; it is asked what the store has not got.

        Raises:
            NoAnswerError: if it fails once more than ``retries`` times, or what it says cannot be read.
        """
        found = {} if self._kept is None else self._kept.get(keys)
        if found and self._kept is not None and self._kept.doubted:
            self._check_whose(inputs, keys, found)
        rows = [i for i, key in enumerate(keys) if key not in found]
        if rows:
            said = self._asked(inputs if len(rows) == len(keys) else inputs[rows])
            new = {keys[i]: said[j] for j, i in enumerate(rows)}
            if self._kept is not None:
                self._kept.add(new)
            found |= new
        return found

    def _check_whose(self, inputs: Tensor, keys: Sequence[bytes], found: dict[bytes, np.ndarray]) -> None:
        """Ask again what a store says: once, for the first of its answers that are wanted."""
        assert self._kept is not None
        row = next(i for i, key in enumerate(keys) if key in found)
        said = self._asked(inputs[row : row + 1])[0]
        if said.shape != found[keys[row]].shape or not np.allclose(said, found[keys[row]], rtol=1e-3, atol=1e-5):
            raise self._kept.of_another()
        self._kept.doubted = False

    def _asked(self, inputs: Tensor) -> np.ndarray:
        wait = _WAIT
        for attempt in range(self._retries + 1):
            try:
                with torch.no_grad():
                    return self._checked(self._f(inputs.clone()), len(inputs))
            except (NoAnswerError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # whatever a service raises: it is late, it throttles, it is not there
                if attempt == self._retries:
                    times = "once" if attempt == 0 else f"{attempt + 1} times in a row"
                    raise NoAnswerError(f"gave no answer, asked {times}: {reason(error)}") from error
                asked = getattr(error, "retry_after", None)
                time.sleep(min(float(asked), _LONGEST) if isinstance(asked, int | float) else wait)
                wait *= 2
        raise AssertionError("unreachable")

    def _checked(self, answer: Any, n: int) -> np.ndarray:
        """Return an answer as (n, C) float64; labels as (n, 1)."""
        try:
            read = answer.detach().cpu() if isinstance(answer, Tensor) else torch.as_tensor(np.asarray(answer))
            values = read.double().numpy().copy()  # the model may write its next answer over this one
        except (TypeError, ValueError, RuntimeError) as error:
            raise NoAnswerError(f"must answer with numbers, got {described(answer)}") from error
        if self._output == "labels":
            return _labels(values, n)
        if values.ndim != 2 or len(values) != n or values.shape[1] < 2:
            raise NoAnswerError(
                f"must answer {n} inputs with ({n}, C) {self._output}, C >= 2, got shape {tuple(values.shape)}"
            )
        if not np.isfinite(values).all():
            raise NoAnswerError("answered NaN or infinity")
        if self._output == "probabilities" and ((values < -1e-6) | (values > 1 + 1e-6)).any():
            raise NoAnswerError(f"must answer with probabilities in [0, 1], got {values.min():g} to {values.max():g}")
        return values


def _labels(values: np.ndarray, n: int) -> np.ndarray:
    if values.shape not in ((n,), (n, 1)):
        raise NoAnswerError(f"must answer {n} inputs with ({n},) labels, got shape {tuple(values.shape)}")
    if n and not ((values >= 0) & (values < _MOST) & (values == np.floor(values))).all():
        raise NoAnswerError(f"must answer with labels 0, 1, ..., got {values.min():g} to {values.max():g}")
    return values.reshape(n, 1)


def as_logits(said: Tensor, output: Output, classes: int = 2) -> Tensor:
    """Return answers (n, C) float64 as logits: of probabilities the logarithm, of labels (n, 1) 0 in their place.

    Args:
        said: what was answered.
        output: what that is.
        classes: of labels, how many logits there are at least.
    """
    if output == "labels":
        places = said.long().flatten()
        count = max(classes, int(places.max()) + 1 if len(places) else 0)
        return torch.nn.functional.one_hot(places, count).to(said) - 1  # of 1 and 0 one would say: probabilities
    return said if output == "logits" else said.clamp_min(_LEAST).log()


def digests(batch: Tensor) -> list[bytes]:
    """Return 16 bytes for each input of a batch (n, *S) that stand for its numbers, its dtype and its shape."""
    rows = batch.detach().cpu().contiguous()
    head = f"{rows.dtype}{tuple(rows.shape[1:])}".encode()
    raw = rows.view(len(rows), -1).view(torch.uint8).numpy() if rows.numel() else np.zeros((len(rows), 0), np.uint8)
    return [hashlib.blake2b(head + row.tobytes(), digest_size=16).digest() for row in raw]
