"""Tables, signals and files of values: what is read against what was written, and what is refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import save_file

from omnirobust.zoo.data import load
from omnirobust.zoo.tables import feature_names, read_values


@pytest.fixture
def table(tmp_path: Path) -> str:
    columns = {
        "age": [20, 30, 40, 50],
        "kind": ["b", "a", "b", "c"],
        "pay": [0.5, 1.5, 2.5, 3.5],
        "on": [True, False] * 2,
    }
    parquet.write_table(pa.table(columns), tmp_path / "test.parquet")
    return str(tmp_path / "test.parquet")


def test_columns_are_features_in_their_order_and_texts_are_numbered(table: str) -> None:
    found = load(table, label="kind", start=1, limit=2)
    assert torch.equal(found.x, torch.tensor([[30.0, 1.5, 0.0], [40.0, 2.5, 1.0]]))
    assert found.x.dtype == torch.float32 and found.shape == (3,)
    assert found.y.tolist() == [0, 1] and found.classes == ("a", "b", "c")
    assert feature_names(table, "kind") == ("age", "pay", "on") and feature_names("digits", None) == ()


def test_splits_are_files_of_their_own(table: str) -> None:
    name = table.replace("test.parquet", "{split}.parquet")
    assert len(load(name, label="kind")) == 4
    with pytest.raises(ValueError, match=r"^name .--data. must be the path of a file, got .*train\.parquet, and there"):
        load(name, "train", label="kind")
    with pytest.raises(ValueError, match=r"^data must have \{split\} in the name of its files to have a split 'train'"):
        load(table, "train", label="kind")


def test_tensors_are_taken_as_they_are(tmp_path: Path) -> None:
    x, y = torch.randn(6, 1, 30), torch.tensor([0, 0, 1, 1, 2, 2])
    save_file({"x": x.double(), "y": y}, tmp_path / "signal.safetensors")
    found = load(str(tmp_path / "signal.safetensors"), in_order=True)
    assert torch.equal(found.x, x) and torch.equal(found.y, y) and found.shape == (1, 30)
    mixed = load(str(tmp_path / "signal.safetensors"), limit=3)  # sorted by class: a part has some of each
    assert sorted(mixed.y.tolist()) == [0, 1, 2] and mixed.rows is not None and torch.equal(mixed.x, x[mixed.rows])
    assert "stratified" in mixed.choice


def test_arrays_are_taken_as_they_are_and_objects_are_not(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).random((5, 2, 3)), np.array([2, 0, 1, 1, 0], np.uint8)
    np.savez_compressed(tmp_path / "a.npz", x=x, y=y, other=np.zeros(3))
    found = load(str(tmp_path / "a.npz"), start=1, limit=3)
    assert np.array_equal(found.x.numpy(), x[1:4].astype(np.float32)) and found.y.tolist() == [0, 1, 1]
    assert found.classes == ("0", "1", "2") and found.rows is None
    np.savez(tmp_path / "objects.npz", x=x, y=np.array([{}] * 5, dtype=object))
    for name in ("objects.npz", "plain.npz"):
        (tmp_path / "plain.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:50])
        with pytest.raises(ValueError, match=r"^name .--data. must be a npz file of numbers, got"):
            load(str(tmp_path / name))
    np.savez(tmp_path / "images.npz", images=x, labels=y)
    with pytest.raises(ValueError, match=r"must hold tensors x .N, \*S. and y .N,., got \{'images': \(5, 2, 3\)"):
        load(str(tmp_path / "images.npz"))


@pytest.mark.parametrize(
    ("columns", "label", "message"),
    [
        ({"a": [1.0], "b": [2.0]}, None, r"label must name the column of the classes of t\.parquet, one of a, b, got"),
        ({"a": [1.0], "label": [2.0]}, "b", "label must name the column of the classes"),
        ({"a": ["x"], "label": [0]}, None, r"columns of t\.parquet must hold numbers without gaps, got string in 'a'"),
        ({"a": [1.0, None], "label": [0, 1]}, None, "columns of .* numbers without gaps, got 1 gaps in 'a'"),
        ({"a": [1.0, 2.0], "label": [0, None]}, None, "label must be there in every row of .*, got none in row 1"),
        ({"a": [1.0], "label": [-1]}, None, "label must be whole numbers from 0 on, or texts, got -1 in 'label'"),
        ({"label": [1]}, None, r"name .--data. must be a table with rows and features"),
    ],
)
def test_other_tables_are_refused_in_a_sentence(tmp_path: Path, columns, label, message) -> None:
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=f"^{message}"):
        load(str(tmp_path / "t.parquet"), label=label)


def test_files_that_are_none_are_refused_in_a_sentence(tmp_path: Path) -> None:
    for name in ("t.parquet", "t.safetensors"):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(
            ValueError, match=r"^name .--data. must be a (parquet table|safetensors file of numbers), got"
        ):
            load(str(tmp_path / name))
    save_file({"x": torch.ones(2, 3), "y": torch.ones(3)}, tmp_path / "u.safetensors")
    with pytest.raises(ValueError, match=r"^name .--data. must hold tensors x .N, \*S. and y .N,., got"):
        load(str(tmp_path / "u.safetensors"))
    with pytest.raises(ValueError, match=r"^resize must be left out for data that are no images"):
        load(str(tmp_path / "u.safetensors"), resize=(8, 8))


def test_values_are_read_by_name_or_in_order(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("pay,age\n0,1\ninf,5e2\n")
    low, high = read_values(str(tmp_path / "v.csv"), "bounds", ("age", "pay"))
    assert low.tolist() == [1.0, 0.0] and high.tolist() == [500.0, float("inf")]
    (tmp_path / "plain.csv").write_text("1,2,3\n")
    assert [row.tolist() for row in read_values(str(tmp_path / "plain.csv"), "scale")] == [[1.0, 2.0, 3.0]]
    np.save(tmp_path / "v.npy", np.ones((2, 3)))
    assert read_values(str(tmp_path / "v.npy"), "bounds")[0].shape == (2, 3)
    save_file({"upper": torch.ones(2), "lower": torch.zeros(2)}, tmp_path / "v.safetensors")
    assert [row.sum() for row in read_values(str(tmp_path / "v.safetensors"), "bounds")] == [0, 2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "v.csv",
            "age,size\n1,2\n",
            r"scale must name the features of the data, got v\.csv, which differs in \['pay', 's",
        ),
        ("v.csv", "age,pay\n1,x\n", "scale must be lines of as many numbers each"),
        ("v.csv", "1,2\n3\n", "scale must be lines of as many numbers each"),
        ("v.csv", "1,nan\n", "scale must be lines of as many numbers each"),
        ("v.csv", "", "scale must be lines of as many numbers each"),
        ("v.npy", "no array", "scale must be a file of numbers, got"),
        ("v.safetensors", "no tensors", "scale must be a file of numbers, got"),
        ("v.txt", "1,2", r"scale must be a number, or a file \.csv, \.npy or \.safetensors that exists, got"),
    ],
)
def test_values_that_are_none_are_refused_in_a_sentence(tmp_path: Path, name, content, message) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"^{message}"):
        read_values(str(tmp_path / name), "scale", ("age", "pay"))


def test_pickles_are_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"^scale must be a file of numbers, got"):
        read_values(str(tmp_path / "v.npy"), "scale")
