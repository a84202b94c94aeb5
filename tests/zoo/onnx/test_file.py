"""Files that are no classifier in ONNX, or try to be more than one, are refused in a sentence that names them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from omnirobust import zoo

W = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
B = np.array([0.5, -0.25, 0.0], np.float32)
X = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("content", [b"", b"not what it says", b"\x08\x07" * 50, b"\x00" * 4096])
def test_what_is_no_onnx_is_told(tmp_path, content: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"^source must be a classifier in ONNX, got .*bad.onnx, which [^\n]*$"):
        zoo.load_model(f"{tmp_path}/bad.onnx")


def test_a_damaged_file_is_told(write) -> None:
    path = write()
    whole = path.read_bytes()
    for end in (len(whole) // 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"^source must be a classifier in ONNX, got .*net.onnx, which [^\n]*$"):
            zoo.load_model(str(path))


def test_a_file_that_is_not_there_is_told(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"source must name an existing file, got nowhere\.onnx"):
        zoo.load_model("nowhere.onnx:queries")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": np.int64, "before": [("Cast", ["x"], "c", {"to": 1})]}, r"it must be a batch \(n, \.\.\.\) of float"),
        ({"after": [("ArgMax", ["sum"], "scores", {"axis": 1, "keepdims": 0})],
          "outputs": [("scores", np.int64, ("n",))]}, "one must hold scores"),
        ({"after": [("Identity", ["sum"], "scores", {}), ("Relu", ["sum"], "more", {})],
          "outputs": [("scores", np.float32, ("n", 3)), ("more", np.float32, ("n", 3))]},
         r"with the outputs scores tensor\(float\).*more tensor\(float\).*alone or by the name logits"),
        ({"after": [("Reshape", ["sum", "deep"], "scores", {})], "data": [("deep", np.array([-1, 3, 1, 1]))],
          "outputs": [("scores", np.float32, ("n", 3, 1, 1))]}, "one must hold scores"),
    ],
)  # fmt: skip
def test_what_is_no_classifier_is_told(write, given, message) -> None:
    with pytest.raises(ValueError, match=rf"^source must be a classifier in ONNX, got .*net.onnx, .*{message}"):
        zoo.load_model(str(write(**given)))


def test_two_inputs_are_refused(tmp_path) -> None:
    h = onnx.helper
    ports = [h.make_tensor_value_info(name, 1, ("n", 3)) for name in ("a", "b", "c")]
    graph = h.make_graph([h.make_node("Add", ["a", "b"], ["c"])], "g", ports[:2], ports[2:])
    onnx.save(h.make_model(graph, ir_version=10, opset_imports=[h.make_opsetid("", 17)]), tmp_path / "two.onnx")
    with pytest.raises(ValueError, match=r"two.onnx, with the inputs a tensor\(float\).*, b .*: it must have one"):
        zoo.load_model(f"{tmp_path}/two.onnx")


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 2, 2), (12,)])
def test_images_of_another_shape_are_told(write, shape) -> None:
    with pytest.raises(ValueError, match=r"net.onnx takes inputs of shape \(3, 2, 2\), got \(" + str(shape[0])):
        zoo.load_model(str(write()), images=torch.rand(2, *shape))


def _beside(path: Path, location: str, monkeypatch) -> None:
    """Let the weights lie in another file; what asks for one outside of the folder is written past all checks."""
    model = onnx.load(str(path))
    (weights,) = [value for value in model.graph.initializer if value.name == "W"]
    onnx.external_data_helper.set_external_data(weights, location)
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    path.write_bytes(model.SerializeToString())


def test_data_beside_the_file_are_read_and_part_of_its_digest(write, monkeypatch) -> None:
    path = write()
    _beside(path, "w.bin", monkeypatch)
    digests = []
    for scale in (1, 2):
        (path.parent / "w.bin").write_bytes((scale * W).tobytes())
        model = zoo.load_model(str(path), images=X)
        assert torch.allclose(model(X), X.flatten(1) @ torch.from_numpy(scale * W) + torch.from_numpy(B), atol=1e-5)
        digests.append(model.source_digest)
    assert digests[0] != digests[1]


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "missing.bin"])
def test_data_elsewhere_or_nowhere_are_refused(write, monkeypatch, location) -> None:
    path = write("deep.onnx")
    inner = path.parent / "inner"
    inner.mkdir()
    (path.parent / "secret.bin").write_bytes(W.tobytes())
    path.rename(inner / "deep.onnx")
    _beside(inner / "deep.onnx", location, monkeypatch)
    with pytest.raises(
        ValueError, match=r"^source must be a classifier in ONNX, got .*deep.onnx, which cannot be read"
    ):
        zoo.load_model(f"{inner}/deep.onnx")


def test_the_name_of_a_node_is_not_run(write, tmp_path) -> None:
    path = write()
    model = onnx.load(str(path))
    ran = tmp_path / "RAN"
    for number, node in enumerate(model.graph.node):
        node.name = f'x") or __import__("builtins").open({str(ran)!r}, "w") or getattr(self, "x{number}'
    onnx.save(model, path)
    found = zoo.load_model(str(path), images=X)
    assert torch.allclose(found(X.clone().requires_grad_()), found(X), atol=1e-5)
    assert not ran.exists()
    assert isinstance(found, torch.nn.Module)
