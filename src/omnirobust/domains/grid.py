"""Domains: K losses of one perturbation, evaluated together.

``evaluate`` holds the graph of one forward pass at a time: memory is that graph plus K delta-sized gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from copy import copy
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from omnirobust.core.draws import DrawKey
from omnirobust.core.threat_models import Clip, FeasibleSet
from omnirobust.core.types import Evaluation
from omnirobust.domains.checks import (
    as_groups,
    as_labels,
    axes_of,
    check_classes,
    check_loss,
    check_settings,
    of_global_row,
    product_names,
    sources_of,
)
from omnirobust.domains.classifier import Classifier, Models, Precision, named_models, widened
from omnirobust.domains.drawing import Drawing, just_beyond, mean_of_draws
from omnirobust.domains.functions import FunctionDomains as FunctionDomains
from omnirobust.domains.losses import Loss, reach_of, signed_margin, wants_reach
from omnirobust.domains.losses import fooled as is_fooled
from omnirobust.domains.memory import SMALL, Meter, Part, numbered, parts_of
from omnirobust.domains.outputs import RowError, beyond_doubt, check_ruled_in
from omnirobust.domains.probe import ROWS as PROBED_ROWS
from omnirobust.domains.probe import probed
from omnirobust.domains.transforms.seeded import Transforms as Transforms
from omnirobust.domains.transforms.seeded import as_views

_REACH = 2**30 + 2
"""Restart number that keys the draws on which the reach is taken."""

_PROBE = 2**30 + 3
"""Restart number that keys the draws of transformations under which models are probed."""


class _Cut(NamedTuple):
    """A part of the images that goes through a model at once, and what belongs to each of them, (n,)."""

    part: Part
    labels: Tensor
    reach: Tensor | None


class _Pass(NamedTuple):
    """What a forward pass leaves: the images that gradients are taken at, logits, and the images before any clamp."""

    leaf: Tensor
    logits: Tensor
    moved: Tensor | None


class DomainGrid:
    """The losses of one perturbation under every model, every transformation, on every example of its group.

    F_k(delta) = f(delta; x_e, y_e, t_r, M_m) = loss(M_m(t_r(x_e + delta)), y_e), k = (m, r, e) row-major. Models alone
    are problem (5), the examples of a group problem (6), transformations problem (7); any product of them is one grid.

    Args:
        models: a mapping from name to model, a sequence of models, or one; each maps images to logits (n, C).
        x: clean inputs, float: (B, *S), or (B, E, *S) where E of them share a perturbation.
        y: labels, int64: (B,), or (B, M), each model its own (its own predictions, say); (B, E) where shared; or
            anything that broadcasts to (B, models, transforms, examples).
        loss: per-example loss, low = fooled (see ``omnirobust.losses``).
        transforms: a mapping from name to t(x), or t(x, generator) for a random one; None for none at all.
        shared: whether one perturbation serves the E inputs of a group.
        targeted: whether ``y`` are classes to reach rather than to leave.
        clip: what happens to shared perturbations at the ends of the data range. "image": every image x_e + delta is
            clamped to ``bounds``; "intersection": delta is meant to keep all of them inside, and nothing is done.
        samples: draws of each random transformation, and of each model known to be random (see ``_probe``), which runs
            under a seed of its own for each; F_k is their mean, and k is fooled if all of them are.
        precision: "fp32", or "bf16" for autocast in the models.
        bounds: data range, for ``clip="image"``.
        seed: keys the draws, with ``restart``, how often ``evaluate`` was called, and each problem's global row.
        restart: another number, other draws.
        first_row: global row of the first problem.
        reach: of a loss that wants it, such as ``losses.relative_margin``: positive, broadcastable to (B, models,
            transforms, examples). ``scaled`` sets it.
        memory: bytes that the graph of one forward pass may hold; images go through a model in pieces that keep to it.
            None: small batches go whole, others keep to 1 GiB, on a GPU to a quarter of its memory. All draws of one
            image go together. A ``Meter`` shares what is known of a model's images with other grids.

    Raises:
        ValueError: if a model, a transformation, ``x`` or ``y`` does not fit the above.

    Cost of ``evaluate``: one pass of E images (times ``samples``) through each model for every transformation, and as
    many input gradients if asked for.

    Attributes:
        images: how many images go through models, for each problem, in one evaluation.
        random: whether two evaluations at the same perturbation may differ.

    Reference: the paper, Section 2.2, problems (5), (6) and (7).
    """

    asked: Tensor | None = None  # how many inputs models that only answer were asked, where there are any

    def __init__(
        self,
        models: Models,
        x: Tensor,
        y: Tensor,
        *,
        loss: Loss,
        transforms: Transforms | None = None,
        shared: bool = False,
        targeted: bool = False,
        clip: Clip = "image",
        samples: int = 1,
        precision: Precision = "fp32",
        bounds: tuple[float, float] = (0.0, 1.0),
        seed: int = 0,
        restart: int = 0,
        first_row: int = 0,
        reach: Tensor | None = None,
        memory: int | Meter | None = None,
    ) -> None:
        check_settings(
            loss=loss, clip=clip, samples=samples, memory=memory, shared=shared, targeted=targeted, seed=seed
        )
        self.models = named_models(models)
        self._classifiers = [Classifier(n, m, precision) for n, m in self.models.items()]
        self._x = as_groups(x, shared)
        self._views = None if transforms is None else as_views(transforms, self._x.flatten(0, 1)[:2])
        names = tuple(c.name for c in self._classifiers)
        self._axes = axes_of(
            names, None if self._views is None else tuple(v.name for v in self._views), len(self._x) if shared else None
        )
        self._sizes, self._shared = (len(names), len(self._views or (None,)), len(self._x)), shared
        self._y, self._others = as_labels(x, y, self._sizes, shared), False
        self._draw(samples)
        self._loss, self._targeted, self._wants_reach = loss, targeted, wants_reach(loss)
        self.reach = None if reach is None else reach.expand(len(x), *self._sizes)
        self._range = bounds if shared and clip == "image" else None
        if self._range is not None:  # what sticks out by a rounding would look cut, and let no gradient through
            self._x = self._x.clamp(*self._range)
            self._beyond = just_beyond(self._range, self._x.dtype)
        self._seed, self._restart, self._calls = seed, restart, 0
        self._whole: dict[int, _Cut] = {}  # of models whose images all go through them at once
        self._foreign = not (getattr(loss, "__module__", None) or "").startswith("omnirobust.")
        self._tried: set[tuple[int, bool]] = set()  # models that have answered once, and whether the loss was tried
        self._rows = torch.arange(first_row, first_row + len(x), device=x.device)
        # where nobody set a budget, and all fits at once, nothing is ever cut
        few = memory is None and self._x.numel() * self.images <= SMALL
        self._meter = None if few else memory if isinstance(memory, Meter) else Meter(memory)
        for classifier in self._classifiers:
            classifier.check_device(x)

    @property
    def names(self) -> tuple[str, ...]:
        """The domains' names, K of them: the members of the factors in use, joined by a slash."""
        return product_names(self._axes)

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """The factors in use, of models, transforms and examples: their names and members, row-major in that order."""
        return dict(self._axes)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many models, transformations and examples there are; 1 for a factor that is not in use."""
        return self._sizes

    @property
    def labels(self) -> Tensor:
        """The labels, (B, models, transforms, examples) int64."""
        return self._y

    @property
    def reach_images(self) -> int:
        """How many images go through models, for each problem, to find the reach: none if the loss wants none."""
        return prod(self._sizes) if self._wants_reach else 0

    @property
    def sources(self) -> list[tuple[str, slice]]:
        """The pairs of model and transformation, as messages name them, and the domains that each stands for."""
        models, views = [c.name for c in self._classifiers], [v.name for v in self._views or ()]
        return sources_of(models, views, self._sizes[2])

    def renewed(
        self, restart: int, *, exact: bool = False, x: Tensor | None = None, labels: Tensor | None = None
    ) -> DomainGrid:
        """Return the same domains for another run: with draws of its own, and models that are seen for the first time.

        Args:
            restart: another number, other draws.
            exact: in full precision, one draw an evaluation.
            x: other inputs in the place of these, shaped as those were given, within the data range.
            labels: others, to be left, (B, models, transforms, examples); what is no class is left.
        """
        new = copy(self)
        new._restart, new._calls = restart, 0
        if exact:
            if self.random:
                new._draw(1)
                new._whole = {}
            if any(c.precision != "fp32" for c in self._classifiers):
                new._classifiers = [c.renewed("fp32") for c in self._classifiers]
        if x is not None:
            new._x = x.detach().transpose(0, 1).contiguous() if self._shared else x.detach().unsqueeze(0)
        if labels is not None:
            new._y, new._targeted, new._others = labels, False, True
            new._whole, new._tried = {}, set()
        return new

    def probed(self, batch_size: int | None = None) -> DomainGrid:
        """Return the same domains of models of which is known whether they are random, see ``_probe``.

        Args:
            batch_size: problems that go through a model at once; None for any number.

        Cost: four passes over at most 32 images, under the first transformation.
        """
        images, views = self._x.transpose(0, 1).flatten(0, 1)[:PROBED_ROWS], self._views
        if views is not None:
            images = views[0](images, DrawKey(self._seed, _PROBE), torch.arange(len(images), device=images.device))
        size = None if batch_size is None else batch_size * self._sizes[2]
        new, known = copy(self), probed(self.models, images, size)
        new.models = dict(known)
        new._classifiers = [Classifier(c.name, known[c.name], c.precision) for c in self._classifiers]
        if any(c.random for c in new._classifiers):
            new._draw(self._samples)
        new._whole = {}
        return new

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

    @property
    def _drawing(self) -> Drawing:
        key = DrawKey(self._seed, self._restart, self._calls)
        return Drawing(self._views, key, self._rows, self._sizes[2], self._x.dtype)

    def select(self, rows: Tensor | slice) -> DomainGrid:
        """Keep the problems that ``rows`` (a slice or int64 indices) lists, in that order."""
        chosen = copy(self)
        chosen._x, chosen._y, chosen._rows = self._x[:, rows], self._y[rows], self._rows[rows]
        chosen.reach, chosen._whole = None if self.reach is None else self.reach[rows], {}
        return chosen

    def scaled(self, feasible: FeasibleSet) -> DomainGrid:
        """Return the grid with ``reach`` set as ``reach_of`` says; itself, if its loss wants none or it is set.

        Each model and example has one reach, under several transformations their mean.

        Cost: one evaluation with gradients, of one draw of each random transformation or model.
        """
        if not self._wants_reach or self.reach is not None:
            return self
        plain, ours = self.renewed(_REACH), copy(self)
        plain._loss, plain._wants_reach, plain._foreign = signed_margin, False, False
        plain._whole = {}
        if plain.random:
            plain._draw(1)
        reach = reach_of(feasible, plain.evaluate(torch.zeros_like(self._x[0]))).view(len(self._rows), *self._sizes)
        ours.reach, ours._whole = reach.mean(2, keepdim=True).expand_as(reach), {}
        return ours

    def evaluate(self, delta: Tensor, grad: bool = True) -> Evaluation:
        """Evaluate every domain at ``delta``; random transformations are drawn anew.

        Args:
            delta: (B, *S).
            grad: whether to take the input gradients too.

        Returns:
            Losses and fooled, (B, K); K gradients, each (B, *S), or None.
        """
        seen = [self._one(m, delta, grad) for m in range(len(self._classifiers))]
        self._calls += 1
        losses, hits, grads = zip(*seen, strict=True)
        slopes = tuple(g for of_model in grads for g in of_model.flatten(0, 1)) if grad else None
        # from (M, R, E, B) to (B, K)
        F, fooled = (torch.stack(values).flatten(0, 2).T.contiguous() for values in (losses, hits))
        return Evaluation(F, fooled, slopes)

    def logits(self, delta: Tensor) -> tuple[Tensor, ...]:
        """Return every model's logits at x + delta, (B, C) each, without gradients; for grids of models alone."""
        if list(self._axes) != ["models"]:
            raise ValueError(f"logits are of grids of models alone, this one has {', '.join(self._axes)}")
        with torch.no_grad():
            found = []
            for m, classifier in enumerate(self._classifiers):
                with classifier.held:
                    found.append(torch.cat([self._forward(classifier, p, delta).logits for p in self._parts(m)]))
            return tuple(found)

    def _by_global_row(self, error: RowError, part: Part) -> RowError:
        """Name a row of ``part``, (transformations and draws, examples, rows), by its global number."""
        rows = self._rows[part.rows]
        return of_global_row(error, rows, part.examples, self._sizes[2] if self._shared else None)

    def blocks_gradient(self, source: int, delta: Tensor) -> bool:
        """Say whether no gradient of any logit of a pair of ``sources`` reaches its input, on any row."""
        m, r = divmod(source, self._sizes[1])
        classifier = self._classifiers[m]
        for part in self._parts(m, range(r, r + 1)):
            with classifier.held, torch.enable_grad():
                seen = self._forward(classifier, part, delta, grad=True)
                pattern = torch.linspace(-1, 2, seen.logits.shape[1]).to(seen.logits)
                if bool((self._slope(classifier, seen, (seen.logits * pattern).sum(1), part) != 0).any()):
                    return False
        return True

    def _one(self, m: int, delta: Tensor, grad: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return losses and hits (R, E, B) of model ``m``, and gradients (R, E, B, *S), empty if not asked for."""
        size, cut = (*self._sizes[1:], len(delta)), self._whole.get(m)
        if cut is not None:
            return self._piece(m, cut, delta, grad)
        images = len(delta) * self.images
        budgeted = self._meter is not None and self._meter.needed(images, self._x[0])
        if not budgeted and self._classifiers[m].pieces(images, self._x[0]) >= images:  # nothing will ever cut it
            everything = Part(slice(0, len(delta)), range(size[0]), slice(0, size[1]), self._slots[m])
            self._whole[m] = cut = self._cut(m, everything)
            return self._piece(m, cut, delta, grad)
        whole: list[Tensor] = []
        for part in self._parts(m):
            found = self._piece(m, self._cut(m, part), delta, grad, watch=budgeted and grad and self._calls == 0)
            whole = whole or [v.new_empty(*size, *v.shape[3:]) for v in found]
            for value, target in zip(found, whole, strict=True):
                part.put(value, target)
        losses, hits, slopes = whole
        return losses, hits, slopes

    def _parts(self, m: int, transforms: range | None = None) -> Iterator[Part]:
        """Cut all images of model ``m`` into parts that keep to the memory budget and suit the processor."""
        classifier, like = self._classifiers[m], self._x[0]

        def limit(images: int) -> int:
            most = classifier.pieces(images, like)
            return most if self._meter is None else min(most, self._meter.limit(classifier.name, images, like))

        chosen = range(self._sizes[1]) if transforms is None else transforms
        return parts_of(len(self._rows), self._sizes[2], chosen, self._slots[m], limit)

    def _cut(self, m: int, part: Part) -> _Cut:
        """Gather the labels and reaches of the images of ``part``, in the order in which the model sees them."""

        def each(values: Tensor) -> Tensor:
            of_part = values[part.rows, m, :, part.examples]
            drawn = zip(part.transforms, part.slots, strict=True)
            return torch.cat([of_part[:, r].T.flatten().repeat(len(slots)) for r, slots in drawn])

        reach = self.reach if self._wants_reach else None
        return _Cut(part, each(self._y), None if reach is None else each(reach))

    def _piece(
        self, m: int, cut: _Cut, delta: Tensor, grad: bool, watch: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
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
            slope = loss.new_empty(*shape, 0)
            if grad:
                slope = self._slope(classifier, seen, loss, part).view(*shape, *delta.shape[1:])
        logits = seen.logits.detach()
        decided = logits if classifier.precision == "fp32" else beyond_doubt(logits, labels, self._targeted)
        hits = is_fooled(decided, labels, targeted=self._targeted)
        hits = hits if no_class is None else hits | no_class
        every = mean_of_draws((~hits).to(loss.dtype), part, shape) == 0 if drawn else hits.view(shape)
        return loss.detach(), every, slope

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
        """Return the perturbed images (r e b, *S) and the logits (n, C) of what models see of them."""
        shifted = self._x[part.examples, part.rows] + delta[part.rows]
        if len(part.transforms) > 1:
            shifted = shifted.expand(len(part.transforms), *shifted.shape).flatten(0, 1)
        leaf, moved = classifier.arrange(shifted.flatten(0, 1).detach()), None
        if self._range is not None:
            moved, leaf = leaf, leaf.clamp(*self._range)
        leaf = (widened(leaf) if leaf.dtype.itemsize < 4 else leaf).requires_grad_(grad)
        # transformations differ in what they keep: all passes of the first evaluation are watched
        watching = self._meter.watching(classifier.name, len(leaf), classifier.model) if self._meter and watch else None
        with watching or nullcontext():
            plain = self._views is None and len(part.slots[0]) == 1
            views = leaf if plain else classifier.arrange(self._drawing.seen(leaf, part))
            try:
                random = classifier.random
                logits = (
                    self._drawing.said(classifier, views, part) if random else classifier.logits(views, self._x.dtype)
                )
            except RowError as error:
                raise self._by_global_row(error, part) from error.__cause__
        return _Pass(leaf, logits, moved if grad else None)

    def _slope(self, classifier: Classifier, seen: _Pass, loss: Tensor, part: Part) -> Tensor:
        """Return the gradient of the sum of ``loss`` in the images before they were clamped, (r e b, *S)."""
        try:
            slope = classifier.gradient(loss, seen.leaf, whose=", its own or a transformation's")
        except RowError as error:
            raise self._by_global_row(error, part) from error.__cause__
        if seen.moved is None:
            return slope
        # the derivative of the clamp by hand: one pass over memory, of which autograd takes several
        return torch.ops.aten.hardtanh_backward(slope, seen.moved.to(slope), *self._beyond)
