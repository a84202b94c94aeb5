"""Uniform numbers by counting instead of by state: a row's draws depend on its key and its row, on nothing else.

Generators draw in the order in which they are called, so that an image's draws would depend on the images before it,
on the size of the batch and on the device. A hash of (seed, restart, step, slot, row, column) does not.

Code that draws from the global random states runs between ``forked`` and under ``seed_all``.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from omnirobust.core.choices import Start as Start
from omnirobust.core.threat_models import FeasibleSet

_GLOBAL = RLock()
"""Whoever sets the global random states holds it: another thread's draws would be taken for the model's, or come from
states that are about to be put back."""

REACH = 2**30 + 2
"""Restart number that keys the draws on which units of losses are taken, before the first step."""

NORMAL_STD = 0.1
"""Standard deviation of the normal start, in units of the data: that of the paper's released code."""


def row_generator(seed: int, restart: int, row: int) -> torch.Generator:
    """Return a CPU generator seeded by a hash of the three numbers."""
    digest = hashlib.blake2b(f"{seed}/{restart}/{row}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def normal_start(like: Tensor, seed: int, restart: int, first_row: int, std: float = NORMAL_STD) -> Tensor:
    """Draw normal noise shaped like ``like`` (B, *S), row i keyed by (seed, restart, first_row + i).

    Drawn in float32 on the CPU whatever the device and dtype of ``like``, so that all see the same noise.
    """
    noise = [
        torch.randn(like.shape[1:], generator=row_generator(seed, restart, first_row + i)) for i in range(len(like))
    ]
    stacked = torch.stack(noise) if noise else torch.empty(like.shape)
    return (stacked * std).to(like)


def start_of(init: Tensor | None, feasible: FeasibleSet, generator: torch.Generator | None) -> Tensor:
    """Return the first perturbations of ``solve``: those given, if they fit, or zeros, or noise."""
    if init is not None:
        if not isinstance(init, Tensor):
            raise ValueError(f"init must be a tensor, got {type(init).__name__}")
        if tuple(init.shape) != tuple(feasible.shape):
            raise ValueError(f"init must have shape {tuple(feasible.shape)}, got {tuple(init.shape)}")
        if not bool(init.isfinite().all()):
            raise ValueError("init must be finite, got NaN or infinity")
        return init.detach().to(feasible.lower)
    zeros = torch.zeros_like(feasible.lower, memory_format=torch.contiguous_format)
    noise = zeros if generator is None else zeros.normal_(0, 0.1, generator=generator)
    return noise if feasible.scale is None else (noise * feasible.scale).to(zeros)


_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = 2**64 - 1


class DrawKey(NamedTuple):
    """What makes one set of draws differ from another, beside the row.

    Attributes:
        seed: the user's seed.
        restart: number of the restart.
        step: number of the step, or of the fresh draw after the attack.
        slot: which of the draws of a step: transformation and sample.
    """

    seed: int
    restart: int = 0
    step: int = 0
    slot: int = 0


def uniforms(key: DrawKey, rows: Tensor, count: int) -> Tensor:
    """Draw ``count`` uniform numbers for every row.

    Args:
        key: of the draws; the same key gives the same numbers.
        rows: global numbers of the rows, (n,) int64, on the device where the draws are wanted.
        count: numbers a row, >= 0.

    Returns:
        (n, count) float32 in [0, 1), multiples of 2^-24, bit for bit the same on every device.

    Cost: about ten integer operations a number.
    """
    return _stream(_states(key, rows), count)


def uniforms_from(seeds: Tensor, count: int) -> Tensor:
    """Draw ``count`` uniform numbers for every row from two uniform numbers that stand for its seed.

    Args:
        seeds: (n, 2) in [0, 1).
        count: numbers a row, >= 0.

    Returns:
        (n, count) float32 in [0, 1).
    """
    halves = (seeds.float() * 2.0**24).long()
    return _stream(_mix((halves[:, 0] << 24) + halves[:, 1]), count)


def normals_from(seeds: Tensor, count: int) -> Tensor:
    """Draw ``count`` standard normal numbers for every row: the inverse distribution function of ``uniforms_from``.

    Args:
        seeds: (n, 2) in [0, 1).
        count: numbers a row, >= 0.

    Returns:
        (n, count) float32, within 5.5.
    """
    # odd multiples of 2^-24: exact in float32, symmetric about 0, and never the ends, where erfinv is infinite
    centred = uniforms_from(seeds, count).mul_(2).sub_(1).add_(2.0**-24)
    return centred.erfinv_().mul_(2.0**0.5)


def row_seeds(key: DrawKey, rows: Tensor) -> list[int]:
    """Return one seed in [0, 2^63) for every row, for random sources that keep a state."""
    return (_states(key, rows) & (2**63 - 1)).tolist()


@contextmanager
def forked(x: Tensor) -> Iterator[None]:
    """Restore the random states of torch (of the CPU and of the device of ``x``), Python and NumPy on leaving.

    Threads that do so wait for each other.
    """
    with _GLOBAL:
        of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            with torch_forked(x):
                yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)  # noqa: NPY002


