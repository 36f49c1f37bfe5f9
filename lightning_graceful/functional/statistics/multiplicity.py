"""P-values of many tests, adjusted: compare them to the level as if each were the only one."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjust for any false finding at all (Holm, Scandinavian Journal of Statistics 1979).

    Args:
        p_values: One a test, of any shape, in [0, 1]; NaN where there was no test, which then does not count.

    Returns:
        Adjusted p-values, float64, of the same shape; NaN stays NaN.

    Raises:
        ValueError: If one is outside [0, 1].

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(4).tolist()
        [0.03, 0.06, 0.06]
    """
    adjusted, tested, order = _ranked(p_values)
    steps = np.arange(order.size, 0, -1) * adjusted[tested][order]
    return _unranked(adjusted, tested, order, np.maximum.accumulate(steps))


def benjamini_hochberg(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjust for the expected share of false ones among the findings (Benjamini & Hochberg, JRSS B 1995).

    It holds for independent tests, and for those that are positively dependent.

    Args:
        p_values: One a test, of any shape, in [0, 1]; NaN where there was no test, which then does not count.

    Returns:
        Adjusted p-values, float64, of the same shape; NaN stays NaN.

    Raises:
        ValueError: If one is outside [0, 1].

    Example:
        >>> benjamini_hochberg([0.01, 0.04, 0.03]).round(4).tolist()
        [0.03, 0.04, 0.04]
    """
    adjusted, tested, order = _ranked(p_values)
    steps = order.size / np.arange(1, order.size + 1) * adjusted[tested][order]
    return _unranked(adjusted, tested, order, np.minimum.accumulate(steps[::-1])[::-1])


def _ranked(p_values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.intp]]:
    # A copy of the values, which of them are tests, and the order of those.
    values = np.array(p_values, np.float64)
    tested = ~np.isnan(values)
    if not np.all((values[tested] >= 0) & (values[tested] <= 1)):
        raise ValueError("Expected p-values in [0, 1], got one outside. Pass NaN where there was no test.")
    return values, tested, np.argsort(values[tested], kind="stable")


def _unranked(
    values: NDArray[np.float64], tested: NDArray[np.bool_], order: NDArray[np.intp], steps: NDArray[np.float64]
) -> NDArray[np.float64]:
    values[tested] = np.minimum(steps, 1.0)[np.argsort(order)]
    return values
