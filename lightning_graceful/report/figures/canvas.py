"""What all figures share: the empty canvas, colours and signs, intervals, axes of names, and names as plain text.

Colours are those of a light ground, for whoever shows a figure alone. ``trace.meta["paint"]`` names the colour of the
page's theme that takes their place there.
"""

import re
from collections.abc import Sequence
from html import escape
from typing import Any, Literal

import plotly.graph_objects as go

from lightning_graceful.functional.statistics import Interval

# By candidate, on a light and on a dark ground: hues of Okabe and Ito, shaded for 3:1 and more.
LIGHT = ("#0072b2", "#c65102", "#00805f", "#a0478a", "#846600", "#1f2933")
DARK = ("#56b4e9", "#f4925a", "#3fcf9f", "#e3a0cb", "#e8d44d", "#e6edf3")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "x", "star")
MARKS = "●◆■▲✚✖★"  # the same in text
OLD = "#5b6673"
BROKE, FIXED = LIGHT[1], LIGHT[0]
SCALES = {"cell": ("#d9e8f5", "#5b9bd0"), "wash": ("#f0f2f5", "#f0f2f5"), "cost": ("#fbe3d3", "#e08a4f")}
LONGEST = 15  # letters of a name at an axis
# Signs that show nothing, or turn the reading direction of what follows.
INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Put a sign in the place of each character that shows nothing or turns the reading direction.

    Args:
        text: Any text.

    Returns:
        The text on one line.

    Example:
        >>> visible("a\x00b\n  c")
        'a�b c'
    """
    return INVISIBLE.sub("\ufffd", " ".join(text.split()))


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
    return escape(visible(name), quote=False)


def short(name: str, longest: int = LONGEST) -> str:
    """Cut a name.

    Args:
        name: Any text.
        longest: Most letters to keep.

    Returns:
        The name, with an ellipsis where it was cut.

    Example:
        >>> short("Rhode Island Red", 8)
        'Rhode I…'
    """
    return name if len(name) <= longest else name[: longest - 1] + "…"


def canvas(x: str, y: str, height: int) -> go.Figure:
    """Make an empty figure.

    Args:
        x: Title of the horizontal axis.
        y: Title of the vertical axis.
        height: Height in pixels.

    Returns:
        The figure; it neither zooms nor pans.

    Example:
        >>> canvas("error (%)", "NFR (%)", 300).layout.height
        300
    """
    axis = {"automargin": True, "fixedrange": True, "zeroline": False, "gridcolor": "#dfe3e8", "layer": "below traces"}
    layout = go.Layout(
        template=go.layout.Template(), height=height, hovermode="closest", dragmode=False,
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 8, "r": 16, "t": 40, "b": 48 if x else 28},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom"},
        xaxis={"title": {"text": x}, **axis}, yaxis={"title": {"text": y, "standoff": 14}, **axis},
    )  # fmt: skip
    return go.Figure(layout=layout)


def look(number: int, name: str) -> dict[str, Any]:
    """Say how the marks of a candidate look.

    Args:
        number: Place of the candidate.
        name: Its name.

    Returns:
        Arguments of a trace.

    Example:
        >>> look(1, "pct")["marker"]["symbol"], look(1, "pct")["meta"]
        ('diamond', {'paint': 'way-1'})
    """
    colour = number % len(LIGHT)
    marker = {"size": 9, "color": LIGHT[colour], "symbol": SYMBOLS[number % len(SYMBOLS)]}
    common = {"mode": "markers", "showlegend": True, "cliponaxis": False}
    return {"name": text_of(short(name)), "marker": marker, "meta": {"paint": f"way-{colour}"}, **common}


def shifts(count: int) -> list[float]:
    """Spread marks that share one place of an axis.

    Args:
        count: Number of marks.

    Returns:
        Distances from the place, less than half a place each.

    Example:
        >>> shifts(2)
        [-0.13, 0.13]
    """
    step = min(0.26, 0.74 / max(count, 1))
    return [(number - (count - 1) / 2) * step for number in range(count)]


def bars(intervals: Sequence[Interval]) -> dict[str, Any]:
    """Draw intervals as error bars in percent.

    Args:
        intervals: The intervals, as fractions.

    Returns:
        ``error_x`` or ``error_y`` of a trace.

    Example:
        >>> bars([Interval(0.5, 0.25, 1.0)])["array"], bars([Interval(0.5, 0.25, 1.0)])["arrayminus"]
        ([50.0], [25.0])
    """
    above = [100 * (interval.high - interval.mean) for interval in intervals]
    below = [100 * (interval.mean - interval.low) for interval in intervals]
    return {"type": "data", "array": above, "arrayminus": below, "symmetric": False, "width": 0, "thickness": 1.5}


def cells(scale: Literal["cell", "wash", "cost"]) -> dict[str, Any]:
    """Say how the cells of a heat map look.

    Args:
        scale: Name of the colours.

    Returns:
        Arguments of a heat map.

    Example:
        >>> cells("wash")["meta"]
        {'paint': 'wash'}
    """
    low, high = SCALES[scale]
    return {"colorscale": [[0, low], [1, high]], "meta": {"paint": scale}, "xgap": 2, "ygap": 2}


def name_axis(axis: Any, names: Sequence[str], *, reverse: bool = False, longest: int = LONGEST) -> None:
    """Write names at the places 0, 1, ... of an axis.

    Args:
        axis: Axis of a figure.
        names: The names.
        reverse: Whether the first place is the last: on top, for a vertical axis.
        longest: Most letters of a name.
    """
    # Places are numbers: as categories, two classes of one name would fall together and "1" would become a number.
    last = max(len(names), 1) - 0.5
    labels = [text_of(short(name, longest)) for name in names]
    axis.update(tickmode="array", tickvals=list(range(len(names))), ticktext=labels)
    axis.update(range=[last, -0.5] if reverse else [-0.5, last], showgrid=False, ticks="", ticklabelstandoff=8)
