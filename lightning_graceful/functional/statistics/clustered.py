"""Intervals of a mean paired difference whose cells share seeds, samples, or both."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_graceful.functional.statistics.arguments import cluster_members, finite_columns, tail_outside
from lightning_graceful.functional.statistics.intervals import Interval


def clustered_difference_interval(difference: ArrayLike, *clusters: ArrayLike, confidence: float = 0.95) -> Interval:
    """Compute the interval of a mean paired difference whose cells share seeds, samples, or both.

    One cell is one sample under one seed: say, whether the new recipe flips it minus whether the baseline does. Cells
    of one seed move together, and so do cells of one sample; with seed and sample as clusters the interval covers the
    difference on new seeds *and* new samples. The variance is the two-way cluster-robust ``V_a + V_b - V_ab``
    (Cameron, Gelbach & Miller, JBES 2011) or a one-way ``V_a``, ``V_b``, whichever is the largest, each with the factor
    ``G / (G - 1)`` for its ``G`` clusters; Student's t has one degree of freedom less than the fewest clusters. A
    dimension of a single cluster is left out: the interval then says nothing about others (one seed tells nothing of
    another). If none remains, cells are taken as independent.

    Args:
        difference: Paired difference in each cell, floating, shape ``(M,)``.
        *clusters: One or two arrays of integer cluster labels, shape ``(M,)``, such as the seed and the sample.
        confidence: Coverage, between 0 and 1.

    Returns:
        Mean, lower and upper end; the ends are NaN for fewer than two cells, the mean for none.

    Raises:
        ValueError: If shapes or kinds differ from these, a difference is NaN or Inf, or the confidence is no share.

    Example:
        >>> seed, sample = [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2]
        >>> interval = clustered_difference_interval([0.0, 1.0, 0.0, 0.0, 1.0, 1.0], seed, sample)
        >>> round(interval.mean, 2), interval.low < 0 < interval.high
        (0.5, True)
    """
    from scipy.special import stdtrit

    upper = 1 - tail_outside(confidence)
    (cells,) = finite_columns(differences=difference)
    members = [cluster_members(labels, cells.size) for labels in clusters]
    if len(members) not in {1, 2}:
        raise ValueError(f"Expected one or two arrays of clusters, got {len(members)}. Pass seed, sample or both.")
    if cells.size < 2:
        return Interval(float(cells.sum()) if cells.size else np.nan, np.nan, np.nan)
    residual = cells - cells.mean()
    members = [member for member in members if member.any()] or [np.arange(cells.size)]
    variances = [_clustered_variance(residual, member) for member in members]
    if len(members) == 2:
        crossed = cluster_members(members[0] * (members[1].max() + 1) + members[1], cells.size)
        variances.append(sum(variances) - _clustered_variance(residual, crossed))
    fewest = min(int(member.max()) + 1 for member in members)
    half = float(stdtrit(fewest - 1, upper)) * float(np.sqrt(max(variances)))
    mean = float(cells.mean())
    return Interval(mean, mean - half, mean + half)


def _clustered_variance(residual: NDArray[np.float64], member: NDArray[np.int64]) -> float:
    sums = np.bincount(member, residual)
    return float(sums.size / (sums.size - 1) * (sums @ sums) / residual.size**2)
