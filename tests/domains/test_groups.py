import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from omnirobust.domains.groups import make_groups, stratified

labels = st.lists(st.integers(0, 4), max_size=60).map(lambda y: torch.tensor(y, dtype=torch.int64))


@given(labels, st.integers(1, 7), st.sampled_from(["random", "class"]), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_every_group_is_full_and_no_example_is_in_two(y, size, by, seed):
    groups = make_groups(y, size, by, seed)
    assert groups.shape[1:] == (size,)
    assert groups.dtype == torch.int64
    assert len(set(groups.flatten().tolist())) == groups.numel()
    counts = torch.bincount(y, minlength=1)
    full = len(y) // size if by == "random" else int((counts // size).sum())
    assert len(groups) == full


@given(labels, st.integers(1, 7), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_groups_by_class_hold_one_class_and_come_round_by_round(y, size, seed):
    of_group = y[make_groups(y, size, "class", seed)]
    assert bool((of_group == of_group[:, :1]).all())
    dealt, left = [], {c: int((y == c).sum()) // size for c in range(5)}
    while any(left.values()):
        for c in range(5):
            if left[c]:
                dealt.append(c)
                left[c] -= 1
    assert of_group[:, 0].tolist() == dealt


@pytest.mark.parametrize("by", ["random", "class"])
def test_a_seed_gives_its_own_groups_again(by):
    y = torch.arange(200) % 10
    assert torch.equal(make_groups(y, 5, by, 3), make_groups(y, 5, by, 3))
    assert not torch.equal(make_groups(y, 5, by, 3), make_groups(y, 5, by, 4))
    state = torch.random.get_rng_state()
    make_groups(y, 5, by, 3)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_random_groups_mix_classes():
    y = torch.arange(1000) // 100
    groups = y[make_groups(y, 5, "random")]
    alike = (groups == groups[:, :1]).all(1).double().mean()
    assert alike < 0.01  # by chance about 0.1 ** 4


def test_every_example_is_drawn_equally_often_into_the_first_group():
    y = torch.zeros(6, dtype=torch.int64)
    counts = torch.zeros(6)
    for seed in range(600):
        counts[make_groups(y, 2, "class", seed)[0]] += 1
    assert counts.sum() == 1200
    assert (counts / 200 - 1).abs().max() < 0.35  # 200 expected each, standard deviation 11.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(4), 2), r"y must be int64 of shape \(N,\), got torch.float32 \(4,\)"),
        ((torch.zeros(4, 2, dtype=torch.int64), 2), r"y must be int64"),
        ((torch.zeros(4, dtype=torch.int64), 0), r"size must be a whole number >= 1, got 0"),
        ((torch.zeros(4, dtype=torch.int64), 2.0), r"size must be a whole number >= 1, got 2.0"),
        ((torch.zeros(4, dtype=torch.int64), 2, "colour"), r"by must be 'random' or 'class', got 'colour'"),
    ],
)
def test_what_does_not_fit_is_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_groups(*arguments)


@given(labels, st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_every_beginning_of_a_stratified_order_has_each_class_s_share(y, seed):
    order = stratified(y, seed)
    assert sorted(order.tolist()) == list(range(len(y)))
    assert torch.equal(order, stratified(y, seed))
    for label in y.unique():
        seats = (y[order] == label).cumsum(0)
        quota = torch.arange(1, len(y) + 1) * float((y == label).sum()) / len(y)
        assert (seats - quota).abs().max() <= 2  # Webster's method breaks the quota by less than a seat, and rarely


def test_a_stratified_order_is_that_of_webster_s_quotients():
    """Seats go one by one to the class of the largest n / (2 seats + 1)."""
    y = torch.tensor([0] * 48 + [1] * 32 + [2] * 20)
    counts, seats, wanted = [48, 32, 20], [0, 0, 0], []
    for _ in range(100):
        label = max(range(3), key=lambda c: counts[c] / (2 * seats[c] + 1))
        seats[label] += 1
        wanted.append(label)
    order = stratified(y, 5)
    assert y[order].tolist() == wanted
    inside = order[y[order] == 0]
    assert inside.tolist() != sorted(inside.tolist())  # shuffled
    assert not torch.equal(order, stratified(y, 6))
