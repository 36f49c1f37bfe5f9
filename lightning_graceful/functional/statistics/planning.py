"""How many rows a question needs, and how small an answer a number of rows can show."""

import math
from bisect import bisect_left

from lightning_graceful.functional.statistics.arguments import checked_share, tail_outside
from lightning_graceful.functional.statistics.beta import beta_quantile
from lightning_graceful.functional.statistics.intervals import exact_p_value

MOST_ROWS = 10**12


def minimum_detectable_nfr(total: int, *, baseline: float = 0.0, power: float = 0.8, alpha: float = 0.025) -> float:
    """Compute the smallest NFR that a test set can be relied on to tell from a baseline, by the exact binomial.

    The test finds an NFR above the baseline where :func:`exact_p_value` is below ``alpha``. For a baseline of 0 any
    flip does, and the answer is ``1 - (1 - power) ** (1 / total)``: 1.6 / total for a power of 0.8, the "rule of three"
    (Hanley & Lippman-Hand, JAMA 1983) for one of 0.95.

    Args:
        total: Independent samples, at least 1.
        baseline: NFR to tell it from: a budget, or what training anew breaks by itself; in [0, 1].
        power: Probability of finding it, between 0 and 1.
        alpha: Level of the test, one-sided, between 0 and 1.

    Returns:
        True NFR, a share; NaN where even if all samples flip nothing is found. It falls with ``total``, but for small
        steps up where the test needs one flip more.

    Raises:
        ValueError: If an argument is out of its domain.

    Example:
        >>> round(minimum_detectable_nfr(10_000), 6), round(minimum_detectable_nfr(10_000, baseline=0.01), 4)
        (0.000161, 0.013)
    """
    checked_share("a power", power)
    checked_share("a level", alpha)
    _check_rate("baseline", baseline)
    if total < 1:
        raise ValueError(f"Expected a total of at least 1, got {total}. Pass the number of samples.")
    flips = bisect_left(range(total + 1), True, key=lambda count: _above(count, total, baseline, alpha))
    return float(beta_quantile(flips, total - flips + 1, power)) if flips <= total else math.nan


def rows_needed(rate: float, budget: float, *, confidence: float = 0.95) -> int | None:
    """Compute how many independent samples settle whether a rate keeps to a budget, if it stays as observed.

    It is the smallest total at which :func:`exact_interval` (Clopper & Pearson, 1934) of ``rate * total`` hits, a real
    number, lies on one side of the budget; at least one hit is needed to be above.

    Args:
        rate: Observed rate, in [0, 1].
        budget: Rate allowed, in [0, 1].
        confidence: Coverage of the interval, between 0 and 1.

    Returns:
        Samples in all, not those to add; None where the rate equals the budget, or more than 10 ** 12 were needed.

    Raises:
        ValueError: If rate or budget is not in [0, 1], or the confidence not between 0 and 1.

    Example:
        >>> rows_needed(0.0, 0.01), rows_needed(0.008, 0.01), rows_needed(0.01, 0.01)
        (368, 9527, None)
    """
    tail = tail_outside(confidence)
    _check_rate("rate", rate)
    _check_rate("budget", budget)
    if rate == budget:
        return None
    settled = _above if rate > budget else _below
    totals = range(math.ceil(1 / rate) if rate > budget else 1, MOST_ROWS + 1)
    place = bisect_left(totals, True, key=lambda total: settled(rate * total, total, budget, tail))
    return totals[place] if place < len(totals) else None


def _above(count: float, total: int, rate: float, level: float) -> bool:
    return bool(exact_p_value(count, total, rate, alternative="greater") < level)


def _below(count: float, total: int, rate: float, level: float) -> bool:
    return bool(exact_p_value(count, total, rate, alternative="less") < level)


def _check_rate(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"Expected a {name} in [0, 1], got {value}. Pass a share: 0.01 for 1 %.")
