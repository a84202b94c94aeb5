"""The printed values agree with each other as the columns of a table must."""

import pytest

from omnirobust.paper.printed import TABLE_1A, TABLE_1B, TABLE_A2, TABLE_A3, TABLE_A4, W_PRIOR, W_STATIC

BASES = {"1a": TABLE_1A, "1b": TABLE_1B, "a3": TABLE_A3, "a4": TABLE_A4}
ROWS = [(name, key, row) for name, table in BASES.items() for key, row in table.items()]


@pytest.mark.parametrize(("name", "key", "row"), ROWS, ids=lambda v: "-".join(v) if isinstance(v, tuple) else None)
def test_lift_and_bounds(name, key, row):
    base = BASES[name][key[0], "avg"].asr_all
    if key[1] == "avg":
        assert row.lift is None
    else:
        assert row.lift == pytest.approx(100 * (row.asr_all - base) / base, abs=0.011)
    kept = row.accuracy.values()
    assert 100 - sum(kept) - 0.01 <= row.asr_all <= 100 - max(kept) + 0.01


@pytest.mark.parametrize("key", TABLE_A4, ids="-".join)
def test_average_success_is_that_of_the_four_models(key):
    row = TABLE_A4[key]
    assert row.asr_avg == pytest.approx(100 - sum(row.accuracy.values()) / 4, abs=0.0051)


def test_rows_that_two_tables_share_agree():
    for norm in ("l2", "linf"):
        for scheme in ("avg", "minmax"):
            assert TABLE_A4[norm, scheme].accuracy == TABLE_1A[norm, scheme].accuracy
            assert TABLE_A4[norm, scheme].asr_all == TABLE_1A[norm, scheme].asr_all


@pytest.mark.parametrize(("table", "mean"), [(TABLE_1A, 40.79), (TABLE_1B, 19.27), (TABLE_A3, 15.69)])
def test_lifts_have_the_mean_that_claims_name(table, mean):
    lifts = [row.lift for (_, scheme), row in table.items() if scheme == "minmax"]
    assert len(lifts) == 4
    assert sum(lifts) / 4 == pytest.approx(mean, abs=0.006)


def test_the_mean_lift_of_the_text_is_of_both_cifar_tables():
    lifts = [row.lift for table in (TABLE_1B, TABLE_A3) for row in table.values() if row.lift is not None]
    assert sum(lifts) / 8 == pytest.approx(17.48, abs=0.005)


def test_weights_are_in_the_simplex_and_accuracies_in_range():
    for w in (W_PRIOR, *W_STATIC.values()):
        assert sum(w) == pytest.approx(1)
    assert len(TABLE_A2) == 24
    for (model, kind), row in TABLE_A2.items():
        ((letter, value),) = row.accuracy.items()
        least, most = (55, 92) if model.startswith("CIFAR-10") else (98, 100)
        assert model[-1] == letter and (least < value < most if kind == "clean" else 0 < value < least), model
