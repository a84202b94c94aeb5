"""Which modules and tensors stand behind a callable: found by looking, without calling anything of the user's.

What can be reached is what a call could use: the object that a method is bound to, what a function closes over, its
defaults and attributes, what a partial was given, what a decorator wrapped, attributes, slots and containers of all of
these, and the global names in their code, with the members of modules that the code names.
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from functools import lru_cache
from types import CellType, CodeType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_LIBRARIES = frozenset({*sys.stdlib_module_names, "torch", "numpy", "omnirobust"})
"""Their code names no module of the user's: what their objects hold is looked at, their code is not. The same goes for
whatever is installed beside them, but that names in it may be the user's models."""

_INSTALLED = ("site-packages", "dist-packages")

_ATOMS = (
    *(str, bytes, bytearray, int, float, complex, bool, type(None), CodeType),
    *(torch.dtype, torch.device, torch.Size, torch.fx.Graph, torch.fx.Node),
)

_SEQUENCES: tuple[type, ...] = (list, tuple, set, frozenset, deque)

_PLAIN = (dict, list, tuple, set, frozenset)
"""Classes whose objects hold what they contain alone."""

_CACHED = type(lru_cache(int))
"""What a function becomes that remembers its answers."""


class Reached(NamedTuple):
    """What stands behind a callable.

    Attributes:
        modules: all modules, each once, a module before its children.
        tensors: tensors that are neither parameters nor buffers of these.
    """

    modules: tuple[nn.Module, ...]
    tensors: tuple[Tensor, ...]


def reached(root: object) -> Reached:
    """Find the modules and tensors that a call of ``root`` could use.

    Cost: a look at every object on the way, once; about a tenth of a millisecond a module.
    """
    search = _Search()
    search.look(root)
    own = {id(t) for m in search.modules for t in (*m.parameters(recurse=False), *m.buffers(recurse=False))}
    return Reached(tuple(search.modules), tuple(t for t in search.tensors if id(t) not in own))


class _Search:
    """What was found so far. Whatever was looked at is kept, so that no other object gets its id."""

    def __init__(self) -> None:
        self.modules: list[nn.Module] = []
        self.tensors: list[Tensor] = []
        self._seen: dict[int, object] = {}
        self._stack: list[object] = []
        self._names: dict[str, None] = {}
        self._namespaces: list[tuple[ModuleType, set[str]]] = []
        # by id, since how a class compares may be code of the user's; for one search, since it may hold networks
        self._kinds: dict[int, _Kind] = {}

    def look(self, root: object) -> None:
        """Follow every reference from ``root``; then what the code that was found names in modules, until all is."""
        self._push((root,))
        while self._stack:
            while self._stack:
                self._visit(self._stack.pop())
            for module, done in self._namespaces:
                new = [name for name in self._names if name not in done]
                done.update(new)
                self._push(_members(module, new))

    def _push(self, found: Iterable[object]) -> None:
        seen, stack = self._seen, self._stack
        for each in found:
            if id(each) not in seen:
                kind = self._kind(type(each))
                if kind.way is not None and (not kind.plain or each):
                    seen[id(each)] = each
                    stack.append(each)

    def _visit(self, found: object) -> None:
        # isinstance() would ask the object for its __class__, which may be code of the user's
        way = self._kind(type(found)).way
        assert way is not None
        way(self, found)

    def _kind(self, of: type) -> _Kind:
        known = self._kinds.get(id(of))
        if known is None:
            known = self._kinds[id(of)] = _Kind(of, _way(of), any(of is plain for plain in _PLAIN))
        return known

    def _object(self, found: object) -> None:
        kind = type(found)
        layout = _layout(kind)
        if layout.contents is not None:
            self._push(layout.contents(found))
        self._push((kind,))
        self._push(_attributes(found, layout))

    def _tensor(self, found: Tensor) -> None:
        self.tensors.append(found)

    def _class(self, found: type) -> None:
        if not _is_library(vars(found).get("__module__")):
            self._push(vars(found).values())
            self._push(type.__getattribute__(found, "__mro__"))

    def _module(self, found: nn.Module) -> None:
        self.modules.append(found)
        if issubclass(type(found), torch.jit.ScriptModule):  # its members lie where Python does not see them
            self._push(found.children())
            self._push([*found.parameters(recurse=False), *found.buffers(recurse=False)])
        self._object(found)

    def _function(self, found: FunctionType) -> None:
        self._push(found.__closure__ or ())
        self._push(found.__defaults__ or ())
        self._push((found.__kwdefaults__ or {}).values())
        self._push(vars(found).values())  # __wrapped__ among them
        if _is_library(found.__globals__.get("__name__")):
            return
        named = _names(found.__code__)
        self._names.update(dict.fromkeys(named))
        self._push(found.__globals__[name] for name in named if name in found.__globals__)
        self._push(sys.modules[name] for name in named if name in sys.modules)  # imported inside the function

    def _cell(self, found: CellType) -> None:
        try:
            self._push((found.cell_contents,))
        except ValueError:  # empty as yet
            return

    def _namespace(self, found: ModuleType) -> None:
        if _top(vars(found).get("__name__")) not in _LIBRARIES:
            self._namespaces.append((found, set()))


