import tracemalloc

import numpy as np
import pytest
from scipy import stats

from lightning_graceful.functional import bootstrap_counts, cluster_bootstrap, poisson_bootstrap

TABLE = np.array([[60, 40], [30, 870]])
BOOTSTRAPS = [poisson_bootstrap, cluster_bootstrap]


def nfr(tables):
    return tables[:, 1, 0] / tables.sum((1, 2))


def relative_nfr(tables):
    old_errors, new_errors = tables[:, 0].sum(1), tables[:, :, 0].sum(1)
    total = tables.sum((1, 2))
    return tables[:, 1, 0] / total / ((1 - old_errors / total) * new_errors / total)


def ratio(numerator, denominator, axis=-1):
    return numerator.sum(axis) / denominator.sum(axis)


@pytest.mark.parametrize("statistic", [nfr, relative_nfr])
def test_counts_agree_with_resampling_the_samples(statistic):
    cells = np.repeat(np.arange(4), TABLE.ravel())
    draws = np.random.default_rng(1).choice(cells, (4000, cells.size))
    tables = np.stack([(draws == cell).sum(1) for cell in range(4)], axis=1).reshape(-1, 2, 2)
    low, high = np.quantile(statistic(tables), [0.05, 0.95])
    interval = bootstrap_counts(TABLE, statistic, replicates=4000, confidence=0.9)
    assert interval.mean == statistic(TABLE[None])[0]
    np.testing.assert_allclose(interval[1:], (low, high), rtol=0.04)


def test_a_share_has_binomial_quantiles():
    interval = bootstrap_counts(TABLE, nfr, replicates=50_000)
    np.testing.assert_allclose(
        np.multiply(interval, 1000), (30, *stats.binom.ppf([0.025, 0.975], 1000, 0.03)), atol=1.01
    )


def test_large_counts_do_not_overflow():
    interval = bootstrap_counts(TABLE * 10**10, nfr)
    assert interval.mean == 0.03
    np.testing.assert_allclose(interval[1:], 0.03, rtol=1e-4)


def test_undefined_replicates_are_left_out():
    # 1 of 20 samples is a new error: more than a third of the replicates have none, and 0 / 0.
    interval = bootstrap_counts([[0, 0], [1, 19]], lambda tables: tables[:, 1, 0] / tables[:, :, 0].sum(1))
    assert interval == (1, 1, 1)
    assert np.isnan(bootstrap_counts([[0, 0], [0, 20]], relative_nfr)).all()
    assert np.isnan(bootstrap_counts(np.zeros((2, 2), int), nfr)).all()


def test_infinite_replicates_are_kept():
    interval = bootstrap_counts([[1, 0], [10, 0]], lambda tables: tables[:, 1, 0] / tables[:, 0, 0])
    assert (interval.mean, interval.high) == (10, np.inf)
    assert np.isfinite(interval.low)


def weighted_rows(rows=300):
    rng = np.random.default_rng(5)
    weight = rng.uniform(0.5, 2, rows)
    return weight * (rng.random(rows) < 0.2), weight


@pytest.mark.parametrize("bootstrap", BOOTSTRAPS)
@pytest.mark.filterwarnings("ignore:.*scipy.stats.bootstrap")
def test_weighted_rows_agree_with_scipy(bootstrap):
    rows = weighted_rows()
    expected = stats.bootstrap(
        rows, ratio, paired=True, method="percentile", n_resamples=4000, rng=np.random.default_rng(0)
    ).confidence_interval
    interval = bootstrap(*rows, replicates=4000)
    assert interval.mean == pytest.approx(ratio(*rows))
    np.testing.assert_allclose(interval[1:], expected, atol=0.1 * (expected.high - expected.low))


def test_clusters_agree_with_resampling_them_one_by_one():
    rng = np.random.default_rng(3)
    cluster = rng.integers(40, size=500) * 3
    numerator, denominator = (rng.random(500) < rng.beta(0.3, 2, 120)[cluster]).astype(float), np.ones(500)
    labels, rows = np.unique(cluster), {label: np.flatnonzero(cluster == label) for label in np.unique(cluster)}
    ratios = []
    for _ in range(2000):
        drawn = np.concatenate([rows[label] for label in rng.choice(labels, labels.size)])
        ratios.append(numerator[drawn].sum() / denominator[drawn].sum())
    low, high = np.quantile(ratios, [0.025, 0.975])
    interval = cluster_bootstrap(numerator, denominator, cluster)
    np.testing.assert_allclose(interval[1:], (low, high), atol=0.08 * (high - low))
    alone = poisson_bootstrap(numerator, denominator)
    assert alone.high - alone.low < 0.8 * (interval.high - interval.low)


