"""How sure the models are: of what broke, and how far that can be believed."""

import math
from typing import Any

import plotly.graph_objects as go

from lightning_graceful.report.figures.canvas import OLD, canvas, cells, look
from lightning_graceful.report.summary import Calibration, Candidate

TICKS = (0, 20, 40, 60, 80, 100)


def confidence_figure(candidate: Candidate) -> go.Figure:
    """Negative flips by the confidence of the old and of the new model: on the right the sure mistakes.

    Args:
        candidate: The candidate; without ``confidences`` the figure is empty.

    Returns:
        The figure.

    Example:
        >>> from lightning_graceful.functional.statistics import Interval
        >>> from lightning_graceful.report.summary import Tally
        >>> rate = Interval(0.25, 0.05, 0.7)
        >>> tally = Tally(4, 4, 2, 0, 1, 1, rate, rate, rate, rate, 1.0)
        >>> grid = tuple(tuple(int(old == 9 and new == 5) for new in range(10)) for old in range(10))
        >>> figure = confidence_figure(Candidate("new", tally, rate, 1.0, confidences=grid))
        >>> figure.data[1].z[9][5], figure.data[1].z[0][0]
        (1, None)
    """
    grid = candidate.confidences or ()
    middles = [10 * place + 5 for place in range(10)]
    counts = [[count or None for count in row] for row in grid]
    figure = canvas("confidence of the new model", "confidence of the old model", height=380)
    figure.add_heatmap(
        x=middles, y=middles, z=[[0] * 10] * 10, **cells("wash"), hoverinfo="skip", showscale=False
    )  # fmt: skip
    figure.add_heatmap(
        x=middles, y=middles, z=counts, zmin=0, **cells("cell"), hoverongaps=False, showscale=False,
        texttemplate="%{z}", hovertemplate="old %{y} %, new %{x} %: %{z}<extra></extra>",
    )  # fmt: skip
    return _percentages(figure.update_layout(margin={"t": 8}), has_grid=False)


def reliability_figure(candidate: Candidate, number: int = 0) -> go.Figure:
    """Share of right answers against confidence, old and new model; on the dashes confidence can be believed.

    Args:
        candidate: The candidate; without ``calibration`` only the dashes are drawn.
        number: Its place among the candidates, which gives the colour.

    Returns:
        The figure; larger marks stand for more answers.

    Example:
        >>> from lightning_graceful.functional.statistics import Interval
        >>> from lightning_graceful.report.summary import Bin, Tally
        >>> rate = Interval(0.25, 0.05, 0.7)
        >>> tally = Tally(4, 4, 2, 0, 1, 1, rate, rate, rate, rate, 1.0)
        >>> sure = Calibration(0.15, None, 0.9, (Bin(4, 0.9, 0.75),))
        >>> figure = reliability_figure(Candidate("new", tally, rate, 1.0, calibration=(sure, sure)))
        >>> [(trace.name, trace.x[0], trace.y[0]) for trace in figure.data]
        [('old model', 90.0, 75.0), ('new model', 90.0, 75.0)]
    """
    figure = canvas("confidence", "right answers", height=380)
    figure.add_shape(type="line", x0=0, y0=0, x1=100, y1=100, line={"dash": "dash", "width": 1})
    new = look(number, "new model")
    models = (("old model", "old", OLD, "circle"), ("new model", new["meta"]["paint"], *_colour_and_symbol(new)))
    for (name, paint, colour, symbol), calibration in zip(models, candidate.calibration or (), strict=False):
        bins = calibration.bins
        figure.add_scatter(
            x=[100 * part.confidence for part in bins], y=[100 * part.accuracy for part in bins], mode="lines+markers",
            name=name, line={"width": 1.5, "color": colour}, meta={"paint": paint}, cliponaxis=False,
            marker={"color": colour, "symbol": symbol, "size": _sizes(calibration)},
            customdata=[f"{part.rows:,}" for part in bins],
            hovertemplate="sure %{x:.1f} %, right %{y:.1f} %, %{customdata} answers",
        )  # fmt: skip
    return _percentages(figure)


def _colour_and_symbol(style: dict[str, Any]) -> tuple[str, str]:
    return style["marker"]["color"], style["marker"]["symbol"]


def _sizes(calibration: Calibration) -> list[float]:
    most = max((part.rows for part in calibration.bins), default=1)
    return [6 + 8 * math.sqrt(part.rows / most) for part in calibration.bins]


def _percentages(figure: go.Figure, *, has_grid: bool = True) -> go.Figure:
    figure.update_layout(margin={"r": 28})  # for the label at 100 %
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        axis.update(range=[0, 100], tickvals=TICKS, ticktext=[f"{tick} %" for tick in TICKS], showgrid=has_grid)
    return figure
