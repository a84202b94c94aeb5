"""Image data by name: embedded digits, MNIST, CIFAR-10, and any image-classification set in hub layout."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from omnirobust._files import cache_dir, replacing

if TYPE_CHECKING:
    from datasets import Dataset

HUB_IDS: dict[str, str] = {"mnist": "ylecun/mnist", "cifar10": "uoft-cs/cifar10"}
"""Names known without a prefix, and where the hub keeps them."""

DIGITS_TRAIN = 1297
"""Of the 1,797 embedded digits these many are for training, the other 500 for testing."""

JPEG_NOTE = "re-encoded as JPEG"


@dataclass(frozen=True)
class ImageData:
    """Labelled images.

    Attributes:
        x: images, (N, channels, height, width) float32 in [0, 1].
        y: class indices, (N,) int64.
        name: what the set was asked for as.
        split: "train", "test" or another split of the set.
        classes: the names of the classes, in the order of their indices.
        note: what a reader of numbers on this data must know; empty if nothing.
    """

    x: Tensor
    y: Tensor
    name: str
    split: str
    classes: tuple[str, ...]
    note: str = ""

    def __post_init__(self) -> None:
        if self.x.ndim != 4 or self.x.dtype != torch.float32:
            raise ValueError(f"x must be float32 of shape (N, C, H, W), got {self.x.dtype} {tuple(self.x.shape)}")
        if self.y.shape != self.x.shape[:1] or self.y.dtype != torch.int64:
            raise ValueError(f"y must be int64 of shape ({len(self.x)},), got {self.y.dtype} {tuple(self.y.shape)}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        channels, height, width = self.x.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.x)


def load(
    name: str, split: str = "test", limit: int | None = None, start: int = 0, root: str | Path | None = None
) -> ImageData:
    """Load labelled images by name.

    Args:
        name: "digits" (embedded, 8x8 grey), "mnist", "cifar10", "hub:ORG/NAME" or "hub:ORG/NAME:CONFIG" for a set on
            the Hugging Face hub, or the path of a folder in hub layout.
        split: "train", "test" or another split that the set has.
        limit: how many images to keep, counted from ``start``; None keeps the rest.
        start: index of the first image kept.
        root: folder that holds ``name`` as a folder in hub layout; by default $OMNIROBUST_DATA. Sets that are not
            there come from the hub.

    Returns:
        The images, in the order of the set.

    Raises:
        ValueError: for an unknown name or split, a negative ``start`` or ``limit``, or a set without one image and
            one label column.
        DataUnavailableError: if the set is neither on this machine nor to be had from the hub.

    Cost: the first load of a set decodes all its images (60,000 of MNIST in about 5 s); they are kept decoded in
    the cache folder.
    """
    if start < 0:
        raise ValueError(f"start must be >= 0, got {start}")
    if limit is not None and limit < 0:
        raise ValueError(f"limit must be >= 0 or None, got {limit}")
    if name == "digits":
        return _digits(split, start, limit)
    source = _find(name, root)
    return _read_decoded(source.decoded(split), name, split, start, limit)


class DataUnavailableError(RuntimeError):
    """A data set is neither on this machine nor to be had from the hub."""


def _stop(start: int, limit: int | None) -> int | None:
    return None if limit is None else start + limit


def _digits(split: str, start: int, limit: int | None) -> ImageData:
    from sklearn.datasets import load_digits

    if split not in ("train", "test"):
        raise ValueError(f"split must be train or test for digits, got {split!r}")
    images, labels = load_digits(return_X_y=True)
    # The set is ordered by writer: a fixed shuffle spreads them over both splits.
    order = np.random.RandomState(0).permutation(len(images))
    order = order[:DIGITS_TRAIN] if split == "train" else order[DIGITS_TRAIN:]
    order = order[start : _stop(start, limit)]
    x = torch.from_numpy(images[order].astype(np.float32) / 16).reshape(-1, 1, 8, 8)
    return ImageData(x, torch.from_numpy(labels[order].astype(np.int64)), "digits", split, tuple("0123456789"))


@dataclass(frozen=True)
class _Source:
    """A set in hub layout: a folder here, or an id on the hub."""

    path: str
    config: str | None = None
    folder: bool = False

    def decoded(self, split: str) -> Path:
        """Return the file of decoded images, made on first use."""
        files = sorted(Path(self.path).rglob("*.*")) if self.folder else []
        dataset = None if self.folder else self.open(split)
        if dataset is not None:
            files = [Path(entry["filename"]) for entry in dataset.cache_files]
        file = cache_dir() / "data" / f"{_key(self, split, files)}.safetensors"
        if not file.exists():
            _decode(dataset if dataset is not None else self.open(split), file, self.path)
        return file

    def open(self, split: str) -> Dataset:
        """Open the set through `datasets`, quietly."""
        import datasets

        bars = datasets.are_progress_bars_disabled()
        datasets.disable_progress_bars()
        try:
            return datasets.load_dataset(
                self.path, self.config, split=split, download_config=datasets.DownloadConfig(max_retries=0)
            )
        except (ConnectionError, FileNotFoundError, OSError) as error:
            raise DataUnavailableError(_unavailable(self)) from error
        except ValueError as error:
            if "split" in str(error).lower():
                raise ValueError(f"split {split!r} is not in {self.path}: {_sentence(error)}") from error
            raise
        finally:
            if not bars:
                datasets.enable_progress_bars()


def _find(name: str, root: str | Path | None) -> _Source:
    if name.startswith("hub:"):
        path, _, config = name.removeprefix("hub:").partition(":")
        return _Source(path, config or None)
    root = root if root is not None else os.environ.get("OMNIROBUST_DATA")
    if root is not None and (Path(root) / name).is_dir():
        return _Source(str(Path(root) / name), folder=True)
    if name in HUB_IDS:
        return _Source(HUB_IDS[name])
    if Path(name).is_dir():
        return _Source(name, folder=True)
    known = ", ".join(["digits", *HUB_IDS, "hub:ORG/NAME", "the path of a folder in hub layout"])
    raise ValueError(f"name must be one of {known}, got {name!r}")


def _unavailable(source: _Source) -> str:
    if source.folder:
        return f"The folder {source.path} holds no data set in hub layout (parquet files or images by class)."
    return (
        f"The data set {source.path} could not be fetched from the Hugging Face hub: connect to the internet once, or "
        f"set OMNIROBUST_DATA to a folder that holds it in hub layout."
    )


def _sentence(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _key(source: _Source, split: str, files: Sequence[Path]) -> str:
    stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    text = json.dumps([source.path, source.config, split, stamps])
    return f"{Path(source.path).name}-{split}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _columns(dataset: Dataset, name: str) -> tuple[str, str]:
    import datasets

    images = [key for key, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    labels = [key for key, feature in dataset.features.items() if isinstance(feature, datasets.ClassLabel)]
    if len(images) != 1 or len(labels) != 1:
        raise ValueError(
            f"{name} must have one image column and one class-label column, got images {images} and labels {labels}"
        )
    return images[0], labels[0]


def _decode(dataset: Dataset, file: Path, name: str) -> None:
    """Decode all images to uint8 (N, C, H, W) and write them, with the labels, to ``file``."""
    import datasets

    image, label = _columns(dataset, name)
    classes = list(dataset.features[label].names)
    rows = dataset.cast_column(image, datasets.Image(decode=False))[image]
    pixels, jpeg = _stack([_pixels(row) for row in rows], name)
    labels = torch.tensor(dataset[label][:], dtype=torch.int64)
    facts = {"classes": json.dumps(classes), "jpeg": json.dumps(jpeg)}
    with replacing(file) as partial:
        save_file({"images": pixels, "labels": labels}, partial, metadata=facts)


def _pixels(row: dict[str, Any]) -> tuple[np.ndarray, bool]:
    """Decode one image to (H, W) or (H, W, 3) uint8, and say whether it was stored as JPEG."""
    from io import BytesIO

    from PIL import Image

    with Image.open(BytesIO(row["bytes"]) if row["bytes"] is not None else row["path"]) as picture:
        picture_format = picture.format
        return np.asarray(picture if picture.mode == "L" else picture.convert("RGB")), picture_format == "JPEG"


def _stack(decoded: Sequence[tuple[np.ndarray, bool]], name: str) -> tuple[Tensor, bool]:
    shapes = sorted({array.shape for array, _ in decoded})
    if len(shapes) != 1:
        raise ValueError(f"{name} must have images of one shape, got {shapes[:5]}")
    pixels = np.stack([array for array, _ in decoded])
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(pixels)), any(jpeg for _, jpeg in decoded)


def _read_decoded(file: Path, name: str, split: str, start: int, limit: int | None) -> ImageData:
    try:
        with safe_open(file, framework="pt") as stored:
            facts = stored.metadata()
            images = stored.get_slice("images")[start : _stop(start, limit)]
            labels = stored.get_slice("labels")[start : _stop(start, limit)]
    except SafetensorError as error:
        raise RuntimeError(f"The cached images {file} are damaged: delete the file and load {name} again.") from error
    note = JPEG_NOTE if name == "cifar10" and json.loads(facts["jpeg"]) else ""
    classes = tuple(json.loads(facts["classes"]))
    return ImageData(images.to(torch.float32).div_(255), labels, name, split, classes, note)
