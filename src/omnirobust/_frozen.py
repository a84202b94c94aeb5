"""Evaluation mode for whatever stands behind a callable, and back."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from omnirobust._behind import reached

_SMALL = 2**16
"""Values of a tensor outside of modules up to which it may be a statistic that moves, rather than data."""


class Frozen:
    """What stands behind a callable, found once; ``hold`` puts it into evaluation mode with frozen parameters.

    Args:
        root: a module, or any callable.

    Attributes:
        modules: those that were found.
        moved: buffers and other tensors that changed in evaluation mode all the same, by name.
        trains: whether a module was in training mode after a call.
    """

    def __init__(self, root: object) -> None:
        found = reached(root)
        self.modules, self._loose = found.modules, found.tensors
        self._homes = [_buffers(m) for m in self.modules]
        self.moved: tuple[str, ...] = ()
        self.trains = False
        self._depth = 0
        self._compared: set[bool] = set()

    @property
    def baked(self) -> bool:
        """Whether an exported or traced graph holds operations of training mode, which no mode undoes."""
        return any(isinstance(m, fx.GraphModule) and _trains(m) for m in self.modules)

    @property
    def parameters(self) -> list[Tensor]:
        """All parameters, and tensors that take gradients as parameters do."""
        own = [p for m in self.modules for p in m._parameters.values() if p is not None]
        return own + [t for t in self._loose if t.is_leaf and t.requires_grad]

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Freeze all inside; afterwards every mode, parameter and buffer is what it was. Holds may be nested."""
        if self._depth:
            yield
            return
        modes = [(m, m.training) for m in self.modules]
        free = [p for p in self.parameters if p.requires_grad and not p.is_inference()]
        state = self._states()
        self._depth += 1
        try:
            for module, training in modes:
                if training:
                    module.training = False
            for parameter in free:
                parameter.requires_grad_(False)
            yield
            self.trains |= any(m.training for m in self.modules)
        finally:
            self._depth -= 1
            for module, training in modes:
                if module.training != training:
                    module.training = training
            for parameter in free:
                parameter.requires_grad_(True)
            self._give_back(state)

    @property
    def _closely(self) -> bool:
        return bool(self.moved) or torch.is_grad_enabled() not in self._compared

    def _states(self) -> list[_State]:
        found = [
            _State(home, name, b, b.detach().clone(), b._version)
            for home in self._homes
            for name, b in home.items()
            if b is not None and not is_lazy(b) and not b.is_inference()
        ]
        if not self._closely:
            return found
        return found + [
            _State({"": t}, "", t, t.detach().clone(), t._version)
            for t in self._loose
            if t.numel() <= _SMALL and not is_lazy(t) and not t.is_inference()
        ]

    def _give_back(self, states: list[_State]) -> None:
        """Put back what moved.

        Fused kernels write running statistics without a trace in the version: values are compared once with gradients
        and once without, and from then on where something moved.
        """
        closely = self._closely
        self._compared.add(torch.is_grad_enabled())
        moved = [s for s in states if s.changed(closely)]
        self.moved = self.moved or tuple(dict.fromkeys(s.name or "a tensor outside of modules" for s in moved))
        for state in moved:
            state.put_back()


def _buffers(module: nn.Module) -> MutableMapping[str, Any]:
    """Return what holds a module's buffers; of a scripted one a copy, which shares the tensors."""
    scripted = isinstance(module, torch.jit.ScriptModule)
    return dict(module.named_buffers(recurse=False)) if scripted else module._buffers


class _State(NamedTuple):
    """A buffer as it was.

    Attributes:
        home: where its module keeps it.
        name: by what name.
        tensor: itself.
        value: a copy.
        version: its count of writes.
    """

    home: MutableMapping[str, Any]
    name: str
    tensor: Tensor
    value: Tensor
    version: int

    def changed(self, closely: bool) -> bool:
        """Say whether another tensor stands in its place, or other values in it."""
        now = self.home.get(self.name)
        if now is None or now.shape != self.value.shape or now.dtype != self.value.dtype:
            return now is not self.tensor
        looked = closely or now is not self.tensor or now._version != self.version
        return looked and not torch.equal(now.nan_to_num(), self.value.nan_to_num())

    def put_back(self) -> None:
        """Put the tensor back into its place, and its values into it."""
        with torch.no_grad():
            self.tensor.copy_(self.value)
        if self.home.get(self.name) is not self.tensor:
            self.home[self.name] = self.tensor


def _trains(graph: fx.GraphModule) -> bool:
    """Say whether a node of a graph was traced with ``training=True``."""
    for node in graph.graph.nodes:
        given = dict(node.kwargs)
        if isinstance(node.target, torch._ops.OpOverload):
            given |= zip((a.name for a in node.target._schema.arguments), node.args, strict=False)
        if node.op == "call_function" and any(given.get(name) is True for name in ("training", "train")):
            return True
    return False
