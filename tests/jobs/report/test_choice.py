from collections import Counter
from pathlib import Path

import pytest

from omnirobust.jobs import AttackRecord
from omnirobust.jobs.folder import RunFolder
from omnirobust.jobs.report.choice import choose


def record(average: list[bool], ours: list[bool], size: int | None = None) -> AttackRecord:
    config = {"groups": {"size": size}} if size else {}
    found = AttackRecord(RunFolder(Path("runs/x"), config), {"attacks": {"average": {}, "min-max": {}}})
    repeats = size or 1
    table = {
        f"{n}.fooled_all": [f for f in won for _ in range(repeats)]
        for n, won in (("average", average), ("min-max", ours))
    }
    found.__dict__["examples"] = table
    return found


WON = ([True] * 10 + [False] * 20, [True] * 5 + [False] * 5 + [True] * 12 + [False] * 8)


@pytest.mark.parametrize("size", [None, 3])
def test_half_are_won_alone_some_resist_and_the_rest_both_win(size):
    chosen = choose(record(*WON, size), 12)
    assert Counter(note for _, note in chosen) == {
        f"min-max fools every {'domain' if size else 'model'}, average does not": 6,
        f"min-max and average both fool every {'domain' if size else 'model'}": 4,
        f"some {'domain' if size else 'model'} resists min-max": 2,
    }
    for number, note in chosen:
        assert note.startswith("min-max fools") == (WON[1][number] and not WON[0][number])
        assert note.startswith("some") == (not WON[1][number])


def test_as_many_as_there_are():
    assert [number for number, _ in choose(record([True, False], [True, False]), 12)] == [0, 1]
