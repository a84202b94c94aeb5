"""Classifiers in ONNX against closed forms, and against the network that was exported."""

from __future__ import annotations

import pickle
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import omnirobust as orb
from omnirobust import zoo
from omnirobust.domains.classifier import Classifier
from omnirobust.zoo.onnx import model as onnx_model
from omnirobust.zoo.onnx.model import Answers, OnnxModel

W = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
B = np.array([0.5, -0.25, 0.0], np.float32)
X = torch.randint(0, 256, (5, 3, 2, 2), generator=torch.Generator().manual_seed(1)) / 255
SOFTMAX = [("Softmax", ["sum"], "scores", {"axis": 1})]


def scores(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1) @ torch.from_numpy(W) + torch.from_numpy(B)


def test_scores_and_gradients_are_those_of_the_closed_form(write) -> None:
    model = zoo.load_model(str(write()), images=X)
    assert isinstance(model, OnnxModel) and not model.training
    assert not any(p.requires_grad for p in model.parameters())
    leaf = X.clone().requires_grad_()
    for said in (model(X), model(leaf)):
        assert torch.allclose(said, scores(X), atol=1e-5)
    (slope,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    assert torch.allclose(slope, torch.from_numpy(W[:, 1]).view(3, 2, 2).expand_as(slope), atol=1e-6)


def test_what_is_asked_without_gradients_the_file_itself_answers(write, monkeypatch) -> None:
    model = zoo.load_model(str(write()))
    monkeypatch.setattr(model.network, "forward", None)
    assert torch.allclose(model(X), scores(X), atol=1e-5)
    with pytest.raises(TypeError):
        model(X.clone().requires_grad_())


def test_queries_are_a_black_box_of_the_same_scores(write) -> None:
    box = zoo.load_model(f"{write()}:queries")
    assert isinstance(box, orb.BlackBox) and box.output == "logits" and box.retries == 0
    assert torch.allclose(box(X), scores(X), atol=1e-5)
    result = orb.attack_ensemble({"net": box}, X, scores(X).argmax(1), orb.Linf(0.4), steps=40)
    assert result.queries is not None and int(result.queries.min()) >= 1
    again = scores(result.adversarial).argmax(1) != scores(X).argmax(1)
    assert torch.equal(result.fooled[:, 0], again)
    assert "model 'net' only answers, through onnxruntime." in result.notes


@pytest.mark.parametrize("end", ["Softmax", "Sigmoid"])
@pytest.mark.parametrize("identity", [False, True])
def test_what_squashes_at_the_end_is_cut_and_said(write, end: str, identity: bool) -> None:
    after = [(end, ["sum"], "squashed", {}), ("Identity", ["squashed"], "scores", {})]
    path = write(after=after if identity else [(end, ["sum"], "scores", {})])
    model = zoo.load_model(str(path))
    assert torch.allclose(model(X), scores(X), atol=1e-5)
    result = orb.attack_ensemble({"net": model}, X, scores(X).argmax(1), orb.Linf(0.05), steps=2)
    assert f"model 'net' ends in a {end}, which was cut off: its logits are attacked." in result.notes


def test_a_softmax_over_something_else_is_left(write) -> None:
    box = zoo.load_model(str(write(after=[("Softmax", ["sum"], "scores", {"axis": 0})])))
    assert torch.allclose(box(X), scores(X).softmax(0), atol=1e-5)


def test_probabilities_that_cannot_be_cut_are_only_asked(write) -> None:
    after = [("Softmax", ["sum"], "p", {"axis": 1}), ("Add", ["p", "none"], "scores", {})]
    box = zoo.load_model(str(write(after=after, data=[("none", np.zeros(3, np.float32))])))
    assert isinstance(box, orb.BlackBox) and box.output == "probabilities"
    assert torch.allclose(box(X), scores(X).log_softmax(1), atol=1e-4)
    assert "it returns probabilities" in box.f.source_notes[0]


@pytest.mark.parametrize("together", [1, 2])
def test_a_fixed_number_of_inputs_at_once_is_kept_to(write, together: int) -> None:
    path = write(shape=(together, 3, 2, 2), outputs=[("scores", np.float32, (together, 3))])
    for model in (zoo.load_model(str(path)), zoo.load_model(f"{path}:queries")):
        assert torch.allclose(model(X), scores(X), atol=1e-5)
    sizes = [("two", np.array([together, 12], np.int64)), ("one", np.array([together, 3, 2, 2], np.int64))]
    before = [("Reshape", ["x", "two"], "rows", {}), ("Reshape", ["rows", "one"], "shaped", {})]
    path = write(shape=(together, 3, 2, 2), before=before, data=sizes, outputs=[("scores", np.float32, (together, 3))])
    model, leaf = zoo.load_model(str(path)), X.clone().requires_grad_()
    assert isinstance(model, OnnxModel)
    assert torch.allclose(model(leaf), scores(X), atol=1e-5)
    (slope,) = torch.autograd.grad(model(leaf)[:, 2].sum(), leaf)
    assert torch.allclose(slope, torch.from_numpy(W[:, 2]).view(3, 2, 2).expand_as(slope), atol=1e-6)


def test_channels_last_are_turned(write) -> None:
    model = zoo.load_model(str(write(shape=("n", 2, 2, 3))))
    turned = X.permute(0, 2, 3, 1).flatten(1) @ torch.from_numpy(W) + torch.from_numpy(B)
    leaf = X.clone().requires_grad_()
    assert torch.allclose(model(X), turned, atol=1e-5) and torch.allclose(model(leaf), turned, atol=1e-5)


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_precisions(write, kind) -> None:
    model = zoo.load_model(
        str(write(kind=kind, weights=W.astype(kind), outputs=[("scores", kind, ("n", 3))])), images=X
    )
    leaf = X.clone().requires_grad_()
    assert isinstance(model, OnnxModel)
    assert model(X).dtype == model(leaf).dtype == torch.float32
    assert torch.allclose(model(leaf), scores(X), atol=3e-2 if kind is np.float16 else 1e-5)


def test_levels_of_eight_bits_are_rounded_and_have_the_gradient_of_no_rounding(write) -> None:
    path = write(kind=np.uint8, before=[("Cast", ["x"], "cast", {"to": 1})])
    x = X + 0.3 / 255
    model, leaf = zoo.load_model(str(path)), x.clone().requires_grad_()
    assert isinstance(model, OnnxModel)
    assert torch.allclose(model(leaf), scores(255 * X), atol=1e-3) and torch.equal(model(x), model(X))
    (slope,) = torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)
    assert torch.allclose(slope, 255 * torch.from_numpy(W[:, 0]).view(3, 2, 2).expand_as(slope), atol=1e-3)
    assert any("whole levels of 0 to 255" in note for note in model.source_notes)


