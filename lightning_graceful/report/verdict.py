"""What the numbers say, in plain sentences that lead with counts."""

import math

from lightning_graceful.functional.statistics import Interval
from lightning_graceful.report.differences import (
    difference_words,
    paired_difference,
    paired_error_difference,
    rate_interval,
)
from lightning_graceful.report.evidence import Comparison, Way


def verdict_line(comparison: Comparison) -> str:
    """Say what each successor breaks and fixes, against the plain one.

    Args:
        comparison: The ways.

    Returns:
        Two sentences or so for each way but the plain one; of the plain one if it is alone.

    Example:
        >>> import numpy as np
        >>> from lightning_graceful.report.evidence import Predictions
        >>> zeros, sure = np.zeros(4, np.int64), np.full(4, 0.9, np.float32)
        >>> said = Predictions(np.arange(4), zeros, zeros, np.array([0, 0, 0, 1]), np.array([0, 1, 0, 0]), sure, sure)
        >>> print(verdict_line(Comparison("Digits", ["a", "b"], [Way("plain", said)])))  # doctest: +ELLIPSIS
        plain breaks 1 case that the old model had right and fixes 1 (4 tested). NFR 25.00 % [4.56, 69.94]. Error ...
    """
    return " ".join(verdict_lines(comparison))


def verdict_lines(comparison: Comparison) -> list[str]:
    """Return the verdict on each successor, as in :func:`verdict_line`."""
    plain = comparison.plain
    return [_against(way, plain) for way in comparison.ways[1:]] or [_alone(plain)]


def percent(share: float, digits: int = 2) -> str:
    """Write a share as a percentage, "n/a" for NaN.

    Args:
        share: A fraction.
        digits: Digits after the point.

    Returns:
        The text.

    Example:
        >>> percent(0.0078), percent(float("nan"))
        ('0.78 %', 'n/a')
    """
    return "n/a" if math.isnan(share) else f"{100 * share:.{digits}f} %"


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
    return f"{_signed(interval.mean)} points {bounds(interval, signed=True)}"


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
    write = _signed if signed else _unsigned
    return f"[{write(interval.low)}, {write(interval.high)}]"


def _against(way: Way, plain: Way) -> str:
    ours, theirs = way.predictions, plain.predictions
    difference, error = paired_difference(way, plain), paired_error_difference(way, plain)
    return (
        f"{way.name} {_counts(way)}; {plain.name} breaks {plain.predictions.table[1, 0]:,}. "
        f"NFR {percent(ours.nfr)} against {percent(theirs.nfr)}, {_said(difference)}. "
        f"Error {percent(ours.error_new, 1)} against {percent(theirs.error_new, 1)} ({difference_words(error)})."
    )


def _said(difference: Interval) -> str:
    words = difference_words(difference)
    return f"difference {points(difference)}" + (f": {words}" if words != "n/a" else "")


def _alone(way: Way) -> str:
    said = way.predictions
    return (
        f"{way.name} {_counts(way)}. NFR {percent(said.nfr)} {bounds(rate_interval(said.negative, said.id))}. "
        f"Error {percent(said.error_new, 1)} against {percent(said.error_old, 1)} of the old model."
    )


def seeds_of(way: Way) -> str:
    """Say over how many seeds the answers are, where samples repeat.

    Args:
        way: One way to train the new model.

    Returns:
        Such as ``"50,000 answers over 5 seeds"``; empty where each sample was tested once.
    """
    said = way.predictions
    seeds = len(set(said.seed.tolist()))
    return f"{len(said):,} answers over {seeds} seeds" if len(said) > said.samples else ""


def _counts(way: Way) -> str:
    table = way.predictions.table
    broken, fixed = table[1, 0], table[0, 1]
    tested = f"{way.predictions.samples:,} tested" + (f", {seeds_of(way)}" if seeds_of(way) else "")
    cases = "case" if broken == 1 else "cases"
    return f"breaks {broken:,} {cases} that the old model had right and fixes {fixed:,} ({tested})"


def _signed(share: float) -> str:
    return f"{100 * share:+.2f}"


def _unsigned(share: float) -> str:
    return f"{100 * share:.2f}"
