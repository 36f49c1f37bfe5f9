"""The table that a job prints."""

import math

from rich.console import Console
from rich.table import Table

from lightning_graceful.report.evidence import (
    Comparison,
    Way,
    difference_words,
    paired_difference,
    paired_error_difference,
)


def print_table(comparison: Comparison, console: Console) -> None:
    """Print all ways side by side.

    Args:
        comparison: The ways; the first is plain training.
        console: Where to.
    """
    table = Table(title=comparison.title, caption=_floor(comparison), caption_justify="left", title_justify="left")
    for column in ("way", "error old", "error new", "NFR", "NFR against plain [95 %]", "relative NFR", "time"):
        table.add_column(column, justify="left" if column == "way" else "right", overflow="fold")
    for way in comparison.ways:
        said = way.predictions
        table.add_row(
            f"{way.name} ({way.detail})" if way.detail else way.name,
            percent(said.error_old),
            _error(way, comparison),
            percent(said.nfr),
            _against_plain(way, comparison),
            percent(said.relative_nfr, 1),
            "n/a" if way.wall_seconds is None else f"{way.wall_seconds:,.0f} s",
        )
    console.print(table)
    for note in comparison.notes:
        console.print(note, markup=False)


def percent(rate: float, digits: int = 2) -> str:
    """Write a rate as per cent, NaN as n/a.

    Args:
        rate: A fraction.
        digits: After the point.

    Returns:
        The words.

    Example:
        >>> percent(0.0123), percent(float("nan"))
        ('1.23 %', 'n/a')
    """
    return "n/a" if math.isnan(rate) else f"{100 * rate:.{digits}f} %"


def _error(way: Way, comparison: Comparison) -> str:
    own = percent(way.predictions.error_new)
    if way is comparison.plain:
        return own
    difference = paired_error_difference(way, comparison.plain)
    return f"{own}\n{_points(difference.mean)} [{_points(difference.low)}, {_points(difference.high)}]"


def _against_plain(way: Way, comparison: Comparison) -> str:
    if way is comparison.plain:
        return "-"
    difference = paired_difference(way, comparison.plain)
    words = difference_words(difference)
    return f"{_points(difference.mean)} [{_points(difference.low)}, {_points(difference.high)}]\n{words}"


def _points(difference: float) -> str:
    return "n/a" if math.isnan(difference) else f"{100 * difference:+.2f}"


def _floor(comparison: Comparison) -> str | None:
    if comparison.noise_floor is None:
        return None
    return f"Noise floor: NFR {percent(comparison.noise_floor)} between two plain seeds of one recipe."
