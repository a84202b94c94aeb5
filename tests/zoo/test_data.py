"""Named data: what comes back is what was stored, and what goes wrong is said in a sentence."""

import io
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Features, Value
from PIL import Image
from sklearn.datasets import load_digits

from omnirobust.zoo import hub as _hub
from omnirobust.zoo.data import DataUnavailableError, ImageData, load


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIROBUST_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OMNIROBUST_DATA", raising=False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def pixels(count: int, shape: tuple[int, ...] = (6, 5), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def encode(array: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


def hub_folder(folder: Path, images: list[bytes], labels: list[int], split: str = "test") -> Path:
    features = Features({"photo": datasets.Image(), "extra": Value("int32"), "kind": ClassLabel(names=["cat", "dog"])})
    rows = {"photo": [{"bytes": b, "path": None} for b in images], "extra": labels, "kind": labels}
    folder.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def test_digits_are_all_of_the_embedded_images_in_two_disjoint_splits() -> None:
    train, test = load("digits", "train"), load("digits", "test")
    assert (len(train), len(test)) == (1297, 500)
    ours = torch.cat([train.x, test.x]).flatten(1).mul(16).numpy().astype(int)
    labelled = np.c_[ours, torch.cat([train.y, test.y]).numpy()]
    images, labels = load_digits(return_X_y=True)
    expected = np.c_[images.astype(int), labels]
    assert sorted(map(tuple, labelled)) == sorted(map(tuple, expected))
    assert train.shape == (1, 8, 8)
    assert train.classes == tuple("0123456789")
    assert float(train.x.min()) == 0
    assert float(train.x.max()) == 1
    assert load("digits", "test").y.tolist() == test.y.tolist()


def test_digits_of_every_class_are_in_both_splits() -> None:
    for split in ("train", "test"):
        assert load("digits", split).y.bincount(minlength=10).min() >= 35


def test_start_and_limit_cut_a_window() -> None:
    whole = load("digits")
    part = load("digits", limit=7, start=490)
    assert torch.equal(part.x, whole.x[490:497])
    assert torch.equal(part.y, whole.y[490:497])
    assert len(load("digits", limit=100, start=450)) == 50
    assert len(load("digits", limit=0)) == 0


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)])
def test_parquet_in_hub_layout_comes_back_pixel_for_pixel(tmp_path: Path, shape: tuple[int, ...]) -> None:
    arrays = pixels(5, shape)
    folder = hub_folder(tmp_path / "pets", [encode(a) for a in arrays], [0, 1, 1, 0, 1])
    loaded = load(str(folder), "test")
    channels_first = arrays.reshape(5, 6, 5, -1).transpose(0, 3, 1, 2)
    assert torch.equal(loaded.x, torch.from_numpy(channels_first.astype(np.float32)) / 255)
    assert loaded.y.tolist() == [0, 1, 1, 0, 1]
    assert loaded.y.dtype == torch.int64
    assert loaded.classes == ("cat", "dog")
    for start, limit, stop in [(1, 3, 4), (3, 100, 5), (0, 0, 0), (5, 1, 5), (9, 2, 9), (2, None, 5)]:
        window = load(str(folder), "test", start=start, limit=limit)
        assert torch.equal(window.x, loaded.x[start:stop])
        assert torch.equal(window.y, loaded.y[start:stop])


def test_images_sorted_into_folders_by_class(tmp_path: Path) -> None:
    arrays = pixels(4, (7, 7, 3))
    for array, name in zip(arrays, ["train/cat/a", "train/cat/b", "train/dog/a", "test/dog/a"], strict=True):
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / f"{name}.png").write_bytes(encode(array))
    train = load(str(tmp_path / "pets"), "train", in_order=True)
    assert train.classes == ("cat", "dog")
    assert train.y.tolist() == [0, 0, 1]
    assert torch.equal(train.x[2], torch.from_numpy(arrays[2].transpose(2, 0, 1).astype(np.float32)) / 255)


def test_a_name_is_looked_up_in_root_and_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_folder(tmp_path / "one" / "mnist", [encode(a) for a in pixels(2)], [0, 1])
    hub_folder(tmp_path / "two" / "mnist", [encode(a) for a in pixels(3)], [0, 1, 1])
    assert len(load("mnist", root=tmp_path / "one")) == 2
    monkeypatch.setenv("OMNIROBUST_DATA", str(tmp_path / "two"))
    assert len(load("mnist")) == 3
    assert load("mnist").name == "mnist"


