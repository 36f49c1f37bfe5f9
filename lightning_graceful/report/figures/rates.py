"""Counts and rates of all rows: the quadrants, and errors, NFR and PFR with their intervals."""

from typing import Any

import plotly.graph_objects as go

from lightning_graceful.functional.statistics import Interval
from lightning_graceful.report.figures.canvas import BROKE, FIXED, OLD, bars, canvas, look, name_axis, shifts
from lightning_graceful.report.summary import Summary, Tally

QUADRANTS = (("both right", "both_right", "#9aa5b1"), ("fixed", "fixed", FIXED), ("broke", "broke", BROKE),
             ("both wrong", "both_wrong", "#4a5560"))  # fmt: skip
ROWS = ("error, old model", "error, new model", "NFR (broke)", "PFR (fixed)")


def quadrant_figure(summary: Summary) -> go.Figure:
    """Rows by whether the old and the new model are right: both, fixed, broke, neither; one bar a candidate.

    Args:
        summary: The comparison.

    Returns:
        The figure.

    Example:
        >>> from lightning_graceful.report.summary import Candidate, Summary, Tally
        >>> rate = Interval(0.25, 0.05, 0.7)
        >>> tally = Tally(4, 4, 2, 0, 1, 1, rate, rate, rate, rate, 1.0)
        >>> summary = Summary("Digits", (Candidate("new", tally, rate, 1.0),), ("a", "b"))
        >>> {bar.name: bar.x[0] for bar in quadrant_figure(summary).data}
        {'both right': 2, 'fixed': 0, 'broke': 1, 'both wrong': 1}
    """
    places = list(range(len(summary.candidates)))
    figure = canvas("answers", "", height=120 + 44 * len(places))
    for name, field, colour in QUADRANTS:
        counts = [getattr(candidate.whole, field) for candidate in summary.candidates]
        figure.add_bar(x=counts, y=places, orientation="h", name=name, marker={"color": colour}, text=counts)
    figure.update_layout(barmode="stack")
    name_axis(figure.layout.yaxis, [candidate.name for candidate in summary.candidates], reverse=True)
    return figure


def rate_figure(summary: Summary) -> go.Figure:
    """Errors of the old and the new model, NFR and PFR, with intervals at 95 %; hollow: first answers, noise floor.

    Args:
        summary: The comparison.

    Returns:
        The figure.

    Example:
        >>> from lightning_graceful.report.summary import Candidate, Summary, Tally
        >>> rate = Interval(0.25, 0.05, 0.7)
        >>> tally = Tally(4, 4, 2, 0, 1, 1, rate, rate, rate, rate, 1.0)
        >>> summary = Summary("Digits", (Candidate("new", tally, rate, 1.0),), ("a", "b"))
        >>> [trace.name for trace in rate_figure(summary).data]
        ['old model', 'new']
    """
    marks = _marks(summary)
    figure = canvas("", "", height=70 + 4 * max(42, 16 * (len(marks) + 1)))
    _add(figure, [0], [summary.first.whole.error_old], 0.0, _grey("old model", "circle"))
    for (style, tally), shift in zip(marks, shifts(len(marks)), strict=True):
        _add(figure, [1, 2, 3], [tally.error_new, tally.nfr, tally.pfr], shift, style)
    if summary.noise_floor is not None:
        _add(figure, [2], [summary.noise_floor], 0.38, _grey("one recipe trained twice", "star-diamond-open"))
    name_axis(figure.layout.yaxis, ROWS, reverse=True, longest=20)
    return figure.update_xaxes(rangemode="tozero", ticksuffix=" %")


def _marks(summary: Summary) -> list[tuple[dict[str, Any], Tally]]:
    found = []
    for number, candidate in enumerate(summary.candidates):
        found.append((look(number, candidate.name), candidate.whole))
        if candidate.at_argmax is not None:
            found.append((_hollow(look(number, candidate.name)), candidate.at_argmax))
    return found


def _hollow(style: dict[str, Any]) -> dict[str, Any]:
    marker = style["marker"] | {"symbol": f"{style['marker']['symbol']}-open"}
    return style | {"name": f"{style['name']}, first answers", "marker": marker}


def _grey(name: str, symbol: str) -> dict[str, Any]:
    marker = {"size": 9, "color": OLD, "symbol": symbol}
    return look(0, name) | {"name": name, "marker": marker, "meta": {"paint": "old"}}


def _add(figure: go.Figure, rows: list[int], rates: list[Interval], shift: float, style: dict[str, Any]) -> None:
    figure.add_scatter(
        x=[100 * rate.mean for rate in rates], y=[row + shift for row in rows], error_x=bars(rates), **style,
        customdata=[ROWS[row] for row in rows], hovertemplate="%{customdata}: %{x:.2f} %",
    )  # fmt: skip
