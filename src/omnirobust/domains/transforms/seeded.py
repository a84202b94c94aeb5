"""Any transformation as the attacks see it: named, checked, and random only through a key and a row.

Ours are called on the whole batch with uniform numbers by counting. A callable ``t(x, generator)`` is called row by row
with a generator seeded for that row. A callable ``t(x)`` is tried once: if torch's, Python's or NumPy's random state
moves, it is random, and runs row by row with these states seeded for that row, and restored after. If it moves none, it
runs on the whole batch; row by row if its rows see each other, so that no result depends on the batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from omnirobust.core.draws import DrawKey, forked, random_states, row_seeds, same_states, seed_all, uniforms
from omnirobust.domains.transforms import ImageTransform

Transform: TypeAlias = Callable[..., Any]
Transforms: TypeAlias = Mapping[str, Transform] | Sequence[Transform] | Transform

_UNNAMED = "transform"


class View:
    """A named transformation of a batch: ``view(x, key, rows)``, whose draws depend on key and row only.

    Attributes:
        name: what messages and results call it.
        random: whether it draws anything.
        transform: what it is made of.
    """

    random = False

    def __init__(self, name: str, transform: Transform) -> None:
        self.name, self.transform = name, transform

    def __call__(self, x: Tensor, key: DrawKey, rows: Tensor) -> Tensor:
        """Transform a batch.

        Args:
            x: (n, *S), float.
            key: of the draws; the same key gives the same draws.
            rows: (n,) int64, the global number of every row.

        Returns:
            (n, *S'), in the dtype of ``x``, differentiable in ``x``.

        Raises:
            ValueError: if what comes back is no batch of the same length.
        """
        return self._checked(self.transform(x.clone()), x)  # a copy: a transformation may write into its input

    def of(self, x: Tensor, key: DrawKey, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Do what a call does of inputs of ``dtype``, rounded as they would be, where ``x`` holds them in float32.

        So gradients stay in float32 through our transformations; others may know the inputs' own dtype only.
        """
        if x.dtype == dtype:
            return self(x, key, rows)
        if not isinstance(self.transform, ImageTransform):
            return self(x.to(dtype), key, rows).to(x.dtype)
        exact = self(x, key, rows)
        return exact + (exact.detach().to(dtype).to(x.dtype) - exact.detach())

    def _checked(self, out: Any, x: Tensor) -> Tensor:
        label = f"transformation {self.name!r}"
        if not isinstance(out, Tensor) or not out.is_floating_point():
            got = str(out.dtype) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"{label} must return a float tensor, got {got}")
        if out.ndim < 2 or len(out) != len(x):
            raise ValueError(f"{label} must return a batch of {len(x)}, got shape {tuple(out.shape)}")
        return out if out.dtype == x.dtype else out.to(x.dtype)

    def __repr__(self) -> str:
        """Say what is done, for the record of a run."""
        t = self.transform
        if isinstance(t, ImageTransform):
            return str(t)
        return " ".join(repr(t).split()) if isinstance(t, nn.Module) else getattr(t, "__qualname__", type(t).__name__)


class _Ours(View):
    """An ``ImageTransform``: the whole batch at once."""

    def __init__(self, name: str, transform: ImageTransform) -> None:
        super().__init__(name, transform)
        self._numbers, self._apply = transform.numbers, transform.apply
        self.random = self._numbers > 0

    def __call__(self, x: Tensor, key: DrawKey, rows: Tensor) -> Tensor:
        return self._apply(x, uniforms(key, rows.to(x.device), self._numbers))


class _RowByRow(View):
    """A callable that sees every row alone: one that draws, or whose rows would see each other."""

    def __call__(self, x: Tensor, key: DrawKey, rows: Tensor) -> Tensor:
        with self._states(x):
            alone = zip(x.split(1) if len(x) else (), row_seeds(key, rows), strict=True)
            out = [self._checked(self._draw(row.clone(), seed), row) for row, seed in alone]
        self._check_shapes(out)
        return torch.cat(out) if out else x

    @contextmanager
    def _states(self, x: Tensor) -> Iterator[None]:
        yield

    def _draw(self, row: Tensor, seed: int) -> Any:
        return self.transform(row)

    def _check_shapes(self, out: list[Tensor]) -> None:
        shapes = {tuple(o.shape[1:]) for o in out}
        if len(shapes) > 1:
            raise ValueError(f"transformation {self.name!r} must return one shape, got {sorted(shapes)}")


