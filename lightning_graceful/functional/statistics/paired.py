"""Two models on the same samples: tests and intervals of the difference of their errors, from the discordant counts.

``broke`` counts samples that the old model has right and the new one wrong, ``fixed`` those the other way round; the
difference is new minus old, ``(broke - fixed) / total``, so that above 0 the new model is worse.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_graceful.functional.statistics.arguments import checked_share, tail_outside
from lightning_graceful.functional.statistics.intervals import Interval, exact_p_value

# Halvings of [-1, 1] after which an end no longer moves, even that of one sample in a billion.
HALVINGS = 100


class MarginTest(NamedTuple):
    """Whether a difference keeps to a margin.

    Attributes:
        difference: Estimate, error of the new model minus that of the old one.
        p_value: One-sided; small values speak for the margin being kept.
        holds: Whether it is below ``alpha``.
    """

    difference: float
    p_value: float
    holds: bool


def mcnemar_exact(broke: ArrayLike, fixed: ArrayLike) -> NDArray[np.float64]:
    """Test whether two models err equally often, elementwise (McNemar, Psychometrika 1947, with the exact binomial).

    Args:
        broke: Samples only the old model has right, at least 0.
        fixed: Samples only the new model has right, of a shape that broadcasts with ``broke``.

    Returns:
        Two-sided p-values, float64; 1 where no sample tells the models apart.

    Raises:
        ValueError: If a count is negative, NaN or Inf.

    Example:
        >>> float(mcnemar_exact(1, 9))
        0.021484375
    """
    fewer, discordant = np.minimum(broke, fixed), np.add(broke, fixed)
    return np.minimum(2 * exact_p_value(fewer, discordant, 0.5, alternative="less"), 1.0)


def paired_difference_interval(broke: float, fixed: float, total: float, confidence: float = 0.95) -> Interval:
    """Compute the score interval of a difference of paired shares (Tango, Statistics in Medicine 1998).

    It keeps its coverage where few samples are discordant, and has a width even where none is:
    ``z ** 2 / (total + z ** 2)`` to each side.

    Args:
        broke: Samples only the old model has right, at least 0.
        fixed: Samples only the new model has right, at least 0; ``broke + fixed`` is at most ``total``.
        total: Samples.
        confidence: Coverage, between 0 and 1.

    Returns:
        Error of the new model minus that of the old one, lower and upper end; all NaN where ``total`` is 0.

    Raises:
        ValueError: If the counts are not these, or the confidence is not between 0 and 1.

    Example:
        >>> paired = paired_difference_interval(1, 7, 21)
        >>> round(paired.mean, 3), round(paired.low, 3), round(paired.high, 3)
        (-0.286, -0.517, -0.026)
    """
    z = -NormalDist().inv_cdf(tail_outside(confidence))
    _check(broke, fixed, total)
    if total == 0:
        return Interval(math.nan, math.nan, math.nan)
    return Interval((broke - fixed) / total, -_upper_end(fixed, broke, total, z), _upper_end(broke, fixed, total, z))


def nfr_difference_interval(first_only: float, second_only: float, total: float, confidence: float = 0.95) -> Interval:
    """Compute the interval of the NFR of one candidate minus that of another, on the same samples.

    A negative flip is a pair's hit like any other, so this is :func:`paired_difference_interval` (Tango, 1998) of the
    flips that only one of the two has.

    Args:
        first_only: Negative flips of the first candidate that are none of the second.
        second_only: Negative flips of the second candidate that are none of the first.
        total: Samples.
        confidence: Coverage, between 0 and 1.

    Returns:
        Difference of the rates, lower and upper end; all NaN where ``total`` is 0.

    Raises:
        ValueError: If the counts are negative or above ``total``, or the confidence is not between 0 and 1.

    Example:
        >>> difference = nfr_difference_interval(4, 30, 5000)
        >>> difference.high < 0  # the first breaks less
        True
    """
    return paired_difference_interval(first_only, second_only, total, confidence)


def non_inferiority(broke: float, fixed: float, total: float, *, margin: float, alpha: float = 0.025) -> MarginTest:
    """Test whether the new model errs less than a margin more often than the old one (Tango, 1998).

    It holds just where :func:`paired_difference_interval` at confidence ``1 - 2 * alpha`` ends below the margin.

    Args:
        broke: Samples only the old model has right, at least 0.
        fixed: Samples only the new model has right, at least 0; ``broke + fixed`` is at most ``total``.
        total: Samples.
        margin: Difference of error that is just too much, between 0 and 1: 0.01 for one point.
        alpha: Level, one-sided, below 0.5.

    Returns:
        Difference, p-value, and whether the margin is kept; NaN, NaN and False where ``total`` is 0.

    Raises:
        ValueError: If the counts are not these, or margin or level are out of their domain.

    Example:
        >>> test = non_inferiority(40, 60, 10_000, margin=0.001)
        >>> round(test.p_value, 4), test.holds
        (0.0015, True)
    """
    _check(broke, fixed, total)
    p_value = _p_below(checked_share("a margin", margin), broke, fixed, total)
    return _decide(broke, fixed, total, p_value, alpha)


def equivalence(broke: float, fixed: float, total: float, *, margin: float, alpha: float = 0.025) -> MarginTest:
    """Test whether two models err equally often up to a margin, by two one-sided tests (Schuirmann, 1987).

    It holds just where :func:`paired_difference_interval` at confidence ``1 - 2 * alpha`` lies within the margin.

    Args:
        broke: Samples only the old model has right, at least 0.
        fixed: Samples only the new model has right, at least 0; ``broke + fixed`` is at most ``total``.
        total: Samples.
        margin: Difference of error, to either side, that is just too much, between 0 and 1: 0.01 for one point.
        alpha: Level of each of the two tests, below 0.5.

    Returns:
        Difference, the larger p-value, and whether both hold; NaN, NaN and False where ``total`` is 0.

    Raises:
        ValueError: If the counts are not these, or margin or level are out of their domain.

    Example:
        >>> equivalence(40, 60, 10_000, margin=0.01).holds, equivalence(40, 60, 10_000, margin=0.003).holds
        (True, False)
    """
    _check(broke, fixed, total)
    checked_share("a margin", margin)
    p_value = max(_p_below(margin, broke, fixed, total), _p_below(margin, fixed, broke, total))
    return _decide(broke, fixed, total, p_value, alpha)


def _check(broke: float, fixed: float, total: float) -> None:
    if not (broke >= 0 and fixed >= 0 and broke + fixed <= total < math.inf):
        raise ValueError(
            f"Expected counts of at least 0 that add up to no more than total, got {broke}, {fixed} and {total}. "
            "Pass the discordant counts, not rates."
        )


def _score(broke: float, fixed: float, total: float, delta: float) -> float:
    # Tango's statistic against a difference of delta >= 0. Under it `fixed` has the probability that maximises the
    # likelihood, the root of 2 n q^2 + b q - fixed delta (1 - delta); written so that nothing cancels.
    b = (2 * total - broke + fixed) * delta - broke - fixed
    constant = fixed * delta * (1 - delta)
    root = math.sqrt(b * b + 8 * total * constant)
    q = 2 * constant / (b + root) if b > 0 else (root - b) / (4 * total)
    excess, variance = broke - fixed - total * delta, total * (2 * q + delta * (1 - delta))
    if variance > 0:
        return excess / math.sqrt(variance)
    return math.copysign(math.inf, excess) if excess else 0.0


def _signed_score(broke: float, fixed: float, total: float, delta: float) -> float:
    return _score(broke, fixed, total, delta) if delta >= 0 else -_score(fixed, broke, total, -delta)


def _upper_end(broke: float, fixed: float, total: float, z: float) -> float:
    # The score falls as delta grows, from 0 at the estimate; the end is where it reaches -z.
    low, high = (broke - fixed) / total, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _signed_score(broke, fixed, total, middle) >= -z else (low, middle)
    return high


def _p_below(margin: float, broke: float, fixed: float, total: float) -> float:
    # The lower normal tail by erfc, which keeps digits where NormalDist.cdf has none left.
    return math.erfc(-_score(broke, fixed, total, margin) / math.sqrt(2)) / 2 if total else math.nan


def _decide(broke: float, fixed: float, total: float, p_value: float, alpha: float) -> MarginTest:
    if not 0 < alpha < 0.5:
        raise ValueError(f"Expected a level between 0 and 0.5, got {alpha}. Pass alpha=0.025 for 95 % intervals.")
    return MarginTest((broke - fixed) / total if total else math.nan, p_value, p_value < alpha)