@pytest.mark.parametrize(("kind", "note"), [("JPEG", "re-encoded as JPEG"), ("PNG", "")])
def test_a_lossy_copy_of_cifar10_is_said_to_be_one(tmp_path: Path, kind: str, note: str) -> None:
    hub_folder(tmp_path / "cifar10", [encode(a, kind) for a in pixels(2, (32, 32, 3))], [0, 1])
    assert load("cifar10", root=tmp_path).note == note


def test_images_are_decoded_once_and_again_when_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = hub_folder(tmp_path / "pets", [encode(a) for a in pixels(2)], [0, 1])
    first = load(str(folder))
    calls = []
    decode = _hub._decode
    monkeypatch.setattr(_hub, "_decode", lambda *args: calls.append(args) or decode(*args))
    assert torch.equal(load(str(folder)).x, first.x)
    assert not calls
    hub_folder(folder, [encode(a) for a in pixels(4, seed=1)], [0, 1, 0, 1])
    assert len(load(str(folder))) == 4
    assert len(calls) == 1


def test_a_damaged_cache_is_named(tmp_path: Path) -> None:
    folder = hub_folder(tmp_path / "pets", [encode(a) for a in pixels(2)], [0, 1])
    load(str(folder))
    (cached,) = (tmp_path / "cache").rglob("*.safetensors")
    cached.write_bytes(cached.read_bytes()[:40])
    with pytest.raises(RuntimeError, match=rf"{cached.name} are damaged: delete the file"):
        load(str(folder))


def test_an_unreachable_hub_is_one_sentence_and_leaves_its_client_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **settings: object) -> None:
        raise OSError("no network")

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("socket.create_connection", refuse)
    before = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    for name, hub_id in [("mnist", "ylecun/mnist"), ("hub:someone/pets:small", "someone/pets")]:
        with pytest.raises(DataUnavailableError, match=f"{hub_id} is not on this machine .* OMNIROBUST_DATA") as caught:
            load(name)
        assert "\n" not in str(caught.value)
    assert before == (datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "minst"}, r"name \(--data\) must be one of digits, mnist, cifar10, .* got 'minst'"),
        ({"name": "digits", "split": "dev"}, "split must be train or test for digits, got 'dev'"),
        ({"name": "digits", "start": -1}, "start must be >= 0, got -1"),
        ({"name": "digits", "limit": -2}, "limit must be >= 0 or None, got -2"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(**arguments)  # type: ignore[arg-type]


def test_an_unknown_split_lists_the_known(tmp_path: Path) -> None:
    folder = hub_folder(tmp_path / "pets", [encode(a) for a in pixels(2)], [0, 1])
    with pytest.raises(ValueError, match=r"split must be one that .*pets has: .*'test'"):
        load(str(folder), "dev")


def test_folders_without_usable_data(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataUnavailableError, match=r"empty holds no data set: no parquet files, no images\."):
        load(str(tmp_path / "empty"))
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "test-00000-of-00001.parquet").write_text("junk")
    with pytest.raises(DataUnavailableError, match="junk could not be read as a data set"):
        load(str(tmp_path / "junk"))


def test_images_of_several_sizes_are_refused(tmp_path: Path) -> None:
    folder = hub_folder(tmp_path / "pets", [encode(pixels(1, (4, 4))[0]), encode(pixels(1, (5, 4))[0])], [0, 1])
    with pytest.raises(ValueError, match=r"must have images of one shape, got \[\(4, 4\), \(5, 4\)\]"):
        load(str(folder))


def test_a_set_without_labels_is_refused(tmp_path: Path) -> None:
    rows = {"photo": [{"bytes": encode(pixels(1)[0]), "path": None}]}
    (tmp_path / "pets").mkdir()
    stored = datasets.Dataset.from_dict(rows, features=Features({"photo": datasets.Image()}))
    stored.to_parquet(tmp_path / "pets" / "test-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=r"one class-label column, got images \['photo'\] and labels \[\]"):
        load(str(tmp_path / "pets"))


def test_image_data_checks_its_tensors() -> None:
    x, y = torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64)
    assert ImageData(x, y, "mine", "test", ("a", "b")).shape == (1, 4, 4)
    with pytest.raises(ValueError, match="x must be float32"):
        ImageData(x.double(), y, "mine", "test", ("a",))
    with pytest.raises(ValueError, match=r"y must be int64 of shape \(2,\)"):
        ImageData(x, y[:1], "mine", "test", ("a",))


