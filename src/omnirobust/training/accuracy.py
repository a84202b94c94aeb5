"""The accuracy of a model, clean and attacked, without touching its modes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from omnirobust.core import ranges
from omnirobust.core.draws import DrawKey, forked
from omnirobust.core.threat_models import range_notes
from omnirobust.domains.classifier import Classifier, Precision
from omnirobust.domains.outputs import rows_named
from omnirobust.domains.probe import clean_notes, notes_of, probed
from omnirobust.training.ampgd import attack_rows
from omnirobust.training.batches import Batches, Data, LoaderBatches, batches
from omnirobust.training.budget import PassBudget
from omnirobust.training.inner_steps import row_seeds
from omnirobust.training.outputs import logits_of
from omnirobust.training.schemes import Scheme
from omnirobust.training.workers import Alone, Workers

_LOOKED_AT = 1000
"""Inputs on which it is seen whether a trained model says one class of everything, or guesses."""

_JUDGED = "Each accuracy measured in training is that of one pass, with the draws of that pass."


_SHOWN = 12
"""Classes whose numbers a sentence lists."""


@contextmanager
def restored_modes(model: nn.Module) -> Iterator[None]:
    """Put every module of ``model`` back into the mode, training or eval, that it came in."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def told_of(model: nn.Module, x: Tensor) -> tuple[str, ...]:
    """Say in one sentence each what a probe of ``model`` in eval mode on up to 32 of ``x`` found: see ``probed``."""
    device = next(model.parameters()).device
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of outputs that look squashed: whoever attacks the model says so
        try:
            return notes_of(probed({"model": model}, x.to(device)).values(), _JUDGED)
        except ValueError:  # what it cannot take is told where it is judged
            return ()


def classes_apart(train: Batches, held_out: Batches | None) -> tuple[str, ...]:
    """Name the classes that only one of two parts of the data has examples of, by index, one sentence a part.

    Nothing is said of loaders, whose labels are not known beforehand.
    """
    if held_out is None or isinstance(train, LoaderBatches) or isinstance(held_out, LoaderBatches):
        return ()
    ours, theirs = (set(part.y.unique().tolist()) for part in (train, held_out))
    parts = (("data", "validation", theirs - ours), ("validation", "data", ours - theirs))
    return tuple(
        f"{name} has no example of {_classes(lacking)}, which {other} has: accuracies on validation say little"
        for name, other, lacking in parts
        if lacking
    )


def _classes(numbers: set[int]) -> str:
    shown, more = ", ".join(map(str, sorted(numbers)[:_SHOWN])), len(numbers) - _SHOWN
    return f"class{'es' if len(numbers) > 1 else ''} {shown}{f' and {more} others' if more > 0 else ''}"


def before_of(model: nn.Module, data: Batches) -> list[str]:
    """Say whether ``model`` in eval mode says one class of the first 1000 inputs, or no more than a guess would.

    Nothing is said of a loader, which would have to be read once more. Cost: that many forwards.
    """
    if isinstance(data, LoaderBatches):
        return []
    device, x, y = next(model.parameters()).device, data.x[:_LOOKED_AT], data.y[:_LOOKED_AT]
    with restored_modes(model), torch.no_grad(), forked(x):
        model.eval()
        logits = torch.cat([logits_of(model, part.to(device, copy=True)) for part in x.split(100)])  # a model may write
    return clean_notes(logits.argmax(1), y.to(device), logits.shape[1])


def ranges_of(scheme: Scheme, data: Batches) -> list[str]:
    """Say what stands out of the threats of ``scheme`` and the range of inputs, as attacks do; less of a loader."""
    bounds = [tuple(map(ranges.described, threat.bounds)) for threat in scheme.threats]
    other = next((k for k, ends in enumerate(bounds) if ends != bounds[0]), None)
    notes = list[str]()
    if other is not None:
        each = f"{scheme.names[0]} {bounds[0]}, {scheme.names[other]} {bounds[other]}"
        notes.append(f"The threats have other bounds than each other: {each}. Each attack keeps to its own.")
    if isinstance(data, LoaderBatches):
        return notes
    threats = zip(scheme.names, scheme.threats, strict=True)
    return notes + [f"{name}: {note}" for name, threat in threats for note in range_notes(threat, data.x)]


