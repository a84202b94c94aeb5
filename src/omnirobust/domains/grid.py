"""Domains: K losses of one perturbation, evaluated together.

``evaluate`` holds the graph of one forward pass at a time: memory is that graph plus K delta-sized gradients.
"""

from __future__ import annotations

from copy import copy
from math import prod

import torch
from torch import Tensor

from omnirobust.core.draws import REACH, DrawKey
from omnirobust.core.threat_models import Bounds, Clip, FeasibleSet, clamped
from omnirobust.core.types import Evaluation
from omnirobust.domains.checks import (
    as_groups,
    as_labels,
    axes_of,
    check_classes,
    check_settings,
    product_names,
    sources_of,
)
from omnirobust.domains.classifier import Classifier, Models, Precision, named_models
from omnirobust.domains.drawing import just_beyond
from omnirobust.domains.functions import FunctionDomains as FunctionDomains
from omnirobust.domains.losses import Loss, reach_of, signed_margin, wants_reach
from omnirobust.domains.memory import SMALL, MemoryBudget
from omnirobust.domains.passes import Passes
from omnirobust.domains.probe import ROWS as PROBED_ROWS
from omnirobust.domains.probe import probed
from omnirobust.domains.transforms import ImageTransform
from omnirobust.domains.transforms.seeded import Transforms as Transforms
from omnirobust.domains.transforms.seeded import as_views

_PROBE = 2**30 + 3
"""Restart number that keys the draws of transformations under which models are probed."""


class DomainGrid(Passes):
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
        bounds: data range, for ``clip="image"``; numbers, or tensors that broadcast to one input.
        seed: keys the draws, with ``restart``, how often ``evaluate`` was called, and each problem's global row.
        restart: another number, other draws.
        first_row: global row of the first problem.
        reach: of a loss that wants it, such as ``losses.relative_margin``: positive, broadcastable to (B, models,
            transforms, examples). ``scaled`` sets it.
        memory: bytes that the graph of one forward pass may hold; images go through a model in pieces that keep to it.
            None: small batches go whole, others keep to 1 GiB, on a GPU to a quarter of its memory. All draws of one
            image go together. A ``MemoryBudget`` shares what is known of a model's images with other grids.

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
    unit: Tensor | None = None  # what losses are divided by beside ``reach``, and
    flat: Tensor | None = None  # rows without any gradient: only losses of one's own have these, see ``LossGrid``

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
        bounds: Bounds = (0.0, 1.0),
        seed: int = 0,
        restart: int = 0,
        first_row: int = 0,
        reach: Tensor | None = None,
        memory: int | MemoryBudget | None = None,
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
            self._x = clamped(self._x, self._range)
            self._beyond = just_beyond(self._range, self._x.dtype)
        self._seed, self._restart, self._calls = seed, restart, 0
        self._whole = {}
        self._foreign = not (getattr(loss, "__module__", None) or "").startswith("omnirobust.")
        self._tried = set()
        self._rows = torch.arange(first_row, first_row + len(x), device=x.device)
        # where nobody set a budget, and all fits at once, nothing is ever cut
        few = memory is None and self._x.numel() * self.images <= SMALL
        self._budget = None if few else memory if isinstance(memory, MemoryBudget) else MemoryBudget(memory)
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

    def probed(self, batch_size: int | None = None, *, labels: bool = True) -> DomainGrid:
        """Return the same domains of models of which is known whether they are random, see ``_probe``.

        Args:
            batch_size: problems that go through a model at once; None for any number.
            labels: whether the labels are looked at: False where one that is no class of a model is never reached.

        Raises:
            ValueError: if a label is no class of its model, or models differ in their number of classes.

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
        for m, classifier in enumerate(new._classifiers if labels else ()):
            if classifier.classes is not None:  # of all problems: later ones may lie in other batches
                check_classes(new._classifiers, m, None if self._others else self._y[:, m])
        return new

    def through(self, seen: ImageTransform) -> DomainGrid:
        """Return the same domains of models that see every image through one draw of ``seen``, anew each evaluation.

        Itself where there are transformations already, where inputs are no images, and for models that only answer.
        """
        if self._views is not None or self._x.ndim != 5 or self.asked is not None:
            return self
        new = copy(self)
        new._views, new._whole = as_views({str(seen): seen}, self._x.flatten(0, 1)[:2]), {}
        new._draw(1)
        return new

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
        plain, ours = self.renewed(REACH), copy(self)
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
        slopes = tuple(g for of_model in grads for of_view in of_model for g in of_view.unbind()) if grad else None
        # from (M, R, E, B) to (B, K)
        F, fooled = (torch.stack(values).flatten(0, 2).T.contiguous() for values in (losses, hits))
        return Evaluation(F, fooled, slopes)
