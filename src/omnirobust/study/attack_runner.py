"""What a cell is measured with: its models, its images and labels, its attack, and who is fooled by the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from omnirobust.attacks.recipes import attack_product
from omnirobust.attacks.results import AttackResult
from omnirobust.core.arguments import NORMS
from omnirobust.core.draws import DrawKey, normal_start
from omnirobust.core.threat_models import ThreatModel
from omnirobust.domains import losses
from omnirobust.domains.grid import DomainGrid
from omnirobust.domains.groups import make_groups
from omnirobust.domains.transforms.seeded import as_views
from omnirobust.evaluation.carlini_wagner import minimal_l2
from omnirobust.evaluation.distortion import minimal_eps
from omnirobust.study.attack_cells import Cell, Distortion, Task, Transformed, Universal
from omnirobust.study.protocol import Span, WorkHook
from omnirobust.study.store import Measured, fingerprint
from omnirobust.zoo import MissingWeightsError
from omnirobust.zoo.chunks import Chunk
from omnirobust.zoo.data import ImageData
from omnirobust.zoo.own_code import digests
from omnirobust.zoo.trained import named_code

SPLIT = 10_000
"""Images in the test split of each data set: groups are made of all of them."""

CPU = torch.device("cpu")

_LABELS, _VERDICT = 2**29, 2**29 + 1
"""Restart numbers that key the draws on which images get their labels, and those on which success is counted."""


@dataclass(frozen=True)
class Trial:
    """Consecutive problems of a cell, from ``begin`` to ``end``.

    Attributes:
        begin: number of the first.
        end: one more than that of the last.
        x: images, (n, *S), or (n, E, *S) in groups.
        y: true labels, (n,) or (n, E).
    """

    begin: int
    end: int
    x: Tensor
    y: Tensor

    @property
    def numbers(self) -> Tensor:
        """The numbers of the problems, (n,) int64."""
        return torch.arange(self.begin, self.end)


class AttackRunner:
    """Models and images, each loaded once.

    Args:
        load_model: name to model, in eval mode.
        load_images: name of the data and N to its first N test images, or more of them.
        device: where models run. Images, and all that is returned, are on the processor.
    """

    def __init__(
        self,
        load_model: Callable[[str], nn.Module],
        load_images: Callable[[str, int], ImageData],
        device: torch.device = CPU,
    ) -> None:
        self._device = device
        self._load_model, self._load_images = load_model, load_images
        self._models: dict[str, nn.Module] = {}
        self._fingerprints: dict[str, str] = {}
        self._predictions: dict[tuple[str, Task | None, int, int, int], Tensor] = {}

    def model(self, name: str) -> nn.Module:
        """Return a model."""
        if name not in self._models:
            self._models[name] = self._load_model(name).to(self._device)
        return self._models[name]

    def trained(self, name: str) -> bool:
        """Say whether a model has been trained.

        Raises:
            ValueError: if there can be no such model.
        """
        try:
            self.model(name)
        except MissingWeightsError:
            return False
        return True

    def fingerprint(self, name: str) -> str:
        """Return a hash of a model's weights."""
        if name not in self._fingerprints:
            own = digests([named_code(name)]).values()  # the same weights are another model under other code
            self._fingerprints[name] = "".join([fingerprint(self.model(name)), *own])
        return self._fingerprints[name]

    def measure(self, cell: Cell, span: Span, known: Chunk | None, on_work: WorkHook) -> Chunk:
        """Measure the problems of one chunk of a cell.

        Args:
            cell: with its rule resolved.
            span: which problems.
            known: the same attack with predicted labels, of which the problems whose labels agree are taken.
            on_work: is told how many (image, step) pairs were just done.
        """
        trial = self.trial(cell, span.begin, span.end)
        if isinstance(cell.task, Distortion):
            found, labels = self.distortion(cell, trial), self.labels(cell, trial, judged=False)
            return Chunk(Measured.alone(found.isfinite(), labels, found).tensors, {})
        if known is None:
            return Chunk(self._attacked(cell, trial, torch.ones(len(trial.y), dtype=torch.bool), on_work).tensors, {})
        twin = Measured.of(known.tensors)
        changed = (self.labels(cell, trial, judged=True) != twin.labels).any(1)
        on_work(int((~changed).sum()) * cell.group * max(cell.steps, 1))
        if changed.any():
            twin = twin.merged(changed, self._attacked(cell, trial, changed, on_work))
        return Chunk(twin.tensors, {})

    def _attacked(self, cell: Cell, trial: Trial, rows: Tensor, on_work: WorkHook) -> Measured:
        result = self.attack(cell, trial, rows, _counter(int(rows.sum()) * cell.group, on_work))
        labels = self.labels(cell, trial, judged=True)[rows]
        return _measured(result, self.fooled(cell, trial, rows, result), labels)

    def trial(self, cell: Cell, begin: int, end: int) -> Trial:
        """Return the problems of a cell from ``begin`` to ``end``.

        Raises:
            ValueError: if the data has not as many.
        """
        self.check(cell, end * cell.group)
        have, index = self._indexed(cell, end)
        return Trial(begin, end, have.x[index[begin:end]], have.y[index[begin:end]])

    def check(self, cell: Cell, images: int) -> None:
        """Refuse more images than the data has, before the first of them is attacked.

        Raises:
            ValueError: if there are fewer.
        """
        _, index = self._indexed(cell, cell.problems(images))
        if len(index) < cell.problems(images):
            most = len(index) * cell.group
            raise ValueError(f"images must be at most {most}, the test images of {cell.data}, got {images}")

    def grouped(self, cell: Cell, images: int) -> int | None:
        """Return how many of ``images`` the groups of a cell hold; None if there are fewer images, or no groups."""
        have, index = self._indexed(cell, 0)
        return min(images, index.numel()) if len(index) and images <= len(have) else None

    def first(self, cell: Cell, count: int) -> Tensor:
        """Return the images of the first ``count`` problems of a cell, or of all if there are fewer."""
        have, index = self._indexed(cell, count)
        return have.x[index[:count]]

    def _indexed(self, cell: Cell, end: int) -> tuple[ImageData, Tensor]:
        """Return test images, and which of them each problem takes: ``end`` problems or more, if the data has them."""
        task = cell.task.groups if isinstance(cell.task, Distortion) else cell.task
        have = self._load_images(cell.data, SPLIT if isinstance(task, Universal) else end)
        return have, groups_of(task, have.y, cell.seed) if isinstance(task, Universal) else torch.arange(len(have))

    def labels(self, cell: Cell, trial: Trial, *, judged: bool) -> Tensor:
        """Return the labels that every column is to leave, or where ``judged`` is judged by, (n, columns)."""
        names = cell.judged if judged else cell.models
        if cell.labels == "true" or (cell.labels == "released" and judged):
            columns = len(names) if cell.task is None else len(cell.columns)
            return trial.y if trial.y.ndim == 2 else trial.y.unsqueeze(1).expand(-1, columns)
        return torch.cat([self._predicted(cell, name, trial) for name in names], 1)

    def attack(
        self,
        cell: Cell,
        trial: Trial,
        rows: Tensor,
        progress: Callable[[int, int], None],
    ) -> AttackResult:
        """Attack those problems of a trial that ``rows`` (n,) bool marks."""
        attack, task, x = cell.attack, cell.task, trial.x[rows]
        y = self.labels(cell, trial, judged=False)[rows]
        drawn = task if isinstance(task, Transformed) else None
        return attack_product(
            {name: self.model(name) for name in cell.models},
            x.to(self._device),
            (y if drawn is None else y[:, None, :, None]).to(self._device),
            ThreatModel(NORMS[cell.norm], cell.eps),
            transforms=None if drawn is None else dict(drawn.transforms),
            shared=isinstance(task, Universal),
            clip=task.clip if isinstance(task, Universal) else None,
            samples=1 if drawn is None else drawn.samples,
            draws=1 if drawn is None else drawn.draws,
            rule=attack.rule,
            steps=cell.steps,
            step_size=attack.step_size,
            direction=attack.direction,
            loss=attack.loss,
            keep=attack.keep,
            seed=cell.seed,
            precision=cell.precision,
            init=_start(cell, trial)[rows].to(self._device),
            history="full",
            first_row=trial.begin,
            progress=progress,
        ).to("cpu")

    def fooled(self, cell: Cell, trial: Trial, rows: Tensor, result: AttackResult) -> Tensor:
        """Return whether each column is fooled, judged by its label, (n, columns) bool: on every draw, where drawn."""
        if cell.labels != "released" and cell.judged == cell.models:
            return result.fooled  # the attack itself has judged these models by these labels
        labels = self.labels(cell, trial, judged=True)[rows]
        draws = cell.task.draws if isinstance(cell.task, Transformed) else 1
        hit = torch.ones_like(labels, dtype=torch.bool)
        for draw in range(draws):
            x, numbers = result.adversarial.to(self._device), trial.numbers[rows].to(self._device)
            seen = _seen(cell.task, x, numbers, DrawKey(cell.seed, _VERDICT, draw))
            logits = self._logits(cell.judged, seen)
            hit &= torch.stack([losses.fooled(z, labels[:, k]) for k, z in enumerate(logits)], 1)
        return hit

    def distortion(self, cell: Cell, trial: Trial) -> Tensor:
        """Return the least distortion of every image of a trial by itself, in the cell's norm, (n, E)."""
        (model,) = (self.model(name) for name in cell.models)
        x = trial.x.flatten(0, 1).to(self._device)
        y = self.labels(cell, trial, judged=False).flatten().to(self._device)
        if cell.norm == "l2":
            found = minimal_l2(model, x, y, steps=cell.steps)
        else:
            found = minimal_eps(model, x, y, cell.norm, steps=cell.steps)
        return found.distortion.cpu().view(trial.y.shape)

    def _predicted(self, cell: Cell, name: str, trial: Trial) -> Tensor:
        """Return the class that a model gives to the clean image of each of its columns, (n, columns)."""
        asked = (name, cell.task, cell.seed, trial.begin, trial.end)
        if asked not in self._predictions:
            x, numbers = trial.x.to(self._device), trial.numbers.to(self._device)
            seen = _seen(cell.task, x, numbers, DrawKey(cell.seed, _LABELS))
            self._predictions[asked] = torch.stack([z.argmax(1) for z in self._logits((name,), seen)], 1)
        return self._predictions[asked]

    def _logits(self, names: tuple[str, ...], seen: Sequence[Tensor]) -> list[Tensor]:
        """Return the logits of every column, on the processor: several models see one tensor, or one model several."""
        found: list[Tensor] = []
        for x in seen:
            models = {name: self.model(name) for name in names}
            # a grid for how it calls models: frozen and in evaluation mode; labels do not matter to logits
            labels = torch.zeros(len(x), dtype=torch.int64, device=x.device)
            grid = DomainGrid(models, x, labels, loss=losses.margin)
            found += [logits.cpu() for logits in grid.logits(torch.zeros_like(x))]
        return found


