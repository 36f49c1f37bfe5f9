import numpy as np
import pytest
from scipy import stats

from lightning_graceful.functional import clustered_difference_interval


def variance_by_pairs(difference, *clusters):
    """Sum the products of residuals over all pairs of cells that share every one of the clusters."""
    residual, total = difference - difference.mean(), 0.0
    groups = len(set(zip(*clusters, strict=True)))
    for i in range(len(difference)):
        for j in range(len(difference)):
            if all(cluster[i] == cluster[j] for cluster in clusters):
                total += residual[i] * residual[j]
    return groups / (groups - 1) * total / len(difference) ** 2


@pytest.mark.parametrize("rng_seed", range(8))
def test_clustered_interval_agrees_with_a_double_loop(rng_seed):
    rng = np.random.default_rng(rng_seed)
    seed, sample = rng.integers(3, size=40) * 10, rng.integers(12, size=40) - 5
    difference = rng.normal(size=40) + rng.normal(size=40)[seed] + rng.normal(size=40)[sample]
    by_seed, by_sample = variance_by_pairs(difference, seed), variance_by_pairs(difference, sample)
    largest = max(by_seed, by_sample, by_seed + by_sample - variance_by_pairs(difference, seed, sample))
    half = stats.t.ppf(0.975, 2) * np.sqrt(largest)
    expected = (difference.mean(), difference.mean() - half, difference.mean() + half)
    np.testing.assert_allclose(clustered_difference_interval(difference, seed, sample), expected, rtol=1e-10)
    np.testing.assert_allclose(clustered_difference_interval(difference, sample, seed), expected, rtol=1e-10)


def test_one_way_interval_is_that_of_the_cluster_means():
    means = np.array([0.1, 0.4, 0.2, 0.3])
    interval = clustered_difference_interval(np.repeat(means, 50), np.repeat(np.arange(4), 50), confidence=0.9)
    expected = stats.ttest_1samp(means, 0).confidence_interval(0.9)
    np.testing.assert_allclose(interval, (means.mean(), expected.low, expected.high))


def test_a_single_cluster_is_left_out():
    difference, one, many = np.array([0.0, 1.0, 1.0, 0.5]), np.zeros(4, int), np.array([0, 0, 1, 2])
    alone = clustered_difference_interval(difference, many)
    assert clustered_difference_interval(difference, one, many) == alone
    expected = stats.ttest_1samp(difference, 0).confidence_interval(0.95)
    np.testing.assert_allclose(clustered_difference_interval(difference, one, one)[1:], expected)


def test_too_few_cells_have_no_interval():
    assert clustered_difference_interval([0.5], [0]).mean == 0.5
    assert np.isnan(clustered_difference_interval([0.5], [0], [1])[1:]).all()
    assert np.isnan(clustered_difference_interval([], [])).all()


def test_interval_covers_new_seeds_and_new_samples():
    rng, seeds, samples = np.random.default_rng(0), 6, 40
    seed, sample = np.divmod(np.arange(seeds * samples), samples)
    trials, covered, independent = 400, 0, 0
    for _ in range(trials):
        effects = rng.normal(size=seeds)[seed] + 2 * rng.normal(size=samples)[sample] + rng.normal(size=seed.size)
        interval = clustered_difference_interval(effects, seed, sample)
        covered += interval.low <= 0 <= interval.high
        naive = stats.norm.ppf(0.975) * effects.std() / np.sqrt(seed.size)
        independent += abs(effects.mean()) <= naive
    assert independent / trials < 0.6
    assert 0.93 <= covered / trials <= 0.995


@pytest.mark.parametrize(
    ("difference", "clusters", "message"),
    [
        (np.zeros((2, 2)), ([0, 1],), r"shape \(M,\), got \(2, 2\)"),
        ([0.0, np.nan], ([0, 1],), "finite differences, got NaN"),
        ([0.0, 1.0], (), "one or two arrays of clusters, got 0"),
        ([0.0, 1.0], ([0, 1],) * 3, "got 3"),
        ([0.0, 1.0], ([0, 1, 2],), r"shape \(2,\), got int64 of shape \(3,\)"),
        ([0.0, 1.0], ([0.0, 1.5],), "integer cluster label .*, got float64"),
    ],
)
def test_clustered_interval_refuses_bad_arguments(difference, clusters, message):
    with pytest.raises(ValueError, match=message):
        clustered_difference_interval(difference, *clusters)
