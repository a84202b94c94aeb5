"""Labels of a table or of tensors that cannot be numbers of classes are refused in a sentence, without their memory."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from omnirobust.zoo import data


def saved(folder: Path, x: Tensor, y: Tensor) -> str:
    save_file({"x": x, "y": y}, folder / "set.safetensors")
    return str(folder / "set.safetensors")


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.tensor([0.0, 1.0, torch.nan]), "label must be whole numbers from 0 on, or texts, got nan in 'y'"),
        (torch.tensor([0.0, torch.inf, 1.0]), "label must be whole numbers from 0 on, or texts, got inf in 'y'"),
        (torch.tensor([0.0, 1.0, 0.5]), "label must be whole numbers from 0 on, or texts, got 0.5 in 'y'"),
        (torch.tensor([2, 0, -1]), "label must be whole numbers from 0 on, or texts, got -1 in 'y'"),
        (torch.tensor([0, 1, 10**12]), "label must be numbers of classes below 1,048,576, got 1000000000000 in 'y'"),
    ],
)
def test_labels_that_number_no_class_are_refused(y: Tensor, message: str, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=message):
        data.load(saved(tmp_path, torch.rand(3, 4), y))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_tensors_without_a_row_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"name \(--data\) must hold one row or more, got x \(0, 4\)"):
        data.load(saved(tmp_path, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)))


def test_whole_numbers_of_any_type_are_classes(tmp_path: Path) -> None:
    for y in (torch.tensor([0, 2, 1], dtype=torch.uint8), torch.tensor([0.0, 2.0, 1.0])):
        loaded = data.load(saved(tmp_path, torch.rand(3, 4), y), in_order=True)
        assert loaded.y.tolist() == [0, 2, 1] and loaded.classes == ("0", "1", "2")
