"""One model's passes over all images of a grid: cut to a budget, drawn, forward, loss, success and gradient.

``DomainGrid`` is made of it: it says what the images are, and puts together what every model says of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from omnirobust.core.draws import DrawKey
from omnirobust.core.threat_models import Bounds, clamped
from omnirobust.domains.checks import check_classes, check_loss, of_global_row
from omnirobust.domains.classifier import Classifier, widened
from omnirobust.domains.drawing import Drawing, mean_of_draws
from omnirobust.domains.losses import Loss
from omnirobust.domains.losses import fooled as is_fooled
from omnirobust.domains.memory import MemoryBudget, Part, numbered, parts_of
from omnirobust.domains.outputs import RowError, beyond_doubt, check_ruled_in
from omnirobust.domains.transforms.seeded import View


class Cut(NamedTuple):
    """A part of the images that goes through a model at once, and what belongs to each of them, (n,)."""

    part: Part
    labels: Tensor
    reach: Tensor | None


class _Pass(NamedTuple):
    """What a forward pass leaves: the images that gradients are taken at, for each transformation, and the logits."""

    leaves: list[Tensor]
    logits: Tensor
    delta: Tensor


Found: TypeAlias = tuple[Tensor, Tensor, list[Tensor]]


class Passes:
    """What a grid holds, and how one of its models is evaluated.

    Attributes:
        images: how many images go through models, for each problem, in one evaluation.
        random: whether two evaluations at the same perturbation may differ.
        reach: of losses that want it, (B, models, transforms, examples); None for none.
    """

    images: int
    random: bool
    reach: Tensor | None
    _classifiers: list[Classifier]
    _x: Tensor  # (E, B, *S)
    _y: Tensor  # (B, models, transforms, examples)
    _rows: Tensor  # global numbers of the problems, (B,)
    _sizes: tuple[int, int, int]  # models, transforms, examples
    _shared: bool
    _axes: dict[str, tuple[str, ...]]
    _views: tuple[View, ...] | None
    _samples: int
    _slots: list[tuple[range, ...]]  # numbers of the draws, for each model and transformation
    _loss: Loss
    _targeted: bool
    _wants_reach: bool
    _foreign: bool  # whether the loss is the caller's own
    _others: bool  # whether the labels are others than those of the attack
    _range: Bounds | None  # that each perturbed image is clamped to
    _beyond: tuple[float, float] | None
    _seed: int
    _restart: int
    _calls: int  # of ``evaluate``
    _budget: MemoryBudget | None
    _whole: dict[int, Cut]  # of models whose images all go through them at once
    _tried: set[tuple[int, bool]]  # models that have answered once, and whether the loss was tried

    def logits(self, delta: Tensor) -> tuple[Tensor, ...]:
        """Return the logits of every model under every transformation at x + delta, (B, C) each, without gradients.

        Raises:
            ValueError: if examples share a perturbation: each has logits of its own.
        """
        if self._shared:
            raise ValueError(f"logits are of one input a perturbation, this grid has {', '.join(self._axes)}")
        found = []
        for m, classifier in enumerate(self._classifiers):
            with classifier.held, torch.no_grad():
                for r in range(self._sizes[1]):
                    parts = self._parts(m, range(r, r + 1))
                    found.append(torch.cat([self._forward(classifier, part, delta).logits for part in parts]))
        return tuple(found)

    def blocks_gradient(self, source: int, delta: Tensor) -> bool:
        """Say whether no gradient of any logit of a pair of ``sources`` reaches its input, on any row."""
        m, r = divmod(source, self._sizes[1])
        classifier = self._classifiers[m]
        for part in self._parts(m, range(r, r + 1)):
            with classifier.held, torch.enable_grad():
                seen = self._forward(classifier, part, delta, grad=True)
                pattern = torch.linspace(-1, 2, seen.logits.shape[1]).to(seen.logits)
                slopes = self._slope(classifier, seen, (seen.logits * pattern).sum(1), part)
                if any(bool((slope != 0).any()) for slope in slopes):
                    return False
        return True

    def _draw(self, samples: int) -> None:
        """Set how often what is random is drawn: number the draws of every model under every transformation."""
        of_views = [view.random for view in self._views or ()] or [False]
        self._samples = samples
        self.random = any(of_views) or any(c.random for c in self._classifiers)
        once = tuple(range(r, r + 1) for r in range(len(of_views)))
        self._slots = [
            numbered([samples if c.random or r else 1 for r in of_views]) if self.random else once
            for c in self._classifiers
        ]
        self.images = self._sizes[2] * sum(slots[-1].stop for slots in self._slots)

    def _one(self, m: int, delta: Tensor, grad: bool) -> Found:
        """Return losses and hits (R, E, B) of model ``m``, and gradients, R times (E, B, *S); none if not asked for."""
        size, cut = (*self._sizes[1:], len(delta)), self._whole.get(m)
        if cut is not None:
            return self._piece(m, cut, delta, grad)
        images = len(delta) * self.images
        budgeted = self._budget is not None and self._budget.needed(images, self._x[0])
        if not budgeted and self._classifiers[m].pieces(images, self._x[0]) >= images:  # nothing will ever cut it
            everything = Part(slice(0, len(delta)), range(size[0]), slice(0, size[1]), self._slots[m])
            self._whole[m] = cut = self._cut(m, everything)
            return self._piece(m, cut, delta, grad)
        whole: list[Tensor] = []
        for part in self._parts(m):
            loss, hit, slopes = self._piece(
                m, self._cut(m, part), delta, grad, watch=budgeted and grad and self._calls == 0
            )
            whole = whole or [
                v.new_empty(*size, *v.shape[3:]) for v in (loss, hit, *(s.unsqueeze(0) for s in slopes[:1]))
            ]
            part.put(loss, whole[0])
            part.put(hit, whole[1])
            for r, slope in zip(part.transforms, slopes, strict=False):
                whole[2][r, part.examples, part.rows] = slope
        return whole[0], whole[1], list(whole[2]) if grad else []

    def _parts(self, m: int, transforms: range | None = None) -> Iterator[Part]:
        """Cut all images of model ``m`` into parts that keep to the memory budget and suit the processor."""
        classifier, like = self._classifiers[m], self._x[0]

        def limit(images: int) -> int:
            most = classifier.pieces(images, like)
            return most if self._budget is None else min(most, self._budget.limit(classifier.name, images, like))

        chosen = range(self._sizes[1]) if transforms is None else transforms
        return parts_of(len(self._rows), self._sizes[2], chosen, self._slots[m], limit)

    def _cut(self, m: int, part: Part) -> Cut:
        """Gather the labels and reaches of the images of ``part``, in the order in which the model sees them."""

        def each(values: Tensor) -> Tensor:
            of_part = values[part.rows, m, :, part.examples]
            drawn = zip(part.transforms, part.slots, strict=True)
            return torch.cat([of_part[:, r].T.flatten().repeat(len(slots)) for r, slots in drawn])

        reach = self.reach if self._wants_reach else None
        return Cut(part, each(self._y), None if reach is None else each(reach))

    def _piece(self, m: int, cut: Cut, delta: Tensor, grad: bool, watch: bool = False) -> Found:
        classifier, (part, labels, reach) = self._classifiers[m], cut
        with classifier.held, torch.set_grad_enabled(grad):
            seen = self._forward(classifier, part, delta, grad=grad, watch=watch)
            if (m, grad and self._foreign) not in self._tried:
                self._try(m, seen.logits, grad)
            shape = (len(part.transforms), part.examples.stop - part.examples.start, len(delta[part.rows]))
            drawn = max(map(len, part.slots)) > 1
            no_class = labels >= seen.logits.shape[1] if self._others else None
            labels = labels if no_class is None else labels.where(~no_class, 0)
            if classifier.rules_out and not self._others:
                self._check_ruled_in(classifier, seen.logits, labels, part)
            unit = {} if reach is None else {"reach": reach}
            loss = self._loss(seen.logits, labels, targeted=self._targeted, **unit)
            loss = loss.to(torch.promote_types(delta.dtype, torch.float32))
            loss = mean_of_draws(loss, part, shape) if drawn else loss.view(shape)
            slopes = self._slope(classifier, seen, loss, part) if grad else ()
        logits = seen.logits.detach()
        exact = classifier.precision == "fp32"
        decided = logits if exact else beyond_doubt(logits, labels, self._targeted)
        hits = is_fooled(decided, labels, targeted=self._targeted, checked=exact)
        hits = hits if no_class is None else hits | no_class
        every = mean_of_draws((~hits).to(loss.dtype), part, shape) == 0 if drawn else hits.view(shape)
        return loss.detach(), every, [slope.view(*shape[1:], *delta.shape[1:]) for slope in slopes]

    def _try(self, m: int, logits: Tensor, grad: bool) -> None:
        check_classes(self._classifiers, m, None if self._others else self._y[:, m])
        if grad and self._foreign:  # judging other labels may call a loss in ways that its attack does not
            check_loss(self._loss, logits.shape[1], self._targeted, logits.device)
        self._tried |= {(m, False), (m, grad and self._foreign)}

    def _check_ruled_in(self, classifier: Classifier, logits: Tensor, labels: Tensor, part: Part) -> None:
        try:
            check_ruled_in(logits, labels, f"model {classifier.name!r}")
        except RowError as error:
            raise self._by_global_row(error, part) from error.__cause__

    def _forward(
        self, classifier: Classifier, part: Part, delta: Tensor, *, grad: bool = False, watch: bool = False
    ) -> _Pass:
        """Return the perturbed images, for each transformation (e b, *S), and the logits (n, C) of what models see."""
        images = (self._x[part.examples, part.rows] + delta[part.rows]).detach()
        if self._range is not None:
            images = clamped(images, self._range) if self._beyond is None else images.clamp_(*self._range)  # pyright: ignore
        images = classifier.arrange(images.flatten(0, 1))
        images = widened(images) if images.dtype.itemsize < 4 else images
        # one tensor, but a leaf for each transformation: each has a gradient of its own
        leaves = [images.detach().requires_grad_(grad) for _ in part.transforms]
        # transformations differ in what they keep: all passes of the first evaluation are watched
        count = len(images) * len(leaves)
        watching = self._budget.watching(classifier.name, count, classifier.model) if self._budget and watch else None
        with watching or nullcontext():
            plain = self._views is None and len(part.slots[0]) == 1
            views = leaves[0] if plain else classifier.arrange(self._drawing.seen(leaves, part))
            try:
                random = classifier.random
                logits = (
                    self._drawing.said(classifier, views, part)
                    if random
                    else classifier.logits(views, self._x.dtype, spare=True)
                )
            except RowError as error:
                raise self._by_global_row(error, part) from error.__cause__
        return _Pass(leaves, logits, delta)

    def _slope(self, classifier: Classifier, seen: _Pass, loss: Tensor, part: Part) -> list[Tensor]:
        """Return the gradients of the sum of ``loss`` in the images before they were clamped, r times (e b, *S)."""
        try:
            slopes = classifier.gradients(loss, seen.leaves, whose=", its own or a transformation's")
        except RowError as error:
            raise self._by_global_row(error, part) from error.__cause__
        if self._range is None:
            return slopes
        # the derivative of the clamp by hand: one pass over memory, of which autograd takes several; the images before
        # the clamp are added up once more, now that the pass has left its memory, rather than kept
        moved = (self._x[part.examples, part.rows] + seen.delta[part.rows]).detach()
        if self._beyond is None:
            inside = (clamped(moved, self._range) == moved).flatten(0, 1)
            return [torch.where(inside, slope, 0) for slope in slopes]
        cut = [moved.flatten(0, 1).to(slope, copy=len(slopes) > 1) for slope in slopes]
        for slope, out in zip(slopes, cut, strict=True):
            torch.ops.aten.hardtanh_backward.grad_input(slope, out, *self._beyond, grad_input=out)
        return cut

    @property
    def _drawing(self) -> Drawing:
        key = DrawKey(self._seed, self._restart, self._calls)
        return Drawing(self._views, key, self._rows, self._sizes[2], self._x.dtype)

    def _by_global_row(self, error: RowError, part: Part) -> RowError:
        """Name a row of ``part``, (transformations and draws, examples, rows), by its global number."""
        rows = self._rows[part.rows]
        return of_global_row(error, rows, part.examples, self._sizes[2] if self._shared else None)
