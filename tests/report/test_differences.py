import math
from functools import partial

import numpy as np
import pytest

from lightning_graceful.functional.statistics import (
    clustered_difference_interval,
    exact_interval,
    paired_difference_interval,
)
from lightning_graceful.report.compare import compare_files
from lightning_graceful.report.files import write_predictions
from tests.report.prediction_files import (
    broke,
    counted,
    right,
    samples,
    two_way_difference,
    weighted_difference,
    write,
    write_csv,
)


def compared(rows, folder, *about, others=None):
    seed = ["seed"] if len(rows) > len({row["id"] for row in rows}) else []
    old = write(folder / "old.csv", rows, "old", "target", *about, *seed)
    new = {"new": write(folder / "new.csv", rows, "new", *seed)}
    if others:
        new["other"] = write(folder / "other.csv", others, "new", *seed)
    return compare_files(old, new)


def error_change(row):
    return right(row, "old") - right(row, "new")


@pytest.mark.parametrize("seed", range(3))
def test_error_of_independent_rows_changes_by_broke_less_fixed(seed, tmp_path):
    rows = samples(seed)
    found = compared(rows, tmp_path).first
    expected = paired_difference_interval(found.whole.broke, found.whole.fixed, len(rows))
    assert found.error_difference == pytest.approx(expected)
    assert found.error_difference.mean == pytest.approx(np.mean([error_change(row) for row in rows]))


@pytest.mark.parametrize("about", [("weight",), ("group",), ("weight", "group", "seen_by_old")], ids="+".join)
def test_error_of_weighted_and_grouped_rows(about, tmp_path):
    rows = samples(2, 200, **dict.fromkeys(about))
    found = compared(rows, tmp_path, *about).first
    kept = counted(rows)
    assert found.error_difference == pytest.approx(weighted_difference(kept, [error_change(row) for row in kept]))
    assert found.error_difference.mean == pytest.approx(found.whole.error_new.mean - found.whole.error_old.mean)


@pytest.mark.parametrize("about", [(), ("weight",), ("group",)], ids="+".join)
def test_error_over_seeds_is_clustered_by_seed_and_sample(about, tmp_path):
    rows = samples(4, 60, seeds=3, **dict.fromkeys(about))
    found = compared(rows, tmp_path, *about).first
    kept = counted(rows)
    assert found.error_difference == pytest.approx(two_way_difference(kept, [error_change(row) for row in kept]))
    assert found.error_difference.mean == pytest.approx(found.whole.error_new.mean - found.whole.error_old.mean)


@pytest.mark.parametrize("about", [("weight",), ("group",)], ids="+".join)
def test_no_change_is_not_certainty(about, tmp_path):
    rows = [row | {"new": row["old"]} for row in samples(5, 100, **dict.fromkeys(about))]
    most = float(exact_interval(0, len({row["group"] for row in counted(rows)}))[1])
    assert compared(rows, tmp_path, *about).first.error_difference == pytest.approx((0, -most, most))


def test_one_group_tells_nothing_of_others(tmp_path):
    rows = [row | {"group": "g"} for row in samples(5, 100)]
    mean, low, high = compared(rows, tmp_path, "group").first.error_difference
    assert mean == pytest.approx(np.mean([error_change(row) for row in rows]))
    assert math.isnan(low)
    assert math.isnan(high)


@pytest.mark.parametrize("seed", range(2))
def test_candidates_are_compared_on_the_same_samples(seed, tmp_path):
    rows = samples(seed, 200)
    others = [row | {"new": other["new"]} for row, other in zip(rows, samples(seed + 10, 200), strict=True)]
    first, second = compared(rows, tmp_path, others=others).candidates
    assert (first.nfr_against_first, first.error_against_first) == (None, None)
    for found, flag in (
        (second.nfr_against_first, broke),
        (second.error_against_first, lambda row: not right(row, "new")),
    ):
        pairs = [flag(other) - flag(row) for row, other in zip(rows, others, strict=True)]
        assert found == pytest.approx(paired_difference_interval(pairs.count(1), pairs.count(-1), 200))


def test_candidates_without_a_common_seed_have_no_difference(tmp_path):
    def answers(name, seeds):
        keys = [(number, seed) for seed in seeds for number in range(4)]
        values = {"id": [key[0] for key in keys], "seed": [key[1] for key in keys], "label": ["a", "a", "a", "b"] * 2}
        return write_csv(tmp_path / name, values)

    old = write_csv(tmp_path / "old.csv", {"id": range(4), "target": ["a", "b"] * 2, "label": ["a"] * 4})
    summary = compare_files(old, {"a": answers("a.csv", (1, 2)), "b": answers("b.csv", (3, 4))})
    assert all(math.isnan(value) for value in summary.candidates[1].nfr_against_first)


def test_folds_share_a_model_though_each_sample_is_tested_once(tmp_path):
    """Cross-validation: one seed a fold; the difference is clustered by fold."""
    right_answers, flips = np.zeros(300, int), np.r_[np.ones(30), np.zeros(270)].astype(int)
    keys = {"id": np.arange(300), "seed": np.repeat([0, 1, 2], 100)}
    save = partial(write_predictions, target=right_answers, **keys)
    old, plain = (save(tmp_path / name, label=right_answers) for name in ("old.csv", "plain.csv"))
    found = compare_files(old, {"plain": plain, "new": save(tmp_path / "new.csv", label=flips)}).candidates[1]
    expected = clustered_difference_interval(flips.astype(float), keys["seed"], keys["id"])
    assert found.nfr_against_first == pytest.approx(expected)
