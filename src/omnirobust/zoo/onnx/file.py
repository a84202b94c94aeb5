"""One ONNX file, read and checked: which input takes what, which output are the scores, what was cut off its end."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

_DTYPES = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}  # fmt: skip
"""What an input may be, and the scores but for the last."""

_SQUASHING = ("Softmax", "Sigmoid")
"""Last operations that are cut: what goes into them orders the classes as what comes out, and keeps its gradients."""

_LEVELS = 255

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Scores:
    """What an ONNX file is to this package: a function from one batch of inputs to one of scores.

    Attributes:
        path: of the file.
        digest: of the file and of the data beside it.
        proto: the graph with its data inside, one output, its end cut; serialised.
        entry: name of the input.
        dtype: of the input; of uint8 images the levels 0 to 255 are given.
        shape: of the input, the batch first; None where a length is free.
        outlet: name of the output.
        cut: the operation that was cut off the end; "" if none was.
        left_out: names of further outputs, which nobody reads.
    """

    path: Path
    digest: str
    proto: bytes
    entry: str
    dtype: type[np.generic]
    shape: Shape
    outlet: str
    cut: str
    left_out: tuple[str, ...]

    @property
    def together(self) -> int | None:
        """How many inputs it takes at once; None for any number."""
        return self.shape[0]

    def last_channels(self, own: Sequence[int]) -> bool:
        """Say whether inputs of shape ``own`` (*S) must be turned from (C, H, W) to (H, W, C).

        Raises:
            ValueError: if they fit in neither order.
        """
        wanted = self.shape[1:]
        if _fits(own, wanted):
            return False
        if len(own) == 3 and _fits((*own[1:], own[0]), wanted):
            return True
        told = ", ".join("any" if n is None else str(n) for n in wanted)
        raise ValueError(f"{self.path} takes inputs of shape ({told}), got {tuple(own)}")

    def given(self, batch: Tensor) -> Tensor:
        """Return inputs (n, *S) in the order and dtype of the file, of uint8 the levels in their own dtype.

        Gradients flow through it, straight through the rounding to levels.
        """
        if self.last_channels(batch.shape[1:]):
            batch = batch.permute(0, 2, 3, 1)
        if self.dtype is np.uint8:
            levels = batch * _LEVELS
            return levels + (levels.round().clamp(0, _LEVELS) - levels).detach()
        return batch.to(torch.from_numpy(np.zeros(0, self.dtype)).dtype)

    def like(self, shape: Sequence[int] | None) -> Tensor:
        """Draw inputs such as it may take, (8, *S) in [0, 1], always the same; free lengths are those of ``shape``."""
        own = shape or [n or 32 for n in self.shape[1:]]
        if shape is None and len(own) == 3 and self.shape[3] in (1, 3) and self.shape[1] not in (1, 3):
            own = [own[2], *own[:2]]
        levels = torch.randint(0, _LEVELS + 1, (8, *own), generator=torch.Generator().manual_seed(0))
        return levels / _LEVELS


def read_scores(path: Path, argument: str) -> Scores:
    """Read a file of ONNX; nothing of it is evaluated.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if ``onnx`` or ``onnxruntime`` is missing, it is no such file or no classifier; the sentence names
            the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{argument} must name an existing file, got {path}")
    onnx, runtime = (package(name, f"{argument} {path}") for name in ("onnx", "onnxruntime"))
    wanted = f"{argument} must be a classifier in ONNX, got {path}"
    model, digest = _loaded(onnx, path, wanted)
    try:
        model = import_module("onnx.inliner").inline_local_functions(model)
        found = session(runtime, model.SerializeToString())
    except Exception as error:  # what is no model raises many kinds
        raise ValueError(f"{wanted}, which onnxruntime refuses: {sentence(error)}") from error
    entry, shape = _entry(found.get_inputs(), wanted)
    outlet, others = _outlet(found.get_outputs(), wanted)
    cut = _shorten(model, outlet)
    return Scores(
        path, digest, model.SerializeToString(), entry.name, _DTYPES[entry.type], shape, model.graph.output[0].name,
        cut, others,
    )  # fmt: skip


