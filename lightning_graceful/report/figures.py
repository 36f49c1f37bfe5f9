"""The figures of the page (plotly). Names of classes and ways are text, never markup."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from lightning_graceful.report.differences import rate_interval
from lightning_graceful.report.evidence import Comparison, Predictions, Way

# By way, the plain one first and grey; hues of Okabe and Ito, shaded for 3:1 and more on a light and on a dark ground.
LIGHT = ("#5b6673", "#0072b2", "#c65102", "#00805f", "#a0478a", "#846600", "#1f2933")
DARK = ("#a5b1be", "#56b4e9", "#f4925a", "#3fcf9f", "#e3a0cb", "#e8d44d", "#e6edf3")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "x", "star")
MARKS = "●◆■▲✚✖★"  # the same in text
QUADRANTS = {  # name: (old right, new right, colour)
    "both right": (1, 1, "#9aa5b1"),
    "fixed": (0, 1, "#0072b2"),
    "broke": (1, 0, "#c65102"),
    "both wrong": (0, 0, "#4a5560"),
}
EMPTY, BLUES = ("#f0f2f5", "#f0f2f5"), ("#d9e8f5", "#5b9bd0")
LONGEST = 15  # letters of a name at an axis
MOST_NUMBERED = 16  # classes with which the number still fits into a cell


def overview_figure(comparison: Comparison) -> go.Figure:
    """Error of the new model against NFR, one point a way with its intervals at 95 %; dashes mark the noise floor.

    Args:
        comparison: The ways.

    Returns:
        The figure.

    Example:
        >>> zeros, sure = np.zeros(2, np.int64), np.full(2, 0.9, np.float32)
        >>> said = Predictions(np.arange(2), zeros, zeros, zeros, np.array([0, 1]), sure, sure)
        >>> comparison = Comparison("Digits", ["a", "b"], [Way("plain", said)])
        >>> overview_figure(comparison).data[0].x
        (50.0,)
    """
    figure = _figure("error of the new model (%)", "NFR (%)", height=420)
    for number, way in enumerate(comparison.ways):
        said = way.predictions
        error, nfr = rate_interval(said.wrong, said.id), rate_interval(said.negative, said.id)
        figure.add_scatter(
            x=[100 * error.mean], y=[100 * nfr.mean], error_x=_bars([error]), error_y=_bars([nfr]), mode="markers",
            **_look(number, way.name), hovertemplate="error %{x:.2f} %<br>NFR %{y:.2f} %",
        )  # fmt: skip
    figure.update_yaxes(rangemode="tozero")
    if comparison.noise_floor is not None:
        figure.add_hline(
            y=100 * comparison.noise_floor, line={"dash": "dash", "width": 1},
            annotation={"text": "two plain seeds", "showarrow": False}, annotation_position="top right",
        )  # fmt: skip
    return figure


def quadrant_figure(comparison: Comparison) -> go.Figure:
    """Rows by whether the old and the new model are right: both, fixed, broke, neither; one bar a way.

    Args:
        comparison: The ways.

    Returns:
        The figure.

    Example:
        >>> zeros, sure = np.zeros(2, np.int64), np.full(2, 0.9, np.float32)
        >>> said = Predictions(np.arange(2), zeros, zeros, zeros, np.array([0, 1]), sure, sure)
        >>> comparison = Comparison("Digits", ["a", "b"], [Way("plain", said)])
        >>> {bar.name: bar.x[0] for bar in quadrant_figure(comparison).data}
        {'both right': 1, 'fixed': 0, 'broke': 1, 'both wrong': 0}
    """
    places = list(range(len(comparison.ways)))
    figure = _figure("samples", "", height=120 + 44 * len(places))
    for name, (old_right, new_right, colour) in QUADRANTS.items():
        counts = [int(way.predictions.table[old_right, new_right]) for way in comparison.ways]
        figure.add_bar(x=counts, y=places, orientation="h", name=name, marker={"color": colour}, text=counts)
    figure.update_layout(barmode="stack")
    _name_axis(figure.layout.yaxis, [way.name for way in comparison.ways], reverse=True)
    return figure


def class_figure(comparison: Comparison, limit: int = 30) -> go.Figure:
    """NFR of each class with its Wilson interval, all ways side by side, the worst class on top.

    Args:
        comparison: The ways.
        limit: Most classes to show.

    Returns:
        The figure; its ``layout.meta`` holds the classes shown (``classes``) and how many have samples (``tested``).

    Example:
        >>> zeros, sure = np.zeros(2, np.int64), np.full(2, 0.9, np.float32)
        >>> said = Predictions(np.arange(2), zeros, zeros, zeros, np.array([0, 1]), sure, sure)
        >>> comparison = Comparison("Digits", ["a", "b"], [Way("plain", said)])
        >>> class_figure(comparison).layout.yaxis.ticktext
        ('a (2)',)
    """
    ways = comparison.ways
    targets = comparison.plain.predictions.target
    tested = np.unique(targets).tolist()
    rates = [_class_rates(way, tested) for way in ways]
    worst = np.array([[rate.mean for rate in row] for row in rates]).max(axis=0)
    shown = np.argsort(-worst, kind="stable")[:limit].tolist()
    names = [comparison.class_names[tested[place]] for place in shown]
    figure = _figure("NFR of the class (%)", "", height=120 + len(shown) * max(24, 13 * len(ways) + 9))
    for number, way in enumerate(ways):
        row = [rates[number][place] for place in shown]
        shift = (number - (len(ways) - 1) / 2) * min(0.26, 0.74 / len(ways))
        figure.add_scatter(
            x=[100 * rate.mean for rate in row], y=[place + shift for place in range(len(row))], error_x=_bars(row),
            mode="markers", **_look(number, way.name), hovertemplate="%{customdata}: %{x:.2f} %",
            customdata=[text_of(name) for name in names],
        )  # fmt: skip
    counts = [np.count_nonzero(targets == tested[place]) for place in shown]
    labels = [f"{_short(name)} ({count:,})" for name, count in zip(names, counts, strict=True)]
    _name_axis(figure.layout.yaxis, labels, reverse=True, longest=LONGEST + 12)
    figure.update_xaxes(rangemode="tozero")
    return figure.update_layout(meta={"classes": [tested[place] for place in shown], "tested": len(tested)})


def flip_figure(comparison: Comparison, way: Way, limit: int = 30) -> go.Figure:
    """Negative flips between classes: a row is the true class (the old answer), a column the new answer.

    With more than 12 classes only those that take part in a flip of any way are shown.

    Args:
        comparison: All ways, so that the axes stay the same from way to way.
        way: The way to show.
        limit: Most classes to show, those with most flips first.

    Returns:
        The figure; its ``layout.meta["classes"]`` holds the class at each place of both axes.

    Example:
        >>> zeros, sure = np.zeros(2, np.int64), np.full(2, 0.9, np.float32)
        >>> said = Predictions(np.arange(2), zeros, zeros, zeros, np.array([0, 1]), sure, sure)
        >>> comparison = Comparison("Digits", ["a", "b"], [Way("plain", said)])
        >>> flip_figure(comparison, comparison.plain).data[1].z
        ([None, 1], [None, None])
    """
    shown, taking_part = _flip_classes(comparison, limit)
    names = [comparison.class_names[index] for index in shown]
    few = len(shown) <= MOST_NUMBERED
    figure = _figure("new answer", "true class, the old answer", height=130 + max(180, 34 * min(len(shown), 16)))
    figure.add_heatmap(
        z=[[0] * len(shown) for _ in shown], **_cells(EMPTY, empty=True), hoverinfo="skip", showscale=False
    )
    figure.add_heatmap(
        z=_pair_counts(way, shown), zmin=0, zmax=_most_flips(comparison), **_cells(BLUES, empty=False),
        hoverongaps=False, showscale=not few, texttemplate="%{z}" if few else "",
        colorbar={"dtick": -(-_most_flips(comparison) // 5)},
        customdata=[[[text_of(true), text_of(new)] for new in names] for true in names],
        hovertemplate="%{customdata[0]} → %{customdata[1]}: %{z}<extra></extra>",
    )  # fmt: skip
    _name_axis(figure.layout.xaxis, names)
    _name_axis(figure.layout.yaxis, names, reverse=True)
    return figure.update_layout(margin={"t": 8}, meta={"classes": shown, "taking_part": taking_part})


def flip_pairs(predictions: Predictions) -> list[tuple[int, int, int]]:
    """Count negative flips by true class and new answer.

    Args:
        predictions: The rows.

    Returns:
        ``(true class, new answer, count)``, the most frequent first.

    Example:
        >>> zeros, sure = np.zeros(3, np.int64), np.full(3, 0.9, np.float32)
        >>> flip_pairs(Predictions(np.arange(3), zeros, zeros, zeros, np.array([2, 2, 1]), sure, sure))
        [(0, 2, 2), (0, 1, 1)]
    """
    flips = predictions.negative
    pairs = np.stack([predictions.target[flips], predictions.new[flips]], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    table = [(int(true), int(new), int(count)) for (true, new), count in zip(found, counts, strict=True)]
    return sorted(table, key=lambda pair: (-pair[2], pair[0], pair[1]))


def text_of(name: str) -> str:
    """Escape what plotly would read as markup (``<b>``, ``<a href>``, entities).

    Args:
        name: Any text.

    Returns:
        Text that plotly shows as it was given.

    Example:
        >>> text_of("<b>R&D</b>")
        '&lt;b&gt;R&amp;D&lt;/b&gt;'
    """
    return escape(" ".join(name.split()), quote=False)


def _figure(x: str, y: str, height: int) -> go.Figure:
    layout = go.Layout(
        template=go.layout.Template(), height=height, hovermode="closest", dragmode=False,
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", margin={"l": 8, "r": 12, "t": 40, "b": 48},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom"},
        xaxis={"title": {"text": x}, "automargin": True, "fixedrange": True, "zeroline": False},
        yaxis={"title": {"text": y}, "automargin": True, "fixedrange": True, "zeroline": False},
    )  # fmt: skip
    return go.Figure(layout=layout)


def _look(number: int, name: str) -> dict[str, Any]:
    marker = {"size": 9, "color": LIGHT[number % len(LIGHT)], "symbol": SYMBOLS[number % len(SYMBOLS)]}
    return {
        "name": text_of(_short(name)),
        "marker": marker,
        "meta": {"way": number},
        "showlegend": True,
        "cliponaxis": False,
    }


def _bars(intervals: Sequence[Any]) -> dict[str, Any]:
    above = [100 * (interval.high - interval.mean) for interval in intervals]
    below = [100 * (interval.mean - interval.low) for interval in intervals]
    return {"type": "data", "array": above, "arrayminus": below, "symmetric": False, "width": 0, "thickness": 1.5}


def _name_axis(axis: Any, names: Sequence[str], *, reverse: bool = False, longest: int = LONGEST) -> None:
    # Places are numbers: as categories, two classes of one name would fall together and "1" would become a number.
    last = max(len(names), 1) - 0.5
    labels = [text_of(_short(name, longest)) for name in names]
    axis.update(tickmode="array", tickvals=list(range(len(names))), ticktext=labels)
    axis.update(range=[last, -0.5] if reverse else [-0.5, last], showgrid=False, ticks="", ticklabelstandoff=8)


def _short(name: str, longest: int = LONGEST) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _cells(scale: tuple[str, str], *, empty: bool) -> dict[str, Any]:
    return {"colorscale": [[0, scale[0]], [1, scale[1]]], "meta": {"empty": empty}, "xgap": 2, "ygap": 2}


def _pair_counts(way: Way, shown: Sequence[int]) -> list[list[int | None]]:
    place = {index: number for number, index in enumerate(shown)}
    counts: list[list[int | None]] = [[None] * len(shown) for _ in shown]
    for true, new, count in flip_pairs(way.predictions):
        if true in place and new in place:
            counts[place[true]][place[new]] = count
    return counts


def _class_rates(way: Way, classes: Sequence[int]) -> list[Any]:
    said = way.predictions
    rows = [said.target == index for index in classes]
    return [rate_interval(said.negative[row], said.id[row]) for row in rows]


def _flip_classes(comparison: Comparison, limit: int) -> tuple[list[int], int]:
    flips = np.zeros(len(comparison.class_names), dtype=np.int64)
    for way in comparison.ways:
        for true, new, count in flip_pairs(way.predictions):
            flips[[true, new]] += count
    if len(flips) <= min(12, limit):
        return list(range(len(flips))), len(flips)
    most = np.argsort(-flips, kind="stable")[: min(limit, np.count_nonzero(flips))]
    return sorted(most.tolist()), int(np.count_nonzero(flips))


def _most_flips(comparison: Comparison) -> int:
    return max((pair[2] for way in comparison.ways for pair in flip_pairs(way.predictions)[:1]), default=1)
