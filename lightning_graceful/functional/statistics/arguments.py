"""Arguments that the statistics share, checked: confidence, shares, counts, cluster labels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def tail_outside(confidence: float) -> float:
    """Give the probability beyond each end of a two-sided interval.

    Args:
        confidence: Coverage, between 0 and 1.

    Returns:
        ``(1 - confidence) / 2``.

    Raises:
        ValueError: If the confidence is not between 0 and 1.

    Example:
        >>> tail_outside(0.5)
        0.25
    """
    if not 0 < confidence < 1:
        raise ValueError(f"Expected a confidence between 0 and 1, got {confidence}. Pass 0.95 for 95 %.")
    return (1 - confidence) / 2


def checked_share(name: str, value: float) -> float:
    """Return a share that is neither 0 nor 1, such as a margin, a power or a test's level.

    Args:
        name: What the error calls it.
        value: The share, unitless.

    Returns:
        The value.

    Raises:
        ValueError: If it is not between 0 and 1.

    Example:
        >>> checked_share("power", 0.8)
        0.8
    """
    if not 0 < value < 1:
        raise ValueError(f"Expected {name} between 0 and 1, got {value}. Pass a share: 0.01 for 1 %.")
    return value


def checked_counts(count: ArrayLike, total: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return hits and trials as arrays of one shape.

    Args:
        count: Number of hits, 0 to ``total``; real, for rows may carry weights.
        total: Number of trials, of a shape that broadcasts with ``count``.

    Returns:
        Both, float64, of their common shape.

    Raises:
        ValueError: If a count is not in [0, total], or a total is not finite.

    Example:
        >>> checked_counts([0, 3], 4)[1].tolist()
        [4.0, 4.0]
    """
    hits, trials = np.broadcast_arrays(np.asarray(count, np.float64), np.asarray(total, np.float64))
    if not np.all((hits >= 0) & (hits <= trials) & np.isfinite(trials)):
        raise ValueError("Expected 0 <= count <= total, got a count outside or NaN. Pass counts, not rates.")
    return hits, trials


def finite_columns(**columns: ArrayLike) -> Sequence[NDArray[np.float64]]:
    """Return columns that have one finite number a row.

    Args:
        **columns: Numbers, shape ``(M,)``, by the names that the error gives them.

    Returns:
        The columns in the same order, float64, shape ``(M,)``.

    Raises:
        ValueError: If the shapes differ from this, or a number is NaN or Inf.

    Example:
        >>> [column.tolist() for column in finite_columns(numerator=[0, 1], denominator=[1, 1])]
        [[0.0, 1.0], [1.0, 1.0]]
    """
    arrays = [np.asarray(column, np.float64) for column in columns.values()]
    names, shapes = ", ".join(columns), ", ".join(str(array.shape) for array in arrays)
    if any(array.ndim != 1 or array.shape != arrays[0].shape for array in arrays):
        raise ValueError(f"Expected {names} of shape (M,), got {shapes}. Flatten all arrays alike.")
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError(f"Expected finite {names}, got NaN or Inf. Drop such rows from every array.")
    return arrays


def cluster_members(labels: ArrayLike, rows: int) -> NDArray[np.int64]:
    """Number clusters 0, 1, ... in place of any integers.

    Args:
        labels: Cluster of each row, integer, shape ``(M,)``.
        rows: ``M``.

    Returns:
        Cluster numbers without gaps, int64, shape ``(M,)``.

    Raises:
        ValueError: If the labels are not integers, or not one a row.

    Example:
        >>> cluster_members([7, -1, 7], 3).tolist()
        [1, 0, 1]
    """
    array = np.asarray(labels)
    if array.shape != (rows,) or (rows and array.dtype.kind not in "iub"):
        raise ValueError(
            f"Expected one integer cluster label a cell, shape ({rows},), got {array.dtype} of shape {array.shape}. "
            "Number other labels with np.unique(labels, return_inverse=True)[1]."
        )
    return np.unique(array, return_inverse=True)[1].astype(np.int64)


def cluster_sums(
    numerator: ArrayLike, denominator: ArrayLike, cluster: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum rows by cluster.

    Args:
        numerator: Numbers, shape ``(M,)``.
        denominator: Numbers, shape ``(M,)``.
        cluster: Integer label of the cluster of each row, shape ``(M,)``; ``None`` takes each row as its own cluster.

    Returns:
        Both sums, float64, shape ``(G,)``, one a cluster.

    Raises:
        ValueError: If shapes or kinds differ from these, or a number is NaN or Inf.

    Example:
        >>> [sums.tolist() for sums in cluster_sums([1, 0, 1], [1, 1, 1], [5, 5, 8])]
        [[1.0, 1.0], [2.0, 1.0]]
    """
    num, den = finite_columns(numerator=numerator, denominator=denominator)
    if cluster is None:
        return num, den
    member = cluster_members(cluster, num.size)
    return np.bincount(member, num).astype(np.float64), np.bincount(member, den).astype(np.float64)
