"""Folders of pictures with a table beside them are read by exact names, row by row, and what is left out is said."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from omnirobust.zoo import data


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OMNIROBUST_CACHE", str(tmp_path / "cache"))


def draw(file: Path, shade: int = 0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), shade, np.uint8)).save(file)


def table(file: Path, rows: list[dict[str, object]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".csv":
        with file.open("w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        parquet.write_table(pyarrow.Table.from_pylist(rows), file)


def listed(folder: Path, labels: dict[str, object], name: str = "metadata.csv", column: str = "label") -> None:
    for number, file in enumerate(labels):
        draw(folder / file, 10 * number)
    table(folder / name, [{"file_name": file, column: label} for file, label in labels.items()])


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
def test_folders_within_a_split_that_are_called_like_splits_stay_in_it(tmp_path, name):
    root = tmp_path / "my [set]*"
    listed(root / "train", {"test/0.png": "x", "val/1.png": "y", "2[a].png": "x"}, name)
    listed(root / "test", {"train/0.png": "y", "1.png": "z"}, name)
    train, test = data.load(str(root), "train"), data.load(str(root))
    assert (train.y.tolist(), test.y.tolist()) == ([0, 1, 0], [1, 2])
    assert train.classes == test.classes == ("x", "y", "z")
    assert [round(255 * float(x.mean())) for x in train.x] == [0, 10, 20]


def test_one_table_may_list_all_splits_or_none(tmp_path):
    listed(tmp_path / "all", {"train/a.png": "x", "test/b.png": "y", "train/c.png": "y"})
    draw(tmp_path / "all" / "test" / "extra.png")
    assert data.load(str(tmp_path / "all"), "train").y.tolist() == [0, 1]
    test = data.load(str(tmp_path / "all"))
    assert test.y.tolist() == [1] and "1 file left out: 1 not listed" in test.note
    listed(tmp_path / "none", {"a.png": "x", "sub/b.png": "y"})
    assert data.load(str(tmp_path / "none"), "train").y.tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"split must be one that .*none has: 'train', got 'test'"):
        data.load(str(tmp_path / "none"))
    listed(tmp_path / "own" / "holdout", {"a.png": "x", "b.png": "y"})
    assert data.load(str(tmp_path / "own"), "holdout").y.tolist() == [0, 1]


def test_what_is_not_listed_is_counted_and_an_edited_table_is_read_again(tmp_path):
    listed(tmp_path / "test", {"0.png": "x", "1.png": "y"})
    for name in ("extra.png", ".hidden.png", "deep/er.png"):
        draw(tmp_path / "test" / name)
    (tmp_path / "test" / "notes.txt").write_text("hi")
    found = data.load(str(tmp_path))
    assert "4 files left out: 1 hidden, 1 no pictures, 2 not listed" in found.note
    table(tmp_path / "test" / "metadata.csv", [{"file_name": f"{k}.png", "label": c} for k, c in ((0, "y"), (1, "zz"))])
    assert data.load(str(tmp_path)).classes == ("y", "zz")


def test_pictures_of_a_table_are_turned_and_scaled_as_others(tmp_path):
    listed(tmp_path / "test", {"0.jpg": 3, "1.png": 1}, "metadata.jsonl")
    exif = Image.Exif()
    exif[0x0112] = 6
    bar = np.zeros((4, 4), np.uint8)
    bar[0] = 255
    Image.fromarray(bar).save(tmp_path / "test" / "0.jpg", exif=exif, quality=95)
    Image.fromarray(np.full((4, 4), 32768, np.uint16)).save(tmp_path / "test" / "1.png")
    found = data.load(str(tmp_path))
    assert float(found.x[0, :, :, -1].min()) > 0.9 and float(found.x[0, :, :, 0].max()) < 0.1
    assert abs(float(found.x[1].mean()) - 32768 / 65535) < 1e-6
    assert (found.y.tolist(), found.classes) == ([3, 1], ("0", "1", "2", "3"))


def test_several_columns_and_missing_labels(tmp_path):
    for k in range(3):
        draw(tmp_path / "test" / f"{k}.png")
    rows = [{"file_name": f"{k}.png", "fine": f"f{k}", "coarse": c} for k, c in enumerate(["A", "A", None])]
    table(tmp_path / "test" / "metadata.csv", rows)
    with pytest.raises(ValueError, match=r"label must name one of the columns of classes .*, fine, coarse, got none"):
        data.load(str(tmp_path))
    assert data.load(str(tmp_path), label="fine").classes == ("f0", "f1", "f2")
    with pytest.raises(ValueError, match="must have a class in every row of test, got none in row 2"):
        data.load(str(tmp_path), label="coarse")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"file_name": "../a.png", "label": "x"}], "must name a file below its folder in every row, got '../a.png'"),
        ([{"file_name": "/a.png", "label": "x"}], "must name a file below its folder in every row, got '/a.png'"),
        ([{"file_name": "gone.png", "label": "x"}], "must name a file below its folder .* row 0 has no gone.png"),
        ([{"image": "a.png", "label": "x"}], "must have a column file_name, got image, label"),
    ],
)
def test_tables_that_list_no_files_of_theirs_are_one_sentence(tmp_path, rows, told):
    draw(tmp_path / "a.png")
    table(tmp_path / "test" / "metadata.csv", rows)
    with pytest.raises(ValueError, match=told):
        data.load(str(tmp_path))


def test_pictures_that_lie_too_deep_are_named(tmp_path):
    for c in "ab":
        draw(tmp_path / "test" / c / "more" / "0.png")
    with pytest.raises(data.DataUnavailableError, match="2 pictures lie deeper than SPLIT/CLASS/PICTURE, test/a/mo"):
        data.load(str(tmp_path))


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_a_table_that_is_no_utf8_is_named_with_its_line(tmp_path, name):
    root = tmp_path / "set"
    listed(root / "test", {"0.png": "chat", "1.png": "\u00e9l\u00e9phant"}, name)
    assert data.load(str(root)).classes == ("chat", "\u00e9l\u00e9phant")
    file = root / "test" / name
    told = file.read_bytes().decode("utf-8").encode().decode("unicode_escape" if name.endswith("jsonl") else "utf-8")
    file.write_bytes(told.encode("latin-1"))
    line = 2 if name.endswith("jsonl") else 3
    with pytest.raises(ValueError, match=rf"{name} must be text in UTF-8, and is not in line {line}: save it as UTF-8"):
        data.load(str(root))
