"""Paired differences over the same rows: of the error before and after, and between two candidates."""

import math

import numpy as np

from lightning_graceful.functional.statistics import (
    Interval,
    RatioSums,
    clustered_difference_interval,
    exact_interval,
    paired_difference_interval,
    ratio_variance,
)
from lightning_graceful.report.database import Database
from lightning_graceful.report.joining import Joined

BROKE = "CAST({0}old_right AND NOT {0}new_right AS INT)"
WRONG = "CAST(NOT {0}new_right AS INT)"


def error_difference(database: Database, joined: Joined) -> Interval:
    """Difference of the error, new - old, on the rows of one candidate.

    Args:
        database: Holds the rows.
        joined: The rows.

    Returns:
        Mean and the interval at 95 %, as fractions: the score interval (Tango 1998) for independent rows, Student's t
        over clusters for others.
    """
    cells = f"SELECT {WRONG.format('')} - CAST(NOT old_right AS INT) AS d, weight, cluster, seed FROM {joined.table}"
    return _interval(database, joined, cells)


def nfr_difference(database: Database, joined: Joined, first: Joined) -> Interval:
    """Compare the NFR of two candidates.

    Args:
        database: Holds the rows.
        joined: The rows of one.
        first: The rows of the other.

    Returns:
        Difference, joined - first, as :func:`error_difference` gives it; NaN where no row is in both.
    """
    return _between(database, joined, first, BROKE)


def new_error_difference(database: Database, joined: Joined, first: Joined) -> Interval:
    """Compare the error of two candidates.

    Args:
        database: Holds the rows.
        joined: The rows of one.
        first: The rows of the other.

    Returns:
        Difference, joined - first, as :func:`error_difference` gives it; NaN where no row is in both.
    """
    return _between(database, joined, first, WRONG)


def _between(database: Database, joined: Joined, first: Joined, flag: str) -> Interval:
    cells = (
        f"SELECT {flag.format('a.')} - {flag.format('b.')} AS d, a.weight, a.cluster, a.seed "
        f"FROM {joined.table} a JOIN {first.table} b USING (id, seed)"
    )
    return _interval(database, joined, cells)


def _interval(database: Database, joined: Joined, cells: str) -> Interval:
    more, less, total = database.one(f"SELECT count_if(d > 0), count_if(d < 0), count(*) FROM ({cells})")
    if not total:
        return Interval(math.nan, math.nan, math.nan)
    # Rows of one seed share a model, also where each sample was tested under one seed only, as in cross-validation.
    over_seeds = joined.has_seeds and database.one(f"SELECT count(DISTINCT seed) FROM ({cells})")[0] > 1
    if joined.is_independent and not over_seeds:
        return paired_difference_interval(more, less, total)
    if not more and not less:
        (clusters,) = database.one(f"SELECT count(DISTINCT cluster) FROM ({cells})")
        # No row differs, which no variance tells from certainty: the bounds are those of 0 in so many clusters.
        most = float(exact_interval(0, clusters)[1])
        return Interval(0.0, -most, most)
    return _over_seeds(database, cells) if over_seeds else _over_clusters(database, cells)


def _over_seeds(database: Database, cells: str) -> Interval:
    # 32 bytes a row are held: a difference over seeds is clustered two ways, by seed and by sample.
    found = database.arrays(f"SELECT d, weight, seed, dense_rank() OVER (ORDER BY cluster) AS cluster FROM ({cells})")
    difference, weight = (np.asarray(found[key], np.float64) for key in ("d", "weight"))
    mean = float(weight @ difference / weight.sum())
    # Linearised: numbers of the same mean that vary as the weighted mean does.
    linear = mean + weight * (difference - mean) / weight.mean()
    return _capped(clustered_difference_interval(linear, found["seed"], found["cluster"]))


def _over_clusters(database: Database, cells: str) -> Interval:
    from scipy.special import stdtrit

    summed = f"SELECT sum(weight * d) AS num, sum(weight) AS den FROM ({cells}) GROUP BY cluster"
    found = database.one(
        f"SELECT count(*), sum(num), sum(den), sum(num * num), sum(num * den), sum(den * den) FROM ({summed})"
    )
    sums = RatioSums(*map(float, found))
    mean, clusters = found[1] / found[2], found[0]
    half = float(stdtrit(clusters - 1, 0.975)) * math.sqrt(float(ratio_variance(sums))) if clusters > 1 else math.nan
    return _capped(Interval(mean, mean - half, mean + half))


def _capped(interval: Interval) -> Interval:
    mean, low, high = interval
    return interval if math.isnan(low) else Interval(mean, max(low, -1.0), min(high, 1.0))
