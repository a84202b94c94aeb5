"""A copy in torch of an ONNX graph, by onnx2torch, from which is kept what it cannot import, know or run."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from omnirobust.zoo.onnx.file import Scores, package, session

_OPERATIONS = ("nms", "box_convert", "roi_align")
"""What onnx2torch takes from torchvision, for detectors alone."""


class Copy(nn.Module):
    """A network in evaluation mode and frozen, of as many inputs at once as it takes.

    Args:
        network: of a batch in the order and dtype of the file.
        together: how many inputs it takes at once; None for any number.
    """

    def __init__(self, network: nn.Module, together: int | None) -> None:
        super().__init__()
        self.network, self.together = network, together

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (n, ...) of inputs (n, *S)."""
        if self.together is None:
            return self.network(x)
        parts = []
        for part in x.split(self.together):
            filled = torch.cat([part, part[-1:].expand(self.together - len(part), *part.shape[1:])])
            parts.append(self.network(filled)[: len(part)])
        return torch.cat(parts)


def copied(file: Scores) -> nn.Module:
    """Make a network of an ONNX graph.

    Raises:
        Exception: of many kinds, if onnx2torch is not here or does not know an operation.
    """
    runtime = package("onnxruntime", str(file.path))
    converter = _onnx2torch(str(file.path))
    registry = import_module("onnx2torch.node_converters.registry")._CONVERTER_REGISTRY
    graph = _plain(runtime, file.proto, {each.operation_type for each in registry})
    with _newer_too(registry):
        # at once: its modules come in training mode, and one call in it would move their statistics
        return converter.convert(graph).eval().requires_grad_(False)


def _plain(runtime: ModuleType, proto: bytes, known: set[str]) -> Any:
    """Return a graph of known operations with its constants folded, under names that are no code."""
    onnx, inliner = import_module("onnx"), import_module("onnx.inliner")
    model = onnx.load_model_from_string(proto)
    if unknown := {n.op_type for n in model.graph.node if n.domain in ("", "ai.onnx")} - known:
        names = [("", name) for name in sorted(unknown)]
        model = inliner.inline_selected_functions(model, names, inline_schema_functions=True)
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "folded.onnx"
        basic = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        session(runtime, model.SerializeToString(), graph_optimization_level=basic, optimized_model_filepath=str(kept))
        model = onnx.load(str(kept))
    constants = _constants(model.graph)
    for number, node in enumerate(model.graph.node):
        if node.domain not in ("", "ai.onnx"):
            raise ValueError(f"onnx2torch does not know {node.domain}.{node.op_type}")
        node.name, node.domain = f"n{number}", ""  # the name of a node becomes code of the network: nobody else's does
        _as_before(onnx, node, constants)
    return model


def _constants(graph: Any) -> dict[str, Any]:
    """Turn what is left of constant nodes into initial values, and return all of these by name."""
    nodes = [node for node in graph.node if node.op_type != "Constant" or node.attribute[0].name != "value"]
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            value = graph.initializer.add()
            value.CopyFrom(node.attribute[0].t)
            value.name = node.output[0]
    del graph.node[:]
    graph.node.extend(nodes)
    return {value.name: value for value in graph.initializer}


def _as_before(onnx: ModuleType, node: Any, constants: dict[str, Any]) -> None:
    """Write a node as in the earlier versions of its operation, which onnx2torch knows, where both say the same."""
    second = constants.get(node.input[1]) if len(node.input) > 1 else None
    if second is None:
        return
    values = onnx.numpy_helper.to_array(second)
    if node.op_type == "Reshape" and bool((values != 0).all()):
        for attribute in [a for a in node.attribute if a.name == "allowzero"]:
            node.attribute.remove(attribute)
    if node.op_type.startswith("Reduce") and node.op_type != "ReduceSum" and len(node.input) == 2:
        node.attribute.append(onnx.helper.make_attribute("axes", values.tolist()))
        del node.input[1:]


@contextmanager
def _newer_too(registry: dict[Any, Any]) -> Iterator[None]:
    """Let the newest version of an operation that onnx2torch knows stand for later ones: scores are compared after."""
    newest: dict[tuple[str, str], Any] = {}
    for each in registry:
        key = each.domain, each.operation_type
        newest[key] = max(newest.get(key, each), each, key=lambda known: known.version)
    added = [
        newest[key]._replace(version=schema.since_version)
        for schema in import_module("onnx.defs").get_all_schemas_with_history()
        if (key := (schema.domain, schema.name)) in newest and schema.since_version > newest[key].version
    ]
    registry.update({each: registry[newest[each.domain, each.operation_type]] for each in added})
    try:
        yield
    finally:
        for each in added:
            registry.pop(each, None)


def _onnx2torch(label: str) -> ModuleType:
    """Import onnx2torch; where torchvision cannot be imported, beside a stand-in that is gone afterwards.

    Raises:
        ValueError: if it is not here.
    """
    if "onnx2torch" in sys.modules:
        return sys.modules["onnx2torch"]
    before = set(sys.modules)
    try:
        return import_module("onnx2torch")
    except Exception as error:  # a torchvision that is not there, or built for another torch
        if isinstance(error, ModuleNotFoundError) and error.name != "torchvision":
            return package("onnx2torch", label)  # says what is missing
        for name in [n for n in set(sys.modules) - before if n.partition(".")[0] in ("onnx2torch", "torchvision")]:
            del sys.modules[name]
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "torchvision"}
    whole, operations = ModuleType("torchvision"), ModuleType("torchvision.ops")
    whole.__dict__["ops"] = operations
    operations.__dict__.update(dict.fromkeys(_OPERATIONS, _not_here))
    sys.modules |= {"torchvision": whole, "torchvision.ops": operations}
    try:
        return package("onnx2torch", label)
    finally:
        for name in ("torchvision", "torchvision.ops"):
            del sys.modules[name]
        sys.modules.update(hidden)


def _not_here(*_: object, **__: object) -> Any:
    raise NotImplementedError("boxes need torchvision, which cannot be imported here")
