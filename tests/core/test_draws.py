"""Draws by counting: equal to splitmix64 in plain integers, uniform, and the same whatever the batch."""

from __future__ import annotations

import random
from threading import Thread

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from omnirobust.core import draws as _draws
from omnirobust.core.draws import (
    DrawKey,
    forked,
    normals_from,
    random_states,
    row_seeds,
    same_states,
    seed_all,
    uniforms,
    uniforms_from,
)

WRAP = 2**64


def splitmix(state: int) -> tuple[int, int]:
    """One step of splitmix64 as its authors print it: the next state, and the output."""
    state = (state + 0x9E3779B97F4A7C15) % WRAP
    z = state
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % WRAP
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % WRAP
    return state, z ^ (z >> 31)


def test_the_stream_is_splitmix64() -> None:
    """From state 1234567, the outputs that the generator is published with."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    state, outputs = 1234567, []
    for _ in range(4):
        state, output = splitmix(state)
        outputs.append(output)
    assert outputs == published
    got = _draws._stream(torch.tensor([1234567]), 4)
    assert got.tolist() == [[(z >> 40) / 2**24 for z in published]]


@settings(max_examples=60, deadline=None)
@given(
    state=st.integers(-(2**63), 2**63 - 1),
    key=st.tuples(*[st.integers(-(2**70), 2**70)] * 4),
    row=st.integers(0, 2**62),
)
def test_tensors_and_integers_scramble_alike(state: int, key: tuple[int, int, int, int], row: int) -> None:
    got = _draws._mix(torch.tensor([state])).item() % WRAP
    assert got == _draws._mix_int(state) == splitmix(state - 0x9E3779B97F4A7C15)[1]
    chain = 0
    for part in key:
        chain = splitmix(chain + part)[1]
    of_row = splitmix(row - 0x9E3779B97F4A7C15)[1]
    start = splitmix((of_row ^ chain) - 0x9E3779B97F4A7C15)[1]
    assert row_seeds(DrawKey(*key), torch.tensor([row])) == [start % 2**63]
    expected = []
    for _ in range(3):
        start, output = splitmix(start)
        expected.append((output >> 40) / 2**24)
    assert uniforms(DrawKey(*key), torch.tensor([row]), 3).tolist() == [expected]


def test_uniforms_are_uniform_and_unrelated() -> None:
    u = uniforms(DrawKey(5), torch.arange(4000), 6).double()
    assert u.dtype == torch.float64 and float(u.min()) >= 0 and float(u.max()) < 1
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 0.01
    for other in (DrawKey(6), DrawKey(5, 1), DrawKey(5, 0, 1), DrawKey(5, 0, 0, 1)):
        both = np.corrcoef(u[:, 0], uniforms(other, torch.arange(4000), 1)[:, 0])
        assert abs(both[0, 1]) < 0.06
    assert float((torch.corrcoef(u.T) - torch.eye(6)).abs().max()) < 0.06  # columns
    assert abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < 0.06  # neighbouring rows


def test_parts_of_a_key_do_not_stand_in_for_each_other() -> None:
    keys = [DrawKey(a, b, c, d) for a in range(3) for b in range(3) for c in range(3) for d in range(3)]
    seeds = {seed for key in keys for seed in row_seeds(key, torch.arange(10))}
    assert len(seeds) == 81 * 10 and min(seeds) >= 0 and max(seeds) < 2**63


def test_rows_do_not_see_each_other() -> None:
    rows = torch.tensor([7, 3, 100_000_000_000, 3])
    u = uniforms(DrawKey(1, 2, 3, 4), rows, 5)
    assert torch.equal(u[1], u[3])
    for i, row in enumerate(rows):
        assert torch.equal(uniforms(DrawKey(1, 2, 3, 4), row[None], 9)[0, :5], u[i])
    assert uniforms(DrawKey(0), rows[:0], 5).shape == (0, 5) and uniforms(DrawKey(0), rows, 0).shape == (4, 0)


def test_numbers_from_seeds() -> None:
    seeds = uniforms(DrawKey(0), torch.arange(50), 2)
    u, z = uniforms_from(seeds, 400), normals_from(seeds, 400)
    assert len({row.tobytes() for row in u.numpy()}) == 50
    assert torch.equal(uniforms_from(seeds[3:5], 10), u[3:5, :10])
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 0.01
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 0.01
    assert torch.allclose(z.double(), torch.special.ndtri(u.double() + 2.0**-25), atol=1e-5)


def test_normal_numbers_are_finite_at_the_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_draws, "uniforms_from", lambda seeds, count: torch.tensor([[0.0, 0.5, 1 - 2.0**-24]]))
    low, middle, high = normals_from(torch.zeros(1, 2), 3)[0].tolist()
    assert low == -high and 5 < high < 5.5 and 0 < middle < 1e-6


def test_forked_states_come_back_and_seeds_repeat() -> None:
    x = torch.zeros(1)

    def draw() -> tuple[float, float, float]:
        return float(torch.rand(1)), random.random(), float(np.random.rand())  # noqa: NPY002

    before = random_states(x)
    with forked(x):
        seed_all(2**62 + 5, x)
        first = draw()
        assert not same_states(before, random_states(x))
        seed_all(2**62 + 5, x)
        assert draw() == first
        seed_all(2**62 + 6, x)
        assert all(a != b for a, b in zip(draw(), first, strict=True))
    assert same_states(before, random_states(x))
    with pytest.raises(ZeroDivisionError), forked(x):
        draw()[0] / 0
    assert same_states(before, random_states(x))


@pytest.mark.parametrize("source", [lambda: torch.rand(1), random.random, lambda: np.random.rand()])  # noqa: NPY002
def test_every_source_is_noticed(source) -> None:
    x = torch.zeros(1)
    with forked(x):
        before = random_states(x)
        source()
        assert not same_states(before, random_states(x))


def test_either_number_of_a_seed_counts() -> None:
    u = uniforms_from(torch.tensor([[0.5, 0.25], [0.5, 0.75], [0.25, 0.25]]), 8)
    assert len({tuple(row) for row in u.tolist()}) == 3


def test_threads_that_set_the_global_states_wait_for_each_other() -> None:
    x, alone, seen = torch.zeros(1), {}, {}

    def draw(seed: int, times: int, into: dict[int, set[float]]) -> None:
        for _ in range(times):
            with _draws.seeded(seed, x):
                into.setdefault(seed, set()).add(float(torch.rand(1000).double().sum()))
            with _draws.building():
                torch.rand(10)

    for seed in (1, 2, 3):
        draw(seed, 1, alone)
    threads = [Thread(target=draw, args=(seed, 300, seen)) for seed in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == alone
