"""Models by one string, end to end: files, own code, timm and transformers themselves with random weights."""

import json
import sys
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import omnirobust as orb
from omnirobust import zoo
from omnirobust.jobs.names import load_models

OWN = """
from torch import nn
def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
def fails():
    raise RuntimeError("no weights today")
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Write a tiny classifier as ``save_pretrained`` does, with settings such as those on the hub."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=10
    )
    transformers.ResNetForImageClassification(config).save_pretrained(folder)
    settings = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 32, "width": 32},
        "resample": 2, "do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def test_a_model_of_timm_resizes_and_normalises_as_its_configuration_says(timm) -> None:
    torch.manual_seed(0)
    model = zoo.load_model("timm:test_byobnet", classes=10, pretrained=False)
    assert isinstance(model, zoo.Preprocessed) and not model.training
    assert not any(p.requires_grad for p in model.parameters())
    config = timm.data.resolve_model_data_config(model.model)
    side = config["input_size"][-1]
    x = torch.rand(2, 3, side, side)
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    assert torch.allclose(model(x), model.model((x - mean) / std), atol=1e-5)


def test_weights_of_one_s_own_for_a_model_of_timm(timm, tmp_path, digits) -> None:
    torch.manual_seed(0)
    made = zoo.load_model("timm:test_byobnet", classes=10, pretrained=False)
    save_file(made.model.state_dict(), tmp_path / "mine.safetensors")  # type: ignore[attr-defined]
    models = load_models((f"{tmp_path}/mine.safetensors:timm:test_byobnet", "c"), "digits")
    assert list(models) == ["mine", "c"]
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(models["mine"](x), made(x))
    # Models of 160 and of 8 pixels in one ensemble: the gradient reaches the small images.
    result = orb.attack_ensemble(models, x, torch.tensor([1, 2]), orb.Linf(0.1), steps=2)
    assert result.fooled.shape == (2, 2) and not bool(result.zero_gradient.any())


def test_a_model_of_transformers_gives_what_its_own_processor_and_it_give(timm, saved) -> None:
    transformers = pytest.importorskip("transformers")
    model = zoo.load_model(f"hf:{saved}", classes=10)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    processor = transformers.AutoImageProcessor.from_pretrained(saved)
    inputs = processor(images=[image.permute(1, 2, 0).numpy() for image in pixels], return_tensors="pt")
    plain = transformers.AutoModelForImageClassification.from_pretrained(saved).eval()
    assert torch.allclose(model(pixels / 255), plain(**inputs).logits, atol=1e-4)
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert list(load_models((f"hf:{saved}",), "digits")) == ["tiny"]


def test_models_of_transformers_without_safe_weights_or_of_other_classes_are_refused(timm, saved, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"source hf:.*tiny must return 7 logits, .* got a model of 10 classes"):
        zoo.load_model(f"hf:{saved}", classes=7)
    for file in ("config.json", "preprocessor_config.json"):
        (tmp_path / file).write_bytes((saved / file).read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="source must name an image classifier with safetensors weights"):
        zoo.load_model(f"hf:{tmp_path}")


def test_a_file_of_weights_and_an_architecture(tmp_path) -> None:
    torch.manual_seed(0)
    network = zoo.build("c", (1, 8, 8), 10)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    model = zoo.load_model(f"{tmp_path}/w.safetensors:lenet", classes=10, shape=(1, 8, 8))
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(model(x), network.eval()(x))
    assert torch.equal(load_models((f"{tmp_path}/w.safetensors:c",), "digits")["w"](x), model(x))


def test_a_file_of_weights_and_code(tmp_path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    model = zoo.load_model(f"{tmp_path}/w.safetensors:{tmp_path}/own.py:build")
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(model(x), network(x))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("timm:test_byobne", "source must name a model of timm, got timm:test_byobne; there are test_byobnet"),
        ("timm:resnet18.nope", "with pretrained weights, got timm:resnet18.nope; there are resnet18.a1_in1k"),
        ("timm:", "source must have a name after timm:, got 'timm:'"),
        ("lenet", "source must be data/letter, timm:NAME, .* got 'lenet'"),
        ("mnist/z", "source must be one of mnist/a"),
        ("own.py:fails", "source must name code that runs, got own.py:fails: RuntimeError: no weights today"),
        ("own.py", r"source must say what to take from a file, as in own.py:NAME, got 'own.py'"),
        ("./nope", "source must be data/letter, .* got './nope', which does not exist"),
        ("runs/nope/x", "got 'runs/nope/x', which does not exist"),
        ("w.pt:lenet", "source must be safetensors files, got w.pt, of a kind that can run code"),
        ("w.pt", "source must be safetensors files, got w.pt, of a kind that can run code"),
        ("nowhere.safetensors:c", "source must name an existing file, got nowhere.safetensors"),
        ("bad.safetensors:c", r"shape and classes must be given with bad.safetensors:c, got None, None"),
        ("bad.safetensors:own.py:build", "source must hold weights of own.py:build .* damaged or of another"),
        ("bad.safetensors", r"source must have a readable card.json .* name the network too: bad.safetensors:ARCH"),
    ],
)
def test_what_is_no_model_is_told(timm, tmp_path, monkeypatch, source, message) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "bad.safetensors").write_bytes(b"not what it says")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        zoo.load_model(source)


@pytest.mark.parametrize(
    ("source", "package", "message"),
    [
        ("timm:resnet18", "timm", r"source timm:resnet18 needs timm: pip install 'omnirobust\[timm\]'"),
        ("hf:ORG/NAME", "transformers", r"source hf:ORG/NAME needs transformers: pip install 'omnirobust\[hf\]'"),
        ("rb:NAME", "robustbench", r"source rb:NAME needs robustbench: pip install robustbench$"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, source, package, message) -> None:
    class Missing:
        def find_spec(self, name, path=None, target=None):
            if name == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ValueError, match=message):
        zoo.load_model(source)


def test_transformers_draws_no_bars_and_may_afterwards(timm, saved, capfd) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.enable_progress_bar()
    zoo.load_model(f"hf:{saved}", classes=10)
    assert "%" not in "".join(capfd.readouterr())
    assert transformers.utils.logging.is_progress_bar_enabled()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"shape": [3, 100000, 100000]}, r"stranger/card.json, .* \(128, 30000000000\), which is of shape \(128, 64\)"),
        ({"classes": 10**12}, r"stranger/card.json, .* in 1000000000000 classes: it asks for 7.weight of shape"),
        ({"shape": [10**9, 10**9, 10**9]}, r"stranger/card.json: no network takes images"),
        ({"shape": [3, -1, 16]}, r"stranger/card.json: shape must be \(channels, height, width\)"),
        ({"architecture": "b"}, r"stranger/card.json, .* it asks for 0.weight of shape .*, which is not there"),
        ({"architecture": "os:getcwd"}, r"stranger/card.json: arch must be one of"),
        ({"shape": [3, "8.5", 8]}, r"must have a readable card.json"),
        ({"shape": [3, float("inf"), 8]}, r"must have a readable card.json"),
    ],
)
def test_a_card_is_held_against_the_header_of_its_weights(tmp_path, monkeypatch, changed, said) -> None:
    folder = tmp_path / "stranger"
    folder.mkdir()
    save_file(zoo.build("a", (1, 8, 8), 10).state_dict(), folder / "model.safetensors")
    fits = {"architecture": "a", "shape": [1, 8, 8], "classes": 10}
    (folder / "card.json").write_text(json.dumps({"network": fits}))
    assert zoo.load_model(str(folder))(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    (folder / "card.json").write_text(json.dumps({"network": fits | changed}))

    def never(*_):  # where it would be filled
        raise AssertionError

    monkeypatch.setattr("omnirobust.zoo.trained.fill", never)
    before = torch.random.get_rng_state()
    with pytest.raises(ValueError, match=said):
        zoo.load_model(str(folder))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.fixture
def robustbench(monkeypatch, tmp_path):
    """Stand in for the package, which needs its own version of timm; return what it was asked for."""
    asked: list[dict] = []

    def load_model(model_name: str, model_dir: str, dataset: str, threat_model: str) -> nn.Module:
        asked.append({"name": model_name, "dir": model_dir, "dataset": dataset, "norm": threat_model})
        if model_name == "Nope":
            raise KeyError(model_name)
        classes = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}[dataset]
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, classes))

    package, utils = ModuleType("robustbench"), ModuleType("robustbench.utils")
    utils.load_model = load_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "robustbench", package)
    monkeypatch.setitem(sys.modules, "robustbench.utils", utils)
    monkeypatch.setenv("OMNIROBUST_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return asked


@pytest.mark.parametrize(
    ("source", "classes", "dataset", "norm"),
    [("rb:Net", None, "cifar10", "Linf"), ("rb:Net", 100, "cifar100", "Linf"),
     ("rb:cifar10/L2/Net", 10, "cifar10", "L2"),
     ("rb:imagenet/Linf/Net", None, "imagenet", "Linf")],
)  # fmt: skip
def test_models_of_robustbench_are_those_of_the_data_set(robustbench, tmp_path, source, classes, dataset, norm) -> None:
    model = zoo.load_model(source, classes=classes)
    assert isinstance(model, nn.Module) and not model.training and not any(p.requires_grad for p in model.parameters())
    cache = str(tmp_path / "cache" / "robustbench")
    assert robustbench == [{"name": "Net", "dir": cache, "dataset": dataset, "norm": norm}]
    there = tmp_path / "models" / dataset / norm
    there.mkdir(parents=True)
    (there / "Net.pt").write_bytes(b"weights")
    zoo.load_model(source, classes=classes)
    assert robustbench[1]["dir"] == "models"
    assert list(load_models(("rb:cifar10/L2/Net", "rb:Net"), "digits")) == ["L2/Net", "rb:Net"]


@pytest.mark.parametrize(
    ("source", "classes", "message"),
    [
        ("rb:", None, "source must have a name after rb:, got 'rb:'"),
        ("rb:cifar10/Net", None, "source must be rb:NAME or rb:DATASET/NORM/NAME, with cifar10, .* got rb:cifar10/Net"),
        ("rb:mnist/Linf/Net", None, "with cifar10, cifar100, imagenet and Linf or L2, got rb:mnist/Linf/Net"),
        ("rb:cifar10/L2/Net", 100, "source rb:cifar10/L2/Net must return 100 logits, .* got a model of 10 classes"),
        ("rb:Nope", None, r"with weights to be had, or in models/cifar10/Linf/Nope\.pt, got rb:Nope: "),
    ],
)
def test_what_robustbench_has_not_is_told(robustbench, source, classes, message) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.load_model(source, classes=classes)
