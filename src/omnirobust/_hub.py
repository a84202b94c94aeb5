"""Sets in hub layout, a folder here or an id on the Hugging Face hub: found, opened and decoded once."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import torch
from safetensors.torch import save as serialize
from torch import Tensor

from omnirobust._files import cache_dir, replacing

if TYPE_CHECKING:
    from datasets import Dataset

DATA_SUFFIXES = {
    ".parquet",
    ".arrow",
    ".tar",
    ".zip",
    ".png",
    ".jpg",
    ".jpeg",
    ".bmp",
    ".gif",
    ".webp",
    ".tif",
    ".tiff",
}
"""Files that make a folder worth handing to `datasets`."""


class DataUnavailableError(RuntimeError):
    """A data set is neither on this machine nor to be had from the hub."""


@dataclass(frozen=True)
class Source:
    """A set in hub layout.

    Attributes:
        path: a folder on this machine, or an id on the hub.
        config: the configuration of the set; None for its only one.
        folder: whether ``path`` is a folder.
    """

    path: str
    config: str | None = None
    folder: bool = False

    def decoded(self, split: str) -> Path:
        """Return the safetensors file of the decoded images and labels, made on first use.

        A folder may hold it already, as SPLIT.safetensors, in place of encoded images.
        """
        ready = Path(self.path) / f"{split}.safetensors"
        if self.folder and ready.is_file():
            return ready
        dataset = None if self.folder else self.open(split)
        files = _data_files(self.path) if dataset is None else [Path(row["filename"]) for row in dataset.cache_files]
        file = cache_dir() / "data" / f"{_key(self, split, files)}.safetensors"
        if not file.exists():
            _decode(self.open(split) if dataset is None else dataset, file, self.path)
        return file

    def open(self, split: str) -> Dataset:
        """Open one split through `datasets`, without its progress bars."""
        import datasets
        from datasets.exceptions import DatasetsError

        try:
            with _quiet(), _offline(not self.folder and not _reachable()):
                return datasets.load_dataset(self.path, self.config, split=split)
        except (OSError, DatasetsError) as error:
            raise DataUnavailableError(_unavailable(self, error)) from error
        except ValueError as error:
            for name in ("split", "config"):
                if name in str(error).lower():
                    raise ValueError(f"{name} must be one that {self.path} has: {_sentence(error)}") from error
            raise DataUnavailableError(_unavailable(self, error)) from error
        except Exception as error:  # its readers raise many kinds on files of other shapes, StopIteration among them
            raise DataUnavailableError(_unavailable(self, error)) from error


def _data_files(folder: str) -> list[Path]:
    """List the data files of a folder, at most three levels down as the hub's layouts go."""
    levels = ("*", "*/*", "*/*/*")
    files = sorted(
        file for level in levels for file in Path(folder).glob(level) if file.suffix.lower() in DATA_SUFFIXES
    )
    if not files:
        raise DataUnavailableError(f"The folder {folder} holds no data set in hub layout: no parquet files, no images.")
    return files


def _reachable() -> bool:
    """Tell whether the hub answers, in seconds instead of the half minute that its client takes to give up."""
    from huggingface_hub import constants

    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    address = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=5).close()
    except OSError:
        return False
    return True


@contextmanager
def _quiet() -> Iterator[None]:
    import datasets

    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()


@contextmanager
def _offline(offline: bool) -> Iterator[None]:
    """Have `datasets` and its hub client read their caches only, if ``offline``."""
    from datasets import config
    from huggingface_hub import constants

    before = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before[0] or offline, before[1] or offline
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


@contextmanager
def hub_access() -> Iterator[None]:
    """Let clients of the hub read their caches only if it cannot be reached, rather than try again for a minute."""
    with _offline(not _reachable()):
        yield


def _unavailable(source: Source, error: Exception) -> str:
    if source.folder:
        return f"The folder {source.path} could not be read as a data set in hub layout: {_sentence(error)}"
    return (
        f"The data set {source.path} is not on this machine and could not be fetched from the Hugging Face hub: check "
        f"its name, connect to the internet, or set OMNIROBUST_DATA to a folder that holds it in hub layout."
    )


def _sentence(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _key(source: Source, split: str, files: Sequence[Path]) -> str:
    stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    text = json.dumps([source.path, source.config, split, stamps])
    return f"{Path(source.path).resolve().name}-{split}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


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
        partial.write_bytes(serialize({"images": pixels, "labels": labels}, metadata=facts))


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
