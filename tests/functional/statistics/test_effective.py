import numpy as np
import pytest
from scipy import stats

from lightning_graceful.functional import (
    RatioSums,
    effective_counts,
    effective_size,
    exact_interval,
    ratio_sums,
    ratio_variance,
)


def clustered_rows(rng_seed, rows=200, clusters=17):
    rng = np.random.default_rng(rng_seed)
    weight = rng.uniform(0.2, 3, rows)
    cluster = rng.integers(clusters, size=rows) * 5 - 7
    return weight * (rng.random(rows) < 0.3), weight, cluster


def test_sums_agree_with_a_loop():
    numerator, denominator, cluster = clustered_rows(0)
    pairs = [(numerator[cluster == label].sum(), denominator[cluster == label].sum()) for label in set(cluster)]
    expected = [
        len(pairs),
        sum(num for num, _ in pairs),
        sum(den for _, den in pairs),
        sum(num * num for num, _ in pairs),
        sum(num * den for num, den in pairs),
        sum(den * den for _, den in pairs),
    ]
    np.testing.assert_allclose(ratio_sums(numerator, denominator, cluster), expected)


def test_sums_of_parts_merge_into_those_of_all():
    numerator, denominator, cluster = clustered_rows(1)
    part = cluster % 2 == 0
    halves = [ratio_sums(numerator[half], denominator[half], cluster[half]) for half in (part, ~part)]
    np.testing.assert_allclose(halves[0].merged(halves[1]), ratio_sums(numerator, denominator, cluster))
    empty = ratio_sums([], [])
    np.testing.assert_allclose(halves[0].merged(empty), halves[0])


@pytest.mark.parametrize("rng_seed", range(3))
def test_variance_agrees_with_the_residuals(rng_seed):
    numerator, denominator, cluster = clustered_rows(rng_seed)
    residual = numerator - numerator.sum() / denominator.sum() * denominator
    sums = np.array([residual[cluster == label].sum() for label in np.unique(cluster)])
    expected = sums.size * sums.var(ddof=1) / denominator.sum() ** 2
    np.testing.assert_allclose(ratio_variance(ratio_sums(numerator, denominator, cluster)), expected)


def test_variance_is_that_of_the_ratio_over_new_clusters():
    rng = np.random.default_rng(0)
    size = rng.integers(1, 9, (4000, 60))
    hits = rng.binomial(size, rng.beta(1, 3, size.shape))
    sums = RatioSums(*np.array([ratio_sums(*pair) for pair in zip(hits, size, strict=True)]).T)
    true = (hits.sum(1) / size.sum(1)).var()
    np.testing.assert_allclose(ratio_variance(sums).mean(), true, rtol=0.05)


@pytest.mark.parametrize(
    ("count", "total"), [(0, 50), (50, 50), (1, 50), (49, 50), (3, 7), (1, 2), (0, 1), (300, 100_000)]
)
def test_independent_rows_have_just_the_exact_interval(count, total):
    rows = ratio_sums(np.arange(total) < count, np.ones(total))
    np.testing.assert_allclose(effective_counts(rows, total), (count, total), rtol=1e-11)
    np.testing.assert_allclose(exact_interval(*effective_counts(rows, total)), exact_interval(count, total), rtol=1e-10)


def test_equal_weights_of_any_unit_count_as_none():
    rows = ratio_sums(0.3 * (np.arange(90) < 4), np.full(90, 0.3))
    np.testing.assert_allclose(effective_counts(rows, 90), (4, 90), rtol=1e-11)


@pytest.mark.parametrize("hit", [0.0, 1.0])
def test_copies_without_contrast_are_worth_their_clusters(hit):
    cluster = np.repeat(np.arange(12), 5)
    rows = ratio_sums(np.full(60, hit), np.ones(60), cluster)
    np.testing.assert_allclose(effective_counts(rows, 60), (12 * hit, 12))


def test_copies_are_worth_their_clusters_but_for_the_degrees_of_freedom():
    flags = np.arange(40) < 6
    rows = ratio_sums(np.repeat(flags, 5), np.ones(200), np.repeat(np.arange(40), 5))
    student = stats.t.ppf(0.975, 199) / stats.t.ppf(0.975, 39)
    # The design effect of copies is 5, but for the factors G / (G - 1) of 200 rows and of 40 clusters.
    np.testing.assert_allclose(effective_size(rows, 200), 40 * (39 / 40) / (199 / 200) * student**2)
    wider = effective_size(rows, 200, confidence=0.99)
    assert wider < effective_size(rows, 200)


