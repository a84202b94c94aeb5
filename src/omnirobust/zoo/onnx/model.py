"""An ONNX file as a model: answers of onnxruntime, and the gradients of a copy in torch where it agrees with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from omnirobust.domains.blackbox.box import BlackBox
from omnirobust.domains.outputs import are_probabilities, reason
from omnirobust.zoo.onnx.file import Scores, package, read_scores, sentence, session
from omnirobust.zoo.onnx.network import Copy, copied
from omnirobust.zoo.onnx.source import OnnxSource

AGREEMENT, IN_HALF = 1e-4, 2.0**-8
"""How far scores of the copy may lie from those of onnxruntime, in shares of the largest or of 1; of float16 files."""

CHANCES = "it returns probabilities, of which no Softmax at the end makes logits"

_TRIED = 16
"""Inputs on which the two are compared."""


class Answers:
    """What onnxruntime says of inputs: (n, *S) in [0, 1] to scores (n, C), on the processor.

    Attributes:
        file: what is asked.
        source_notes: ends of sentences that begin with the model's name: what a reader of results must know.
    """

    def __init__(self, file: Scores, notes: tuple[str, ...] = ()) -> None:
        self.file, self.source_notes = file, notes
        self._session = self._begun()

    def _begun(self) -> Any:
        return session(package("onnxruntime", str(self.file.path)), self.file.proto)

    @property
    def source_digest(self) -> str:
        """Stands for the file and for that it is only asked."""
        return f"{self.file.digest}, only asked"

    def __call__(self, batch: Tensor) -> Tensor:
        """Return the scores, in pieces of as many inputs as the file takes at once."""
        given = self.file.given(batch.detach().cpu())
        size = self.file.together or max(len(given), 1)
        said = [self._asked(part, size if self.file.together else len(part)) for part in given.split(size)]
        return torch.cat(said).to(batch.dtype)

    def _asked(self, part: Tensor, size: int) -> Tensor:
        filled = torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])])
        array = filled.contiguous().numpy().astype(self.file.dtype, copy=False)
        (said,) = self._session.run([self.file.outlet], {self.file.entry: array})
        return as_scores(torch.from_numpy(said)[: len(part)])

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the session, which cannot be copied."""
        return {"file": self.file, "source_notes": self.source_notes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._session = self._begun()


class OnnxModel(nn.Module):
    """An ONNX file that has gradients: those of a copy in torch. What is asked without gradients, onnxruntime answers.

    So success is judged by the file itself.

    Args:
        answers: those of the file.
        network: the copy, of the same inputs in the file's order.
        notes: see ``Answers``.
    """

    def __init__(self, answers: Answers, network: nn.Module, notes: tuple[str, ...]) -> None:
        super().__init__()
        self.answers, self.network, self.source_notes = answers, network, notes

    @property
    def source_digest(self) -> str:
        """Stands for the file and for that it is differentiated."""
        return f"{self.answers.file.digest}, gradients of a copy"

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of inputs (n, *S) in [0, 1], (n, C)."""
        if torch.is_grad_enabled() and x.requires_grad:
            return as_scores(self.network(self.answers.file.given(x))).to(x.dtype)
        return self.answers(x).to(x)


def as_scores(said: Tensor) -> Tensor:
    """Return one number z an input, (n,) or (n, 1), as the logits (0, z) of two classes; other scores as they are."""
    if said.ndim == 1 or (said.ndim == 2 and said.shape[1] == 1):
        z = said.reshape(-1, 1)
        return torch.cat([torch.zeros_like(z), z], 1)
    return said


def load_onnx(
    source: OnnxSource, argument: str, shape: tuple[int, ...] | None = None, images: Tensor | None = None
) -> OnnxModel | BlackBox:
    """Load a classifier in ONNX.

    Args:
        source: the file, and whether gradients are not even tried.
        argument: what messages call it.
        shape: of an input, where lengths are free in the file.
        images: inputs (n, *S) on which the copy must agree with onnxruntime; None for random ones.

    Returns:
        A module, or a model that only answers where there are no gradients that agree; its notes say why.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no classifier of such inputs, or the packages are not here.
    """
    path, only_asked = source
    file = read_scores(path, argument)
    x = file.like(shape) if images is None else images[:_TRIED].detach().cpu()
    told = [f"ends in a {file.cut}, which was cut off: its logits are attacked"] if file.cut else []
    if file.left_out:
        told.append(f"has more outputs than one, of which {file.outlet} was read, not {', '.join(file.left_out)}")
    if file.dtype is np.uint8:
        told.append("takes whole levels of 0 to 255: inputs are rounded to them")
    try:
        file.last_channels(x.shape[1:])
        answers = Answers(file)
        said = answers(x)
    except ValueError as error:
        raise ValueError(f"{argument} must be a model of such inputs: {error}") from error
    except Exception as error:  # whatever onnxruntime raises
        raise ValueError(
            f"{argument} must be a model of such inputs: {path} fails on them: {sentence(error)}"
        ) from error
    if said.ndim != 2:
        raise ValueError(f"{argument} must return scores (n, classes), got {tuple(said.shape)} from {path}")
    chances = not file.cut and are_probabilities(said)
    network = None if only_asked else CHANCES if chances else _agreeing(file, answers, x, said)
    if isinstance(network, nn.Module):
        told.append("answers through onnxruntime; its gradients are those of a copy in torch, which agrees with it")
        return OnnxModel(answers, network, tuple(told))
    told.append("only answers, through onnxruntime" + ("" if network is None else f": {network}"))
    answers.source_notes = tuple(told)
    return BlackBox(answers, output="probabilities" if chances else "logits", retries=0)


def _agreeing(file: Scores, answers: Answers, x: Tensor, said: Tensor) -> nn.Module | str:
    """Return a copy in torch that agrees with what onnxruntime said of x, or why there is none."""
    try:
        network = copied(file)
    except Exception as error:  # what onnx2torch does not know raises many kinds
        return f"onnx2torch makes no network of it ({reason(error)})"
    found = Copy(network, None)
    if (why := _differs(OnnxModel(answers, found, ()), x, said)) and file.together:
        found = Copy(network, file.together)
        why = _differs(OnnxModel(answers, found, ()), x, said)
    return why or found


def _differs(model: OnnxModel, x: Tensor, said: Tensor) -> str:
    """Say what is wrong with the gradients of a copy; "" if nothing is."""
    leaf = x.clone().requires_grad_()
    try:
        with torch.enable_grad():
            again = model(leaf)
            weights = torch.arange(1.0, again.shape[1] + 1).to(again)
            (slope,) = torch.autograd.grad((again * weights).sum(), leaf)
    except Exception as error:  # what a copy raises that is none
        return f"its copy in torch fails ({reason(error)})"
    most = (IN_HALF if model.answers.file.dtype is np.float16 else AGREEMENT) * max(1.0, float(said.abs().max()))
    gap = float((again.detach() - said).abs().max()) if again.shape == said.shape else float("inf")
    if not gap <= most:
        return f"the scores of its copy in torch differ by {gap:.2g}"
    if not bool(slope.isfinite().all()) or not bool(slope.any()):
        return "its copy in torch has no gradients"
    return ""