def test_sums_of_clusters_are_worth_their_rows():
    rng = np.random.default_rng(0)
    cluster, flags = np.repeat(np.arange(30), 4), rng.random(120) < 0.3
    sums, counts = np.unique(flags.reshape(30, 4).sum(1), return_counts=True)
    by_rows = cluster_bootstrap(flags, np.ones(120), cluster)
    assert by_rows == cluster_bootstrap(sums, np.full(sums.size, 4), count=counts)
    assert by_rows == cluster_bootstrap(flags.reshape(30, 4).sum(1), np.full(30, 4))


@pytest.mark.parametrize("bootstrap", BOOTSTRAPS)
def test_counted_patterns_are_worth_as_many_rows(bootstrap):
    flags = np.arange(1000) < 30
    interval = bootstrap(flags, np.ones(1000))
    assert interval == bootstrap([0, 1, 5], [1, 1, 5], count=[970, 30, 0])
    np.testing.assert_allclose(interval, (0.03, *stats.binom.ppf([0.025, 0.975], 1000, 0.03) / 1000), atol=0.0015)


@pytest.mark.parametrize("bootstrap", BOOTSTRAPS)
def test_memory_stays_bounded(bootstrap):
    numerator, denominator = np.random.default_rng(0).random((2, 40_000))
    tracemalloc.start()
    bootstrap(numerator, denominator, replicates=200)  # 200 * 40_000 * 16 bytes at once would be 122 MiB
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 45 * 2**20


@pytest.mark.parametrize("bootstrap", BOOTSTRAPS)
def test_the_seed_fixes_the_interval_and_leaves_the_global_one_alone(bootstrap):
    rows, before = weighted_rows(), np.random.get_state()[1].copy()
    assert bootstrap(*rows, seed=1) == bootstrap(*rows, seed=1) != bootstrap(*rows, seed=2)
    assert bootstrap_counts(TABLE, relative_nfr, seed=1) == bootstrap_counts(TABLE, relative_nfr, seed=1)
    assert bootstrap_counts(TABLE, relative_nfr, seed=1) != bootstrap_counts(TABLE, relative_nfr, seed=2)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("bootstrap", BOOTSTRAPS)
def test_too_few_rows_have_no_interval(bootstrap):
    assert np.isnan(bootstrap([], [])).all()
    mean, low, high = bootstrap([1.0], [4.0])
    assert mean == 0.25
    assert np.isnan([low, high]).all()
    assert np.isnan(bootstrap([0.0, 0.0], [0.0, 0.0])).all()
    assert np.isnan(bootstrap([0.0, 0.0, 1.0], [1.0, 1.0, 1.0], count=[0, 1, 0])[1:]).all()


@pytest.mark.parametrize("bootstrap", BOOTSTRAPS)
def test_replicates_of_nothing_are_left_out(bootstrap):
    # Two rows, one of them without weight: draws that miss the other are 0 / 0.
    assert bootstrap([1.0, 0.0], [2.0, 0.0]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    "table",
    [np.ones((2, 2)), np.ones((3, 3), int), np.array([[1, -1], [1, 1]]), np.ones((2, 2), bool), [[np.nan] * 2] * 2],
)
def test_tables_are_counts(table):
    with pytest.raises(ValueError, match=r"Expected counts of at least 0, integer, shape \(2, 2\), got"):
        bootstrap_counts(table, nfr)


def test_a_statistic_gives_one_number_a_table():
    with pytest.raises(ValueError, match=r"one number a table from the statistic, got shape \(2, 2\)"):
        bootstrap_counts(TABLE, lambda tables: tables.sum(0))


@pytest.mark.parametrize("bootstrap", BOOTSTRAPS)
@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (([1.0], [1.0, 1.0]), {}, r"numerator, denominator of shape \(M,\), got \(1,\), \(2,\)"),
        (([1.0], [np.inf]), {}, "finite numerator, denominator"),
        (([1.0], [1.0]), {"count": [-1]}, "Expected counts of at least 0, integer"),
        (([1.0], [1.0]), {"count": [1.5]}, "Expected counts of at least 0, integer"),
        (([1.0], [1.0]), {"count": [1, 2]}, r"shape \(1,\), got int64 of shape \(2,\)"),
        (([1.0], [1.0]), {"replicates": 0}, "at least 1 replicate, got 0"),
        (([1.0], [1.0]), {"confidence": 95}, "confidence between 0 and 1, got 95"),
    ],
)
def test_bad_arguments_are_refused(bootstrap, rows, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(*rows, **options)


def test_labels_and_counts_exclude_each_other():
    with pytest.raises(ValueError, match="Expected cluster or count, got both"):
        cluster_bootstrap([1, 0], [1, 1], [0, 1], count=[1, 1])
    with pytest.raises(ValueError, match="integer cluster label"):
        cluster_bootstrap([1, 0], [1, 1], [0.5, 1])