def test_rows_that_differ_within_clusters_are_worth_no_more_than_rows():
    rows = ratio_sums(np.tile([0, 1], 30), np.ones(60), np.repeat(np.arange(30), 2))
    np.testing.assert_allclose(effective_counts(rows, 60), (30, 60))


def test_one_cluster_is_worth_one_row_and_none_is_worth_nothing():
    np.testing.assert_allclose(effective_counts(ratio_sums([1, 0, 1, 0], np.ones(4), np.zeros(4, int)), 4), (0.5, 1))
    assert np.isnan(ratio_variance(ratio_sums([1, 0], [1, 1], [0, 0])))
    assert effective_counts(ratio_sums([], []), 0) == (0, 0)
    assert np.isnan(exact_interval(*effective_counts(ratio_sums([], []), 0))).all()


def test_groups_are_taken_elementwise():
    parts = [ratio_sums(*clustered_rows(seed)) for seed in range(4)] + [ratio_sums([], [])]
    rows = [200] * 4 + [0]
    together = effective_counts(RatioSums(*np.array(parts).T), rows)
    np.testing.assert_array_equal(
        np.transpose(together), [effective_counts(part, each) for part, each in zip(parts, rows, strict=True)]
    )


def coverage(draw, rate, trials=1500):
    sums, rows = zip(*(draw(rate) for _ in range(trials)), strict=True)
    low, high = exact_interval(*effective_counts(RatioSums(*np.array(sums).T), rows))
    return np.mean((low <= rate) & (rate <= high))


@pytest.mark.parametrize(
    ("clusters", "rows", "alike"), [(10, 20, 0.05), (30, 10, 0.0), (60, 10, 0.1), (100, 10, 0.05), (300, 5, 0.3)]
)
@pytest.mark.parametrize("rate", [0.03, 0.3, 0.95])
def test_interval_covers_the_rate_of_new_clusters(clusters, rows, alike, rate):
    rng = np.random.default_rng(0)

    def draw(rate):
        spread = (1 - alike) / alike if alike else 1e9
        hits = rng.binomial(rows, rng.beta(rate * spread, (1 - rate) * spread, clusters))
        return ratio_sums(hits, np.full(clusters, rows)), clusters * rows

    assert coverage(draw, rate) >= 0.93


@pytest.mark.parametrize(("rows", "skew"), [(50, 0.5), (300, 0.5), (1000, 0.8)])
@pytest.mark.parametrize("rate", [0.03, 0.3, 0.95])
def test_interval_covers_the_rate_of_weighted_rows(rows, skew, rate):
    rng = np.random.default_rng(0)

    def draw(rate):
        weight = rng.lognormal(0, skew, rows)
        return ratio_sums(weight * (rng.random(rows) < rate), weight), rows

    assert coverage(draw, rate) >= 0.93


def test_clusters_taken_for_rows_would_not_cover():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        hits = rng.binomial(10, rng.beta(0.2, 1.8, 100)).sum()
        low, high = exact_interval(hits, 1000)
        covered += low <= 0.1 <= high
    assert covered / 400 < 0.8


@pytest.mark.parametrize(
    ("numerator", "denominator", "cluster", "message"),
    [
        ([1.0], [1.0, 1.0], None, r"numerator, denominator of shape \(M,\), got \(1,\), \(2,\)"),
        ([[1.0]], [[1.0]], None, r"got \(1, 1\), \(1, 1\)"),
        ([np.nan], [1.0], None, "finite numerator, denominator, got NaN"),
        ([1.0, 0.0], [1.0, 1.0], [0], r"shape \(2,\), got int64 of shape \(1,\)"),
        ([1.0, 0.0], [1.0, 1.0], ["a", "b"], "integer cluster label"),
    ],
)
def test_sums_refuse_bad_rows(numerator, denominator, cluster, message):
    with pytest.raises(ValueError, match=message):
        ratio_sums(numerator, denominator, cluster)


@pytest.mark.parametrize(
    "sums", [ratio_sums([3.0], [1.0]), ratio_sums([-1.0], [1.0]), RatioSums(1, np.nan, 1, 1, 1, 1)]
)
def test_only_rates_have_a_size(sums):
    with pytest.raises(ValueError, match="Expected 0 <= numerator <= denominator"):
        effective_counts(sums, 5)


@pytest.mark.parametrize("rows", [2, np.nan, np.inf])
def test_every_cluster_has_a_row(rows):
    with pytest.raises(ValueError, match=r"at least as many rows as clusters, got .* for 3"):
        effective_size(ratio_sums([1, 0, 0], [1, 1, 1]), rows)
