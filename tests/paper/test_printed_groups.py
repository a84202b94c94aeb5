"""The printed values agree with each other as the columns of a table must, but for the slips that the page names."""

import pytest

from omnirobust.paper.printed import STATISTICS, TABLE_2, TABLE_3, TABLE_A5, TABLE_A6

SLIPS = {("CIFAR-10 H", "minmax", "10")}


@pytest.mark.parametrize("key", TABLE_2, ids="-".join)
def test_groups(key):
    row, size = TABLE_2[key], int(key[2])
    base = TABLE_2[key[0], "avg", key[2]].asr_all
    if key[1] == "avg":
        assert row.lift is None
    elif key in SLIPS:
        assert row.lift == 600.0
        assert 100 * (row.asr_all - base) / base == pytest.approx(500)
    else:
        assert row.lift == pytest.approx(100 * (row.asr_all - base) / base, rel=1e-3, abs=0.011)
    assert row.asr_all <= row.asr_avg
    assert row.asr_all >= 100 - size * (100 - row.asr_avg) - 0.02
    whole = row.asr_all * 10_000 / size / 100
    assert (abs(whole - round(whole)) < 1e-6) is (key != ("CIFAR-10 B", "minmax", "5"))


@pytest.mark.parametrize("table", [TABLE_3, TABLE_A5, TABLE_A6])
def test_transformations(table):
    assert set(table) == {(m, s) for m in "ABCD" for s in ("avg", "minmax")}
    for (model, scheme), row in table.items():
        kept = row.accuracy.values()
        assert row.asr_avg == pytest.approx(100 - sum(kept) / len(kept), abs=0.0051)
        assert 100 - sum(kept) <= row.asr_all <= 100 - max(kept)
        base = table[model, "avg"].asr_all
        expected = None if scheme == "avg" else pytest.approx(100 * (row.asr_all - base) / base, abs=0.006)
        assert row.lift == expected


def test_mean_lifts_are_those_of_the_text():
    def mean(table, *rest):
        lifts = [row.lift for key, row in table.items() if row.lift is not None and key[2:] == rest]
        return sum(lifts) / len(lifts)

    at_5 = {data: {k: v for k, v in TABLE_2.items() if k[0].startswith(data)} for data in ("MNIST", "CIFAR-10")}
    assert mean(at_5["MNIST"], "5") == pytest.approx(42.63, abs=0.006)
    assert mean(at_5["CIFAR-10"], "5") == pytest.approx(35.21, abs=0.006)
    assert mean(TABLE_3) == pytest.approx(9.39, abs=0.006)
    assert mean(TABLE_A5) == pytest.approx(4.31, abs=0.006)
    assert mean(TABLE_A6) == pytest.approx(8.22, abs=0.006)


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_are_correlations_and_shares(name):
    assert len(STATISTICS[name]) == 15 + 9
    assert all(0 <= value <= 1 for value in STATISTICS[name].values())
