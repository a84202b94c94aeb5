"""Evaluation mode for whatever stands behind a callable, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

from omnirobust.domains.behind import reached

_SMALL = 2**16
"""Values of a tensor outside of modules up to which it may be a statistic that moves, rather than data."""


class Frozen:
    """What stands behind a callable, found once; inside ``with`` it is in evaluation mode with frozen parameters.

    Afterwards every mode, parameter and buffer is what it was. Blocks may be nested.

    Args:
        root: a module, or any callable.

    Attributes:
        modules: those that were found, and those that a call built and later calls used again.
        settled: whether what any call uses is known.
        moved: buffers and other tensors that changed in evaluation mode all the same, by name.
        trains: whether a module was in training mode after a call.
    """

    def __init__(self, root: object) -> None:
        found = reached(root)
        self.modules, self._loose = list(found.modules), found.tensors
        self.moved: tuple[str, ...] = ()
        self.trains = False
        self._depth, self._closely = 0, True
        self._modes: list[tuple[nn.Module, bool]] = []  # what was put into evaluation mode and frozen, as it was before
        self._free: list[Tensor] = []
        self._states: list[_State] = []
        self._of_module = isinstance(root, nn.Module)
        self._built: list[nn.Module] = []  # what the last call that brought any has brought
        # compiled code warns of hooks, and would be compiled anew with them
        self.settled = self._of_module and any(hasattr(m, "_orig_mod") for m in self.modules)
        self._quiet: set[torch.Size] = set()
        self._compared: set[bool] = set()

    @property
    def baked(self) -> bool:
        """Whether an exported or traced graph holds operations of training mode, which no mode undoes."""
        return any(isinstance(m, fx.GraphModule) and _trains(m) for m in self.modules)

    def notes(self, label: str) -> list[str]:
        """Say what no mode undoes, or what was undone, of the model that messages call ``label``: a sentence each."""
        told = []
        if self.baked:
            told.append(
                f"{label} was exported or traced in training mode, and no mode undoes that: its dropout and "
                "BatchNorm act as in training; export it after .eval()."
            )
        if self.trains:
            told.append(
                f"{label} puts its modules into training mode when it is called: BatchNorm and dropout act as in "
                "training, and its answers depend on the batch."
            )
        if self.moved:
            told.append(
                f"{label} changes {', '.join(self.moved)} when it is called, in evaluation mode too, as "
                "BatchNorm does in training: what was there was put back."
            )
        return told

    @property
    def parameters(self) -> list[Tensor]:
        """All parameters of the modules, and of what a call built."""
        return [p for m in (*self.modules, *self._built) for p in m._parameters.values() if p is not None]

    def __enter__(self) -> Frozen:
        self._depth += 1
        if self._depth == 1:
            # fused kernels write running statistics without a trace in the version: values are compared once with
            # gradients and once without, and from then on where something moved
            grad = torch.is_grad_enabled()
            self._closely = bool(self.moved) or grad not in self._compared
            self._compared.add(grad)
            try:
                self._take(self.modules)
                if self._loose:
                    self._take_tensors()
            except BaseException as error:
                self.__exit__(type(error))
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        self._depth -= 1
        if self._depth:
            return
        self.trains |= kind is None and any(m.training for m in self.modules)
        for module, training in self._modes:
            if module.training != training:
                module.training = training
        for parameter in self._free:
            parameter.requires_grad_(True)
        moved = [s for s in self._states if s.changed(self._closely)] if self._states else []
        self._modes, self._free, self._states = [], [], []
        if moved:
            for state in moved:
                state.put_back()
            self.moved = self.moved or tuple(dict.fromkeys(s.name or "a tensor outside of modules" for s in moved))

    def _take(self, modules: Iterable[nn.Module]) -> None:
        """Freeze modules, without their children."""
        for module in modules:
            self._modes.append((module, module.training))
            if module.training:
                module.training = False
            for parameter in module._parameters.values():
                if parameter is None or not parameter.requires_grad:
                    continue
                if parameter.is_leaf and not parameter.is_inference():
                    parameter.requires_grad_(False)
                    self._free.append(parameter)
            if module._buffers:
                home = _buffers(module)
                self._states += [_State.of(home, name, b) for name, b in home.items() if b is not None and _may_move(b)]

    def _take_tensors(self) -> None:
        """Freeze tensors that belong to no module."""
        for tensor in self._loose:
            if tensor.is_leaf and tensor.requires_grad and not tensor.is_inference():
                tensor.requires_grad_(False)
                self._free.append(tensor)
            if self._closely and tensor.numel() <= _SMALL and _may_move(tensor):
                self._states.append(_State.of({"": tensor}, "", tensor))

    def knows(self, shape: torch.Size) -> bool:
        """Say whether all is known that a call with inputs of a shape uses, besides ``settled``."""
        return shape in self._quiet

    @contextmanager
    def catch(self, shape: torch.Size) -> Iterator[None]:
        """Freeze what a call inside uses and was not found: what every call builds anew, or only the first.

        Calls are watched until one brings nothing; a callable that is no module again with every other ``shape``, for
        which it may build something else. Watching costs some 40 microseconds a call, and half of one a layer.
        """
        if self.settled or self.knows(shape) or not self._depth:
            yield
            return
        known = {id(module) for module, _ in self._modes}
        brought: list[nn.Module] = []

        def catch(module: nn.Module, _: object) -> None:
            if id(module) not in known:
                known.add(id(module))
                brought.append(module)
                self._take((module,))

        handle = register_module_forward_pre_hook(catch)
        try:
            yield
        finally:
            handle.remove()
        if not brought:
            self._quiet.add(shape)
            self.settled = self._of_module
            return
        before = {id(module) for module in self._built}
        self.modules += [module for module in brought if id(module) in before]
        self._built = [module for module in brought if id(module) not in before]


def _may_move(tensor: Tensor) -> bool:
    return not is_lazy(tensor) and not tensor.is_inference()


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

    @classmethod
    def of(cls, home: MutableMapping[str, Any], name: str, tensor: Tensor) -> _State:
        """Take down a buffer as it is."""
        return cls(home, name, tensor, tensor.detach().clone(), tensor._version)

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


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[Callable[[], list[str]]]:
    """Put a model's buffers back on leaving, whatever calls inside do to them.

    Yields:
        What names the buffers that have changed since.
    """
    states = [
        _State.of(home, name, b)
        for home in map(_buffers, model.modules())
        for name, b in home.items()
        if b is not None and _may_move(b)
    ]
    try:
        yield lambda: [state.name for state in states if state.changed(True)]
    finally:
        for state in states:
            state.put_back()


def _trains(graph: fx.GraphModule) -> bool:
    """Say whether a node of a graph was traced with ``training=True``."""
    for node in graph.graph.nodes:
        given = dict(node.kwargs)
        if isinstance(node.target, torch._ops.OpOverload):
            given |= zip((a.name for a in node.target._schema.arguments), node.args, strict=False)
        if node.op == "call_function" and any(given.get(name) is True for name in ("training", "train")):
            return True
    return False