def test_a_path_with_a_dot_is_a_path_even_where_the_data_folder_has_such_a_set(tmp_path, monkeypatch):
    """The caller's ./shapes is taken, not the set of that name under OMNIROBUST_DATA."""
    for folder, count in (("here/shapes", 3), ("data/shapes", 5)):
        for label in ("a", "b"):
            (tmp_path / folder / "test" / label).mkdir(parents=True)
            for i in range(count):
                pixels = np.full((4, 4), 40 * i, dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / folder / "test" / label / f"{i}.png")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("OMNIROBUST_DATA", str(tmp_path / "data"))
    assert len(load("./shapes")) == 6
    assert len(load(str(tmp_path / "here" / "shapes"))) == 6
    assert len(load("shapes")) == 10
    with pytest.raises(
        ValueError,
        match=r"name \(--data\) must be .* of a folder of images, got './none', and there is no such",
    ):
        load("./none")
    (tmp_path / "here" / "plain.txt").write_text("")
    with pytest.raises(
        ValueError,
        match=r"got './plain.txt', which is a file; files that are read end in .parquet or .safetensors or .npz",
    ):
        load("./plain.txt")


@pytest.mark.parametrize("name", ["hub:", "hub:.", "hub:../..", "hub:/", "hub:a/b/c", "hub:~/x", "hub: "])
def test_what_is_no_id_of_the_hub_is_refused_and_no_disk_searched(name, monkeypatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: pytest.fail("searched"))
    with pytest.raises(ValueError, match="name must be hub:ORG/NAME or hub:ORG/NAME:CONFIG"):
        load(name)


def test_no_name_is_no_folder(monkeypatch) -> None:
    """An empty path is the working folder to pathlib, and an error inside datasets."""
    with pytest.raises(ValueError, match=r"name \(--data\) must be one of digits, .*, got ''"):
        load("")
    monkeypatch.setenv("OMNIROBUST_DATA", ".")
    with pytest.raises(ValueError, match=r"name \(--data\) must be one of digits, .*, got ''"):
        load("")


def test_whatever_the_reader_raises_is_told(tmp_path, monkeypatch) -> None:
    def stop(*args: object, **kwargs: object) -> None:
        raise StopIteration

    folder = hub_folder(tmp_path / "set", [encode(pixels(1)[0])], [0])
    monkeypatch.setattr(datasets, "load_dataset", stop)
    with pytest.raises(DataUnavailableError, match="set could not be read as a data set: StopIteration"):
        load(str(folder))


def picture_folder(root: Path, counts: dict[str, int], split: str = "test") -> Path:
    """Write pictures of one grey level each: the first class from 0 on, the next one after it."""
    levels = iter(range(sum(counts.values())))
    for name, count in counts.items():
        (root / split / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(np.full((2, 2), next(levels), np.uint8)).save(root / split / name / f"{number:03d}.png")
    return root


def levels(images: ImageData) -> list[int]:
    return (images.x[:, 0, 0, 0] * 255).round().int().tolist()


def test_a_number_of_pictures_keeps_the_shares_of_the_classes(tmp_path: Path) -> None:
    folder = str(picture_folder(tmp_path / "set", {"a": 60, "b": 30, "c": 10}))
    for limit in (10, 20, 50, 90):
        shares = load(folder, limit=limit).y.bincount(minlength=3).tolist()
        assert all(abs(count - limit * share) <= 1 for count, share in zip(shares, (0.6, 0.3, 0.1), strict=True))
    first, then, rest = load(folder, limit=37), load(folder, start=37, limit=23), load(folder, start=60)
    assert levels(first) == levels(load(folder, limit=37))
    assert sorted(levels(first) + levels(then) + levels(rest)) == list(range(100))
    assert levels(load(folder, limit=100)) == levels(first) + levels(then) + levels(rest)
    assert all(label == (level >= 60) + (level >= 90) for label, level in zip(first.y, levels(first), strict=True))
    assert first.choice == "stratified by class, seed 0" and rest.choice
    whole = load(folder)  # whoever slices it gets the same shares
    assert levels(whole) == levels(load(folder, limit=100)) and whole.choice
    assert whole.rows is not None and whole.rows.tolist() == levels(whole)
    assert whole.y[:10].bincount().tolist() == [6, 3, 1] and whole.y[-10:].bincount().tolist() == [6, 3, 1]
    as_it_lies = load(folder, in_order=True)
    assert levels(as_it_lies) == list(range(100)) and not as_it_lies.choice and as_it_lies.rows is None
    assert levels(load(folder, start=7, limit=3, in_order=True)) == [7, 8, 9]


def test_a_choice_names_the_classes_it_misses(tmp_path: Path) -> None:
    folder = str(picture_folder(tmp_path / "set", {"many": 50, "few": 2}))
    assert load(folder, limit=5).missing == ("few",)
    assert load(folder).missing == ()


@pytest.mark.parametrize(
    ("labels", "chosen"),
    [
        ([0] * 9 + [1] * 9, True),
        ([1] * 9 + [0] * 9, True),
        (([0] * 10 + [1] * 10) * 3, True),  # parts, each of them sorted
        ([0, 1, 1, 0, 1, 0, 0, 1], False),
        ([0, 1] * 9, False),
        ([1] * 9, False),
    ],
)
def test_sorted_tables_are_chosen_from_and_others_keep_their_order(tmp_path, labels, chosen) -> None:
    images = [encode(np.full((2, 2), level, np.uint8)) for level in range(len(labels))]
    part = load(str(hub_folder(tmp_path / "set", images, labels)), limit=6)
    assert bool(part.choice) == chosen
    assert levels(part) == list(range(6)) if not chosen else part.y.bincount().tolist() == [3, 3]


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_known_sets_keep_their_order(tmp_path, name) -> None:
    hub_folder(tmp_path / name, [encode(np.full((2, 2), i, np.uint8)) for i in range(8)], [0] * 4 + [1] * 4)
    assert levels(load(name, root=tmp_path, limit=5)) == [0, 1, 2, 3, 4]


def test_a_class_called_like_a_split_stays_in_its_split(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 2)):
        picture_folder(tmp_path / "set", {"bus": count, "train": count, "test": count}, split)
    assert load(str(tmp_path / "set"), "train", in_order=True).y.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert load(str(tmp_path / "set"), "test").y.bincount().tolist() == [2, 2, 2]


