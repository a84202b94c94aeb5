"""Batches hold each example once an epoch, in an order that (seed, epoch) fixes."""

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from omnirobust.training.batches import batches
from omnirobust.zoo.data import load

X, Y = torch.arange(10.0)[:, None], torch.arange(10)


def order(seed: int | None, epoch: int) -> list[int]:
    parts = list(batches("data", (X, Y), "train", 4, seed).epoch(epoch))
    assert [len(y) for _, y in parts] == [4, 4, 2]
    assert all(torch.equal(x[:, 0].long(), y) for x, y in parts)
    return torch.cat([y for _, y in parts]).tolist()


def test_every_example_once_an_epoch() -> None:
    orders = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert all(sorted(row) == list(range(10)) for row in orders)
    assert len({tuple(row) for row in orders}) == 9
    assert orders == [order(seed, epoch) for seed in range(3) for epoch in range(3)]


def test_without_a_seed_the_order_is_kept() -> None:
    assert order(None, 5) == list(range(10))


def test_names_and_image_data_and_loaders() -> None:
    digits = load("digits", "train")
    for given in ("digits", digits):
        made = batches("data", given, "train", 100, None)
        assert len(made) == 13
        first, _ = next(iter(made.epoch(0)))
        assert torch.equal(first, digits.x[:100])
    loader = DataLoader(TensorDataset(X, Y), batch_size=3)
    made = batches("data", loader, "train", 100, 0)
    assert len(made) == 4
    assert [len(y) for _, y in made.epoch(0)] == [3, 3, 3, 1]


def test_a_stream_has_no_length() -> None:
    class Stream(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self):
            return zip(X, Y, strict=True)

    made = batches("data", DataLoader(Stream(), batch_size=5), "train", 1, 0)
    assert len(made) == 0
    assert sum(len(y) for _, y in made.epoch(0)) == 10


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, Y[:9]), "data must hold as many labels as images, and at least one, got 9 and 10"),
        ((X[:0], Y[:0]), "at least one, got 0 and 0"),
        ((X, Y.float()), r"data must hold float images and int64 labels \(N,\), got torch.float32, torch.float32"),
        ((X, Y[:, None]), r"labels \(N,\), got torch.float32, torch.int64 \(10, 1\)"),
        ((X.long(), Y), "float images"),
        ((X,), r"data must be a pair of tensors \(x, y\), ImageData, a DataLoader or a name"),
        ((X, [1]), "data must be a pair of tensors"),
    ],
)
def test_bad_data(data: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batches("data", data, "train", 4, 0)  # type: ignore[arg-type]


def test_batches_number_their_examples() -> None:
    for batch in batches("data", (X, Y), "train", 4, 1).numbered(2):
        assert batch.known and torch.equal(batch.rows, batch.y)
    loader = DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True)
    numbered = list(batches("data", loader, "train", 1, 0).numbered(0))  # type: ignore[union-attr]
    assert torch.cat([batch.rows for batch in numbered]).tolist() == list(range(10))
    assert not any(batch.known for batch in numbered)
    telling = DataLoader(TensorDataset(X, Y, Y + 100), batch_size=4, shuffle=True)
    for batch in batches("data", telling, "train", 1, 0).numbered(0):
        assert batch.known and torch.equal(batch.rows, batch.y + 100)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (X, r"data must yield batches \(x, y\) or \(x, y, rows\) of tensors, got Tensor"),
        ({"x": X, "y": Y}, r"of tensors, got dict"),
        ((X,), "of tensors, got tuple of Tensor"),
        ((X, [1] * 10), "of tensors, got tuple of Tensor, list"),
        ((X, Y, Y, Y), "of tensors, got tuple of Tensor, Tensor, Tensor, Tensor"),
        ((X.long(), Y), r"data must yield float inputs and as many int64 labels \(B,\), .* got torch.int64 \(10, 1\)"),
        ((X, Y.float()), r"got torch.float32 \(10, 1\) and torch.float32 \(10,\)"),
        ((X, Y[:9]), r"and torch.int64 \(9,\)"),
        ((X, Y[:, None]), r"and torch.int64 \(10, 1\)"),
        ((X[:0], Y[:0]), "at least one"),
        ((X, Y, Y - 1), "data must yield rows"),
        ((X, Y, X[:, 0]), r"data must yield rows \(B,\) of int64 >= 0 after inputs and labels, got torch.float32"),
    ],
)
def test_loaders_that_yield_the_wrong_thing(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(batches("data", [given], "train", 4, 0).epoch(0))  # type: ignore[arg-type]
