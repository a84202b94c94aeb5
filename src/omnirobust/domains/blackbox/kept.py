"""Answers on disk: one file that only grows, so that a killed run loses at most the record that it was writing."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from omnirobust.domains.behind import reached

_NAME = "answers.bin"
_HEAD = 128
"""Bytes of the first line, which says what the records are."""

_DIGEST, _CHECK = 16, 4


class Kept:
    """The answers of one model, by the digest of the input.

    A record is the digest, the answer in float64 and a check sum, all of one size; records of a batch are appended in
    one write, and reach the disk before anything is done with them. What a kill cut off at the end is dropped.

    Args:
        path: a file, or a folder in which ``answers.bin`` is the file; made if it is not there.
        output: what the answers are, a word that must be that of the file.
        model: whose answers they are, see ``identity``; "" if that is not known.

    Raises:
        ValueError: if the file is something else, or holds answers of another kind or of another model.

    Attributes:
        doubted: whether nothing but an answer can tell if the file is of this model.
    """

    def __init__(self, path: Path, output: str, model: str = "") -> None:
        self.file = self.place(path)
        self._output, self._width, self._model, self.doubted = output, 0, model, False
        self.answers: dict[bytes, np.ndarray] = {}
        if self.file.exists():
            self._read()

    @staticmethod
    def place(path: Path) -> Path:
        """Return the file that ``path`` stands for, resolved."""
        return (path / _NAME if path.is_dir() or not (path.suffix or path.is_file()) else path).resolve()

    def add(self, found: Mapping[bytes, np.ndarray]) -> None:
        """Keep answers, each (C,) float64."""
        new = {key: answer for key, answer in found.items() if key not in self.answers}
        if not new:
            return
        self._begin(len(next(iter(new.values()))))
        records = b"".join(_record(key, answer) for key, answer in new.items())
        with self.file.open("ab", buffering=0) as file:
            file.write(records)
            os.fsync(file.fileno())
        self.answers |= new

    def get(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Return those answers of ``keys`` that are there."""
        return {key: self.answers[key] for key in keys if key in self.answers}

    def _begin(self, width: int) -> None:
        if self._width == 0:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            if not self.file.exists() or self.file.stat().st_size < _HEAD:
                told = {"omnirobust": "answers", "output": self._output, "classes": width, "model": self._model}
                head = json.dumps(told)
                self.file.write_bytes(head.ljust(_HEAD - 1).encode() + b"\n")
            self._read()  # another one may have begun it meanwhile
        if width != self._width:
            raise ValueError(f"store {self.file} holds answers of {self._width} numbers, got one of {width}")

    def _read(self) -> None:
        whole = self.file.read_bytes()
        if len(whole) < _HEAD:  # killed while it was made: nothing is lost
            if whole and not whole.startswith(b'{"omnirobust"'):
                raise ValueError(f"store {self.file} is no file of answers")
            return
        self._width = self._check(whole[:_HEAD])
        size, ends = _DIGEST + 8 * self._width + _CHECK, _HEAD
        for begin in range(_HEAD, len(whole) - size + 1, size):
            record = whole[begin : begin + size]
            if zlib.crc32(record[:-_CHECK]).to_bytes(_CHECK, "little") != record[-_CHECK:]:
                break
            self.answers[record[:_DIGEST]] = np.frombuffer(record[_DIGEST:-_CHECK], "<f8")
            ends = begin + size
        if ends < len(whole):
            with self.file.open("r+b") as file:
                file.truncate(ends)

    def _check(self, head: bytes) -> int:
        try:
            told = json.loads(head)
            output, width = told["output"], told["classes"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"store {self.file} is no file of answers") from error
        if output != self._output:
            raise ValueError(f"store {self.file} holds {output}, and output is {self._output!r}")
        whose = str(told.get("model", ""))
        if whose != self._model and (whose or self._model.startswith("tag")):
            raise self.of_another()
        self.doubted = not whose
        return int(width)

    def of_another(self) -> ValueError:
        """Return the error of a file that another model has written."""
        return ValueError(
            f"store {self.file} holds the answers of another model, or of other weights, or was written under another "
            "tag: give each model a file of its own"
        )


def identity(f: object, tag: str | None) -> str:
    """Say in a few letters which model ``f`` is: by its tag, else by the weights behind it; "" where there are none."""
    if tag is not None:
        return "tag " + hashlib.blake2b(tag.encode(), digest_size=8).hexdigest()
    digest, modules = hashlib.blake2b(digest_size=8), reached(f).modules
    tensors = [t for m in modules for t in (*m.parameters(recurse=False), *m.buffers(recurse=False))]
    for tensor in tensors:
        values = tensor.detach().cpu().contiguous().flatten()
        digest.update(f"{values.dtype}{tuple(tensor.shape)}".encode())
        digest.update(values.view(torch.uint8).numpy().tobytes() if values.numel() else b"")
    return "net " + digest.hexdigest() if tensors else ""


def _record(key: bytes, answer: np.ndarray) -> bytes:
    body = key + np.ascontiguousarray(answer, "<f8").tobytes()
    return body + zlib.crc32(body).to_bytes(_CHECK, "little")
