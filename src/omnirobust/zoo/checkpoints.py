"""Find, load and write trained models: safetensors beside a card, never pickle."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from omnirobust._files import cache_dir, nearest
from omnirobust.zoo.architectures import Shape, build
from omnirobust.zoo.cards import Card, read_card
from omnirobust.zoo.chunks import read_model, write_model
from omnirobust.zoo.recipes import RECIPES

_NAME = re.compile(r"(?P<model>[a-z0-9]+/[a-z])(@seed(?P<seed>\d+))?")


class MissingWeightsError(FileNotFoundError):
    """The model is known, but has not been trained on this machine."""


@dataclass(frozen=True)
class ModelName:
    """The parts of "mnist/a" or "mnist/a@seed1"."""

    data: str
    letter: str
    seed: int

    @property
    def recipe(self) -> str:
        """The name of its recipe, "mnist/a"."""
        return f"{self.data}/{self.letter}"

    def __str__(self) -> str:
        return self.recipe + (f"@seed{self.seed}" if self.seed else "")


def parse_name(name: str) -> ModelName:
    """Take ``name`` apart.

    Raises:
        ValueError: if it is not of the form data/letter or data/letter@seedN, or there is no such recipe.
    """
    match = _NAME.fullmatch(name.lower())
    if match is None or match["model"] not in RECIPES:
        hint = nearest(name.lower().split("@")[0], RECIPES)
        raise ValueError(f"name must be one of {', '.join(RECIPES)}, each perhaps with @seedN, got {name!r}{hint}")
    data, letter = match["model"].split("/")
    return ModelName(data, letter, int(match["seed"] or 0))


def folder_of(name: str, cache: str | Path | None = None) -> Path:
    """Return the folder in the cache that holds, or would hold, the model ``name``."""
    parsed = parse_name(name)
    base = cache_dir() if cache is None else Path(cache)
    return base / "zoo" / parsed.data / str(parsed).split("/")[1]


def names(cache: str | Path | None = None) -> tuple[str, ...]:
    """List the models whose weights are on this machine, in the cache or packaged."""
    files = [file for base in _bases(cache) for file in base.glob("*/*/weights.safetensors")]
    return tuple(sorted({f"{file.parts[-3]}/{file.parts[-2]}" for file in files}))


def card(name: str, cache: str | Path | None = None) -> Card:
    """Return the card of a trained model.

    Raises:
        ValueError: for an unknown name or a damaged card.
        MissingWeightsError: if the model has not been trained.
    """
    return read_card(_find(name, cache) / "card.json")


def is_packaged(name: str, cache: str | Path | None = None) -> bool:
    """Say whether a model is taken from the package, not from the cache.

    Raises:
        ValueError: for an unknown name.
        MissingWeightsError: if the model is in neither.
    """
    return _find(name, cache).is_relative_to(_packaged())


def load(name: str, cache: str | Path | None = None) -> nn.Module:
    """Load a trained model, in eval mode with frozen parameters.

    Args:
        name: data/letter, such as "mnist/a"; "mnist/a@seed1" for the model trained from seed 1.
        cache: cache folder; None for $OMNIROBUST_CACHE or ~/.cache/omnirobust. Models that are not there are looked
            for among those that come with the package.

    Raises:
        ValueError: for an unknown name or damaged files.
        MissingWeightsError: if the model has not been trained.
    """
    folder = _find(name, cache)
    facts = read_card(folder / "card.json")
    model = build(facts.architecture, facts.shape, facts.classes)
    return _fill(model, folder / "weights.safetensors", f"train {name} again")


def load_model_file(path: str | Path, architecture: str, shape: Shape, classes: int) -> nn.Module:
    """Load one's own safetensors weights into an architecture of the zoo, in eval mode with frozen parameters.

    Args:
        path: safetensors file whose names are those of the module's ``state_dict``.
        architecture: letter or name, as for ``build``.
        shape: (channels, height, width) of the images.
        classes: number of logits.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged or its weights are of another architecture.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"path must be a safetensors file, got {path}")
    return _fill(build(architecture, shape, classes), Path(path), "check architecture, shape and classes")


def save(model: nn.Module, facts: Card, cache: str | Path | None = None) -> Path:
    """Write a model's weights and its card into the cache, and return their folder."""
    folder = folder_of(facts.name, cache)
    write_model(folder / "weights.safetensors", model)
    facts.write(folder / "card.json")
    return folder


def _packaged() -> Path:
    return Path(__file__).parent / "weights"


def _bases(cache: str | Path | None) -> tuple[Path, Path]:
    return (cache_dir() if cache is None else Path(cache)) / "zoo", _packaged()


def _find(name: str, cache: str | Path | None) -> Path:
    parsed = parse_name(name)
    for base in _bases(cache):
        folder = base / parsed.data / str(parsed).split("/")[1]
        if (folder / "weights.safetensors").is_file() and (folder / "card.json").is_file():
            return folder
    seed = f" --seed {parsed.seed}" if parsed.seed else ""
    raise MissingWeightsError(f"There are no weights of {parsed} yet: omnirobust zoo train {parsed.recipe}{seed}")


def _fill(model: nn.Module, file: Path, advice: str) -> nn.Module:
    try:
        read_model(file, model)
    except (ValueError, OSError) as error:
        raise ValueError(f"The weights {file} are damaged or of another network: {advice}.") from error
    return model.eval().requires_grad_(False)
