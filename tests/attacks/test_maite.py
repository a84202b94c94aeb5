"""Models, data sets and augmentations of MAITE, with the package itself."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from maite import tasks
from maite.protocols import image_classification as ic
from torch import Tensor, nn

import omnirobust as orb
from omnirobust.adapters import MaiteAttack, from_maite, maite_data

X = torch.randint(0, 256, (10, 3, 4, 4), generator=torch.Generator().manual_seed(0)) / 255


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 4)).eval()


class Arrays:
    """A model of arrays, as MAITE's own examples are."""

    metadata: ClassVar[Any] = {"id": "arrays"}

    def __init__(self, scale: float = 1.0, softmax: bool = True) -> None:
        self.net, self.scale, self.softmax, self.seen = network(), scale, softmax, []

    def __call__(self, batch: Any) -> Any:
        self.seen += [each.dtype for each in batch]
        with torch.no_grad():
            logits = self.net(torch.from_numpy(np.stack([np.asarray(each) for each in batch])) / self.scale)
        return list((logits.softmax(1) if self.softmax else logits).numpy())


class Tensors(Arrays):
    """A model of tensors, whose answers have gradients."""

    def __call__(self, batch: Any) -> Any:
        return list(self.net(torch.stack([torch.as_tensor(each) for each in batch]) / self.scale).softmax(1))


class Data:
    """A data set of images in uint8 or float."""

    metadata: ClassVar[Any] = {"id": "drawn", "index2label": {0: "a", 1: "b", 2: "c", 3: "d"}}

    def __init__(self, images: np.ndarray, labels: Tensor) -> None:
        self.images, self.targets = images, np.eye(4, dtype=np.float32)[labels.numpy()]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.images[index], self.targets[index], {"id": index}


def test_the_objects_are_what_the_protocols_of_the_package_ask_for() -> None:
    attack = MaiteAttack(network(), orb.Linf(0.1))
    from maite.protocols import Augmentation, Dataset, Model

    assert isinstance(attack, Augmentation) and isinstance(Arrays(), Model)
    assert isinstance(Data(X.numpy(), torch.zeros(10, dtype=torch.int64)), Dataset)
    assert ic.Augmentation is not None


@pytest.mark.parametrize("softmax", [True, False])
def test_a_model_of_arrays_is_asked_and_gives_its_logits(softmax: bool) -> None:
    box = from_maite(Arrays(softmax=softmax), X, queries=50)
    assert isinstance(box, orb.BlackBox) and isinstance(from_maite(Arrays(softmax=softmax), X), orb.BlackBox)
    logits = network()(X)
    assert torch.allclose(box(X), logits.log_softmax(1) if softmax else logits, atol=1e-5)
    y = logits.argmax(1)
    result = orb.attack_ensemble({"m": box}, X, y, orb.Linf(0.1))
    assert result.queries is not None and int(result.queries.max()) <= 50
    assert torch.equal(result.fooled[:, 0], network()(result.adversarial).argmax(1) != y)


def test_a_model_of_tensors_has_gradients_and_is_attacked_as_its_network_is() -> None:
    found = from_maite(Tensors(), X)
    assert not isinstance(found, orb.BlackBox)
    x = X.clone().requires_grad_()
    assert torch.allclose(found(x), network()(X).log_softmax(1), atol=1e-5)
    y = network()(X).argmax(1)
    ours = orb.attack_ensemble({"m": network()}, X, y, orb.Linf(0.03), steps=8)
    theirs = orb.attack_ensemble({"m": found}, X, y, orb.Linf(0.03), steps=8)
    assert torch.allclose(theirs.losses, ours.losses, atol=1e-3)
    assert isinstance(from_maite(Tensors()), orb.BlackBox)


@pytest.mark.parametrize("images", [None, X])
def test_levels_are_given_to_models_that_want_them(images: Tensor | None) -> None:
    model = (Arrays if images is None else Tensors)(scale=255.0)
    found = from_maite(model, images, levels=True)
    assert isinstance(found, orb.BlackBox) is (images is None)
    assert torch.allclose(found(X), network()(X).log_softmax(1), atol=1e-5)
    assert all(dtype == np.uint8 for dtype in model.seen)


@pytest.mark.parametrize("kind", [np.float32, np.uint8])
def test_the_tasks_of_the_package_run_on_attacked_images(kind: Any) -> None:
    y, scale = network()(X).argmax(1), 255 if kind is np.uint8 else 1
    data = Data((X.numpy() * scale).round().astype(kind) if scale == 255 else X.numpy(), y)
    eps = 25 / 255
    attack = MaiteAttack(network(), orb.Linf(eps), partial(orb.attack_ensemble, steps=8))
    model = Arrays(scale=scale)
    predicted, seen = tasks.predict(
        model=model, dataset=data, batch_size=10, augmentation=attack, return_augmented_data=True
    )
    ((moved, targets, metadata),) = seen
    assert all(each.dtype == kind and each.shape == (3, 4, 4) for each in moved)
    gap = np.abs(np.stack(moved).astype(np.float64) - data.images).max() / scale
    assert 0 < gap <= eps + 1e-6
    assert np.array_equal(np.stack(targets), data.targets) and [m["id"] for m in metadata] == list(range(10))
    fell = np.stack(predicted[0]).argmax(1) != y.numpy()
    assert attack.result is not None
    if kind is np.float32:
        assert np.array_equal(fell, attack.result.fooled[:, 0].numpy())
    assert fell.mean() > 0.4


def test_pixels_of_eight_bits_are_rounded_towards_the_clean_ones() -> None:
    data = Data((X.numpy() * 255).round().astype(np.uint8), network()(X).argmax(1))
    attack = MaiteAttack(network(), orb.L2(0.13), partial(orb.attack_ensemble, steps=5))
    moved, _, _ = attack(([data[i][0] for i in range(10)], data.targets, [{}] * 10))
    delta = (np.stack(moved).astype(np.float64) - data.images) / 255
    assert attack.result is not None
    floats = attack.result.delta.numpy()
    assert (np.abs(delta) <= np.abs(floats) + 1e-5).all() and (np.abs(delta - floats) < 1 / 255 + 1e-5).all()
    assert np.sqrt((delta**2).sum((1, 2, 3))).max() <= 0.13 + 1e-6


def test_a_data_set_is_read_as_it_is() -> None:
    y = torch.arange(10) % 4
    for images in (X.numpy(), (X.numpy() * 255).round().astype(np.uint8)):
        found = maite_data(Data(images, y))
        assert torch.allclose(found.x, X, atol=1e-6) and torch.equal(found.y, y)
        assert found.classes == ("a", "b", "c", "d") and found.name == "drawn"
    assert len(maite_data(Data(X.numpy(), y), limit=3)) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: from_maite(network()), "model must be a MAITE model, which is called on a batch and has metadata"),
        (lambda: from_maite(3), "model must be a MAITE model, .* got int"),
        (lambda: maite_data([1]), "dataset must be a MAITE data set, with items, a length and metadata, got list"),
        (lambda: maite_data(Data(X.numpy(), torch.zeros(10).long()), 0), "dataset must hold at least one image, got 0"),
        (lambda: maite_data(Data(2 * X.numpy(), torch.zeros(10).long())), r"images must be uint8 or in \[0, 1\]"),
        (lambda: maite_data(Data(X[:, 0].numpy(), torch.zeros(10).long())), r"images must be \(channels, height"),
        (lambda: MaiteAttack(network(), orb.Linf(0.1))(([X[0], X[1, :, :3]], np.eye(2), [{}] * 2)),
         "images of a batch must be of one size"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
