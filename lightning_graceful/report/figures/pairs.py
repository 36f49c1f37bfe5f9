"""Negative flips between classes."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import plotly.graph_objects as go

from lightning_graceful.report.figures.canvas import canvas, cells, name_axis, short, text_of
from lightning_graceful.report.summary import Candidate, Pair, Summary

MOST_NUMBERED = 16  # classes with which the number still fits into a cell
MOST_UPRIGHT = 6  # letters of a name that is not turned
ALL_SHOWN = 12  # classes up to which also those without a flip are shown


def flip_figure(
    summary: Summary, candidate: Candidate, by: Literal["count", "cost"] = "count", limit: int = 30
) -> go.Figure:
    """Negative flips between classes: a row is the true class (the old answer), a column the new answer.

    With more than 12 classes only those that take part in a flip of any candidate are shown.

    Args:
        summary: The comparison, so that the axes stay the same from candidate to candidate.
        candidate: The one to show.
        by: What a cell says: how many flips, or what they cost together.
        limit: Most classes to show, those with most flips, or costs, first.

    Returns:
        The figure; its ``layout.meta["classes"]`` holds the class at each place of both axes.

    Example:
        >>> from lightning_graceful.functional.statistics import Interval
        >>> from lightning_graceful.report.summary import Tally
        >>> rate = Interval(0.25, 0.05, 0.7)
        >>> tally = Tally(4, 4, 2, 0, 1, 1, rate, rate, rate, rate, 1.0)
        >>> candidate = Candidate("new", tally, rate, 1.0, pairs=(Pair("a", "b", 1, 5.0),))
        >>> summary = Summary("Digits", (candidate,), ("a", "b"))
        >>> flip_figure(summary, candidate).data[1].z
        ([None, 1], [None, None])
        >>> flip_figure(summary, candidate, "cost").data[1].z
        ([None, 5.0], [None, None])
    """
    shown, taking_part = _shown(summary, by, limit)
    few = len(shown) <= MOST_NUMBERED
    most = max((getattr(pair, by) for one in summary.candidates for pair in one.pairs), default=1)
    figure = canvas("new answer", "true class, the old answer", height=130 + max(180, 34 * min(len(shown), 16)))
    figure.add_heatmap(z=[[0] * len(shown) for _ in shown], **cells("wash"), hoverinfo="skip", showscale=False)
    number = "%{z}" if by == "count" else "%{z:.3~s}"
    figure.add_heatmap(
        z=_grid(candidate.pairs, shown, by), zmin=0, zmax=most or 1, **cells("cell" if by == "count" else "cost"),
        hoverongaps=False, showscale=not few, texttemplate=number if few else "",
        customdata=[[[text_of(short(true, 40)), text_of(short(new, 40))] for new in shown] for true in shown],
        hovertemplate=f"%{{customdata[0]}} → %{{customdata[1]}}: {number}<extra></extra>",
    )  # fmt: skip
    name_axis(figure.layout.xaxis, shown)
    if any(len(name) > MOST_UPRIGHT for name in shown):
        # To the left, since plotly leaves out labels that would end beyond the right edge.
        figure.update_xaxes(tickangle=-45)
    name_axis(figure.layout.yaxis, shown, reverse=True)
    return figure.update_layout(margin={"t": 8}, meta={"classes": shown, "taking_part": taking_part})


def all_classes(summary: Summary) -> list[str]:
    """List the classes, then what else was answered.

    Args:
        summary: The comparison.

    Returns:
        Names, each once.
    """
    said = (name for one in summary.candidates for pair in one.pairs for name in (pair.target, pair.new))
    listed = (name for one in summary.candidates for flip in one.flips for name in (flip.target, flip.new))
    return list(dict.fromkeys([*summary.classes, *said, *listed]))


def _shown(summary: Summary, by: str, limit: int) -> tuple[list[str], int]:
    classes, weight = all_classes(summary), Counter[str]()
    for candidate in summary.candidates:
        for pair in candidate.pairs:
            weight.update({name: getattr(pair, by) for name in {pair.target, pair.new}})
    if len(classes) <= min(ALL_SHOWN, limit):
        return classes, len(classes)
    place = {name: number for number, name in enumerate(classes)}
    most = sorted(weight, key=lambda name: (-weight[name], place[name]))[:limit]
    return sorted(most, key=place.__getitem__), len(weight)


def _grid(pairs: Sequence[Pair], shown: Sequence[str], by: str) -> list[list[float | None]]:
    place = {name: number for number, name in enumerate(shown)}
    grid: list[list[float | None]] = [[None] * len(shown) for _ in shown]
    for pair in pairs:
        if pair.target in place and pair.new in place:
            grid[place[pair.target]][place[pair.new]] = getattr(pair, by)
    return grid
