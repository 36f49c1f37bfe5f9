"""How flips came and went over the epochs of a training."""

import plotly.graph_objects as go

from lightning_graceful.report.figures.canvas import BROKE, FIXED, OLD, canvas
from lightning_graceful.report.history import Churn

LINES = (
    ("broke", "broke", BROKE, "solid", "circle"), ("fixed", "fixed", FIXED, "solid", "diamond"),
    ("entered", "broke", BROKE, "dot", "triangle-up"), ("left", "old", OLD, "dot", "triangle-down"),
)  # fmt: skip
NAMES = {"broke": "broke", "fixed": "fixed", "entered": "newly broke", "left": "recovered"}


def churn_figure(churn: Churn) -> go.Figure:
    """Flips at each validation: broke, fixed, newly broke, recovered.

    Args:
        churn: The history.

    Returns:
        The figure.

    Example:
        >>> churn = Churn([0, 1], [10, 20], 3, [1, 2], [0, 1], [1, 1], [0, 0], [1, 1, 1], [4], 1, 2)
        >>> {line.name: line.y for line in churn_figure(churn).data}
        {'broke': (1, 2), 'fixed': (0, 1), 'newly broke': (1, 1), 'recovered': (0, 0)}
    """
    figure = canvas("epoch", "samples", height=360)
    places, has_repeats = list(range(len(churn.epochs))), len(set(churn.epochs)) < len(churn.epochs)
    for field, paint, colour, dash, symbol in LINES:
        figure.add_scatter(
            x=places if has_repeats else churn.epochs, y=getattr(churn, field), mode="lines+markers",
            name=NAMES[field], line={"width": 2 if dash == "solid" else 1.5, "dash": dash, "color": colour},
            marker={"symbol": symbol, "size": 7, "color": colour}, meta={"paint": paint}, cliponaxis=False,
            customdata=churn.epochs, hovertemplate="epoch %{customdata}: %{y:,}",
        )  # fmt: skip
    if has_repeats:
        figure.update_xaxes(title="validation")
    figure.update_xaxes(tickformat="d", dtick=1 if len(places) <= 12 else None)
    return figure.update_yaxes(rangemode="tozero")


def times_figure(churn: Churn) -> go.Figure:
    """How many samples were a negative flip at exactly so many validations; those that never were are left out.

    Args:
        churn: The history.

    Returns:
        The figure.

    Example:
        >>> churn = Churn([0, 1], [10, 20], 3, [1, 2], [0, 1], [1, 1], [0, 0], [1, 1, 1], [4], 1, 2)
        >>> times_figure(churn).data[0].x, times_figure(churn).data[0].y
        ((1, 2), (1, 1))
    """
    times = list(range(1, len(churn.times)))
    figure = canvas("validations at which a sample is broken", "samples", height=360)
    figure.add_bar(
        x=times, y=churn.times[1:], marker={"color": BROKE}, meta={"paint": "broke"}, name="samples",
        hovertemplate="broken %{x} times: %{y:,} samples<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(tickformat="d", dtick=1 if len(times) <= 12 else None, showgrid=False)
    return figure.update_layout(bargap=0.25)
