"""Counts and rates of joined rows, whole or by a column, by SQL: what is held does not grow with the rows."""

import math
from typing import Any, NamedTuple

import numpy as np

from lightning_graceful.functional.statistics import (
    Interval,
    RatioSums,
    effective_counts,
    exact_interval,
    mcnemar_exact,
)
from lightning_graceful.report.costs import mean_costs
from lightning_graceful.report.database import Database, column
from lightning_graceful.report.joining import Joined
from lightning_graceful.report.reading import SLICE
from lightning_graceful.report.summary import Group, Tally

CLASS = "class"
WHOLE = ""
# The four rates: what counts as a hit.
FLAGS = {
    "error_old": "NOT {old}",
    "error_new": "NOT {new}",
    "nfr": "{old} AND NOT {new}",
    "pfr": "NOT {old} AND {new}",
}
CELLS = {
    "both_right": "{old} AND {new}",
    "fixed": "NOT {old} AND {new}",
    "broke": "{old} AND NOT {new}",
    "both_wrong": "NOT {old} AND NOT {new}",
}


def whole_tally(database: Database, joined: Joined, *, first: bool = False) -> Tally:
    """Count all rows.

    Args:
        database: Holds the rows.
        joined: The rows.
        first: Whether an answer counts whatever its confidence.

    Returns:
        Counts and rates.
    """
    return _tallies(database, joined, "''", first=first)[WHOLE]


def groups(database: Database, joined: Joined, name: str) -> list[Group]:
    """Count the rows of each class, or of each value of a slice.

    Args:
        database: Holds the rows.
        joined: The rows.
        name: A slice, or "class" for the true class.

    Returns:
        The groups, by value; their p-values are not adjusted yet.
    """
    by = "target" if name == CLASS else column(f"{SLICE}{name}")
    tallies = _tallies(database, joined, by)
    return [Group(name, value, tally, p_value(tally, joined)) for value, tally in sorted(tallies.items())]


def p_value(tally: Tally, joined: Joined) -> float:
    """Test whether the error stays the same (McNemar, exact).

    Args:
        tally: The counts.
        joined: The rows that were counted.

    Returns:
        The p-value; NaN where rows are not independent.
    """
    return float(mcnemar_exact(tally.broke, tally.fixed)) if joined.is_independent else math.nan


def _tallies(database: Database, joined: Joined, by: str, *, first: bool = False) -> dict[str, Tally]:
    sides = {"old": "old_first_right", "new": "new_first_right"} if first else {"old": "old_right", "new": "new_right"}
    flags = {name: words.format(**sides) for name, words in FLAGS.items()}
    cells = {name: words.format(**sides) for name, words in CELLS.items()}
    query = _counted(joined, by, flags, cells) if joined.is_independent else _clustered(joined, by, flags, cells)
    found = database.arrays(query)
    rates = {name: _rates(found, name) for name in flags}
    costs = mean_costs(database, joined, by) if joined.has_costs else {}
    return {
        str(key): _tally(found, place, rates, costs.get(str(key))) for place, key in enumerate(found["value"].tolist())
    }


def _counted(joined: Joined, by: str, flags: dict[str, str], cells: dict[str, str]) -> str:
    # Rows that count once each: their squares are themselves.
    counts = ", ".join(f"count_if({words}) AS {name}" for name, words in cells.items())
    hits = ", ".join(
        f"count_if({words}) AS {name}_sum, count_if({words}) AS {name}_squares, count_if({words}) AS {name}_product"
        for name, words in flags.items()
    )
    return (
        f"SELECT {by} AS value, count(*) AS n, count(*) AS samples, count(*) AS clusters, count(*) AS whole, "
        f"count(*) AS whole_squares, {counts}, {hits} FROM {joined.table} GROUP BY 1"
    )


def _clustered(joined: Joined, by: str, flags: dict[str, str], cells: dict[str, str]) -> str:
    counts = ", ".join(f"count_if({words}) AS {name}" for name, words in cells.items())
    hits = ", ".join(f"coalesce(sum(weight) FILTER ({words}), 0) AS r_{name}" for name, words in flags.items())
    inner = (
        f"SELECT {by} AS value, count(*) AS n, count(DISTINCT id) AS samples, sum(weight) AS d, {counts}, {hits} "
        f"FROM {joined.table} GROUP BY {by}, cluster"
    )
    totals = ", ".join(f"sum({name}) AS {name}" for name in ("n", "samples", *cells))
    sums = ", ".join(
        f"sum(r_{name}) AS {name}_sum, sum(r_{name} * r_{name}) AS {name}_squares, sum(r_{name} * d) AS {name}_product"
        for name in flags
    )
    return (
        f"SELECT value, count(*) AS clusters, sum(d) AS whole, sum(d * d) AS whole_squares, {totals}, {sums} "
        f"FROM ({inner}) GROUP BY value"
    )


class _Rate(NamedTuple):
    interval: Interval
    effective_rows: float


def _rates(found: dict[str, Any], name: str) -> list[_Rate]:
    keys = ("clusters", f"{name}_sum", "whole", f"{name}_squares", f"{name}_product", "whole_squares")
    clusters, hits, whole, *rest = (np.asarray(found[key], np.float64) for key in keys)
    # Sums of weights may differ in the last digit by their order.
    sums = RatioSums(clusters, np.minimum(hits, whole), whole, *rest)
    counts, sizes = effective_counts(sums, np.asarray(found["n"], np.float64))
    ends = zip(hits / whole, *exact_interval(counts, sizes), strict=True)
    return [_Rate(Interval(*map(float, end)), float(size)) for end, size in zip(ends, sizes, strict=True)]


def _tally(found: dict[str, Any], place: int, rates: dict[str, list[_Rate]], cost: Interval | None) -> Tally:
    error_old, error_new, nfr, pfr = (rates[name][place].interval for name in FLAGS)
    both_right, fixed, broke, both_wrong = (int(found[name][place]) for name in CELLS)
    independent = (1 - error_old.mean) * error_new.mean
    return Tally(
        int(found["n"][place]), int(found["samples"][place]), both_right, fixed, broke, both_wrong,
        error_old, error_new, nfr, pfr, nfr.mean / independent if independent > 0 else math.nan, cost,
        {name: values[place].effective_rows for name, values in rates.items()},
    )  # fmt: skip