def radii_of(scheme: Scheme, held_out: Batches | None) -> list[str]:
    """Say what radius validation data is judged at where each training example has its own."""
    if scheme.examples is None or held_out is None:
        return []
    names = zip(scheme.names, scheme.common().names, strict=True)
    shown = ", ".join(f"{mean} for {name}" for name, mean in names if name != mean)
    return [f"Validation was attacked at the mean of the radii of the training examples: {shown}."]


def accuracy(model: nn.Module, data: Data, *, batch_size: int = 512) -> float:
    """Return the share of examples that ``model`` classifies right, in eval mode, which is restored afterwards.

    Warnings say what a reader must know: that the model is random or couples rows, whose accuracy is then one of many,
    or how its output was read.

    Args:
        model: maps (B, *S) to logits (B, C).
        data: as for ``fit``; a name stands for its test split.
        batch_size: examples a forward pass.
    """

    def warn(x: Tensor) -> None:
        for note in told_of(model, x):
            warnings.warn(note, stacklevel=4)

    return accuracy_of(model, batches("data", data, "test", batch_size, None), see=warn)


def accuracy_of(
    model: nn.Module, data: Batches, name: str = "data", see: Callable[[Tensor], None] | None = None
) -> float:
    """Return the accuracy on batches, as ``accuracy`` does.

    Args:
        model: as there.
        data: the batches.
        name: what a message calls them.
        see: is shown the inputs of the first batch, after the model has answered on it.
    """
    device = next(model.parameters()).device
    right = seen = 0
    with restored_modes(model), torch.no_grad():
        model.eval()
        for x, y in data.epoch(0):
            right += int((logits_of(model, x.to(device)).argmax(1) == y.to(device)).sum())
            if not seen and see is not None:
                see(x)
            seen += len(y)
    if not seen:
        raise ValueError(f"{name} must hold at least one batch, got none")
    return right / seen


def robust_accuracy_of(
    model: nn.Module, data: Batches, scheme: Scheme, seed: int, precision: Precision, workers: Workers | None = None
) -> float:
    """Return the share that stays right under every threat model of ``scheme``: see ``robust_rates_of``."""
    return robust_rates_of(model, data, scheme, seed, precision, workers)[0]


def robust_rates_of(
    model: nn.Module, data: Batches, scheme: Scheme, seed: int, precision: Precision, workers: Workers | None = None,
    budget: PassBudget | None = None,
) -> tuple[float, float]:  # fmt: skip
    """Return union accuracy and the mean accuracy over the threat models of ``scheme``, in eval mode.

    Each attack takes ``scheme.steps`` normalised steps for itself, whatever the scheme trains with: a scheme of weak
    attacks is not judged by them. The starts are the same at every call. Radii of single training examples say nothing
    of others: their mean is taken. Passes with gradients keep to ``budget``.

    Cost: K ``scheme.steps`` forward and backward passes of the whole of ``data``.
    """
    workers = workers or Alone()
    device = next(model.parameters()).device
    plain = Scheme("average", scheme.common().threats, scheme.steps)
    classifier = Classifier("model", model, precision)
    counts = torch.zeros(3, dtype=torch.float64)
    with restored_modes(model):
        model.eval()
        for whole in data.numbered(0):
            batch = whole.share(workers.rank, workers.count).to(device)
            if not batch.factor:
                continue
            seeds = row_seeds(DrawKey(seed, restart=-1), batch.rows.to(device), len(plain.threats))
            with rows_named(lambda row, rows=batch.rows: int(rows[row])):
                deltas, _ = attack_rows(classifier, batch.x, batch.y, plain, seeds, budget=budget)
            with torch.no_grad():
                right = torch.stack([logits_of(model, batch.x + delta).argmax(1) == batch.y for delta in deltas])
            counts += torch.tensor([float(right.all(0).sum()), float(right.sum()) / len(deltas), len(batch.y)])
    union, average, seen = workers.total(counts.to(device)).tolist()
    return union / seen, average / seen