def test_brackets_are_plain_characters(tmp_path: Path) -> None:
    pictures = picture_folder(tmp_path / "set[1]", {"[a]": 2, "b*": 3})
    assert load(str(pictures)).classes == ("[a]", "b*") and len(load(str(pictures))) == 5
    table = hub_folder(tmp_path / "table[2]{x}", [encode(a) for a in pixels(2)], [0, 1])
    assert len(load(str(table))) == 2


def test_pictures_left_out_and_damaged_ones_are_told(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "set", {"a": 2, "b": 2})
    (folder / "test" / "a" / "notes.txt").touch()
    assert load(str(folder)).note == "1 file left out: 1 no pictures"
    (folder / "test" / "b" / "broken.png").write_bytes(encode(pixels(1)[0])[:50])
    with pytest.raises(ValueError, match=r"in every row, got test/b/broken.png: "):
        load(str(folder))


def table(folder: Path, split: str = "test", kinds: dict[str, object] | None = None, **columns: list) -> Path:
    """Write parquet with an image of the row's number in every row."""
    count = len(next(iter(columns.values())))
    rows = [{"bytes": encode(np.full((3, 4), i, np.uint8)), "path": None} for i in range(count)]
    named = {key: ClassLabel(names=["a", "b", "c"]) for key in columns} | (kinds or {})
    folder.mkdir(parents=True, exist_ok=True)
    stored = datasets.Dataset.from_dict({"image": rows, **columns}, features=Features(image=datasets.Image(), **named))
    stored.to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.mark.parametrize("missing", [None, -1])
def test_a_row_without_a_class_is_named(tmp_path, missing) -> None:
    folder = str(table(tmp_path / "set", label=[0, 2, missing, 1]))
    with pytest.raises(ValueError, match=r"must have a class in every row of test, got none in row 2"):
        load(folder)
    assert load(folder, labelled=False).y.tolist() == [0, 2, -1, 1]


def test_a_row_without_an_image_is_named(tmp_path: Path) -> None:
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=["a"])})
    (tmp_path / "set").mkdir()
    rows = {"image": [{"bytes": encode(pixels(1)[0]), "path": None}, None], "label": [0, 0]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "set" / "test.parquet")
    with pytest.raises(ValueError, match="can be read in every row, got row 1 of test: there is none"):
        load(str(tmp_path / "set"))


def test_one_of_several_label_columns_is_named(tmp_path: Path) -> None:
    folder = str(table(tmp_path / "set", fine=[0, 1, 2], coarse=[1, 1, 0]))
    assert load(folder, label="fine").y.tolist() == [0, 1, 2]
    assert load(folder, label="coarse", in_order=True).y.tolist() == [1, 1, 0]
    with pytest.raises(
        ValueError, match=r"label must name one of the columns of classes of .*set, fine, coarse, got no"
    ):
        load(folder)
    with pytest.raises(
        ValueError, match=r"label must be a column of classes of .* which has fine, coarse, got 'image'"
    ):
        load(folder, label="image")


