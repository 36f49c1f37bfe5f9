"""Intervals and tests of one rate: hits among independent trials."""

from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_graceful.functional.statistics.arguments import checked_counts, tail_outside
from lightning_graceful.functional.statistics.beta import beta_quantile


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
    z = -NormalDist().inv_cdf(tail_outside(confidence))
    hits, trials = checked_counts(count, total)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = z * np.sqrt(hits * (trials - hits) / trials + z**2 / 4)
    low = (hits + z**2 / 2 - spread) / (trials + z**2)
    high = (hits + z**2 / 2 + spread) / (trials + z**2)
    return _ends(low, high, hits, trials)


def exact_interval(
    count: ArrayLike, total: ArrayLike, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the exact interval of a share, elementwise (Clopper & Pearson, Biometrika 1934).

    It covers at least as often as it says at every rate and size, and is wider than Wilson's for that. Counts may be
    real numbers, such as the effective ones of clustered or weighted rows (:func:`effective_counts`).

    Args:
        count: Number of hits, 0 to ``total``.
        total: Number of trials, of a shape that broadcasts with ``count``.
        confidence: Coverage, between 0 and 1.

    Returns:
        Lower and upper ends, float64; exactly 0 where there is no hit and 1 where all are; NaN where ``total`` is 0.

    Raises:
        ValueError: If a count is not in [0, total], or the confidence not between 0 and 1.

    Example:
        >>> low, high = exact_interval([0, 5], [100, 100])
        >>> low.round(3).tolist(), high.round(3).tolist()
        ([0.0, 0.016], [0.036, 0.113])
    """
    tail = tail_outside(confidence)
    hits, trials = checked_counts(count, total)
    low, high = beta_quantile(hits, trials - hits + 1, tail), beta_quantile(hits + 1, trials - hits, 1 - tail)
    return _ends(low, high, hits, trials)


def exact_p_value(
    count: ArrayLike, total: ArrayLike, rate: ArrayLike, *, alternative: Literal["greater", "less"]
) -> NDArray[np.float64]:
    """Compute the one-sided exact test that the true share is above, or below, a rate, elementwise.

    It inverts :func:`exact_interval`: ``low > rate`` just where ``p < (1 - confidence) / 2`` for ``"greater"``, and
    ``high < rate`` just where it is for ``"less"``. Counts may be real numbers there too.

    Args:
        count: Number of hits, 0 to ``total``.
        total: Number of trials, of a shape that broadcasts with ``count``.
        rate: Share under the null hypothesis, 0 to 1, of a shape that broadcasts with them.
        alternative: What a small value speaks for.

    Returns:
        ``P(X >= count)`` for ``"greater"``, ``P(X <= count)`` for ``"less"``, X binomial at ``rate``, float64; 1 where
        ``total`` is 0.

    Raises:
        ValueError: If a count is not in [0, total], a rate not in [0, 1], or the alternative is another word.

    Example:
        >>> round(float(exact_p_value(3, 100, 0.01, alternative="greater")), 4)
        0.0794
    """
    from scipy.special import betainc, betaincc

    hits, trials = checked_counts(count, total)
    null = np.asarray(rate, np.float64)
    if not np.all((null >= 0) & (null <= 1)):
        raise ValueError("Expected rates in [0, 1], got one outside or NaN. Pass 0.01 for 1 %.")
    if alternative == "greater":
        return np.where(hits == 0, 1.0, betainc(hits, trials - hits + 1, null))
    if alternative == "less":
        return np.where(hits == trials, 1.0, betaincc(hits + 1, trials - hits, null))
    raise ValueError(f"Expected alternative 'greater' or 'less', got {alternative!r}. Double the smaller for both.")


def _ends(
    low: NDArray[np.float64], high: NDArray[np.float64], hits: NDArray[np.float64], trials: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # Round-off, and beta quantiles with a shape of 0, leave the ends 0 and 1 to us.
    low, high = np.where(hits == 0, 0.0, low), np.where(hits == trials, 1.0, high)
    return np.where(trials > 0, low, np.nan), np.where(trials > 0, high, np.nan)