def groups_of(task: Universal, y: Tensor, seed: int) -> Tensor:
    """Return the groups of a split with labels ``y``, as indices (G, E)."""
    groups = make_groups(y, task.size, task.by, seed)
    return groups[torch.isin(y[groups[:, 0]], torch.tensor(task.classes))] if task.classes else groups


def _seen(task: Task | None, x: Tensor, numbers: Tensor, key: DrawKey) -> Sequence[Tensor]:
    """Return what the models see of images ``x``: the images of each place in a group, or each transformation."""
    if isinstance(task, Transformed):
        views = as_views(dict(task.transforms), x[:2])
        return [view(x, key._replace(slot=slot), numbers) for slot, view in enumerate(views)]
    return [x] if task is None else x.unbind(1)


def _start(cell: Cell, trial: Trial) -> Tensor:
    like = trial.x[:, 0] if isinstance(cell.task, Universal) else trial.x
    return normal_start(like, cell.seed, 0, trial.begin) if cell.attack.start == "normal" else torch.zeros_like(like)


def _counter(rows: int, on_steps: WorkHook) -> Callable[[int, int], None]:
    seen = 0

    def hook(done: int, total: int) -> None:
        nonlocal seen
        # The attack counts evaluations, one more than its steps.
        if done > 1 or total == 1:
            on_steps((done - max(seen, 1 if total > 1 else 0)) * rows)
        seen = done

    return hook


def _measured(result: AttackResult, fooled: Tensor, labels: Tensor) -> Measured:
    rows = result.history.rows
    assert rows is not None
    assert rows.fooled is not None
    return Measured(
        fooled=fooled,
        any_iterate=rows.fooled.all(2).any(0),
        weights=result.weights.float(),
        fooled_path=rows.fooled.transpose(0, 1).contiguous(),
        weights_path=rows.weights.transpose(0, 1).half().contiguous(),  # most of the file, and only drawn
        labels=labels.contiguous(),
        distortion=result.weights.new_empty(len(labels), 0),
    )
