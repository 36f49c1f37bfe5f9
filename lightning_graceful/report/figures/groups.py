"""Who pays: the NFR of each class and of each slice, the worst on top."""

import math
from collections.abc import Callable

import plotly.graph_objects as go

from lightning_graceful.report.figures.canvas import LONGEST, bars, canvas, look, name_axis, shifts, short, text_of
from lightning_graceful.report.summary import Candidate, Group, Summary

LIMIT = 30
Table = dict[str, list[Group | None]]


def class_figure(summary: Summary, limit: int = LIMIT) -> go.Figure:
    """NFR of each class with its interval, all candidates side by side, the worst class on top.

    Args:
        summary: The comparison.
        limit: Most classes to show.

    Returns:
        The figure; its ``layout.meta["groups"]`` says how many classes there are.

    Example:
        >>> from lightning_graceful.functional.statistics import Interval
        >>> from lightning_graceful.report.summary import Tally
        >>> rate = Interval(0.25, 0.05, 0.7)
        >>> tally = Tally(4, 4, 2, 0, 1, 1, rate, rate, rate, rate, 1.0)
        >>> candidate = Candidate("new", tally, rate, 1.0, classes=(Group("class", "a", tally),))
        >>> class_figure(Summary("Digits", (candidate,), ("a", "b"))).layout.yaxis.ticktext
        ('a (4)',)
    """
    return _figure(summary, lambda candidate: candidate.classes, lambda group: group.value, limit)


def slice_figure(summary: Summary, limit: int = LIMIT) -> go.Figure:
    """NFR of each slice with its interval, all candidates side by side, the worst slice on top.

    Args:
        summary: The comparison.
        limit: Most slices to show.

    Returns:
        The figure, as :func:`class_figure`.

    Example:
        >>> from lightning_graceful.functional.statistics import Interval
        >>> from lightning_graceful.report.summary import Tally
        >>> rate = Interval(0.25, 0.05, 0.7)
        >>> tally = Tally(4, 4, 2, 0, 1, 1, rate, rate, rate, rate, 1.0)
        >>> candidate = Candidate("new", tally, rate, 1.0, slices=(Group("country", "IS", tally),))
        >>> slice_figure(Summary("Digits", (candidate,), ("a", "b"))).layout.yaxis.ticktext
        ('country=IS (4)',)
    """
    return _figure(summary, lambda candidate: candidate.slices, lambda group: group.where, limit)


def worst_first(summary: Summary, groups: Callable[[Candidate], tuple[Group, ...]]) -> list[list[Group | None]]:
    """Bring the groups of all candidates together, by falling NFR of the candidate that does worst.

    Args:
        summary: The comparison.
        groups: Which groups of a candidate are meant.

    Returns:
        A row for each group: what each candidate does there, None where it has no such rows.

    Example:
        >>> from lightning_graceful.functional.statistics import Interval
        >>> from lightning_graceful.report.summary import Tally
        >>> rates = [Interval(rate, 0.0, 1.0) for rate in (0.25, 0.5)]
        >>> tallies = [Tally(4, 4, 2, 0, 1, 1, rate, rate, rate, rate, 1.0) for rate in rates]
        >>> classes = tuple(Group("class", name, tally) for name, tally in zip("ab", tallies))
        >>> candidate = Candidate("new", tallies[0], rates[0], 1.0, classes=classes)
        >>> rows = worst_first(Summary("Digits", (candidate,), ("a", "b")), lambda one: one.classes)
        >>> [row[0].value for row in rows]
        ['b', 'a']
    """
    table: dict[tuple[str, str], list[Group | None]] = {}
    for number, candidate in enumerate(summary.candidates):
        for group in groups(candidate):
            row = table.setdefault((group.column, group.value), [None] * len(summary.candidates))
            row[number] = group
    return sorted(table.values(), key=_badness, reverse=True)


def any_of(row: list[Group | None]) -> Group:
    """Give a group of a row of :func:`worst_first`: all of them are about the same rows.

    Args:
        row: The row.

    Returns:
        The first group that there is.
    """
    return next(group for group in row if group is not None)


def _badness(row: list[Group | None]) -> tuple[float, float]:
    # Of equal rates the surer one is worse; without rows there is no rate.
    rates = [group.tally.nfr for group in row if group is not None and not math.isnan(group.tally.nfr.mean)]
    return max(((rate.mean, rate.low) for rate in rates), default=(-1.0, -1.0))


def _figure(
    summary: Summary, groups: Callable[[Candidate], tuple[Group, ...]], name: Callable[[Group], str], limit: int
) -> go.Figure:
    rows = worst_first(summary, groups)
    shown, many = rows[:limit], len(summary.candidates)
    figure = canvas("", "", height=70 + len(shown) * max(24, 13 * many + 9))
    for number, (candidate, shift) in enumerate(zip(summary.candidates, shifts(many), strict=True)):
        found = [(place, group) for place, row in enumerate(shown) if (group := row[number]) is not None]
        rates = [group.tally.nfr for _, group in found]
        figure.add_scatter(
            x=[100 * rate.mean for rate in rates], y=[place + shift for place, _ in found], error_x=bars(rates),
            **look(number, candidate.name), hovertemplate="%{customdata}: %{x:.2f} %",
            customdata=[_said(name(group), group) for _, group in found],
        )  # fmt: skip
    labels = [f"{short(name(any_of(row)), LONGEST + 5)} ({any_of(row).tally.rows:,})" for row in shown]
    name_axis(figure.layout.yaxis, labels, reverse=True, longest=LONGEST + 24)
    figure.update_xaxes(rangemode="tozero", ticksuffix=" %")
    return figure.update_layout(meta={"groups": len(rows), "shown": len(shown)})


def _said(name: str, group: Group) -> str:
    return f"{text_of(name[:80])}, {group.tally.broke:,} of {group.tally.rows:,}"
