"""Intervals over queries against loops that draw queries one by one, and against how often they cover the truth."""

import tracemalloc

import numpy as np
import pytest

from lightning_graceful.functional.compatibility import update_gain
from lightning_graceful.functional.statistics.gains import (
    mean_difference_interval,
    mean_interval,
    percentile_interval,
    resampled_means,
    update_gain_interval,
)


def measures(queries=200, seeds=3, seed=0):
    """Cross test, old and paragon self test: queries that are hard for one are hard for all."""
    rng = np.random.default_rng(seed)
    ease = rng.beta(2, 2, queries)
    noise = rng.normal(0, 0.05, (3, seeds, queries))
    old, cross, paragon = (0.7 * ease + shift + part for shift, part in zip((0.0, 0.08, 0.2), noise, strict=True))
    return cross, old, paragon


def by_hand(statistic, *arrays, replicates=3000, seed=9):
    """Percentiles of a statistic of means, query after query."""
    rng, queries = np.random.default_rng(seed), arrays[0].shape[-1]
    values = []
    for _ in range(replicates):
        drawn = [rng.integers(queries) for _ in range(queries)]
        values.append(statistic(*(array[..., drawn].mean() for array in arrays)))
    return np.quantile(values, [0.025, 0.975])


def ratio(cross, old, paragon):
    return (cross - old) / (paragon - old)


def test_the_gain_agrees_with_drawing_queries_one_by_one():
    arrays = measures()
    low, high = by_hand(ratio, *arrays)
    interval = update_gain_interval(*arrays)
    assert interval.mean == pytest.approx(ratio(*(array.mean() for array in arrays)))
    assert interval.mean == pytest.approx(update_gain(*(float(array.mean()) for array in arrays)).item())
    np.testing.assert_allclose(interval[1:], (low, high), atol=0.1 * (high - low))


def test_differences_agree_with_drawing_queries_one_by_one():
    cross, old, _ = measures()
    low, high = by_hand(lambda a, b: a - b, cross, old)
    interval = mean_difference_interval(cross, old)
    assert interval.mean == pytest.approx(cross.mean() - old.mean())
    np.testing.assert_allclose(interval[1:], (low, high), atol=0.1 * (high - low))
    # Pairs: what is hard for both cancels.
    alone = mean_interval(cross)
    assert high - low < 0.5 * (alone.high - alone.low)


def test_means_agree_with_drawing_queries_one_by_one():
    cross = measures()[0]
    low, high = by_hand(float, cross)
    interval = mean_interval(cross)
    assert interval.mean == pytest.approx(cross.mean())
    np.testing.assert_allclose(interval[1:], (low, high), atol=0.1 * (high - low))


def test_the_ratio_is_of_means_not_a_mean_of_ratios():
    old, cross, paragon = np.zeros((3, 2, 4))
    cross[:], paragon[0], paragon[1] = 0.1, 0.2, 1.0
    assert update_gain_interval(cross, old, paragon).mean == pytest.approx(0.1 / 0.6)  # not (0.5 + 0.1) / 2


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng, truth, covered = np.random.default_rng(3), 0.08 / 0.2, []
    for draw in range(200):
        low, high = update_gain_interval(*measures(150, 1, rng.integers(2**31)), replicates=300, seed=draw)[1:]
        covered.append(low <= truth <= high)
    assert 0.9 <= np.mean(covered) <= 0.99


def test_one_old_model_serves_all_seeds():
    cross, old, paragon = measures()
    one = update_gain_interval(cross, old[0], paragon)
    repeated = update_gain_interval(cross, np.stack([old[0]] * 3), paragon)
    np.testing.assert_allclose(one, repeated)


def test_all_calls_draw_the_same_queries():
    cross, old, _ = measures()
    together, alone = resampled_means(cross, old, seed=4), resampled_means(old, seed=4)
    np.testing.assert_allclose(together[:, 1], alone[:, 0])
    assert resampled_means(cross, seed=5)[1] != together[1, 0]


