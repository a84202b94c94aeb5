"""Image classifiers of timm and of the Hugging Face hub, with their own preprocessing inside."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

from torch import nn

from omnirobust._files import cache_dir
from omnirobust.zoo.hub import hub_access
from omnirobust.zoo.preprocessing import Preprocessed, preprocessing_of_hf, preprocessing_of_timm


def load_timm(name: str, classes: int | None, argument: str, *, pretrained: bool = True) -> Preprocessed:
    """Make a model of timm.

    Args:
        name: as ``timm.create_model`` takes it, such as "resnet18" or "resnet18.a1_in1k".
        classes: number of logits; None for as many as the pretrained weights have.
        argument: what messages call the name.
        pretrained: whether to fetch its weights, if they are not in the cache; otherwise they are random.

    Raises:
        ValueError: if timm is missing, the name unknown, the weights not to be had, or of other classes.
    """
    timm = _package("timm", f"{argument} timm:{name}")
    if not name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        _check_timm_name(timm, name, argument, pretrained)
    with _told(f"{argument} must name a model of timm whose weights can be had, got timm:{name}"), _access(pretrained):
        # Another class count would replace the trained last layer by a random one.
        sized = {} if pretrained or classes is None else {"num_classes": classes}
        model = timm.create_model(name, pretrained=pretrained, **sized)
    _check_classes(int(model.num_classes), classes, f"{argument} timm:{name}")
    config = timm.data.resolve_model_data_config(model)
    with _told(f"{argument} must name a model whose preprocessing is known, got timm:{name}"):
        return Preprocessed(model, preprocessing_of_timm(config))


def load_hf(name: str, classes: int | None, argument: str) -> Preprocessed:
    """Load an image classifier of the Hugging Face hub, from safetensors files only, and no code of its own.

    Args:
        name: ORG/NAME, or a folder that ``save_pretrained`` wrote, with its preprocessor_config.json.
        classes: number of logits expected; None for any.
        argument: what messages call the name.

    Raises:
        ValueError: if transformers is missing, there is no such model with safe weights, its preprocessing is not
            told, or it has other classes.
    """
    transformers = _package("transformers", f"{argument} hf:{name}")
    label = f"{argument} must name an image classifier with safetensors weights and a preprocessor_config.json"
    with _told(f"{label}, got hf:{name}"), hub_access(), _without_bars(transformers):
        processor = transformers.AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
        model = transformers.AutoModelForImageClassification.from_pretrained(
            name, use_safetensors=True, trust_remote_code=False
        )
        preprocessing = preprocessing_of_hf(dict(processor.to_dict()))
    _check_classes(int(model.config.num_labels), classes, f"{argument} hf:{name}")
    return Preprocessed(model, preprocessing)


def load_rb(name: str, classes: int | None, argument: str) -> nn.Module:
    """Load a model of RobustBench's zoo, a classifier of images in [0, 1].

    Weights lie where the package looks for them (models/ here), or in the cache, where they are fetched to. It reads
    them by ``torch.load``, which since torch 2.6 runs no code.

    Args:
        name: NAME, or DATASET/NORM/NAME.
        classes: number of logits, which tells the data set where the name does not; None for cifar10.
        argument: what messages call the name.

    Raises:
        ValueError: if robustbench is missing, it has no such model, its weights are not to be had, or of other classes.
    """
    *place, model = name.split("/")
    count = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}
    known = {number: dataset for dataset, number in count.items()}
    dataset, norm = place if len(place) == 2 else (known.get(classes or 10, "cifar10"), "Linf")
    if len(place) not in (0, 2) or dataset not in count or norm not in ("Linf", "L2"):
        raise ValueError(
            f"{argument} must be rb:NAME or rb:DATASET/NORM/NAME, with {', '.join(count)} and Linf or L2, got rb:{name}"
        )
    _check_classes(count[dataset], classes, f"{argument} rb:{name}")
    load = _package("robustbench.utils", f"{argument} rb:{name}").load_model
    here = Path("models", dataset, norm, f"{model}.pt")
    with _told(f"{argument} must name a model of RobustBench with weights to be had, or in {here}, got rb:{name}"):
        folder = Path("models") if here.is_file() else cache_dir() / "robustbench"
        return load(model_name=model, model_dir=str(folder), dataset=dataset, threat_model=norm)


def _package(name: str, label: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise ValueError(f"{label} needs {name}, which cannot be imported here: {error}") from error
        wanted = {"timm": "'omnirobust[timm]'", "transformers": "'omnirobust[hf]'"}.get(name, error.name)
        raise ValueError(f"{label} needs {error.name}: pip install {wanted}") from error
    except Exception as error:  # packages that do not fit each other fail in many ways
        raise ValueError(f"{label} needs {name}, which cannot be imported here: {_sentence(error)}") from error


def _check_timm_name(timm: ModuleType, name: str, argument: str, pretrained: bool) -> None:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"; there are {', '.join(close)}" if close else ""
        raise ValueError(f"{argument} must name a model of timm, got timm:{name}{hint}")
    tagged = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}*")
              if known.partition(".")[0] == architecture]  # fmt: skip
    if (pretrained and not tagged) or (tag and tag not in tagged):
        known = f"there are {', '.join(f'{architecture}.{there}' for there in tagged)}" if tagged else "there are none"
        raise ValueError(f"{argument} must name a model of timm with pretrained weights, got timm:{name}; {known}")


def _check_classes(there: int, wanted: int | None, label: str) -> None:
    if wanted is not None and there != wanted:
        raise ValueError(f"{label} must return {wanted} logits, one for each class, got a model of {there} classes")


@contextmanager
def _access(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    with hub_access():
        yield


@contextmanager
def _without_bars(transformers: ModuleType) -> Iterator[None]:
    """Keep transformers from drawing bars of its own, into files and pipes too."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _told(sentence: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # what other packages raise, of many kinds
        raise ValueError(f"{sentence}: {_sentence(error)}") from error


def _sentence(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