@contextmanager
def seeded(seed: int, x: Tensor) -> Iterator[None]:
    """Seed torch's random states (of the CPU and of the device of ``x``), and restore them on leaving.

    Threads that do so wait for each other.
    """
    with _GLOBAL, torch_forked(x):
        _seed_torch(seed, x)
        yield


@contextmanager
def torch_forked(x: Tensor) -> Iterator[None]:
    """Restore torch's random states (of the CPU and of the device of ``x``) on leaving."""
    with _GLOBAL:
        of_torch, of_device = _torch_states(x)
    try:
        yield
    finally:
        with _GLOBAL:
            torch.set_rng_state(of_torch)
            if of_device is not None:
                torch.get_device_module(x.device).set_rng_state(of_device, *_which(x))


@contextmanager
def building() -> Iterator[None]:
    """Restore torch's random state of the CPU on leaving: networks draw their initial weights from it.

    Threads that do so wait for each other.
    """
    with _GLOBAL, torch.random.fork_rng(devices=[]):
        yield


def seed_all(seed: int, x: Tensor) -> None:
    """Seed what ``forked`` restores."""
    _seed_torch(seed, x)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002


def _seed_torch(seed: int, x: Tensor) -> None:
    torch.default_generator.manual_seed(seed)
    if x.device.type not in ("cpu", "meta"):
        of_device = torch.Generator(x.device).manual_seed(seed)
        torch.get_device_module(x.device).set_rng_state(of_device.get_state(), *_which(x))


def random_states(x: Tensor) -> tuple[Any, ...]:
    """Return the states that ``forked`` restores, for ``same_states``."""
    return *_torch_states(x), random.getstate(), np.random.get_state()  # noqa: NPY002


def _torch_states(x: Tensor) -> tuple[Tensor, Tensor | None]:
    of_device = None
    if x.device.type not in ("cpu", "meta"):
        of_device = torch.get_device_module(x.device).get_rng_state(*_which(x))
    return torch.get_rng_state(), of_device


def _which(x: Tensor) -> tuple[torch.device, ...]:
    return () if x.device.type == "mps" else (x.device,)  # there is only one of these, and it takes no name


def same_states(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    """Say whether nothing was drawn between two ``random_states``."""
    of_device = a[1] is None or torch.equal(a[1], b[1])
    of_numpy = all(np.array_equal(p, q) for p, q in zip(a[3], b[3], strict=True))
    return torch.equal(a[0], b[0]) and of_device and a[2] == b[2] and of_numpy


def _states(key: DrawKey, rows: Tensor) -> Tensor:
    state = 0
    for part in key:
        state = _mix_int(state + _GOLDEN + part)
    return _mix(_mix(rows.long()) ^ _signed(state))


def _stream(states: Tensor, count: int) -> Tensor:
    """Run splitmix64 ``count`` steps from each of ``states`` (n,), (n, count)."""
    ticks = torch.arange(1, count + 1, device=states.device) * _signed(_GOLDEN)
    bits = _shift(_mix(states.unsqueeze(1) + ticks), 40)
    return bits.float().mul_(2.0**-24)


def _mix(z: Tensor) -> Tensor:
    """Scramble int64 numbers: the output function of splitmix64 (Steele, Lea and Flood, 2014)."""
    z = (z ^ _shift(z, 30)).mul_(_signed(_FIRST))
    z = z.bitwise_xor_(_shift(z, 27)).mul_(_signed(_SECOND))
    return z.bitwise_xor_(_shift(z, 31))


def _shift(z: Tensor, by: int) -> Tensor:
    # int64 shifts drag the sign along; the mask makes them those of unsigned numbers
    return (z >> by).bitwise_and_(2 ** (64 - by) - 1)


def _mix_int(z: int) -> int:
    z &= _MASK
    z = (z ^ (z >> 30)) * _FIRST & _MASK
    z = (z ^ (z >> 27)) * _SECOND & _MASK
    return z ^ (z >> 31)


def _signed(z: int) -> int:
    return z - 2**64 if z >= 2**63 else z