def test_queries_without_a_match_are_left_out():
    arrays = measures()
    some = [np.insert(array, [0, 50, 50, 200], np.nan, axis=1) for array in arrays]
    assert update_gain_interval(*some) == update_gain_interval(*arrays)
    assert mean_interval(some[0]) == mean_interval(arrays[0])


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_query_matched_in_one_measure_only_is_refused(which):
    arrays = measures()
    arrays[which][1, 7] = np.nan
    with pytest.raises(ValueError, match=r"Expected NaN for the same queries .* got query 7 matched in some only"):
        update_gain_interval(*arrays)


def test_a_small_gap_says_nothing():
    cross, old, paragon = measures()
    gap = paragon.mean() - old.mean()
    assert np.isnan(update_gain_interval(cross, old, paragon, minimum_gap=1.01 * gap)).all()
    assert np.isfinite(update_gain_interval(cross, old, paragon, minimum_gap=0.99 * gap)).all()
    assert np.isnan(update_gain_interval(cross, old, old - 0.04)).all()
    assert np.isnan(update_gain_interval(cross, old, old, minimum_gap=0)).all()
    assert np.isnan(update_gain_interval(cross, old, old + 0.0499)).all()  # 5 points unless told otherwise
    assert np.isfinite(update_gain_interval(cross, old, old + 0.0501)).all()


def test_a_gap_that_some_queries_turn_around_bounds_nothing():
    # The gap rests on 2 of 20 queries: resamples without them have none, and no sign of the ratio.
    old, paragon = np.zeros(20), np.full(20, -0.01)
    paragon[:2] = 1
    interval = update_gain_interval(np.full(20, 0.05), old, paragon)
    assert interval.mean == pytest.approx(0.05 / 0.091)
    assert interval[1:] == (-np.inf, np.inf)


def test_too_few_queries_have_no_interval():
    assert np.isnan(update_gain_interval([], [], [])).all()
    assert np.isnan(mean_interval([np.nan, np.nan])).all()
    interval = update_gain_interval([0.5], [0.4], [0.6])
    assert interval.mean == pytest.approx(0.5)
    assert np.isnan(interval[1:]).all()


def test_ends_are_replicates():
    values = np.concatenate([[7.0], np.arange(41)[::-1]])
    assert percentile_interval(values) == (7, 1, 39)
    assert percentile_interval(values, confidence=0.5) == (7, 10, 30)


def test_the_seed_fixes_the_interval_and_leaves_the_global_one_alone():
    arrays, before = measures(), np.random.get_state()[1].copy()
    assert update_gain_interval(*arrays, seed=1) == update_gain_interval(*arrays, seed=1)
    assert update_gain_interval(*arrays, seed=1) != update_gain_interval(*arrays, seed=2)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_memory_stays_bounded():
    many = np.random.default_rng(0).random(20_000)
    tracemalloc.start()
    mean_interval(many, replicates=300)  # 300 * 20_000 * 20 bytes at once would be 114 MiB
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * 2**20


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (([0.1, 0.2], [0.1], [0.1, 0.2]), "Expected measures of the same queries"),
        ((np.zeros((1, 2, 2)),) * 3, "Expected measures of the same queries"),
        ((np.zeros((0, 2)),) * 3, "Expected measures of the same queries"),
        (([0.1, np.inf], [0.1, 0.1], [0.1, 0.2]), "Expected finite measures"),
    ],
)
def test_measures_fit_together(arrays, words):
    with pytest.raises(ValueError, match=words):
        update_gain_interval(*arrays)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"minimum_gap": -0.1}, "Expected minimum_gap of at least 0"),
        ({"minimum_gap": np.nan}, "Expected minimum_gap of at least 0"),
        ({"replicates": 0}, "Expected at least 1 replicate"),
        ({"confidence": 1.0}, "Expected a confidence between 0 and 1"),
    ],
)
def test_arguments_are_in_their_domain(options, words):
    with pytest.raises(ValueError, match=words):
        update_gain_interval(*measures(), **options)
