"""The paper's slips are found again in its printed numbers: those listed, and no others of their kind."""

import re

import pytest

from omnirobust.paper.errata import SLIPS, slips
from omnirobust.paper.printed import PRINTED, TABLE_2
from omnirobust.paper.printed_trainings import TABLE_A8

PARTS = dict(zip("abcdef", (0.5, 1.0, 1.5, 2.0, 2.5, 3.0), strict=True))


def found(*words: str) -> str:
    """Return what is said of the one slip that has all these words in its place."""
    (slip,) = [s for s in SLIPS if all(w in s.where for w in words)]
    return f"{slip.printed} {slip.found}"


def test_means_that_are_not_means_are_listed():
    off = {
        row: round((values[1] + values[2]) / 2, 3)
        for row, values in TABLE_A8.items()
        if abs((values[1] + values[2]) / 2 - values[4]) > 0.0051
    }
    listed = {
        ("a", "minmax_dpar", 2.0): ("MLP", "DPAR"),
        ("a", "avg", 2.5): ("MLP", "average"),
        ("a", "natural", 1.0): ("MLP", "natural"),
        ("c", "linf", 3.0): ("LeNet", "linf"),
        ("c", "avg_dpar", 3.0): ("LeNet", "average with DPAR"),
    }
    assert off.keys() == listed.keys()
    for row, mean in off.items():
        said = found("A8", *listed[row])
        assert f"{TABLE_A8[row][4]:.2f}" in said
        assert any(text in said for text in (f"{mean:.2f}", f"{mean:.3f}")), said


def test_worst_cases_that_cannot_be_those_of_their_row_are_five():
    odd = [r for r, (_, a, b, worst, _) in TABLE_A8.items() if worst > min(a, b) or worst < a + b - 100 - 0.005]
    assert {eps for _, _, eps in odd} == {PARTS[part] for part in "abf"}
    assert len(odd) == 5
    assert "five rows" in found("A8(a), (b), (f)")


def test_min_max_is_not_always_among_the_best_two():
    misses = 0
    for eps in PARTS.values():
        for arch in "ac":
            for column in (3, 4):
                rows = {method: v[column] for (a, method, e), v in TABLE_A8.items() if (a, e) == (arch, eps)}
                # with its regulariser or without, against all others
                others = [value for method, value in rows.items() if not method.startswith("minmax")]
                misses += sum(value > max(rows["minmax"], rows["minmax_dpar"]) for value in others) > 1
    assert misses == 7
    assert "7 of the 24" in found("E.1", "text")


@pytest.mark.parametrize(
    ("table", "words"), [("table-2", ("GoogLeNet",)), ("table-a4", ("A4",))], ids=["table-2", "table-a4"]
)
def test_lifts_that_do_not_follow_are_listed(table, words):
    off = []
    for key, row in PRINTED[table].items():
        base = PRINTED[table].get((key[0], "avg", *key[2:]))
        if row.lift is not None and base is not None and row.asr_all is not None and base.asr_all is not None:
            lift = 100 * (row.asr_all - base.asr_all) / base.asr_all
            # what rates rounded to 0.005 allow, and the rounding of the lift
            slack = 0.0051 + 100 * 0.005 * (1 / base.asr_all) * (1 + row.asr_all / base.asr_all)
            strict = 0.0051 if table == "table-a4" else max(slack, 0.0051)
            if abs(lift - row.lift) > strict:
                off.append((key, row.lift, lift))
    ((_, printed, lift),) = off
    said = found(*words)
    assert f"{printed:.0f}" in said or f"{printed:.2f}" in said
    assert f"{lift:.0f} %" in said or f"{lift:.2f}" in said


def test_rates_that_groups_cannot_give_are_listed():
    off = []
    for key, row in TABLE_2.items():
        assert row.asr_all is not None
        groups = row.asr_all * 100 / int(key[2])  # of 10,000 images
        if abs(groups - round(groups)) > 1e-6:
            off.append(row.asr_all)
    assert off == [55.74]
    assert "55.74" in found("All-CNNs")


def test_mean_lift_of_cifar_is_that_of_both_tables():
    first, second = ([r.lift for r in PRINTED[t].values() if r.lift is not None] for t in ("table-1b", "table-a3"))
    said = found("1(b)")
    assert f"{sum(first) / len(first):.2f}" in said
    assert f"{sum(first + second) / 8:.2f}" in said
    assert (len(first), len(second)) == (4, 4)


def test_order_by_fgsm_is_another():
    fgsm = {m: PRINTED["table-a2"][m, "fgsm"].accuracy[m] for m in "ABCD"}
    assert " > ".join(sorted(fgsm, key=fgsm.__getitem__, reverse=True)) in found("Section 4.1")


def test_each_is_on_the_page():
    page = slips()
    assert len(re.findall(r"^\| ", page, re.MULTILINE)) == len(SLIPS) + 2
    assert all(all(part for part in slip) for slip in SLIPS)