def session(runtime: ModuleType, proto: bytes, **options: Any) -> Any:
    """Make what answers for a graph, on the processor, with as many threads as torch uses."""
    setting = runtime.SessionOptions()
    setting.log_severity_level = 4
    setting.intra_op_num_threads, setting.inter_op_num_threads = torch.get_num_threads(), 1
    for name, value in options.items():
        setattr(setting, name, value)
    return runtime.InferenceSession(proto, setting, providers=["CPUExecutionProvider"])


def package(name: str, label: str) -> ModuleType:
    """Import a package of the extra.

    Raises:
        ValueError: if it is missing or cannot be imported, naming the extra.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(f"{label} needs {error.name}: pip install 'omnirobust[onnx]'") from error
    except Exception as error:  # packages that do not fit each other fail in many ways
        raise ValueError(f"{label} needs {name}, which cannot be imported here: {sentence(error)}") from error


def sentence(error: Exception) -> str:
    """Return the first line of what an error says."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return said.removeprefix("[ONNXRuntimeError] : ")


def _loaded(onnx: ModuleType, path: Path, wanted: str) -> tuple[Any, str]:
    """Return the graph with its data inside, and a digest of both."""
    raw = path.read_bytes()
    digest = hashlib.blake2b(raw, digest_size=8)
    try:
        model = onnx.load_model_from_string(raw)
        # it takes no file from outside the folder
        onnx.load_external_data_for_model(model, str(path.resolve().parent))
        whole = model.SerializeToString()
    except Exception as error:  # of damaged files, missing data and sizes beyond all bounds
        raise ValueError(f"{wanted}, which cannot be read: {sentence(error)}") from error
    if not model.graph.node:
        raise ValueError(f"{wanted}, which holds no graph")
    if len(whole) > len(raw):
        digest.update(whole)
    return model, digest.hexdigest()


def _entry(inputs: Sequence[Any], wanted: str) -> tuple[Any, Shape]:
    if len(inputs) != 1:
        raise ValueError(f"{wanted}, with the inputs {_told(inputs)}: it must have one, a batch")
    (entry,) = inputs
    if entry.type not in _DTYPES or len(entry.shape) < 2:
        kinds = ", ".join(kind[7:-1] for kind in _DTYPES)
        raise ValueError(f"{wanted}, with the input {_told(inputs)}: it must be a batch (n, ...) of {kinds}")
    return entry, tuple(n if isinstance(n, int) and n > 0 else None for n in entry.shape)


def _outlet(outputs: Sequence[Any], wanted: str) -> tuple[str, tuple[str, ...]]:
    """Return the name of the output that holds scores, and those of the others."""
    scores = [o for o in outputs if o.type in _DTYPES and o.type != "tensor(uint8)" and len(o.shape) in (0, 1, 2)]
    named = [o for o in scores if o.name == "logits"]
    if len(named or scores) != 1:
        raise ValueError(
            f"{wanted}, with the outputs {_told(outputs)}: one must hold scores (n, classes), floating-point, alone or "
            "by the name logits"
        )
    (outlet,) = named or scores
    return outlet.name, tuple(o.name for o in outputs if o is not outlet)


def _told(ports: Sequence[Any]) -> str:
    return ", ".join(f"{p.name} {p.type}{p.shape}" for p in ports)


def _shorten(model: Any, outlet: str) -> str:
    """Keep one output, and cut a Softmax or Sigmoid off before it; return which it was."""
    graph = model.graph
    (kept,) = [o for o in graph.output if o.name == outlet]
    del graph.output[:]
    graph.output.append(kept)
    made_by = {name: node for node in graph.node for name in node.output}
    node = made_by.get(outlet)
    while node is not None and node.op_type == "Identity" and node.domain in ("", "ai.onnx"):
        node = made_by.get(node.input[0])
    if node is None or node.op_type not in _SQUASHING or node.domain not in ("", "ai.onnx"):
        return ""
    axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
    if node.op_type == "Softmax" and axis not in (1, -1):
        return ""
    graph.output[0].name = node.input[0]
    return node.op_type


def _fits(own: Sequence[int], wanted: Shape) -> bool:
    return len(own) == len(wanted) and all(n in (None, m) for m, n in zip(own, wanted, strict=True))
