"""Graphs of which the scores are known in closed form, written by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

W = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
B = np.array([0.5, -0.25, 0.0], np.float32)

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return what writes a graph: from flattened inputs x to the scores x W + B, with nodes before and after."""

    def write_graph(
        name: str = "net.onnx", shape: Sequence[Any] = ("n", 3, 2, 2), kind: Any = np.float32,
        before: Sequence[Any] = (), after: Sequence[Any] = (), data: Any = (), weights: np.ndarray = W,
        outputs: Sequence[Any] = (("scores", np.float32, ("n", 3)),), opset: int = 17,
    ) -> Path:  # fmt: skip
        h, last, first = onnx.helper, after[-1] if after else None, before[-1][2] if before else "x"
        made = [
            *(h.make_node(op, given, [to], **more) for op, given, to, more in before),
            h.make_node("Flatten", [first], ["flat"], axis=1),
            h.make_node("MatMul", ["flat", "W"], ["product"]),
            h.make_node("Add", ["product", "B"], ["scores" if last is None else "sum"]),
            *(h.make_node(op, given, [to] if isinstance(to, str) else to, **more) for op, given, to, more in after),
        ]
        initial = [
            onnx.numpy_helper.from_array(v, n) for n, v in (("W", weights), ("B", B.astype(weights.dtype)), *data)
        ]
        ports = [
            h.make_tensor_value_info(n, h.np_dtype_to_tensor_dtype(np.dtype(k)), s)
            for n, k, s in (("x", kind, shape), *outputs)
        ]
        graph = h.make_graph(made, "net", ports[:1], ports[1:], initial)
        model = h.make_model(graph, opset_imports=[h.make_opsetid("", opset)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return write_graph
