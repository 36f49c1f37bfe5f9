"""Intervals of what is measured query by query: means, their differences, and the update gain.

All of them resample queries, jointly for every seed and every measure: the same queries are drawn for the old model,
the new one and the paragon, so that what is hard for all of them cancels (paired bootstrap; Efron, Annals of Statistics
1979). Seeds are held fixed: an interval tells what other queries would say of these trainings, not what other seeds
would.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_graceful.functional.statistics.arguments import tail_outside
from lightning_graceful.functional.statistics.intervals import Interval

Means = NDArray[np.float64]
DRAWS = 2**20  # drawn at a time: they take 4 bytes each, their counts 16


def update_gain_interval(
    cross: ArrayLike,
    old_self: ArrayLike,
    paragon_self: ArrayLike,
    *,
    minimum_gap: float = 0.05,
    replicates: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Compute the update gain, a ratio of means, and its percentile interval over queries.

    .. math:: G = (M(new, old) - M(old, old)) / (M(paragon, paragon) - M(old, old))

    Args:
        cross: Measure of each query of the new model in the old gallery, shape ``(S, Q)`` for S seeds, or ``(Q,)``. NaN
            is a query without a match: it is left out, and must be NaN in every seed and in the other two.
        old_self: That of the old model in its own gallery, the same queries in the same order; seeds of its own.
        paragon_self: That of the paragon in its own gallery, likewise.
        minimum_gap: Gap of the means, paragon less old, below which the ratio says nothing.
        replicates: Number of resamples.
        confidence: Coverage, between 0 and 1.
        seed: Seed of the draws.

    Returns:
        Ratio of the means over seeds and queries, lower and upper end; all NaN where the gap is not positive or below
        ``minimum_gap``. A resample without a positive gap bounds nothing: it counts as -Inf for the lower end and as
        Inf for the upper one. Ends are NaN for fewer than two queries.

    Raises:
        ValueError: If shapes do not fit, NaNs lie elsewhere in one of them, a value is Inf, or another argument is out
            of its domain.

    Example:
        >>> old, better = np.full(1000, 0.4), np.arange(1000) % 2 == 0
        >>> gain = update_gain_interval(old + 0.1 * better, old, old + 0.1)
        >>> round(gain.mean, 2), round(gain.low, 2), round(gain.high, 2)
        (0.5, 0.47, 0.53)
    """
    if not minimum_gap >= 0:
        raise ValueError(f"Expected minimum_gap of at least 0, got {minimum_gap}. Pass 0.05 for 5 points.")
    means = resampled_means(cross, old_self, paragon_self, replicates=replicates, seed=seed)
    return gain_interval(*means.T, minimum_gap=minimum_gap, confidence=confidence)


