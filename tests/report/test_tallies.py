import math

import pytest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from lightning_graceful.report.compare import compare_files
from tests.report.prediction_files import CLASSES, COUNTRIES, HITS, cells, counted, rate, samples, write

ABOUT = ("weight", "cost", "group", "seen_by_old")
CASES = [(), ("weight",), ("group",), ("seen_by_old",), ("cost", "weight"), ABOUT]


def compared(rows, folder, kind=".csv", seeds=1, about=ABOUT):
    columns = ["target", "slice:country", *about, *(["seed"] if seeds > 1 else [])]
    rows = [row | {"slice:country": row["country"]} for row in rows]
    old = write(folder / f"old{kind}", rows, "old", *columns)
    new = write(folder / f"new{kind}", rows, "new", *(["seed"] if seeds > 1 else []))
    return compare_files(old, {"new": new})


def check(tally, rows):
    assert tally.rows == len(rows)
    assert tally.samples == len({row["id"] for row in rows})
    assert (tally.both_right, tally.fixed, tally.broke, tally.both_wrong) == cells(rows)
    for name, hit in HITS.items():
        share, low, high, size = rate(rows, hit)
        assert tuple(getattr(tally, name)) == pytest.approx((share, low, high), rel=1e-9, abs=1e-12), name
        assert tally.effective_rows[name] == pytest.approx(size)
    independent = (1 - tally.error_old.mean) * tally.error_new.mean
    expected = tally.nfr.mean / independent if independent else math.nan
    assert tally.relative_nfr == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("kind", [".csv", ".parquet", ".tsv"])
@pytest.mark.parametrize("about", CASES, ids="+".join)
@pytest.mark.parametrize("seeds", [1, 3])
def test_counts_rates_and_intervals_of_all_rows(about, seeds, kind, tmp_path):
    rows = samples(len(about) + seeds, seeds=seeds, **dict.fromkeys(about))
    check(compared(rows, tmp_path, kind, seeds, about).first.whole, counted(rows))


@pytest.mark.parametrize("about", CASES, ids="+".join)
def test_counts_rates_and_intervals_of_classes_and_slices(about, tmp_path):
    rows = samples(7, 400, **dict.fromkeys(about))
    first = compared(rows, tmp_path, about=about).first
    assert [group.where for group in first.classes] == [f"class={name}" for name in CLASSES]
    assert [group.where for group in first.slices] == [f"country={name}" for name in COUNTRIES]
    for group in (*first.classes, *first.slices):
        key = "target" if group.column == "class" else "country"
        check(group.tally, [row for row in counted(rows) if row[key] == group.value])


@pytest.mark.parametrize("seed", range(3))
def test_p_values_of_groups_are_one_family(seed, tmp_path):
    first = compared(samples(seed, 300), tmp_path, about=()).first
    groups = [*first.classes, *first.slices]
    tables = [[[0, group.tally.broke], [group.tally.fixed, 0]] for group in groups]
    raw = [mcnemar(table, exact=True).pvalue for table in tables]
    assert [group.p_value for group in groups] == pytest.approx(multipletests(raw, method="fdr_bh")[1])
    assert first.p_value == pytest.approx(mcnemar([[0, first.whole.broke], [first.whole.fixed, 0]], exact=True).pvalue)


@pytest.mark.parametrize("about", [("weight",), ("group",)], ids="+".join)
def test_rows_that_depend_on_each_other_have_no_p_value(about, tmp_path):
    first = compared(samples(1, **dict.fromkeys(about)), tmp_path, about=about).first
    assert all(math.isnan(value) for value in (first.p_value, *(group.p_value for group in first.slices)))


def test_no_flip_still_has_an_upper_bound(tmp_path):
    rows = [row | {"new": row["old"]} for row in samples(0, 100)]
    nfr = compared(rows, tmp_path, about=()).first.whole.nfr
    assert nfr == pytest.approx((0, 0, 1 - 0.025 ** (1 / 100)))


def test_models_that_are_all_right_have_no_relative_nfr(tmp_path):
    rows = [row | {"new": row["target"], "old": row["target"]} for row in samples(0, 20)]
    assert math.isnan(compared(rows, tmp_path, about=()).first.whole.relative_nfr)