def test_one_number_an_input_is_the_logit_of_two_classes(write) -> None:
    after = [("ReduceSum", ["sum", "axis"], "one", {"keepdims": 1}), ("Sigmoid", ["one"], "scores", {})]
    path = write(after=after, data=[("axis", np.array([1]))], outputs=[("scores", np.float32, ("n", 1))])
    wanted = torch.stack([torch.zeros(5), scores(X).sum(1)], 1)
    for model in (zoo.load_model(str(path)), zoo.load_model(f"{path}:queries")):
        assert torch.allclose(model(X), wanted, atol=1e-4)


def test_of_several_outputs_the_scores_are_read(write) -> None:
    after = [("ArgMax", ["sum"], "label", {"axis": 1, "keepdims": 0}), ("Identity", ["sum"], "scores", {})]
    outputs = [("label", np.int64, ("n",)), ("scores", np.float32, ("n", 3))]
    model = zoo.load_model(str(write(after=after, outputs=outputs)))
    assert torch.allclose(model(X), scores(X), atol=1e-5)
    assert "has more outputs than one, of which scores was read, not label" in model.source_notes


def test_an_operation_that_onnx2torch_does_not_know_is_only_asked(write) -> None:
    after = [("Reshape", ["sum", "square"], "matrix", {}), ("Det", ["matrix"], "scores", {})]
    data = [("square", np.array([-1, 1, 1])), ("K", np.eye(12, 1, dtype=np.float32))]
    after = [
        ("MatMul", ["flat", "K"], "sum2", {}),
        ("Reshape", ["sum2", "square"], "m", {}),
        ("Det", ["m"], "scores", {}),
    ]
    box = zoo.load_model(str(write(after=after, data=data, outputs=[("scores", np.float32, ("n",))])))
    assert isinstance(box, orb.BlackBox)
    assert "onnx2torch makes no network of it" in box.f.source_notes[0] and "Det" in box.f.source_notes[0]
    assert torch.allclose(box(X)[:, 1], X.flatten(1)[:, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "why"),
    [(lambda x: x + 1e-3, "differ by 0.001"), (lambda x: x.detach() + 0 * x, "has no gradients"),
     (lambda x: x.detach(), "copy in torch fails")],
)  # fmt: skip
def test_a_copy_that_does_not_agree_is_not_used(write, monkeypatch, change, why) -> None:
    class Wrong(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return change(self.network(x))

    real = onnx_model.copied
    monkeypatch.setattr(onnx_model, "copied", lambda file: Wrong(real(file)))
    box = zoo.load_model(str(write()), images=X)
    assert isinstance(box, orb.BlackBox) and why in box.f.source_notes[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("free", [False, True])
def test_an_exported_network_gives_what_it_gave_and_its_gradients(tmp_path, free: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.5),
        nn.Linear(16, 10),
    )  # fmt: skip
    net(torch.rand(8, 3, 8, 8))  # its statistics are none of a fresh one
    net.eval()
    axes = {"dynamic_axes": {"x": {0: "n"}}} if free else {}
    whole = nn.Sequential(net, nn.Softmax(1)).eval()
    torch.onnx.export(
        whole, (torch.rand(1, 3, 8, 8),), str(tmp_path / "n.onnx"), dynamo=False, input_names=["x"], **axes
    )
    x = torch.rand(6, 3, 8, 8)
    model = zoo.load_model(f"{tmp_path}/n.onnx", images=x)
    assert isinstance(model, OnnxModel)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    held, mine = Classifier("n", model), [x.clone().requires_grad_() for _ in range(2)]
    said, own = held(mine[0]), net(mine[1])
    assert torch.allclose(said, own, atol=1e-5)
    slopes = [torch.autograd.grad(s[:, 3].sum(), leaf)[0] for s, leaf in zip((said, own), mine, strict=True)]
    assert torch.allclose(*slopes, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    y = own.argmax(1)
    theirs = orb.attack_ensemble({"n": model}, x, y, orb.Linf(0.03), steps=5)
    ours = orb.attack_ensemble({"n": net}, x, y, orb.Linf(0.03), steps=5)
    assert torch.equal(theirs.fooled, ours.fooled)
    assert torch.allclose(theirs.losses, ours.losses, atol=1e-3)


def test_copies_and_pickles_ask_the_same_file(write) -> None:
    model, box = zoo.load_model(str(write())), zoo.load_model(f"{write()}:queries")
    assert torch.equal(deepcopy(model)(X), model(X))
    again = pickle.loads(pickle.dumps(box.f))
    assert isinstance(again, Answers) and torch.equal(again(X), box.f(X))


def test_torchvision_is_neither_needed_nor_left_behind(write) -> None:
    code = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torchvision":
            raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")
sys.meta_path.insert(0, Missing())
from omnirobust import zoo
print(type(zoo.load_model({str(write())!r})).__name__)
print([name for name in sys.modules if name.partition(".")[0] == "torchvision"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["OnnxModel", "[]"]


@pytest.mark.parametrize(
    ("package", "message"),
    [("onnxruntime", r"needs onnxruntime: pip install 'omnirobust\[onnx\]'"), ("onnx", "needs onnx: pip install")],
)
def test_a_missing_package_is_named(write, monkeypatch, package, message) -> None:
    path = write()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"source .*net.onnx {message}"):
        zoo.load_model(str(path))


def test_without_onnx2torch_it_is_asked(write, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    box = zoo.load_model(str(write()))
    assert isinstance(box, orb.BlackBox) and "onnx2torch" in box.f.source_notes[0]
    assert Path(str(box.f.file.path)).name == "net.onnx"
