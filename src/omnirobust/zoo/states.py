"""The state of a network as named tensors and plain values: what a file of weights holds, and back.

Networks share parameters between layers, keep views as buffers, and put into their ``state_dict`` what is no tensor.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor, nn

from omnirobust.domains.outputs import MADE_FOR_INFERENCE

_PLAIN = (bool, int, float, str, type(None))


class State(NamedTuple):
    """What a ``state_dict`` holds: tensors by name, and all else as JSON can write it."""

    tensors: dict[str, Tensor]
    extra: dict[str, Any]

    @property
    def text(self) -> str:
        """The extra values as one text; empty without any."""
        return json.dumps(self.extra, sort_keys=True) if self.extra else ""


def state_of(model: nn.Module) -> State:
    """Take the state of a model apart.

    Raises:
        ValueError: if it holds something that is neither a tensor nor made of tensors and plain values.
    """
    tensors: dict[str, Tensor] = {}
    extra: dict[str, Any] = {}
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            tensors[name] = value
        else:
            extra[name] = _written(value, name, tensors)
    return State(tensors, extra)


def check_state(model: nn.Module) -> None:
    """Refuse a model whose state no file of weights can hold.

    Raises:
        ValueError: if there is something in it that is neither a tensor nor plain, or a tensor of an odd kind.
    """
    for name, value in state_of(model).tensors.items():
        try:
            if value.layout != torch.strided:
                raise ValueError(str(value.layout))
            save({"x": torch.empty(0, dtype=value.dtype)})
        except (ValueError, KeyError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"model must have a state_dict of plain tensors, got {name} of {value.dtype} in {value.layout}"
            ) from error


def check_given_back(model: nn.Module) -> None:
    """Refuse a model that does not take its own state back: neither the best epoch nor a resumed one could be.

    Nor does one whose tensors are those of inference mode, which nothing outside of it may write.

    Raises:
        ValueError: if so.
    """
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(f"model cannot be trained: {MADE_FOR_INFERENCE}")
    own_buffers(model)
    try:
        model.load_state_dict(model.state_dict())
    except Exception as error:  # whatever the code of a model raises
        said = " ".join(str(error).split())
        raise ValueError(f"model must take its own state_dict back by load_state_dict, got: {said[:300]}") from error


def copied(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a ``state_dict`` that no step changes."""
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else deepcopy(value) for name, value in state.items()
    }


def own_buffers(model: nn.Module) -> None:
    """Give buffers whose numbers share memory, as expanded ones do, memory of their own: they cannot be written."""
    for module in model.modules():
        for name, value in module.named_buffers(recurse=False):
            if value.layout == torch.strided and any(
                step == 0 and size > 1 for step, size in zip(value.stride(), value.shape, strict=True)
            ):
                persistent = name not in module._non_persistent_buffers_set
                module.register_buffer(name, value.clone(memory_format=torch.contiguous_format), persistent)


def fill_state(model: nn.Module, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]) -> None:
    """Give a model the state that ``state_of`` took apart, or the tensors of a file of somebody else's.

    Names may be missing whose memory is that of another, as ``safetensors.torch.save_model`` leaves them out; so may
    values that are no tensors, where ``extra`` holds none at all.

    Raises:
        RuntimeError: if names or shapes do not fit.
    """
    own_buffers(model)
    left = dict(tensors)
    values = {name: _read(value, left) for name, value in extra.items()}
    missing, unexpected = model.load_state_dict(left | values, strict=False)
    lost = _not_covered(model.state_dict(), missing, left, bool(extra))
    if lost or unexpected:
        raise RuntimeError(f"missing {sorted(lost)}, unexpected {sorted(unexpected)}")


def _not_covered(own: Mapping[str, Any], missing: Iterable[str], given: Mapping[str, Tensor], extra: bool) -> list[str]:
    """Return the names of ``missing`` that no tensor given fills: it would have to hold all of their memory."""
    filled = [_memory(own[name]) for name in given if isinstance(own.get(name), Tensor)]

    def covered(name: str) -> bool:
        value = own.get(name)
        if not isinstance(value, Tensor):
            return not extra
        storage, first, end = _memory(value)
        return any(storage == other and low <= first and end <= high for other, low, high in filled)

    return [name for name in missing if not covered(name)]


def _memory(value: Tensor) -> tuple[int, int, int]:
    """Return which storage a tensor is of, and its first and last place there."""
    reach = sum((size - 1) * step for size, step in zip(value.shape, value.stride(), strict=True))
    first = int(value.storage_offset())
    return value.untyped_storage().data_ptr(), first, first + int(reach) + 1


def _written(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return a value as JSON can write it: plain ones as they are, all else as {kind: content}."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Tensor):
        key = f"{name}#{len(tensors)}"
        tensors[key] = value
        return {"tensor": key}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_written(each, name, tensors) for each in value]}
    if isinstance(value, dict):
        return {"dict": [[_written(part, name, tensors) for part in item] for item in value.items()]}
    raise ValueError(
        f"model must have a state_dict of tensors and plain values, got {type(value).__name__} in {name}: return "
        "numbers, texts, lists and tensors from get_extra_state"
    )


def _read(written: Any, tensors: dict[str, Tensor]) -> Any:
    """Undo ``_written``, and take the tensors that it used out of ``tensors``."""
    if not isinstance(written, dict):
        return written
    ((kind, content),) = written.items()
    if kind == "tensor":
        return tensors.pop(content)
    if kind == "dict":
        return {_read(key, tensors): _read(value, tensors) for key, value in content}
    return {"list": list, "tuple": tuple}[kind](_read(each, tensors) for each in content)