def mean_difference_interval(
    a: ArrayLike, b: ArrayLike, *, replicates: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Compute a difference of means and its percentile interval over queries, the same queries drawn for both.

    Args:
        a: Measure of each query, shape ``(S, Q)`` for S seeds, or ``(Q,)``; NaN as in :func:`update_gain_interval`.
        b: What is taken away, the same queries in the same order; seeds of its own.
        replicates: Number of resamples.
        confidence: Coverage, between 0 and 1.
        seed: Seed of the draws.

    Returns:
        Mean of ``a`` less mean of ``b``, lower and upper end; ends are NaN for fewer than two queries.

    Raises:
        ValueError: As :func:`update_gain_interval`.

    Example:
        >>> mean_difference_interval([[0.5, 0.75], [1.0, 0.75]], [0.25, 0.25])  # two seeds of the one, one of the other
        Interval(mean=0.5, low=0.5, high=0.5)
    """
    first, second = resampled_means(a, b, replicates=replicates, seed=seed).T
    return percentile_interval(first - second, confidence=confidence)


def mean_interval(a: ArrayLike, *, replicates: int = 2000, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Compute a mean and its percentile interval over queries.

    Args:
        a: Measure of each query, shape ``(S, Q)`` for S seeds, or ``(Q,)``; NaN as in :func:`update_gain_interval`.
        replicates: Number of resamples.
        confidence: Coverage, between 0 and 1.
        seed: Seed of the draws.

    Returns:
        Mean over seeds and queries, lower and upper end; ends are NaN for fewer than two queries.

    Raises:
        ValueError: As :func:`update_gain_interval`.

    Example:
        >>> interval = mean_interval(np.arange(1000) % 2)
        >>> interval.mean, round(interval.low, 2), round(interval.high, 2)
        (0.5, 0.47, 0.53)
    """
    return percentile_interval(resampled_means(a, replicates=replicates, seed=seed)[:, 0], confidence=confidence)


def resampled_means(*measures: ArrayLike, replicates: int = 2000, seed: int = 0) -> Means:
    """Compute means over resampled queries, the same queries for all measures.

    Calls with one seed draw the same queries wherever as many have a match. It takes about 10 ns a query and replicate,
    and up to 24 MiB, or 28 bytes a query if that is more.

    Args:
        *measures: Measures of each query, shape ``(S, Q)`` or ``(Q,)`` each; NaN as in :func:`update_gain_interval`.
        replicates: Number of resamples.
        seed: Seed of the draws.

    Returns:
        A column a measure, float64, shape ``(1 + replicates, C)``; row 0 holds the means of the queries themselves. NaN
        where no query has a match; all further rows are, where only one has.

    Raises:
        ValueError: As :func:`update_gain_interval`.

    Example:
        >>> resampled_means([0.25, 0.75, np.nan], [1.0, 1.0, np.nan], replicates=4).shape
        (5, 2)
    """
    if replicates < 1:
        raise ValueError(f"Expected at least 1 replicate, got {replicates}. Take 2000 or more for 95 %.")
    columns = _columns(measures)
    queries, rng = len(columns), np.random.default_rng(seed)
    means = np.full((1 + replicates, len(measures)), np.nan)
    if queries:
        means[0] = columns.mean(0)
    step = max(DRAWS // max(queries, 1), 1)
    for start in range(1, 1 + replicates if queries > 1 else 0, step):
        part = means[start : start + step]
        part[:] = _counts(rng, len(part), queries) @ columns / queries
    return means


def gain_interval(
    cross: Means, old_self: Means, paragon_self: Means, *, minimum_gap: float, confidence: float
) -> Interval:
    """Compute the interval of :func:`update_gain_interval` from means that are resampled already.

    Args:
        cross: Means of the cross test as :func:`resampled_means` gives them, shape ``(1 + R,)``.
        old_self: Those of the old model's self test.
        paragon_self: Those of the paragon's self test.
        minimum_gap: Gap below which the ratio says nothing.
        confidence: Coverage, between 0 and 1.

    Returns:
        Ratio, lower and upper end.

    Example:
        >>> means = np.array([0.5, 0.4, 0.6]), np.array([0.4, 0.3, 0.5]), np.array([0.6, 0.5, 0.7])
        >>> [round(value, 2) for value in gain_interval(*means, minimum_gap=0.05, confidence=0.95)]
        [0.5, 0.5, 0.5]
    """
    gap = paragon_self - old_self
    if not (gap[0] > 0 and gap[0] >= minimum_gap):
        return Interval(math.nan, math.nan, math.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = (cross - old_self) / gap
    is_bounded = (gap > 0) | np.isnan(gap)
    lows, highs = np.where(is_bounded, gain, -math.inf), np.where(is_bounded, gain, math.inf)
    mean, low, _ = percentile_interval(lows, confidence=confidence)
    return Interval(mean, low, percentile_interval(highs, confidence=confidence).high)


def percentile_interval(values: Means, *, confidence: float = 0.95) -> Interval:
    """Compute the percentile interval of a number and its replicates.

    Args:
        values: The number, then its replicates, shape ``(1 + R,)``.
        confidence: Coverage, between 0 and 1.

    Returns:
        The number, lower and upper end: replicates themselves, rounded outwards; NaN where one of them is NaN.

    Raises:
        ValueError: If the confidence is not between 0 and 1.

    Example:
        >>> percentile_interval(np.array([3.0, 1.0, 2.0, 3.0, 4.0, 5.0]), confidence=0.5)
        Interval(mean=3.0, low=2.0, high=4.0)
    """
    ordered = np.sort(values[1:])
    outside = math.floor(tail_outside(confidence) * (ordered.size - 1))
    if np.isnan(ordered).any():
        return Interval(float(values[0]), math.nan, math.nan)
    return Interval(float(values[0]), float(ordered[outside]), float(ordered[-1 - outside]))


def _columns(measures: tuple[ArrayLike, ...]) -> Means:
    # Queries are drawn for all seeds together, so that the mean over seeds may be taken first.
    arrays = [np.atleast_2d(np.asarray(measure, np.float64)) for measure in measures]
    shapes = [array.shape for array in arrays]
    if any(len(shape) != 2 or not shape[0] or shape[1] != shapes[0][1] for shape in shapes):
        raise ValueError(f"Expected measures of the same queries, shape (seeds, queries) or (queries,), got {shapes}.")
    if any(np.isinf(array).any() for array in arrays):
        raise ValueError("Expected finite measures, or NaN for a query without a match, got Inf.")
    missing = np.concatenate([np.isnan(array) for array in arrays])
    if (missing != missing[0]).any():
        (place, *_) = np.flatnonzero((missing != missing[0]).any(0))
        raise ValueError(
            f"Expected NaN for the same queries in every measure and seed, got query {place} matched in some only. "
            "Pass measures of one gallery's items, in one order of queries."
        )
    return np.stack([array[:, ~missing[0]].mean(0) for array in arrays], axis=1)


def _counts(rng: np.random.Generator, replicates: int, queries: int) -> NDArray[np.int64]:
    # How often each query is drawn in each resample, shape (replicates, queries).
    drawn = rng.integers(queries, size=(replicates, queries), dtype=np.int32)
    drawn += np.arange(0, replicates * queries, queries, dtype=np.int32)[:, None]
    return np.bincount(drawn.ravel(), minlength=replicates * queries).reshape(replicates, queries)
