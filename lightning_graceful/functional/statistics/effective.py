"""How many independent rows clustered or weighted rows are worth (Korn & Graubard, Survey Methodology 1998)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_graceful.functional.statistics.arguments import cluster_sums, tail_outside


class RatioSums(NamedTuple):
    """All that the variance of a ratio needs: sums over clusters, which add up where no cluster is in both parts.

    ``num`` and ``den`` are the sums of one cluster's rows: of ``weight * flag`` and of ``weight``. Fields may be
    arrays of one shape, a group an element.

    Attributes:
        clusters: Number of clusters.
        numerator: Sum of ``num``.
        denominator: Sum of ``den``.
        numerator_sq: Sum of ``num ** 2``.
        product: Sum of ``num * den``.
        denominator_sq: Sum of ``den ** 2``.
    """

    clusters: ArrayLike
    numerator: ArrayLike
    denominator: ArrayLike
    numerator_sq: ArrayLike
    product: ArrayLike
    denominator_sq: ArrayLike

    def merged(self, other: "RatioSums") -> "RatioSums":
        """Add the sums of other clusters.

        Args:
            other: Sums of clusters none of which is in this one.

        Returns:
            Sums over all clusters, float64.

        Example:
            >>> ratio_sums([1.0], [1.0]).merged(ratio_sums([0.0], [1.0])).denominator.item()
            2.0
        """
        return RatioSums(*(np.add(mine, theirs, dtype=np.float64) for mine, theirs in zip(self, other, strict=True)))


def ratio_sums(numerator: ArrayLike, denominator: ArrayLike, cluster: ArrayLike | None = None) -> RatioSums:
    """Sum rows by cluster, and clusters up to what the variance of ``sum(numerator) / sum(denominator)`` needs.

    Args:
        numerator: Weight of a row if it is a hit, else 0, shape ``(M,)``.
        denominator: Weight of a row, shape ``(M,)``; ones if rows have none.
        cluster: Integer label of the cluster of a row, shape ``(M,)``; ``None`` takes each row as its own cluster.

    Returns:
        The six sums.

    Raises:
        ValueError: If shapes or kinds differ from these, or a number is NaN or Inf.

    Example:
        >>> [float(value) for value in ratio_sums([1, 0, 1], [1, 1, 1], [0, 0, 1])]
        [2.0, 2.0, 3.0, 2.0, 3.0, 5.0]
    """
    num, den = cluster_sums(numerator, denominator, cluster)
    return RatioSums(num.size, num.sum(), den.sum(), num @ num, num @ den, den @ den)


def ratio_variance(sums: RatioSums) -> NDArray[np.float64]:
    """Estimate the variance of a ratio of sums over clusters, linearised (Woodruff, JASA 1971).

    Args:
        sums: Sums over ``G`` clusters.

    Returns:
        ``G / (G - 1) * sum((num - ratio * den) ** 2) / denominator ** 2``, float64, of the shape of the fields; NaN for
        fewer than two clusters or a denominator of 0.

    Example:
        >>> float(ratio_variance(ratio_sums([1, 0, 0, 1], [1, 1, 1, 1])))  # 0.5 * 0.5 / (4 - 1)
        0.08333333333333333
    """
    clusters, num, den, num_sq, product, den_sq = _fields(sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = num / den
        # Squares add up to no less than 0, but for round-off.
        squares = np.maximum(num_sq - 2 * ratio * product + ratio**2 * den_sq, 0.0)
        variance = clusters / (clusters - 1) * squares / den**2
    return np.where(clusters > 1, variance, np.nan)


def effective_size(sums: RatioSums, rows: ArrayLike, *, confidence: float = 0.95) -> NDArray[np.float64]:
    """Compute how many independent rows would tell as much of a rate (Korn & Graubard, Survey Methodology 1998).

    It is ``rows`` over the design effect, the variance over that of as many independent rows, times the squared ratio
    of Student's quantiles for ``rows - 1`` and ``clusters - 1`` degrees of freedom, and never more than ``rows``. Where
    no row is a hit, all are, or there is one cluster, no variance can be estimated: it is then Kish's size,
    ``sum(den) ** 2 / sum(den ** 2)`` over clusters, as if the rows of a cluster were copies of one.

    Hits in fewer than about ten clusters tell little of how alike the rows of a cluster are. If they are much alike,
    the interval is then too narrow: of 95 %, it covered 88 to 92 % in simulations with a correlation of 0.3.

    Args:
        sums: Sums over clusters, with ``numerator`` in [0, ``denominator``].
        rows: Number of rows of positive weight in these sums, of the shape of the fields.
        confidence: Coverage of the interval that the size is for; it matters little, and only for few clusters.

    Returns:
        Size, float64, of the shape of the fields; that of independent rows without weights is ``rows``; 0 for no rows.

    Raises:
        ValueError: If the ratio is not in [0, 1], there are fewer rows than clusters, or the confidence is no share.

    Example:
        >>> rows = ratio_sums([1, 1, 1, 0, 0, 0, 0, 0], np.ones(8), [0, 0, 0, 1, 1, 1, 2, 2])
        >>> round(float(effective_size(rows, 8)), 2)
        0.65
    """
    from scipy.special import stdtrit

    upper = 1 - tail_outside(confidence)
    clusters, num, den, _, _, den_sq = _fields(sums)
    count = np.asarray(rows, np.float64)
    _check(clusters, num, den, count)
    with np.errstate(invalid="ignore", divide="ignore"):
        independent = num / den * (1 - num / den) / (count - 1)
        student = stdtrit(count - 1, upper) / stdtrit(clusters - 1, upper)
        size = np.minimum(count * student**2 * independent / ratio_variance(sums), count)
        kish = den**2 / den_sq
    size = np.where((clusters < 2) | (num == 0) | (num == den), kish, size)
    return np.where(den > 0, size, 0.0)


def effective_counts(
    sums: RatioSums, rows: ArrayLike, *, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the count and total of independent rows that tell as much of a rate, as :func:`exact_interval` takes them.

    Args:
        sums: Sums over clusters, with ``numerator`` in [0, ``denominator``].
        rows: Number of rows of positive weight in these sums, of the shape of the fields.
        confidence: Coverage of the interval that the counts are for.

    Returns:
        Hits and total, real, float64, of the shape of the fields; just those counted if rows are independent and
        without weights.

    Raises:
        ValueError: As :func:`effective_size`.

    Example:
        >>> image = np.repeat(np.arange(50), 20)  # 20 objects in each of 50 images; one image breaks whole
        >>> count, total = effective_counts(ratio_sums(image == 0, np.ones(1000), image), 1000)
        >>> round(float(count), 2), round(float(total), 1)  # about one image of 50, not 20 objects of 1000
        (0.94, 46.8)
    """
    _, num, den, *_ = _fields(sums)
    size = effective_size(sums, rows, confidence=confidence)
    return num / np.where(den > 0, den, 1.0) * size, size


def _fields(sums: RatioSums) -> list[NDArray[np.float64]]:
    return [np.asarray(field, np.float64) for field in sums]


def _check(
    clusters: NDArray[np.float64], num: NDArray[np.float64], den: NDArray[np.float64], rows: NDArray[np.float64]
) -> None:
    if not np.all((num >= 0) & (num <= den) & np.isfinite(den)):
        raise ValueError("Expected 0 <= numerator <= denominator, got a ratio outside or NaN. Only rates have a size.")
    if not np.all((rows >= clusters) & np.isfinite(rows)):
        raise ValueError(f"Expected at least as many rows as clusters, got {rows} for {clusters}. Pass rows, not sums.")