class _Kind(NamedTuple):
    """A class that a search has met.

    Attributes:
        of: the class, kept so that no other gets its id.
        way: how its objects are looked at; None if they have nothing behind them.
        plain: whether they hold what they contain alone, so that nothing is behind empty ones.
    """

    of: type
    way: Callable[[_Search, Any], None] | None
    plain: bool


def _way(kind: type) -> Callable[[_Search, Any], None] | None:
    if issubclass(kind, _ATOMS):
        return None
    if kind is FunctionType:
        return _Search._function
    if kind is CellType:
        return _Search._cell
    return next((way for base, way in _WAYS if issubclass(kind, base)), _Search._object)


_WAYS: tuple[tuple[type, Callable[[_Search, Any], None]], ...] = (
    (Tensor, _Search._tensor),
    (ModuleType, _Search._namespace),
    (type, _Search._class),
    (nn.Module, _Search._module),
)


def _top(module: object) -> str:
    return module.partition(".")[0] if isinstance(module, str) else ""


def _is_library(module: object) -> bool:
    """Say whether the code of a module, given by name, is none of the user's."""
    top = _top(module)
    if top in _LIBRARIES:
        return True
    found = sys.modules.get(top)
    file = None if found is None else vars(found).get("__file__")
    return isinstance(file, str) and any(folder in file for folder in _INSTALLED)


def _members(module: ModuleType, names: list[str]) -> list[object]:
    """Return the members of a module by those names; of what is installed neither functions nor classes."""
    found = [vars(module)[name] for name in names if name in vars(module)]
    if not _is_library(vars(module).get("__name__")):
        return found
    return [each for each in found if not issubclass(type(each), FunctionType | type)]


class _Layout(NamedTuple):
    """Where objects of a class hold others.

    Attributes:
        contents: what reads those that a container holds; None if it is none.
        has_dict: whether they have a ``__dict__``.
        slots: the slots that they have.
    """

    contents: Callable[[Any], Iterable[object]] | None
    has_dict: bool
    slots: tuple[MemberDescriptorType, ...]


@lru_cache(maxsize=1024)
def _layout(kind: type) -> _Layout:
    classes = [vars(each) for each in type.__getattribute__(kind, "__mro__")]
    slots = [each for members in classes for each in members.values() if type(each) is MemberDescriptorType]
    return _Layout(_contents(kind), any("__dict__" in members for members in classes), tuple(slots))


def _contents(kind: type) -> Callable[[Any], Iterable[object]] | None:
    if issubclass(kind, nn.Module):
        return None
    if issubclass(kind, dict):
        return lambda found: list(dict.values(found))
    if base := next((each for each in _SEQUENCES if issubclass(kind, each)), None):
        return lambda found: list(base.__iter__(found))
    if issubclass(kind, weakref.ref):
        return lambda found: (weakref.ref.__call__(found),)
    if issubclass(kind, _CACHED):  # what it remembers lies where attributes do not reach
        return gc.get_referents
    return None


def _attributes(found: object, layout: _Layout) -> list[object]:
    """Return the values of an object's attributes and slots, without its properties."""
    own = object.__getattribute__(found, "__dict__") if layout.has_dict else {}
    values: list[object] = list(dict.values(own)) if isinstance(own, dict) else []
    for slot in layout.slots:
        try:
            values.append(slot.__get__(found))
        except AttributeError:  # a slot that nothing was put into
            continue
    return values


def _names(code: CodeType) -> list[str]:
    """Return the names that code uses, of functions inside it too, and the texts by which it may look names up."""
    names = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names += _names(constant)
        elif isinstance(constant, str) and constant.isidentifier():
            names.append(constant)
    return names
