"""Quantiles of the beta distribution, the ends of exact intervals."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Halvings of [0, 1] after which not even a quantile of one in a trillion moves.
HALVINGS = 100


def beta_quantile(a: ArrayLike, b: ArrayLike, probability: float) -> NDArray[np.float64]:
    """Compute quantiles of the beta distribution, elementwise.

    Those of scipy 1.17 (Boost) are wrong for a shape of just 1000 where the other is large, by a factor of 2 for 1e9,
    and for many shapes from 1e9 on. They are tried in the distribution function, which is right, and searched for there
    if they fail.

    Args:
        a: First shape, above 0.
        b: Second shape, above 0, of a shape that broadcasts with ``a``.
        probability: Of a smaller value, between 0 and 1.

    Returns:
        Quantiles, float64; NaN where a shape is 0.

    Example:
        >>> (1e9 * beta_quantile([1000, 1001], 999_999_001, 0.025)).round(3).tolist()
        [938.973, 939.942]
    """
    from scipy.special import betainc, betaincinv

    a, b = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
    quantile = np.array(betaincinv(a, b, probability), np.float64)
    with np.errstate(invalid="ignore"):
        error = np.abs(betainc(a, b, quantile) - probability)
    failed = (a > 0) & (b > 0) & ~(error < 1e-9 * min(probability, 1 - probability))
    quantile[failed] = _search(a[failed], b[failed], probability)
    return quantile


def _search(a: NDArray[np.float64], b: NDArray[np.float64], probability: float) -> NDArray[np.float64]:
    from scipy.special import betainc

    low, high = np.zeros(a.shape), np.ones(a.shape)
    for _ in range(HALVINGS if a.size else 0):
        middle = (low + high) / 2
        above = betainc(a, b, middle) < probability
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return high
