"""Folders are read by exact names; what is left out is counted."""

from pathlib import Path

import pytest

from omnirobust.zoo.folders import parquet_files, picture_folder
from omnirobust.zoo.hub import Source
from omnirobust.zoo.listed import ListedPictures


def made(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def found(root: Path, split: str) -> list[tuple[str, str]]:
    """Return (file, class) of every picture."""
    folder = picture_folder(root, split)
    assert folder is not None
    names = [folder.classes[label] if label >= 0 else "" for label in folder.labels]
    return [(str(file.relative_to(root)), name) for file, name in zip(folder.files, names, strict=True)]


@pytest.mark.parametrize("name", ["train", "test", "my test", "validation_2", "test-train", "[a]", "*", "a?b", "{x}"])
def test_a_class_may_be_called_anything(tmp_path, name):
    made(tmp_path, *(f"{split}/{kind}/{i}.png" for split in ("train", "test") for kind in ("bus", name) for i in "12"))
    for split in ("train", "test"):
        assert found(tmp_path, split) == [(f"{split}/{k}/{i}.png", k) for k in sorted(["bus", name]) for i in "12"]


def test_pictures_may_be_called_anything(tmp_path):
    names = sorted(["[1].png", "test.png", "train-1.PNG", "a*b.jpg", "x.y.webp", "ü.tiff"])
    made(tmp_path / "set[1]", *(f"test/a/{name}" for name in names))
    assert found(tmp_path / "set[1]", "test") == [(f"test/a/{name}", "a") for name in names]


def test_all_splits_share_their_classes(tmp_path):
    made(tmp_path, "train/a/1.png", "train/b/1.png", "train/c/1.png", "test/c/1.png", "test/a/1.png", "other/d/1.png")
    folder = picture_folder(tmp_path, "test")
    assert folder is not None
    assert folder.classes == ["a", "b", "c"] and folder.labels == [0, 2]
    with pytest.raises(ValueError, match=r"split must be one that .* has: 'other', 'test', 'train', got 'dev'"):
        picture_folder(tmp_path, "dev")


def test_classes_without_splits_are_for_training_whatever_they_are_called(tmp_path):
    made(tmp_path, "bus/1.png", "test/1.png", "train/1.png", "bus/more/2.png")
    assert found(tmp_path, "train") == [("bus/1.png", "bus"), ("test/1.png", "test"), ("train/1.png", "train")]
    with pytest.raises(ValueError, match=r"has: 'train', got 'test'"):
        picture_folder(tmp_path, "test")


def test_pictures_of_no_class(tmp_path):
    made(tmp_path / "split", "test/1.png", "test/2.png")
    assert found(tmp_path / "split", "test") == [("test/1.png", ""), ("test/2.png", "")]
    made(tmp_path / "flat", "1.png")
    assert found(tmp_path / "flat", "train") == [("1.png", "")]
    made(tmp_path / "half", "train/a/1.png", "test/1.png")
    assert found(tmp_path / "half", "test") == [("test/1.png", "")]


def test_what_is_left_out_is_counted(tmp_path):
    made(tmp_path, "test/a/1.png", "test/a/.2.png", "test/.b/3.png", "test/__MACOSX/a/4.png", "test/a/deep/er/5.png")
    made(tmp_path, "test/6.png", "test/a/7.txt", "test/a/Thumbs.db", ".git/x", "train/a/note.txt", "train/a/8.png")
    folder = picture_folder(tmp_path, "test")
    assert folder is not None
    assert [file.name for file in folder.files] == ["1.png"]
    assert folder.note == "7 files left out: 3 hidden, 1 in no folder of a class, 2 no pictures, 1 too deep"
    other = picture_folder(tmp_path, "train")
    assert other is not None and other.note == "1 file left out: 1 no pictures"


def test_a_table_beside_pictures_says_what_they_are(tmp_path):
    made(tmp_path, "test/1.png", "test/metadata.csv")
    (tmp_path / "test" / "metadata.csv").write_text("file_name,label\n1.png,x\n")
    found = Source(str(tmp_path), folder=True).pictures("test")
    assert isinstance(found, ListedPictures) and found.columns.to_pydict() == {"label": ["x"]}
    assert picture_folder(made(tmp_path / "none", "x.txt"), "test") is None


def test_parquet_files_are_found_by_exact_names(tmp_path):
    names = ["test.parquet", "test-00000-of-00001.parquet", "test-train.parquet", "latest.parquet", "train-1.parquet"]
    made(tmp_path / "flat", *names)
    assert [f.name for f in parquet_files(tmp_path / "flat", "test")] == [names[1], names[0]]
    assert [f.name for f in parquet_files(tmp_path / "flat", "train")] == ["train-1.parquet"]
    made(tmp_path / "set", "train_and_test/test-0.parquet", "train_and_test/train-0.parquet", ".cache/test.parquet")
    assert [f.name for f in parquet_files(tmp_path / "set", "train")] == ["train-0.parquet"]
    made(tmp_path / "named", "all/test/0000.parquet", "all/train/0000.parquet")
    assert [f.parent.name for f in parquet_files(tmp_path / "named", "test")] == ["test"]
    assert len(parquet_files(tmp_path / "named")) == 2
    made(tmp_path / "two", "a/test.parquet", "b/test.parquet")
    with pytest.raises(ValueError, match=r"name must be the folder of one set, got .* with test in a and b"):
        parquet_files(tmp_path / "two", "test")
