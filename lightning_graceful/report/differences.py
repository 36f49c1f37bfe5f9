"""How sure a rate of one way is, and a difference between two: paired by sample and seed, never by order."""

from typing import Literal

import numpy as np

from lightning_graceful.functional.statistics import Interval, clustered_difference_interval, wilson_interval
from lightning_graceful.report.evidence import Integers, Mask, Way, aligned_rows, ratio


def paired_difference(way: Way, plain: Way) -> Interval:
    """Difference in the negative-flip rate, way - plain, over the same (id, seed) rows, clustered by seed and id.

    Args:
        way: One way.
        plain: The way it is compared with.

    Returns:
        Mean and bounds as fractions; negative means that ``way`` breaks less. NaN without rows.

    Example:
        >>> from lightning_graceful.report.evidence import Predictions
        >>> zeros, sure = np.zeros(4, np.int64), np.full(4, 0.9, np.float32)
        >>> plain = Way("plain", Predictions(np.arange(4), zeros, zeros, zeros, np.array([0, 1, 1, 0]), sure, sure))
        >>> pct = Way("pct", Predictions(np.arange(4), zeros, zeros, zeros, np.array([0, 1, 0, 0]), sure, sure))
        >>> float(paired_difference(pct, plain).mean)
        -0.25
    """
    return _difference(way, plain, "negative")


def paired_error_difference(way: Way, plain: Way) -> Interval:
    """Return the difference in the error of the new model, way - plain, as in :func:`paired_difference`."""
    return _difference(way, plain, "wrong")


def rate_interval(flags: Mask, ids: Integers) -> Interval:
    """Share of rows with its Wilson interval at 95 %.

    Rows of several seeds repeat samples; the interval counts distinct samples only, as if the repeats told nothing new.

    Args:
        flags: What is counted, bool, shape ``(N,)``.
        ids: Sample ids, shape ``(N,)``.

    Returns:
        Share and bounds as fractions, NaN without rows.

    Example:
        >>> share, low, high = rate_interval(np.array([True, False, False, False]), np.arange(4))
        >>> round(share, 3), round(low, 3), round(high, 3)
        (0.25, 0.046, 0.699)
    """
    share, samples = ratio(flags.sum(), len(flags)), len(np.unique(ids))
    low, high = wilson_interval(np.array(share * samples if samples else 0.0), np.array(samples))
    return Interval(share, float(low), float(high))


def difference_words(interval: Interval) -> Literal["lower", "higher", "not distinguishable", "n/a"]:
    """Say in words what an interval of a difference shows.

    Args:
        interval: Mean and bounds.

    Returns:
        "lower" or "higher" where the interval excludes 0, "not distinguishable" where it does not, "n/a" for NaN.

    Example:
        >>> difference_words(Interval(-0.3, -0.5, -0.1)), difference_words(Interval(-0.3, -0.7, 0.1))
        ('lower', 'not distinguishable')
    """
    if np.isnan([interval.low, interval.high]).any():
        return "n/a"
    if interval.high < 0:
        return "lower"
    return "higher" if interval.low > 0 else "not distinguishable"


def _difference(way: Way, plain: Way, column: str) -> Interval:
    rows, plain_rows = aligned_rows(way, plain)
    ours, theirs = getattr(way.predictions, column)[rows], getattr(plain.predictions, column)[plain_rows]
    said = way.predictions
    if len(rows) and np.array_equal(ours, theirs):
        # No sample differs, which no variance tells from certainty: the bounds are those of 0 in so many samples.
        most = float(wilson_interval(np.array(0), np.array(said.samples))[1])
        return Interval(0.0, -most, most)
    mean, low, high = clustered_difference_interval(ours.astype(np.float64) - theirs, said.seed[rows], said.id[rows])
    return Interval(mean, max(low, -1.0), min(high, 1.0))
