"""Intervals for rates and for paired differences. Numpy only: nothing here loads torch."""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Interval(NamedTuple):
    """A mean and the interval around it.

    Attributes:
        mean: Estimate.
        low: Lower end.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


def wilson_interval(
    count: ArrayLike, total: ArrayLike, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the score interval of a share, elementwise (Wilson, JASA 1927).

    It assumes independent samples: pixels of one image, or seeds on the same samples, are not.

    Args:
        count: Number of hits, 0 to ``total``.
        total: Number of trials, of a shape that broadcasts with ``count``.
        confidence: Coverage, between 0 and 1.

    Returns:
        Lower and upper ends, float64; exactly 0 where there is no hit and 1 where all are; NaN where ``total`` is 0.

    Raises:
        ValueError: If a count is not in [0, total], or the confidence not between 0 and 1.

    Example:
        >>> low, high = wilson_interval([0, 5], [100, 100])
        >>> low.round(3).tolist(), high.round(3).tolist()
        ([0.0, 0.022], [0.037, 0.112])
    """
    z = NormalDist().inv_cdf(_upper_tail(confidence))
    hits, trials = np.broadcast_arrays(np.asarray(count, np.float64), np.asarray(total, np.float64))
    if not np.all((hits >= 0) & (hits <= trials) & np.isfinite(trials)):
        raise ValueError("Expected 0 <= count <= total, got a count outside or NaN. Pass counts, not rates.")
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = z * np.sqrt(hits * (trials - hits) / trials + z**2 / 4)
    low = (hits + z**2 / 2 - spread) / (trials + z**2)
    high = (hits + z**2 / 2 + spread) / (trials + z**2)
    ends = trials > 0
    return np.where(ends & (hits == 0), 0.0, low), np.where(ends & (hits == trials), 1.0, high)


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

    upper = _upper_tail(confidence)
    cells = _finite_cells(difference)
    members = [_members(labels, cells.size) for labels in clusters]
    if len(members) not in {1, 2}:
        raise ValueError(f"Expected one or two arrays of clusters, got {len(members)}. Pass seed, sample or both.")
    if cells.size < 2:
        return Interval(float(cells.sum()) if cells.size else np.nan, np.nan, np.nan)
    residual = cells - cells.mean()
    members = [member for member in members if member.any()] or [np.arange(cells.size)]
    variances = [_clustered_variance(residual, member) for member in members]
    if len(members) == 2:
        crossed = _members(members[0] * (members[1].max() + 1) + members[1], cells.size)
        variances.append(sum(variances) - _clustered_variance(residual, crossed))
    fewest = min(int(member.max()) + 1 for member in members)
    half = float(stdtrit(fewest - 1, upper)) * float(np.sqrt(max(variances)))
    mean = float(cells.mean())
    return Interval(mean, mean - half, mean + half)


def _upper_tail(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"Expected a confidence between 0 and 1, got {confidence}. Pass 0.95 for 95 %.")
    return (1 + confidence) / 2


def _finite_cells(difference: ArrayLike) -> NDArray[np.float64]:
    cells = np.asarray(difference, np.float64)
    if cells.ndim != 1:
        raise ValueError(f"Expected differences of shape (M,), got {cells.shape}. Flatten all arrays alike.")
    if not np.isfinite(cells).all():
        raise ValueError("Expected finite differences, got NaN or Inf. Drop such cells from every array.")
    return cells


def _members(labels: ArrayLike, cells: int) -> NDArray[np.int64]:
    # Clusters numbered 0, 1, ... in place of any integers.
    array = np.asarray(labels)
    if array.shape != (cells,) or (cells and array.dtype.kind not in "iub"):
        raise ValueError(
            f"Expected one integer cluster label a cell, shape ({cells},), got {array.dtype} of shape {array.shape}. "
            "Number other labels with np.unique(labels, return_inverse=True)[1]."
        )
    return np.unique(array, return_inverse=True)[1].astype(np.int64)


def _clustered_variance(residual: NDArray[np.float64], member: NDArray[np.int64]) -> float:
    sums = np.bincount(member, residual)
    return float(sums.size / (sums.size - 1) * (sums @ sums) / residual.size**2)
