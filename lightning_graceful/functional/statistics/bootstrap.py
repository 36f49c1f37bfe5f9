"""Bootstrap intervals: of any number read from a flip table, and of ratios of sums over rows or over clusters."""

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_graceful.functional.statistics.arguments import cluster_sums, finite_columns, tail_outside
from lightning_graceful.functional.statistics.intervals import Interval

Sums = NDArray[np.float64]
# Weights drawn at a time; as integers and as floats they take 16 bytes each.
DRAWS = 2**21


def bootstrap_counts(
    table: ArrayLike,
    statistic: Callable[[NDArray[np.int64]], ArrayLike],
    *,
    replicates: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Compute the percentile interval of a number read from a 2x2 table of counts (Efron, Annals of Statistics 1979).

    To resample pairs is to draw the table from the multinomial of its own shares, so that the samples are not needed.
    A cell of 0 stays 0 in every replicate: for a rate without hits take :func:`exact_interval`.

    Args:
        table: Counts ``table[old_right, new_right]`` of independent samples, integer, shape ``(2, 2)``.
        statistic: Function of tables, int64, shape ``(R, 2, 2)``, that gives one number each, shape ``(R,)``.
        replicates: Number of tables drawn.
        confidence: Coverage, between 0 and 1.
        seed: Seed of the draws.

    Returns:
        Statistic of the table, lower and upper end. Replicates with an undefined (NaN) statistic are left out; ends are
        NaN if none remains, and so is all where the table is empty.

    Raises:
        ValueError: If the table or what the statistic gives has another shape, a count is negative or not an integer,
            or another argument is out of its domain.

    Example:
        >>> nfr = lambda tables: tables[:, 1, 0] / tables.sum((1, 2))
        >>> interval = bootstrap_counts([[60, 40], [30, 870]], nfr)
        >>> interval.mean, round(interval.low, 3), round(interval.high, 3)
        (0.03, 0.02, 0.041)
    """
    counts = np.asarray(table)
    if counts.shape != (2, 2) or counts.dtype.kind not in "iu" or counts.min() < 0:
        raise ValueError(
            f"Expected counts of at least 0, integer, shape (2, 2), got {counts.dtype} of shape {counts.shape}, "
            f"{counts.tolist()}. Pass flip_table(...), not rates."
        )
    _check(replicates, confidence)
    total = counts.sum()
    if total == 0:
        return Interval(np.nan, np.nan, np.nan)
    drawn = np.random.default_rng(seed).multinomial(total, counts.ravel() / total, size=replicates)
    tables = np.concatenate([counts.ravel()[None], drawn]).astype(np.int64).reshape(-1, 2, 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.asarray(statistic(tables), np.float64)
    if values.shape != (replicates + 1,):
        raise ValueError(
            f"Expected one number a table from the statistic, got shape {values.shape}. Sum over axes 1, 2."
        )
    return _percentiles(values[0], values[1:], confidence)


def poisson_bootstrap(
    numerator: ArrayLike,
    denominator: ArrayLike,
    *,
    count: ArrayLike | None = None,
    replicates: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Compute the percentile interval of ``sum(numerator) / sum(denominator)`` over independent rows.

    Each row is drawn Poisson(1) times (Hanley & MacGibbon, Computer Methods and Programs in Biomedicine 2006). Rows
    that are alike are drawn together, Poisson(their number) times, which is the same: only distinct rows cost time.
    Draws are made for some of the distinct rows at a time and take up to 32 MiB; the sums of the replicates take
    ``16 * replicates`` bytes, sorting the rows about ``100 * M``.

    Args:
        numerator: What each row adds to the numerator, such as its weight if it is a hit, shape ``(M,)``.
        denominator: What each row adds to the denominator, such as its weight, shape ``(M,)``.
        count: How often the row occurs, integer, shape ``(M,)``; ``None`` for once.
        replicates: Number of ratios drawn.
        confidence: Coverage, between 0 and 1.
        seed: Seed of the draws.

    Returns:
        Ratio, lower and upper end. Replicates of 0 / 0 are left out; the ratio is NaN where the rows have 0 / 0, and
        the ends are for fewer than two rows.

    Raises:
        ValueError: If shapes or kinds differ from these, a number is NaN or Inf, or another argument is out of its
            domain.

    Example:
        >>> interval = poisson_bootstrap([0, 1], [1, 1], count=[970, 30])  # 30 of 1000 rows are hits
        >>> interval.mean, round(interval.low, 3), round(interval.high, 3)
        (0.03, 0.02, 0.041)
    """
    _check(replicates, confidence)
    patterns, times = _patterns(numerator, denominator, count)
    rng, sums = np.random.default_rng(seed), np.zeros((replicates, 2))
    for part in _chunks(times.size, replicates):
        sums += rng.poisson(times[part], size=(replicates, times[part].size)) @ patterns[part]
    return _ratio_interval(patterns, times, sums, confidence)


def cluster_bootstrap(
    numerator: ArrayLike,
    denominator: ArrayLike,
    cluster: ArrayLike | None = None,
    *,
    count: ArrayLike | None = None,
    replicates: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Compute the percentile interval of ``sum(numerator) / sum(denominator)`` by resampling whole clusters.

    As many clusters are drawn as there are, with replacement and with all of their rows (Field & Welsh, JRSS B 2007).
    Clusters of like sums are drawn together. It takes some dozen clusters; with few, the interval is too narrow. Draws
    are made for some replicates at a time and take up to 32 MiB, or 16 bytes a distinct cluster if that is more; the
    sums of the replicates take ``16 * replicates`` bytes, sorting the clusters about ``100 * M``.

    Args:
        numerator: What each row adds to the numerator, such as its weight if it is a hit, shape ``(M,)``.
        denominator: What each row adds to the denominator, such as its weight, shape ``(M,)``.
        cluster: Integer label of the cluster of each row, shape ``(M,)``; ``None`` if each row is the sum over a
            cluster already.
        count: How many clusters have these sums, integer, shape ``(M,)``, only without ``cluster``; ``None`` for one.
        replicates: Number of ratios drawn.
        confidence: Coverage, between 0 and 1.
        seed: Seed of the draws.

    Returns:
        Ratio, lower and upper end. Replicates of 0 / 0 are left out; the ratio is NaN where the rows have 0 / 0, and
        the ends are for fewer than two clusters.

    Raises:
        ValueError: If shapes or kinds differ from these, a number is NaN or Inf, there are both labels and counts, or
            another argument is out of its domain.

    Example:
        >>> image = np.repeat(np.arange(50), 20)  # 20 objects in each of 50 images; 5 images break whole
        >>> interval = cluster_bootstrap(image < 5, np.ones(1000), image)
        >>> interval.mean, round(interval.low, 3), round(interval.high, 3)
        (0.1, 0.02, 0.2)
    """
    _check(replicates, confidence)
    if cluster is not None and count is not None:
        raise ValueError(
            "Expected cluster or count, got both. Pass rows with cluster, or sums over clusters with count."
        )
    patterns, times = _patterns(*cluster_sums(numerator, denominator, cluster), count)
    rng, sums, clusters = np.random.default_rng(seed), np.zeros((replicates, 2)), times.sum()
    for part in _chunks(replicates if clusters else 0, times.size):
        sums[part] = rng.multinomial(clusters, times / clusters, size=len(sums[part])) @ patterns
    return _ratio_interval(patterns, times, sums, confidence)


def _check(replicates: int, confidence: float) -> None:
    tail_outside(confidence)
    if replicates < 1:
        raise ValueError(f"Expected at least 1 replicate, got {replicates}. Take 2000 or more for 95 %.")


def _patterns(numerator: ArrayLike, denominator: ArrayLike, count: ArrayLike | None) -> tuple[Sums, NDArray[np.int64]]:
    # Distinct rows (numerator, denominator), and how often each occurs.
    rows = np.stack(finite_columns(numerator=numerator, denominator=denominator), axis=1)
    times = np.ones(len(rows), np.int64) if count is None else np.asarray(count)
    if times.shape != (len(rows),) or (times.size and (times.dtype.kind not in "iu" or times.min() < 0)):
        raise ValueError(
            f"Expected counts of at least 0, integer, shape ({len(rows)},), got {times.dtype} of shape {times.shape}. "
            "Pass how often each row occurs."
        )
    rows, times = rows[times > 0], times[times > 0]
    patterns, place = np.unique(rows, axis=0, return_inverse=True)
    return patterns, np.bincount(place.reshape(-1), times).astype(np.int64)


def _chunks(length: int, width: int) -> Iterator[slice]:
    # Slices of `length` so short that `width` draws for each element stay below DRAWS.
    step = max(DRAWS // max(width, 1), 1)
    return (slice(start, start + step) for start in range(0, length, step))


def _ratio_interval(patterns: Sums, times: NDArray[np.int64], sums: Sums, confidence: float) -> Interval:
    with np.errstate(invalid="ignore", divide="ignore"):
        numerator, denominator = times @ patterns
        return _percentiles(numerator / denominator, sums[:, 0] / sums[:, 1], confidence, enough=times.sum() > 1)


def _percentiles(mean: float, values: Sums, confidence: float, *, enough: bool = True) -> Interval:
    # Ends are replicates themselves, rounded outwards: between two of them there may be an infinite gap.
    ordered = np.sort(values[~np.isnan(values)])
    if not enough or ordered.size == 0:
        return Interval(float(mean), np.nan, np.nan)
    outside = math.floor(tail_outside(confidence) * (ordered.size - 1))
    return Interval(float(mean), float(ordered[outside]), float(ordered[-1 - outside]))