class _WithGenerator(_RowByRow):
    """A callable t(x, generator): a CPU generator, so that all devices may draw the same."""

    random = True

    def __init__(self, name: str, transform: Transform, keyword: bool) -> None:
        super().__init__(name, transform)
        self._keyword = keyword

    def _draw(self, row: Tensor, seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        return self.transform(row, generator=generator) if self._keyword else self.transform(row, generator)


class _UnderSeed(_RowByRow):
    """A callable t(x) that draws from the global random states: forked, seeded and restored."""

    random = True

    @contextmanager
    def _states(self, x: Tensor) -> Iterator[None]:
        with forked(x):
            yield

    def _draw(self, row: Tensor, seed: int) -> Any:
        seed_all(seed, row)
        return self.transform(row)


def as_views(transforms: Transforms | Sequence[View] | None, example: Tensor) -> tuple[View, ...]:
    """Make views of transformations, and try each on an example.

    Args:
        transforms: a mapping from name to transformation, a sequence, one, or None for the identity. Each is an
            ``ImageTransform``, or a callable ``t(x)`` or ``t(x, generator)`` of batches (n, *S). Modules are left in
            the mode that they are in: many draw in either. Views are returned as they are.
        example: (n, *S), float: rows that every transformation must take; two are enough.

    Returns:
        One view for each, in order. Those of a sequence are named after what ours do, transform_0, transform_1, ...
        otherwise.

    Raises:
        ValueError: if one is not callable, does not return a batch of finite floats, does not let finite gradients
            through, or draws from a source that no seed reaches; the sentence names it.

    Cost: four calls of each callable that is not ours, on two rows of the example, and one gradient.
    """
    named = _named(transforms)
    return tuple(t if isinstance(t, View) else _view(name, t, example) for name, t in named.items())


def _named(transforms: Transforms | Sequence[View] | None) -> dict[str, Any]:
    if transforms is None:
        return {"ori": View("ori", _identity)}
    if isinstance(transforms, Mapping | nn.ModuleDict):
        named: dict[str, Any] = {str(name): t for name, t in transforms.items()}
        names = [str(name) for name in transforms]
    elif isinstance(transforms, Sequence | nn.ModuleList) and not isinstance(transforms, str | nn.Sequential):
        names = [_own_name(t, i) for i, t in enumerate(transforms)]
        named = dict(zip(names, transforms, strict=True))
    elif callable(transforms) and not isinstance(transforms, type):
        names = [_own_name(transforms, 0)]
        named = {names[0]: transforms}
    else:
        raise ValueError(f"transforms must be a mapping or a sequence of callables, got {type(transforms).__name__}")
    if not named:
        raise ValueError("transforms must hold at least one transformation, got none")
    if len(named) < len(names):
        raise ValueError(f"transforms must have names that differ, got {names}")
    return named


def _own_name(transform: object, index: int) -> str:
    if isinstance(transform, View):
        return transform.name
    return str(transform) if isinstance(transform, ImageTransform) else f"{_UNNAMED}_{index}"


def _identity(x: Tensor) -> Tensor:
    return x


def _view(name: str, transform: object, example: Tensor) -> View:
    label = f"transformation {name!r}"
    if not callable(transform) or isinstance(transform, type):
        raise ValueError(f"{label} must be a callable t(x) or t(x, generator), got {transform!r}")
    example = _two_rows(example.detach())
    if isinstance(transform, ImageTransform):
        if example.ndim != 4:
            raise ValueError(f"{label} needs images (n, C, H, W), got inputs of shape {tuple(example.shape)}")
        view: View = _Ours(name, transform)
    else:
        view = _foreign(name, transform, example)
    _check_gradient(view, example)
    return view


def _two_rows(example: Tensor) -> Tensor:
    """Return two rows that differ, so that a transformation whose rows see each other gives itself away."""
    if not len(example):
        return torch.zeros(2, *example.shape[1:]).to(example)
    first = example[:1]
    second = example[1:2]
    return torch.cat([first, second if len(second) and not torch.equal(first, second) else 0.9 * first.flip(-1)])


def _foreign(name: str, transform: Transform, example: Tensor) -> View:
    way = _takes_generator(name, transform)
    if way is not None:
        return _WithGenerator(name, transform, keyword=way)
    plain, key, rows = View(name, transform), DrawKey(0), torch.arange(len(example))
    with forked(example), torch.no_grad():
        before = random_states(example)
        once = _tried(plain, example)
        view = plain if same_states(before, random_states(example)) else _UnderSeed(name, transform)
        if view.random:
            once = view(example, key, rows)
        if not _same(once, view(example, key, rows)):
            raise ValueError(
                f"transformation {name!r} draws from a source that no seed reaches: "
                "let it take a torch.Generator as a parameter named generator"
            )
        alone = (
            once if view.random else torch.cat([view(example[i : i + 1], key, rows[i : i + 1]) for i in rows.tolist()])
        )
        if not _same(once, alone):
            return _RowByRow(name, transform)
    return view


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)


def _takes_generator(name: str, transform: Transform) -> bool | None:
    """Say whether a callable takes a generator: by keyword (True), as second argument (False), or not (None)."""
    target = transform.forward if isinstance(transform, nn.Module) else transform
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):  # some callables of C have no signature
        return None
    if any(p.name == "generator" and p.kind is not p.POSITIONAL_ONLY for p in parameters):
        return True
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p for p in positional if p.default is p.empty]
    if len(needed) > 2:
        raise ValueError(f"transformation {name!r} must be t(x) or t(x, generator), it needs {len(needed)} arguments")
    by_place = len(positional) > 1 and (len(needed) == 2 or positional[1].name == "generator")
    return False if by_place else None


def _tried(view: View, example: Tensor) -> Tensor:
    """Call a transformation for the first time: what it raises becomes a sentence that names it."""
    try:
        return view(example, DrawKey(0), torch.arange(len(example), device=example.device))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever the caller's own code raises
        reason = (str(error).strip().splitlines() or [""])[0]
        if not reason or isinstance(error, KeyError):  # whose words are a bare key
            reason = f"{type(error).__name__} {reason}".strip()
        given = f"inputs of shape {tuple(example.shape)}, {example.dtype}"
        raise ValueError(f"transformation {view.name!r} cannot take {given}: {reason}") from error


def _check_gradient(view: View, example: Tensor) -> None:
    with forked(example), torch.enable_grad():
        leaf = example.clone().requires_grad_()
        out = _tried(view, leaf)
        if not bool(out.isfinite().all()):
            raise ValueError(f"transformation {view.name!r} returned NaN or infinite values on the given inputs")
        slope = torch.autograd.grad(out.sum(), leaf, allow_unused=True)[0] if out.requires_grad else None
    if slope is None:
        raise ValueError(f"transformation {view.name!r} does not let gradients reach its input")
    if not bool(slope.isfinite().all()):
        raise ValueError(f"transformation {view.name!r} has NaN or infinite gradients on the given inputs")
