"""A model that can be asked, not differentiated, as a user hands it over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, get_args

from torch import Tensor

from omnirobust.core.arguments import check_count
from omnirobust.domains.blackbox.asked import Asked
from omnirobust.domains.blackbox.asking import Oracle, Output
from omnirobust.domains.classifier import Model, Models, named_models

_CLASSES = 1000
"""Logits, at least, that stand for labels outside of attacks, where nothing says how many classes there are."""


@dataclass(frozen=True)
class BlackBox:
    """A model that only answers: a service, an ONNX file, a tree ensemble. It has a place in any ensemble.

    In an attack every input is asked once, and counted for its row. Under linf the default is a random search in
    squares (``Search``), one question a step; under other norms, or with a ``direction`` of yours, its gradient is
    estimated from ``samples`` questions a step more. Where one of the models says labels alone, a search walks along
    the border of what fools all of them: ``Rays`` under linf, ``Hops`` under other norms, one question a step; its loss
    is 1, or -1 where it is fooled. Gradients of ``surrogates`` and of the differentiable models of the ensemble tell
    all of them where to look first, and the start is what fools these. Problems stop once all their models are fooled,
    unless ``stop_when_fooled=False``. For ``attack_ensemble``, and ``attack_transforms`` of what is not
    random: there every view of an input is a question, and estimates go through it.

    Args:
        f: maps inputs (n, *S), float, detached, to (n, C) numbers, C >= 2, or to (n,) labels: a tensor, an array or
            lists. What it says of an input must not depend on the others.
        output: "logits", "probabilities" (in [0, 1]; their logarithm is taken), or "labels" (0, 1, ...).
        queries: how many inputs it may be asked for each row of an attack, judging included; the attack of that row
            ends when they are used up. None: as many as the steps take.
        samples: questions for each estimate of a gradient, >= 2; none where labels are said.
        surrogates: differentiable models of the same classes, of which one hopes that they resemble it.
        store: a file or folder where every answer is kept, so that a stopped attack asks nothing again. It belongs to
            this model alone, which is known by ``tag``, else by the weights of the torch modules behind ``f``; a model
            of neither is asked one of the questions again, uncounted, before the first answer is taken from a file.
        tag: names the model in its store, with its version, say; None for the above.
        retries: how often a batch of inputs is sent again, after 0.25, 0.5, 1, ... seconds or the ``retry_after`` of
            the error, if ``f`` raises.

    Raises:
        ValueError: if an argument is out of range; in an attack, if the model gives no answer, or one that cannot be
            read; the sentence names it.

    Called itself, it returns logits (n, C) through which estimated gradients flow; ``queries`` counts in attacks.
    """

    answers_only: ClassVar[bool] = True
    """What an attack knows it by, without importing this file for models that are none."""

    f: Callable[[Tensor], Any]
    output: Output = field(default="logits", kw_only=True)
    queries: int | None = field(default=None, kw_only=True)
    samples: int = field(default=16, kw_only=True)
    surrogates: Models = field(default=(), kw_only=True)
    store: str | Path | None = field(default=None, kw_only=True)
    tag: str | None = field(default=None, kw_only=True)
    retries: int = field(default=3, kw_only=True)

    def __post_init__(self) -> None:
        if not callable(self.f):
            raise ValueError(f"f must be a function of a batch of inputs, got {type(self.f).__name__}")
        if self.output not in get_args(Output):
            raise ValueError(f"output must be 'logits', 'probabilities' or 'labels', got {self.output!r}")
        if self.queries is not None:
            check_count("queries", self.queries)
        check_count("samples", self.samples, 2)
        check_count("retries", self.retries, 0)
        if self.tag is not None and not isinstance(self.tag, str):
            raise ValueError(f"tag must be a text or None, got {type(self.tag).__name__}")
        _ = self.guides

    @cached_property
    def guides(self) -> dict[str, Model]:
        """The surrogates by name; none if there are none."""
        given = self.surrogates
        return {} if isinstance(given, (tuple, list)) and not given else named_models(given)

    def asked(self, name: str, **setting: Any) -> Asked:
        """Return the model within one attack, see ``Asked``."""
        oracle = Oracle(self.f, self.output, self.store, self.retries, self.tag)
        return Asked(name, oracle, self.output, self.samples, self.guides, limit=self.queries, **setting)

    @cached_property
    def _outside(self) -> Asked:
        return self.asked("of a black box", classes=_CLASSES)

    def __call__(self, batch: Tensor) -> Tensor:
        """Return the logits of ``batch`` (n, *S), (n, C); of labels 0 in their place, and -1."""
        return self._outside(batch)
