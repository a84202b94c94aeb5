"""The losses of models of which some can only be asked: as ``DomainGrid``, with an eye on what is asked."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from omnirobust.core.draws import DrawKey
from omnirobust.core.search import KeyedEvaluation
from omnirobust.core.threat_models import FeasibleSet
from omnirobust.core.types import Evaluation
from omnirobust.domains.blackbox.asked import Asked
from omnirobust.domains.blackbox.asking import NoAnswerError
from omnirobust.domains.blackbox.box import BlackBox
from omnirobust.domains.classifier import Classifier, Models, Probed, named_models
from omnirobust.domains.grid import DomainGrid
from omnirobust.domains.losses import UNITS
from omnirobust.domains.memory import Part
from omnirobust.domains.passes import Found


@dataclass
class _Seen:
    """What is known of all rows: which of them ask no more, and what was last said of them."""

    closed: Tensor
    last: dict[str, Tensor] = field(default_factory=dict)


class QueryGrid(DomainGrid):
    """Domains of models, of which some are a ``BlackBox``, perhaps under transformations; who is done asks nothing.

    Where only decisions are known, points outside of the set are asked, too: what is said of them goes into ``hits`` of
    the evaluation, and not into its losses.

    Args:
        models: see ``DomainGrid``.
        x: inputs, (B, *S).
        y: labels, see ``DomainGrid``.
        search: whether the attack does without gradients of black boxes.
        decides: whether it goes by decisions alone.
        stop: whether problems are done once all their models are fooled.
        spare: questions of each row that are left for the judgement.
        given: all else that ``DomainGrid`` takes.
    """

    def __init__(
        self, models: Models, x: Tensor, y: Tensor, *, search: bool, decides: bool, stop: bool, spare: int, **given: Any
    ) -> None:
        views = given.get("transforms")
        if random := [view.name for view in views or () if view.random]:
            raise ValueError(f"transforms must not be random where a model only answers, got {random[0]!r}")
        setting: dict[str, Any] = {
            "search": search, "bounds": None if views else given["bounds"], "size": (len(x), len(views or (0,))),
            "first_row": given["first_row"], "seed": given["seed"],
            "classes": 1 + int(y.max()) if y.numel() and not y.is_floating_point() else 2,
        }  # fmt: skip
        self._boxes = {n: m.asked(n, **setting) for n, m in named_models(models).items() if isinstance(m, BlackBox)}
        held = {
            n: Probed(self._boxes[n], notes=tuple(f"model {n!r} {end}." for end in getattr(m.f, "source_notes", ())))
            if isinstance(m, BlackBox) else m
            for n, m in named_models(models).items()
        }  # fmt: skip
        super().__init__(held, x, y, **given)
        self._first, self._stop, self._spare, self._decides = given["first_row"], stop, spare, decides
        self._within: FeasibleSet | None = None
        self._past = _Seen(torch.zeros(len(x), dtype=torch.bool))
        self._exact, self._slopes = False, dict[int, Found]()

    @property
    def asked(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How many inputs each model was asked for each row, (B, K) int64; 0 of those that are differentiable."""
        rows = self._local
        none = torch.zeros(len(rows), self._sizes[1], dtype=torch.int64)
        names = [c.name for c in self._classifiers]
        return torch.cat(
            [torch.from_numpy(self._boxes[n].counts[rows.numpy()]) if n in self._boxes else none for n in names], 1
        )

    @property
    def _local(self) -> Tensor:
        return (self._rows - self._first).cpu()

    def renewed(
        self, restart: int, *, exact: bool = False, x: Tensor | None = None, labels: Tensor | None = None
    ) -> DomainGrid:
        """Return the same domains for another run, see ``DomainGrid``; those of a judgement ask for every row."""
        new = super().renewed(restart, exact=exact, x=x, labels=labels)
        assert isinstance(new, QueryGrid)
        new._exact = exact
        return new

    def scaled(self, feasible: FeasibleSet) -> DomainGrid:
        """Return the grid with ``reach`` set: of a black box that of its first surrogate, or the others' mean.

        Classes to reach are compared with what models say of the inputs as they are: these are asked here, too.

        Cost: one evaluation with gradients of what is differentiable.
        """
        if self._decides:
            self = copy(self)
            self._within = feasible
        if self._targeted:
            self.evaluate(torch.zeros_like(self._x[0]), grad=False)
        if not self._wants_reach or self.reach is not None:
            return self
        stands = {m: self._stand_in(c) for m, c in enumerate(self._classifiers)}
        known = {m: c for m, c in stands.items() if c is not None}
        ours = copy(self)
        ours.reach = self._x.new_full((len(self._rows), *self._sizes), UNITS)  # relative_margin's without a reach
        if known:
            plain = copy(self)
            object.__setattr__(plain, "__class__", DomainGrid)  # nothing is asked
            plain._classifiers, plain._sizes = list(known.values()), (len(known), *self._sizes[1:])
            plain._y, plain._slots = self._y[:, list(known)], [self._slots[m] for m in known]
            plain._tried, plain._whole = set(), {}
            found = DomainGrid.scaled(plain, feasible).reach
            assert found is not None
            ours.reach = found.mean(1, keepdim=True).expand_as(ours.reach).clone().to(found)
            ours.reach[:, list(known)] = found
        for m, c in enumerate(self._classifiers):
            if self._says_labels(c):
                ours.reach[:, m] = UNITS
        ours._whole = {}
        return ours

    def _stand_in(self, classifier: Classifier) -> Classifier | None:
        box = self._boxes.get(classifier.name)
        return classifier if box is None else next(iter(box.guides), None)

    def evaluate(self, delta: Tensor, grad: bool = True) -> Evaluation:
        """Evaluate every domain, as ``DomainGrid`` does; problems that ask no more get what was last said of them."""
        if self._exact:
            return super().evaluate(delta, grad)
        rows, key = self._local, DrawKey(self._seed, self._restart)
        need = self._sizes[1] + self._spare
        spent = torch.stack([box.left(rows) < need for box in self._boxes.values()]).any(0)
        if self._past.last:  # of the start something must be known
            self._past.closed[rows] |= spent
        going = (~self._past.closed[rows]).nonzero().flatten()
        hits = None
        if len(going) == len(rows):
            e, hits = self._weighed(self._evaluated(delta, grad), delta)
            self._note(rows, e)
            return KeyedEvaluation(e.losses, e.fooled, e.grads, self._rows, key, hits)
        slopes = [torch.zeros_like(delta) for _ in self.names]
        if len(going):
            part = self.select(going.to(delta.device))
            assert isinstance(part, QueryGrid)
            moved = delta[going.to(delta.device)]
            e, some = part._weighed(part._evaluated(moved, grad), moved)
            if some is not None:
                hits = torch.zeros(len(rows), dtype=torch.bool, device=delta.device)
                hits[going.to(delta.device)] = some
            self._note(rows[going], e)
            for slope, found in zip(slopes, e.grads or (), strict=False):
                slope[going.to(delta.device)] = found
        self._calls += 1
        last = {name: value[rows].to(delta.device) for name, value in self._past.last.items()}
        if self._decides and hits is None:
            hits = torch.zeros(len(rows), dtype=torch.bool, device=delta.device)
        return KeyedEvaluation(last["losses"], last["fooled"], tuple(slopes) if grad else None, self._rows, key, hits)

    def _weighed(self, e: Evaluation, delta: Tensor) -> tuple[Evaluation, Tensor | None]:
        """Let what lies outside of the set count for nothing but the decision, (B,)."""
        if self._within is None or not self._decides:
            return e, None
        assert e.fooled is not None
        hits, inside, past = e.fooled.all(1), self._within.contains(delta).unsqueeze(1), self._past.last
        if not past:
            return e, hits
        rows = self._local
        losses, fooled = (past[name][rows].to(delta.device) for name in ("losses", "fooled"))
        return Evaluation(torch.where(inside, e.losses, losses), torch.where(inside, e.fooled, fooled), e.grads), hits

    def select(self, rows: Tensor | slice) -> DomainGrid:
        """Keep the problems that ``rows`` lists."""
        chosen = super().select(rows)
        if self._within is not None and isinstance(chosen, QueryGrid):
            chosen._within = self._within.select(
                rows if isinstance(rows, Tensor) else torch.arange(len(self._rows), device=self._x.device)[rows]
            )
        return chosen

    def logits(self, delta: Tensor) -> tuple[Tensor, ...]:
        """Return every model's logits, see ``DomainGrid``; of labels as many as the largest that was said asks for."""
        if any(box.output == "labels" for box in self._boxes.values()):
            super().evaluate(delta, grad=False)  # what is asked here is not asked again
        return super().logits(delta)

    def _says_labels(self, classifier: Classifier) -> bool:
        return classifier.name in self._boxes and self._boxes[classifier.name].output == "labels"

    def _note(self, rows: Tensor, e: Evaluation) -> None:
        assert e.fooled is not None
        for name, value in (("losses", e.losses), ("fooled", e.fooled)):
            if name not in self._past.last:
                self._past.last[name] = value.new_zeros(len(self._past.closed), value.shape[1], device="cpu")
            self._past.last[name][rows] = value.cpu()
        if self._stop:
            self._past.closed[rows] |= e.fooled.all(1).cpu()

    def _evaluated(self, delta: Tensor, grad: bool) -> Evaluation:
        """Evaluate the differentiable models first: their gradients are priors of the others."""
        white = [m for m, c in enumerate(self._classifiers) if c.name not in self._boxes]
        self._slopes = {m: super(QueryGrid, self)._one(m, delta, grad) for m in white}
        prior = None
        if grad and white and self._views is None:  # what is asked is a view: those of other models are of the input
            slopes = [self._slopes[m][2][0].sum(0) for m in white]
            norms = [torch.linalg.vector_norm(s.flatten(1), dim=1).clamp_min(1e-30) for s in slopes]
            prior = sum(s / n.view(-1, *[1] * (s.ndim - 1)) for s, n in zip(slopes, norms, strict=True))
        for box in self._boxes.values():
            box.prior = prior if isinstance(prior, Tensor) else None
        try:
            return super().evaluate(delta, grad)
        finally:
            self._slopes = {}

    def _one(self, m: int, delta: Tensor, grad: bool) -> Found:
        return self._slopes[m] if m in self._slopes else super()._one(m, delta, grad)

    def _forward(
        self, classifier: Classifier, part: Part, delta: Tensor, *, grad: bool = False, watch: bool = False
    ) -> Any:
        """Say whose inputs a black box is asked about, and let it be named if it gives no answer."""
        box: Asked | None = self._boxes.get(classifier.name)
        if box is None:
            return super()._forward(classifier, part, delta, grad=grad, watch=watch)
        rows, views = self._rows[part.rows], torch.tensor(list(part.transforms), device=delta.device)
        try:
            with box.on(rows.repeat(len(views)), views.repeat_interleave(len(rows))):
                return super()._forward(classifier, part, delta, grad=grad, watch=watch)
        except ValueError as error:
            raise _named(classifier.name, error) from error

    def _slope(self, classifier: Classifier, seen: Any, loss: Tensor, part: Part) -> list[Tensor]:
        try:
            return super()._slope(classifier, seen, loss, part)
        except ValueError as error:
            raise _named(classifier.name, error) from error

    def blocks_gradient(self, source: int, delta: Tensor) -> bool:
        """Say whether a model masks its gradients; of black boxes nothing is said."""
        name = self._classifiers[source // self._sizes[1]].name
        return name not in self._boxes and super().blocks_gradient(source, delta)


def _named(name: str, error: ValueError) -> ValueError:
    cause = error.__cause__
    return ValueError(f"model {name!r} {cause}") if isinstance(cause, NoAnswerError) else error
