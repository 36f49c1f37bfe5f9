"""How numbers are written: shares, differences, intervals, times."""

import math
from typing import Literal

from lightning_graceful.functional.statistics import Interval


def percent(share: float, digits: int = 2) -> str:
    """Write a share as a percentage, "n/a" for NaN.

    Args:
        share: A fraction.
        digits: Digits after the point; a share that these would show as 0 is given two that count.

    Returns:
        The text.

    Example:
        >>> percent(0.0078), percent(0.0000031), percent(float("nan"))
        ('0.78 %', '0.00031 %', 'n/a')
    """
    return "n/a" if math.isnan(share) else f"{_digits(share, digits)} %"


def points(interval: Interval) -> str:
    """Write a difference of shares in percentage points with its bounds, "n/a" for NaN.

    Args:
        interval: Mean and bounds as fractions.

    Returns:
        The text.

    Example:
        >>> points(Interval(-0.0045, -0.0081, -0.0008))
        '-0.45 points [-0.81, -0.08]'
    """
    if math.isnan(interval.mean):
        return "n/a"
    return f"{100 * interval.mean:+.2f} points {bounds(interval, signed=True)}"


def bounds(interval: Interval, *, signed: bool = False) -> str:
    """Write the bounds of a share in percent, "n/a" for NaN.

    Args:
        interval: Mean and bounds as fractions.
        signed: Whether to write a plus sign too.

    Returns:
        The text.

    Example:
        >>> bounds(Interval(0.012, 0.0081, 0.0185))
        '[0.81, 1.85]'
    """
    if math.isnan(interval.low) or math.isnan(interval.high):
        return "[n/a]"
    sign = "+" if signed else ""
    return f"[{_digits(interval.low, 2, sign)}, {_digits(interval.high, 2, sign)}]"


def measured(interval: Interval) -> str:
    """Write a share in percent with its bounds.

    Args:
        interval: Mean and bounds as fractions.

    Returns:
        The text.

    Example:
        >>> measured(Interval(0.012, 0.0081, 0.0185))
        '1.20 % [0.81, 1.85]'
    """
    return f"{percent(interval.mean)} {bounds(interval)}"


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
    if math.isnan(interval.low) or math.isnan(interval.high):
        return "n/a"
    if interval.high < 0:
        return "lower"
    return "higher" if interval.low > 0 else "not distinguishable"


def counted(count: int, one: str, many: str | None = None) -> str:
    """Write a count with its noun.

    Args:
        count: How many.
        one: The noun for one.
        many: The noun for others; default: ``one`` with an s.

    Returns:
        The text.

    Example:
        >>> counted(1, "case"), counted(1200, "case")
        ('1 case', '1,200 cases')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def printable(text: str) -> str:
    r"""Make a text safe for a terminal: one line, without control characters.

    Args:
        text: Any text.

    Returns:
        The text with a replacement character for each that is not printable.

    Example:
        >>> print(ascii(printable("a" + chr(27) + "[31mb")))
        'a\ufffd[31mb'
    """
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text)


def duration(seconds: float | None) -> str:
    """Write a time, "n/a" where it was not taken.

    Args:
        seconds: The time.

    Returns:
        The text.

    Example:
        >>> duration(7.25), duration(75), duration(None)
        ('7.2 s', '1 min 15 s', 'n/a')
    """
    if seconds is None:
        return "n/a"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _digits(share: float, digits: int, sign: str = "") -> str:
    percentage = 100 * share
    if percentage and abs(percentage) < 0.5 * 10**-digits:
        digits = 1 - math.floor(math.log10(abs(percentage)))
    return f"{percentage:{sign}.{digits}f}"
