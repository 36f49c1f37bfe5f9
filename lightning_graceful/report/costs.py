"""What the mistakes that an update brings cost, a sample, and how sure that is."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lightning_graceful.functional.statistics import (
    Interval,
    RatioSums,
    cluster_bootstrap,
    exact_interval,
    poisson_bootstrap,
    ratio_variance,
)
from lightning_graceful.report.csv_files import read_rows
from lightning_graceful.report.database import Database, PredictionError
from lightning_graceful.report.joining import BROKE, COSTS, Joined

MOST_PATTERNS = 20_000  # beyond, the mean of so many is normal and the bootstrap would only take time
NORMAL = 1.959963984540054

PATTERNS = "cost_patterns"


def read_costs(database: Database, path: Path) -> None:
    """Read what each kind of mistake costs into the table ``costs``.

    Args:
        database: Where to.
        path: CSV file with the columns ``target``, ``answer`` and ``cost``.

    Raises:
        PredictionError: If a cost is no finite number of at least 0, or a kind of mistake has two.
    """
    costs: dict[tuple[str, str], float] = {}
    for target, answer, written in read_rows(path, "target", "answer", "cost"):
        if (target, answer) in costs:
            raise PredictionError(f"{path}: expected one cost for {target!r} answered {answer!r}, got two. Drop one.")
        costs[target, answer] = _cost(written, path)
    database.run(f"CREATE TABLE {COSTS} (target VARCHAR, answer VARCHAR, cost DOUBLE)")
    for (target, answer), cost in costs.items():
        values = {"target": target, "answer": answer, "cost": cost}
        database.run(f"INSERT INTO {COSTS} VALUES ($target, $answer, $cost)", values)


def _cost(written: str, path: Path) -> float:
    try:
        cost = float(written)
    except ValueError:
        cost = math.nan
    if not 0 <= cost < math.inf:
        raise PredictionError(f"{path}: expected a finite cost of at least 0, got {written!r}.")
    return cost


def mean_costs(database: Database, joined: Joined, by: str) -> dict[str, Interval]:
    """Mean cost a sample of the negative flips, in each group.

    The interval is that of the Poisson bootstrap (of whole clusters by the cluster bootstrap where rows belong
    together), widened to the exact interval of the rate times the mean cost of a flip: of few flips, or none, a
    bootstrap is too sure.

    Args:
        database: Holds the rows.
        joined: The rows.
        by: SQL of the group.

    Returns:
        Cost by group.
    """
    database.run(f"CREATE OR REPLACE TEMP TABLE {PATTERNS} AS {_patterns(joined, by)}")
    sums = ", ".join(f"sum(n * {part})" for part in ("1", "num", "den", "num * num", "num * den", "den * den"))
    summed = f"SELECT value, count(*), {sums} FROM {PATTERNS} GROUP BY value"
    costs = {str(value): _normal(*parts) for value, _, *parts in database.all(summed)}
    typical = f"SELECT {by} AS value, count_if({BROKE}), count(*), max(cost) FROM {joined.table} GROUP BY 1"
    typicals = {str(value): rest for value, *rest in database.all(typical)}
    few = f"SELECT value FROM {PATTERNS} GROUP BY value HAVING count(*) <= {MOST_PATTERNS}"
    found = database.arrays(f"SELECT * FROM {PATTERNS} WHERE value IN ({few}) ORDER BY value")
    for value, places in _places(found["value"]):
        num, den, times = (np.asarray(found[key][places], np.float64) for key in ("num", "den", "n"))
        interval = (cluster_bootstrap if joined.is_clustered else poisson_bootstrap)(
            num, den, count=times.astype(np.int64)
        )
        costs[value] = _widened(interval, *typicals[value])
    return costs


def _patterns(joined: Joined, by: str) -> str:
    # Rows, or clusters, of the same cost and weight.
    num = f"weight * cost * CAST({BROKE} AS INT)"
    rows = f"SELECT {by} AS value, {num} AS num, weight AS den FROM {joined.table}"
    if joined.is_clustered:
        rows = f"SELECT {by} AS value, sum({num}) AS num, sum(weight) AS den FROM {joined.table} GROUP BY {by}, cluster"
    return f"SELECT value, num, den, count(*) AS n FROM ({rows}) GROUP BY ALL"


def _places(values: Any) -> Iterator[tuple[str, slice]]:
    # Where each value lies among sorted ones.
    starts = [place for place, value in enumerate(values) if not place or value != values[place - 1]]
    ends = [*starts, len(values)][1:]
    return ((str(values[start]), slice(start, end)) for start, end in zip(starts, ends, strict=True))


def _normal(clusters: float, num: float, den: float, *squares: float) -> Interval:
    mean, variance = num / den, ratio_variance(RatioSums(clusters, num, den, *squares))
    half = NORMAL * math.sqrt(float(variance))
    return Interval(mean, max(mean - half, 0.0), mean + half)


def _widened(interval: Interval, flips: int, rows: int, most: float) -> Interval:
    low, high = map(float, exact_interval(flips, rows))
    of_a_flip = interval.mean * rows / flips if flips else most
    return Interval(interval.mean, min(interval.low, low * of_a_flip), max(interval.high, high * of_a_flip))