def test_numbers_are_classes_as_they_are(tmp_path: Path) -> None:
    folder = str(table(tmp_path / "set", kinds={"digit": Value("int32")}, digit=[3, 0, 3]))
    found = load(folder)
    assert found.y.tolist() == [3, 0, 3] and found.classes == ("0", "1", "2", "3") and found.missing == ("1", "2")
    assert found.note == "classes are the values of column digit" and load(folder, label="digit").note == ""


def test_words_are_classes_the_same_ones_in_every_split(tmp_path: Path) -> None:
    for split, words in (("train", ["dog", "ant", "cat"]), ("test", ["dog", "cat"])):
        table(
            tmp_path / "set", split, {"label": Value("string"), "id": Value("int64")}, label=words, id=[7] * len(words)
        )
    test = load(str(tmp_path / "set"))
    assert test.classes == ("ant", "cat", "dog") and test.y.tolist() == [2, 1] and test.missing == ("ant",)
    assert load(str(tmp_path / "set"), "train").y.tolist() == [2, 0, 1]


def test_one_class_is_enough_and_none_where_none_is_needed(tmp_path: Path) -> None:
    one = load(str(picture_folder(tmp_path / "one", {"a": 3})))
    assert one.classes == ("a",) and one.y.tolist() == [0, 0, 0]
    none = str(picture_folder(tmp_path / "none", {"": 3}))
    with pytest.raises(
        ValueError, match=r"none must have classes, got none in test: pictures lie in no folder of a class"
    ):
        load(none)
    found = load(none, labelled=False)
    assert found.classes == () and found.y.tolist() == [-1, -1, -1] and found.missing == ()


def test_images_of_several_sizes_are_resized(tmp_path: Path) -> None:
    arrays = [pixels(1, (6, 5))[0], pixels(1, (9, 4))[0]]
    folder = str(hub_folder(tmp_path / "set", [encode(a) for a in arrays], [0, 1]))
    found = load(folder, resize=(7, 8))
    wanted = [np.asarray(Image.fromarray(a).resize((8, 7), Image.Resampling.BILINEAR)) for a in arrays]
    assert torch.equal(found.x[:, 0], torch.from_numpy(np.stack(wanted)).float() / 255)
    assert load(folder, resize=(3, 2)).shape == (1, 3, 2)  # each size is kept decoded on its own
    assert load(folder, resize=(7, 8)).shape == (1, 7, 8)
    assert load("digits", resize=(16, 12)).shape == (1, 16, 12)
    for wrong in ((0, 4), (3,)):
        with pytest.raises(ValueError, match=r"resize must be \(height, width\), both >= 1"):
            load(folder, resize=wrong)  # type: ignore[arg-type]


def test_decoded_images_are_resized_too(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    images = torch.from_numpy(pixels(3, (3, 6, 5)))
    facts = {"classes": '["a", "b"]', "jpeg": "false"}
    save_file({"images": images, "labels": torch.tensor([0, 1, 0])}, tmp_path / "test.safetensors", facts)
    found = load(str(tmp_path), resize=(4, 4))
    picture = Image.fromarray(images[1].permute(1, 2, 0).numpy()).resize((4, 4), Image.Resampling.BILINEAR)
    assert torch.equal(found.x[1], torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255)
    assert found.y.tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match=r"label must be left out for .*test.safetensors"):
        load(str(tmp_path), label="kind")


def test_what_save_to_disk_wrote_is_read(tmp_path: Path) -> None:
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=["a", "b"])})
    rows = {"image": [{"bytes": encode(a), "path": None} for a in pixels(2)], "label": [1, 0]}
    one = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": one, "test": one.select([0])}).save_to_disk(str(tmp_path / "set[0]"))
    assert load(str(tmp_path / "set[0]"), "train").y.tolist() == [1, 0]
    assert load(str(tmp_path / "set[0]"), "test").y.tolist() == [1]
    with pytest.raises(ValueError, match=r"split must be one that .* has: Unknown split 'dev'.*'train', 'test'"):
        load(str(tmp_path / "set[0]"), "dev")


def test_classes_called_like_splits_without_a_split_are_told_what_was_read(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "set" / name / "0.png")
    said = r"got none in test: .* A folder called test is read as a split, and .*: test/CLASS/PICTURE"
    with pytest.raises(ValueError, match=said):
        load(str(tmp_path / "set"))


def test_a_column_of_floats_is_told_to_be_no_classes(tmp_path: Path) -> None:
    folder = str(table(tmp_path / "set", kinds={"label": datasets.Value("float64")}, label=[0.0, 1.0, 2.5]))
    with pytest.raises(ValueError, match=r"labels \[\]: label holds floats, which are no classes, save them as whole"):
        load(folder)
