"""The settings of one robust training from the command line."""

from __future__ import annotations

from dataclasses import dataclass

from omnirobust._device import check_name
from omnirobust.core.arguments import check_count
from omnirobust.domains.checks import check_memory
from omnirobust.training.fit import Keep
from omnirobust.training.schemes import Scheme
from omnirobust.zoo.recipes import Recipe


@dataclass(frozen=True)
class TrainingJob:
    """Settings of one training.

    Attributes:
        data: name of the data set, whose "train" split is trained on.
        scheme: what to train against.
        recipe: epochs, optimizer, learning rate and its milestones, batch size, and precision; ``recipe.holdout``
            images at the end of the training split are kept for validation.
        model: what to train from the beginning: an architecture of the zoo ("a", "mlp", "mnist/a") or code of one's
            own, see ``load_models``; None to train on from ``start`` as it is.
        start: where to begin: a model of the zoo, the folder of another training, or a safetensors file of ``model``.
        images: how many images to train on, >= 1, from the beginning of the split; None for all not held out. Where
            it lies sorted by class they, and those for validation, have the classes in its shares, see ``data.load``.
        label: the column of the classes, where the data has several; None for its only one.
        resize: (height, width) that images are resized to; None to take them as they are.
        patience: end after so many epochs without a better score on the validation images; None for never.
        keep: the epoch to end with, "best" or "last"; None for the best where there are validation images.
        test_images: images of the test split on which the result is judged, >= 0.
        test_steps: of every attack that judges it, >= 1.
        seed: of initial weights, shuffling, dropout and random starts.
        tensorboard: whether to write the epochs' metrics for TensorBoard too.
        device: "cpu", "cuda", "cuda:N", "mps", or "auto" for cuda where there is one.
        compile: whether the attacks' steps are compiled, see ``fit``.
        memory: bytes that the graph of one forward pass may hold, see ``fit``. A run may go on with another.
    """

    data: str
    scheme: Scheme
    recipe: Recipe
    model: str | None = None
    start: str | None = None
    images: int | None = None
    label: str | None = None
    resize: tuple[int, int] | None = None
    patience: int | None = None
    keep: Keep | None = None
    test_images: int = 200
    test_steps: int = 100
    seed: int = 0
    tensorboard: bool = False
    device: str = "auto"
    compile: bool = False
    memory: int | None = None

    def __post_init__(self) -> None:
        check_name(self.device)
        check_memory(self.memory)
        if self.model is None and self.start is None:
            raise ValueError(
                "model must name an architecture or code of your own, or from a trained model, got neither"
            )
        for name, least in (("images", 1), ("patience", 1), ("test_images", 0), ("test_steps", 1), ("seed", 0)):
            if (value := getattr(self, name)) is not None:
                check_count(name, value, least, whole=False)
        check_count("epochs", self.recipe.epochs, whole=False)
        if self.scheme.examples is not None:
            raise ValueError("scheme of a job must have one radius for all examples: fit takes one for each of them")
        for name in ("patience", "keep"):
            value = getattr(self, name)
            if value not in (None, "last") and not self.recipe.holdout:
                raise ValueError(
                    f"validation must be >= 1 with {name} {value}, got 0: nothing tells which epoch is best"
                )

    @property
    def resolved_keep(self) -> Keep:
        """Which epoch's parameters are the result."""
        return self.keep or ("best" if self.recipe.holdout else "last")
